//! What a trainer moves: a thing with parameters, of this workspace or of any other.

use candle_core::{DType, Device, Result, Tensor, Var};
use langevin_models::params::Params;
use langevin_models::{DensityModel, DensitySpec, Model, ModelSpec, Rbm, RbmSpec};
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

/// One that can be made again with other weights, such as the averaged ones.
pub trait Rebuild: Trainable + Sized {
    /// A second one, of the same spec, with copies of these weights, named as [`Trainable::weights`] names them.
    fn with(&self, weights: Vec<(String, Tensor)>) -> Result<Self>;
}

impl Rebuild for Model {
    fn with(&self, weights: Vec<(String, Tensor)>) -> Result<Self> {
        let params = Params::loaded(weights.into_iter().map(|(name, t)| (name, t.detach())).collect());
        Model::from_params(self.spec.clone(), &params, self.dtype(), self.device())
    }
}

impl Rebuild for DensityModel {
    fn with(&self, weights: Vec<(String, Tensor)>) -> Result<Self> {
        self.with(weights)
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

impl Trainable for DensityModel {
    type Spec = DensitySpec;

    fn spec(&self) -> &DensitySpec {
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
