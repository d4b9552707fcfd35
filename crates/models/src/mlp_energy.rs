//! A multilayer perceptron as an energy: E(x) = W_n f(... f(W_0 x + b_0) ...) + b_n + |x|^2 / (2 s^2). \[Ngiam11\]
//!
//! The last layer has one output, f is smooth. Without the Gaussian term, which confines x, exp(-E) may have no integral. The score
//! is that of autodiff. Parameters are called as those of PyTorch's `nn.Sequential` of linear maps with activations between:
//! `0.weight`, `0.bias`, `2.weight` and so on.

use crate::family::{Family, States, Unnormalised};
use crate::params::Affine;
use candle_core::{DType, Device, Result, Tensor, bail};
use candle_nn::VarBuilder;
use langevin_dynamics::likelihood::log_integral;
use langevin_dynamics::{Density, Differentiable, Energy, Ladder};
use langevin_ops::act::{silu, softplus};
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use langevin_ops::stats::log_gaussian;
use langevin_ops::tape::{self, Value};
use serde::{Deserialize, Serialize};

/// What lies between the layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// x / (1 + exp(-x))
    #[default]
    Silu,
    /// ln(1 + exp(x))
    Softplus,
}

/// What the network is made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MlpEnergyConfig {
    /// Numbers in each hidden layer.
    pub widths: Vec<usize>,
    /// What lies between the layers.
    pub activation: Activation,
    /// Standard deviation s of the Gaussian that confines x, in the units of the data: |x|^2 / (2 s^2) is added to the network, so
    /// that exp(-E) has an integral where that does not fall too fast, and chains stay. A few times that of the data is usual. 0: none.
    pub confine: f64,
}

impl Default for MlpEnergyConfig {
    fn default() -> Self {
        Self { widths: vec![128; 3], activation: Activation::Silu, confine: 2. }
    }
}

impl Named for MlpEnergyConfig {
    const NAME: &'static str = "mlp";
    const ABOUT: &'static str = "a multilayer perceptron whose one output is the energy of rows of real numbers, with a Gaussian that confines [Ngiam11]";
}

impl Family for MlpEnergyConfig {
    fn states(&self) -> States {
        States::Real
    }

    fn check(&self, _: &[usize]) -> Result<()> {
        if self.widths.len() > 256 {
            bail!("`widths` has {} layers; give at most 256", self.widths.len());
        }
        if let Some(bad) = self.widths.iter().find(|width| !(1..=65536).contains(*width)) {
            bail!("`widths` has a layer of {bad}; give 1 to 65536 numbers each");
        }
        // of what 32 bits hold the square
        if self.confine != 0. && !(1e-9..1e9).contains(&self.confine) {
            bail!("`confine` is {}; give a standard deviation from 1e-9 to 1e9, or 0 for no Gaussian", self.confine);
        }
        Ok(())
    }

    fn build(&self, shape: &[usize], vb: VarBuilder) -> Result<Box<dyn Unnormalised>> {
        self.check(shape)?;
        let sizes = [&[shape.iter().product()], self.widths.as_slice(), &[1]].concat();
        let layer = |(i, pair): (usize, &[usize])| Affine::new((pair[1], pair[0]), vb.pp(2 * i));
        Ok(Box::new(MlpEnergy {
            shape: shape.to_vec(),
            layers: sizes.windows(2).enumerate().map(layer).collect::<Result<_>>()?,
            activation: self.activation,
            confine: self.confine,
            beta: 1.,
            device: vb.device().clone(),
        }))
    }
}

/// The energy with its weights: beta times the network, and the Gaussian.
#[derive(Clone, Debug)]
struct MlpEnergy {
    shape: Vec<usize>,
    layers: Vec<Affine>,
    activation: Activation,
    confine: f64,
    /// 1 but on the way of a ladder.
    beta: f64,
    device: Device,
}

impl MlpEnergy {
    fn numbers(&self) -> usize {
        self.shape.iter().product()
    }

    /// The network `[B]` of rows `[B, D]`.
    fn network(&self, rows: &Value) -> Result<Value> {
        let mut h = rows.clone();
        for (i, layer) in self.layers.iter().enumerate() {
            h = match self.activation {
                _ if i == 0 => h,
                Activation::Silu => silu(&h)?,
                Activation::Softplus => softplus(&h)?,
            };
            h = layer.linear(&h)?;
        }
        h.reshape(rows.dims()[0])
    }

    /// The standard deviation of the states that it begins with.
    fn width(&self) -> f64 {
        if self.confine > 0. { self.confine } else { 1. }
    }

    /// A copy in f64 that is no variable.
    fn wide(&self) -> Result<Self> {
        let wide = |t: &Tensor| t.detach().to_dtype(DType::F64);
        let layer = |layer: &Affine| Ok(Affine { weight: wide(&layer.weight)?, bias: wide(&layer.bias)? });
        Ok(Self { layers: self.layers.iter().map(layer).collect::<Result<_>>()?, ..self.clone() })
    }
}

impl Energy for MlpEnergy {
    fn energy(&self, x: &Tensor) -> Result<Tensor> {
        if x.dims().get(1..) != Some(self.shape.as_slice()) {
            bail!("the energy takes states of shape {:?}, not a batch {:?}", self.shape, x.dims());
        }
        tape::run(x, |x| {
            let rows = x.reshape((x.dims()[0], self.numbers()))?;
            let network = self.network(&rows)?.affine(self.beta, 0.)?;
            if self.confine == 0. {
                return Ok(network);
            }
            network.add(&rows.mul(&rows)?.sum_per_sample()?.affine(0.5 / self.confine.powi(2), 0.)?)
        })
    }
}

impl Differentiable for MlpEnergy {}

impl Density for MlpEnergy {
    fn as_differentiable(&self) -> Option<&dyn Differentiable> {
        Some(self)
    }
}

impl Unnormalised for MlpEnergy {
    /// Draws of the Gaussian that confines, or without one of a standard normal.
    fn begin(&self, n: usize, z: &mut Noise) -> Result<Tensor> {
        let shape = [&[n], self.shape.as_slice()].concat();
        let dtype = self.layers.first().map_or(DType::F32, |layer| layer.weight.dtype());
        z.normal(shape, dtype, &self.device)? * self.width()
    }

    /// From the Gaussian that confines, by growing shares of the network: the geometric path. The data's means are not needed.
    fn ladder(&self, means: Option<&[f64]>, rungs: usize) -> Result<Option<Box<dyn Ladder + '_>>> {
        if self.confine == 0. {
            bail!(
                "the ladder of an mlp begins at the Gaussian that confines it, and `confine` is 0; train one with it"
            );
        }
        if rungs < 2 {
            bail!("a ladder has at least 2 rungs, not {rungs}");
        }
        if let Some(n) = means.map(<[f64]>::len).filter(|n| *n != self.numbers()) {
            bail!("{n} means for states of {} numbers; give one each", self.numbers());
        }
        Ok(Some(Box::new(Shares { energy: self.wide()?, rungs })))
    }

    /// By a grid, of states of one or two numbers that a Gaussian confines.
    fn log_z_exact(&self) -> Result<Option<f64>> {
        if self.confine == 0. || self.numbers() > 2 {
            return Ok(None);
        }
        let found = log_integral(&self.wide()?, &self.shape, 8. * self.confine, &self.device)?;
        Ok(found.map(|found| found.value))
    }
}

/// The ladder: at rung i of n the share i/(n-1) of the network.
struct Shares {
    energy: MlpEnergy,
    rungs: usize,
}

impl Shares {
    fn beta(&self, rung: usize) -> f64 {
        rung as f64 / (self.rungs - 1) as f64
    }
}

impl Ladder for Shares {
    fn rungs(&self) -> usize {
        self.rungs
    }

    fn density(&self, rung: usize) -> Box<dyn Density + '_> {
        Box::new(MlpEnergy { beta: self.beta(rung), ..self.energy.clone() })
    }

    fn name(&self, rung: usize) -> String {
        format!("beta = {:.4}", self.beta(rung))
    }

    fn start(&self, like: &Tensor, _precision: f64, z: &mut Noise) -> Result<Tensor> {
        if like.dtype() != DType::F64 {
            bail!("the ladder of an mlp computes in f64, not {:?}; ask for f64", like.dtype());
        }
        z.normal_like(like)? * self.energy.confine
    }

    fn log_start(&self, x: &Tensor, _precision: f64) -> Result<Vec<f64>> {
        log_gaussian(x, self.energy.confine)
    }
}
