//! What a trainer moves: a thing with parameters, of this workspace or of any other.

use candle_core::{DType, Device, Tensor, Var};
use langevin_models::{Model, ModelSpec, Rbm, RbmSpec};
use serde::Serialize;

/// A thing with parameters.
pub trait Trainable: Send + Sync {
    /// What it is made of. A run goes on only with a model of the same, as serde writes it.
    type Spec: Serialize;

    /// What this one is made of.
    fn spec(&self) -> &Self::Spec;

    /// The parameters, sorted by name.
    fn vars(&self) -> &[(String, Var)];

    /// Type of the parameters, and of the data that it takes.
    fn dtype(&self) -> DType;

    /// Where the parameters are.
    fn device(&self) -> &Device;

    /// The parameters as they are now, by name.
    fn weights(&self) -> Vec<(String, Tensor)> {
        self.vars().iter().map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect()
    }
}

impl Trainable for Model {
    type Spec = ModelSpec;

    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn vars(&self) -> &[(String, Var)] {
        self.vars()
    }

    fn dtype(&self) -> DType {
        self.dtype()
    }

    fn device(&self) -> &Device {
        self.device()
    }
}

impl Trainable for Rbm {
    type Spec = RbmSpec;

    fn spec(&self) -> &RbmSpec {
        self.spec()
    }

    fn vars(&self) -> &[(String, Var)] {
        self.vars()
    }

    fn dtype(&self) -> DType {
        self.dtype()
    }

    fn device(&self) -> &Device {
        self.device()
    }
}
