//! A density that counts how often its energy is asked.

use candle_core::{DType, Device, Result, Tensor, Var};
use langevin_dynamics::{Density, Differentiable, Energy};
use langevin_models::{DensityModel, DensitySpec};
use langevin_train::{EnergyGradient, Trainable};
use std::sync::atomic::{AtomicU64, Ordering};

/// A density of a family whose energy can be differentiated, and the states that it was asked at.
pub struct Counted {
    /// The density.
    pub model: DensityModel,
    asked: AtomicU64,
}

impl Counted {
    /// Asked at nothing yet.
    pub fn new(model: DensityModel) -> Self {
        Self { model, asked: AtomicU64::new(0) }
    }

    /// States whose energy was computed so far, with whatever gradients of it.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Energy for Counted {
    fn energy(&self, x: &Tensor) -> Result<Tensor> {
        self.asked.fetch_add(x.dim(0)? as u64, Ordering::Relaxed);
        match self.model.as_energy() {
            Some(energy) => energy.energy(x),
            None => candle_core::bail!("the family {} gives no energy", self.model.spec.family.name()),
        }
    }
}

impl Differentiable for Counted {}

impl Density for Counted {
    fn as_differentiable(&self) -> Option<&dyn Differentiable> {
        self.model.as_differentiable().is_some().then_some(self)
    }
}

impl EnergyGradient for Counted {}

impl Trainable for Counted {
    type Spec = DensitySpec;

    fn spec(&self) -> &DensitySpec {
        &self.model.spec
    }

    fn vars(&self) -> &[(String, Var)] {
        self.model.vars()
    }

    fn dtype(&self) -> DType {
        self.model.dtype()
    }

    fn device(&self) -> &Device {
        self.model.device()
    }
}
