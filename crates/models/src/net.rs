//! The family of networks, as configurations name them.

pub use crate::mixture::MixtureConfig;
pub use crate::mlp::MlpConfig;
use crate::model::ModelSpec;
pub use crate::unet::UNetConfig;
use candle_core::Result;
use candle_nn::VarBuilder;
use langevin_dynamics::Net;
use langevin_ops::registry;

/// Options from which a network is built.
pub trait NetConfig: Send + Sync + std::fmt::Debug {
    /// A network from samples of `shape` (`[C, H, W]` or `[D]`) to samples of that shape with `outputs` in place of its
    /// first number; with an embedding for each of `classes`, if there are any.
    ///
    /// Errors in one sentence that names the option.
    fn build(&self, shape: &[usize], outputs: usize, classes: Option<usize>, vb: VarBuilder) -> Result<Box<dyn Net>>;

    /// Errors, naming the key, if it cannot be the network of such a model.
    fn suits(&self, _spec: &ModelSpec) -> Result<()> {
        Ok(())
    }
}

registry! {
    /// Any network, as configurations name it.
    pub enum AnyNet: NetConfig = "net" { UNetConfig, MlpConfig, MixtureConfig }
}
