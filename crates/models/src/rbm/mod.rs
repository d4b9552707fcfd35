//! The restricted Boltzmann machine: E(v, h) = own(v) - h.c - v W h, with own(v) = -v.b of bits and |v - b|^2 / 2 of real
//! numbers. \[Smolensky86; Hinton02; Hinton12\] A Potts unit of q states is told by q numbers of v, 1 at its state and else 0, with
//! own(v) = -v.b again, so that b and W have q rows for it. \[Salakhutdinov07; Tubiana19\]
//!
//! Given one layer the units of the other are independent: P(h_j = 1 | v) = sigmoid(c_j + (v W)_j), and v is distributed by
//! b + W h as its kind says, a [`Visible`]. The hidden units, which are bits, are summed out in closed form: p(v) = exp(-F(v)) / Z
//! with the free energy F(v) = own(v) - sum_j ln(1 + exp(c_j + (v W)_j)). States are tensors in the model's type. F of real ones
//! has a score; F of bits has none.

mod exact;
mod family;
mod ladder;
mod visible;

pub use exact::{binary, numerals};
pub use family::RbmConfig;
pub(crate) use family::centred;
pub use ladder::RbmLadder;
pub use visible::{MOST_STATES, Visible};

use crate::checkpoint;
use crate::family::{AnyFamily, DensitySpec};
use crate::params::Params;
use candle_core::{DType, Device, Result, Tensor, Var, bail};
use candle_nn::{Init, VarBuilder};
use langevin_dynamics::density::unclamped;
use langevin_dynamics::{Conditionals, Density, Differentiable, Energy};
use langevin_ops::act::{sigmoid, softplus_sum};
use langevin_ops::linear::{linear, linear_of_bits};
use langevin_ops::noise::Noise;
use langevin_ops::shape::{PerSample, scale, to_host};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// All that is needed to rebuild the machine from its weights.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RbmSpec {
    /// Shape of the visible units: `[1, 28, 28]` of images, `[D]` of rows.
    pub shape: Vec<usize>,
    /// Number of hidden units.
    pub hidden: usize,
    /// What the visible units are.
    #[serde(flatten, skip_serializing_if = "Visible::is_default")]
    pub visible: Visible,
}

impl RbmSpec {
    /// `hidden` units beside visible ones of `shape`, which are bits.
    pub fn new(shape: impl Into<Vec<usize>>, hidden: usize) -> Self {
        Self { shape: shape.into(), hidden, visible: Visible::Bernoulli }
    }

    /// Number of visible units.
    pub fn units(&self) -> usize {
        self.shape.iter().product()
    }

    /// Numbers of a row of visible units, one for each or for each of their states: the V of the equations.
    pub fn numbers(&self) -> usize {
        self.units() * self.visible.states().width()
    }

    /// One sentence that names the key and what it may be.
    pub fn validate(&self) -> Result<()> {
        let most = 1 << 28;
        self.visible.check()?;
        let visible = self.shape.iter().fold(self.visible.states().width(), |n, &d| n.saturating_mul(d));
        if self.shape.is_empty() || self.shape.len() > 4 || visible == 0 || visible > most {
            bail!(
                "visible units of shape {:?}: give [C, H, W] or [D] with at most 2^28 of them, or of their states",
                self.shape
            );
        }
        if self.hidden == 0 || self.hidden > most {
            bail!("`hidden` is {}; give 1 to 2^28 hidden units", self.hidden);
        }
        Ok(())
    }
}

/// A restricted Boltzmann machine.
#[derive(Clone, Debug)]
pub struct Rbm {
    spec: RbmSpec,
    vars: Vec<(String, Var)>,
    weight: Tensor,       // [V, H], with V the numbers of a row
    visible_bias: Tensor, // [V]
    hidden_bias: Tensor,  // [H]
}

/// Standard deviation of the first weights. \[Hinton12, section 8\]
const FIRST: f64 = 0.01;

impl Rbm {
    /// A machine with small normal weights, a function of `seed` alone, and no biases.
    ///
    /// Errors in one sentence that names what is wrong with `spec`.
    pub fn new(spec: RbmSpec, seed: u64, dtype: DType, device: &Device) -> Result<Self> {
        Self::from_params(spec, &Params::seeded(seed), dtype, device)
    }

    /// The machine of `weight` `[V, H]`, `visible_bias` `[V]` and `hidden_bias` `[H]`, in their type, with visible units of `shape`.
    ///
    /// Its visible units are bits; [`Rbm::of_weights`] takes others. Errors, naming it, if one has another shape.
    pub fn of(shape: &[usize], weight: &Tensor, visible_bias: &Tensor, hidden_bias: &Tensor) -> Result<Self> {
        Self::of_weights(RbmSpec::new(shape, hidden_bias.elem_count()), weight, visible_bias, hidden_bias)
    }

    /// The machine that `spec` describes, of `weight` `[V, H]`, `visible_bias` `[V]` and `hidden_bias` `[H]`, in their type; of Potts
    /// units of q states V is q times their number, and the states of a unit stand one after the other.
    ///
    /// Errors, naming it, if one has another shape.
    pub fn of_weights(spec: RbmSpec, weight: &Tensor, visible_bias: &Tensor, hidden_bias: &Tensor) -> Result<Self> {
        let all = [("weight", weight), ("visible_bias", visible_bias), ("hidden_bias", hidden_bias)];
        let tensors = all.map(|(name, t)| (name.to_string(), t.detach()));
        Self::from_params(spec, &Params::loaded(BTreeMap::from(tensors)), weight.dtype(), weight.device())
    }

    /// The machine of the same weights whose visible units are of this kind. Errors if its units have not so many weights.
    pub fn with(self, visible: Visible) -> Result<Self> {
        let spec = RbmSpec { visible, ..self.spec };
        Self::of_weights(spec, &self.weight, &self.visible_bias, &self.hidden_bias)
    }

    fn from_params(spec: RbmSpec, params: &Params, dtype: DType, device: &Device) -> Result<Self> {
        Self::build(spec, &params.builder(dtype, device))
    }

    /// The machine of the parameters that `vb` gives.
    pub(crate) fn build(spec: RbmSpec, vb: &VarBuilder) -> Result<Self> {
        spec.validate()?;
        let visible = spec.numbers();
        let small = Init::Randn { mean: 0., stdev: FIRST };
        let weight = vb.get_with_hints((visible, spec.hidden), "weight", small)?;
        let visible_bias = vb.get_with_hints(visible, "visible_bias", Init::Const(0.))?;
        let hidden_bias = vb.get_with_hints(spec.hidden, "hidden_bias", Init::Const(0.))?;
        let named = [("hidden_bias", &hidden_bias), ("visible_bias", &visible_bias), ("weight", &weight)];
        // those that are counted only are no variables
        let vars = named.into_iter().filter(|(_, t)| t.is_variable());
        let vars = vars.map(|(name, t)| Ok((name.to_string(), Var::from_tensor(t)?))).collect::<Result<_>>()?;
        Ok(Self { spec, vars, weight, visible_bias, hidden_bias })
    }

    /// Writes the machine to `path` with any `extra` texts.
    ///
    /// Errors in one sentence that names the file; a file that was there is then untouched.
    pub fn save(&self, path: &Path, extra: &BTreeMap<String, String>) -> Result<()> {
        let RbmSpec { shape, hidden, visible } = self.spec.clone();
        let tensors: Vec<_> = self.vars.iter().map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect();
        checkpoint::save(path, &DensitySpec::new(shape, RbmConfig { hidden, visible }), &tensors, extra)
    }

    /// The machine in the file at `path`, in `dtype`, and the `extra` texts that were saved with it.
    ///
    /// Every file that is not whole or not of an RBM is an error of one sentence.
    pub fn load(path: &Path, dtype: DType, device: &Device) -> Result<(Self, BTreeMap<String, String>)> {
        let (model, texts) = checkpoint::load_density(path, dtype, device)?;
        match (&model.spec.family, model.vars()) {
            (AnyFamily::RbmConfig(config), [(_, hidden), (_, visible), (_, weight)]) => {
                let spec = config.spec(&model.spec.shape);
                Ok((Self::of_weights(spec, weight, visible, hidden)?, texts))
            }
            (family, _) => {
                let family = family.name();
                bail!("`{}` holds a model of the family {family}, and no restricted Boltzmann machine", path.display())
            }
        }
    }

    /// What it is made of.
    pub fn spec(&self) -> &RbmSpec {
        &self.spec
    }

    /// The parameters, sorted by name: `hidden_bias`, `visible_bias`, `weight`.
    pub fn vars(&self) -> &[(String, Var)] {
        &self.vars
    }

    /// Type of the parameters, and of the states.
    pub fn dtype(&self) -> DType {
        self.weight.dtype()
    }

    /// Where the parameters are.
    pub fn device(&self) -> &Device {
        self.weight.device()
    }

    /// A copy in another type.
    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        let [weight, visible, hidden] =
            [&self.weight, &self.visible_bias, &self.hidden_bias].map(|t| t.detach().to_dtype(dtype));
        Self::of_weights(self.spec.clone(), &weight?, &visible?, &hidden?)
    }

    /// States `[B, ...]` of the visible units as rows `[B, V]`.
    fn rows(&self, v: &Tensor) -> Result<Tensor> {
        self.fits(v)?;
        self.spec.visible.states().rows(v)
    }

    /// Errors unless `v` is `[B, ...]` with the shape of the visible units.
    fn fits(&self, v: &Tensor) -> Result<()> {
        match v.dims() {
            [_, shape @ ..] if shape == self.spec.shape => Ok(()),
            other => bail!("RBM: visible units of shape {other:?}; give [B, ...] with {:?} each", self.spec.shape),
        }
    }

    /// Rows `[B, V]`, or means of such, as states `[B, ...]`, or means of these.
    fn states(&self, rows: &Tensor) -> Result<Tensor> {
        let shape = [&[rows.dim(0)?], self.spec.shape.as_slice()].concat();
        self.spec.visible.states().of_rows(rows)?.reshape(shape)
    }

    /// c + v W of rows `[B, V]`: `[B, H]`.
    fn hidden_logits(&self, v: &Tensor) -> Result<Tensor> {
        self.spec.visible.linear(v, &self.weight.t()?, Some(&self.hidden_bias))
    }

    /// theta = b + W h of `[B, H]`: `[B, V]`.
    fn theta(&self, h: &Tensor) -> Result<Tensor> {
        linear_of_bits(h, &self.weight, Some(&self.visible_bias))
    }

    /// P(h = 1 | v) of visible units `[B, ...]`: `[B, H]`.
    pub fn hidden(&self, v: &Tensor) -> Result<Tensor> {
        sigmoid(&self.hidden_logits(&self.rows(v)?)?)
    }

    /// The means of the states of visible units given hidden ones `[B, H]`, of bits P(v = 1 | h): `[B, ...]`.
    pub fn visible(&self, h: &Tensor) -> Result<Tensor> {
        self.states(&self.spec.visible.mean(&self.theta(h)?)?)
    }

    /// E(v, h) of visible units `[B, ...]` and hidden ones `[B, H]`: `[B]`.
    pub fn joint_energy(&self, v: &Tensor, h: &Tensor) -> Result<Tensor> {
        let v = self.rows(v)?;
        self.spec.visible.own(&v, &self.visible_bias)? - (h * self.hidden_logits(&v)?)?.sum(1)?
    }

    /// F of rows `[B, V]` with their hidden logits: `[B]`.
    fn summed_out(&self, v: &Tensor, logits: &Tensor) -> Result<Tensor> {
        self.spec.visible.own(v, &self.visible_bias)? - softplus_sum(logits)?
    }

    /// F of each of the states `v` `[B, ...]`, and the gradient of the sum of `factors` (one, or one a state) times F, in the order
    /// of [`Rbm::vars`]: dF/dW = -v p(h|v), dF/dc = -p(h|v), and dF/db = -v, or b - v of real numbers.
    pub fn free_energy_grad(&self, v: &Tensor, factors: &[f64]) -> Result<(Vec<f64>, Vec<Tensor>)> {
        let v = self.rows(&v.detach())?;
        self.grad(&v, &self.hidden_logits(&v)?, factors)
    }

    /// [`Rbm::free_energy_grad`] of rows `[B, V]` with their hidden logits.
    fn grad(&self, v: &Tensor, logits: &Tensor, factors: &[f64]) -> Result<(Vec<f64>, Vec<Tensor>)> {
        factors.check(v.dim(0)?, "factors of states")?;
        let logits = logits.detach();
        let energies = to_host(&self.summed_out(v, &logits)?.detach())?;
        let down: Vec<f64> = (0..v.dim(0)?).map(|i| -factors.at(i)).collect();
        let p = sigmoid(&logits)?;
        let row = Tensor::new(down.as_slice(), v.device())?.to_dtype(v.dtype())?.unsqueeze(0)?;
        let total = |x: &Tensor| linear(&row, &x.t()?, None)?.squeeze(0);
        let weight = self.spec.visible.linear(&v.t()?, &scale(&p, &down)?.t()?, None)?;
        let pull = self.spec.visible.pull(v, &self.visible_bias.detach())?;
        Ok((energies, vec![total(&p)?, total(&pull)?, weight]))
    }

    /// The states after `k` steps (at least one) of block Gibbs sampling from `v` `[B, ...]`, and [`Rbm::free_energy_grad`] of both,
    /// `v` first, whose hidden logits are computed once for both purposes.
    pub fn contrast(
        &self,
        v: &Tensor,
        k: usize,
        factors: &[f64],
        z: &mut Noise,
    ) -> Result<(Tensor, Vec<f64>, Vec<Tensor>)> {
        let rows = self.rows(&v.detach())?;
        let first = self.hidden_logits(&rows)?;
        let mut walked = self.drawn(&first, z)?;
        for _ in 1..k {
            walked = self.drawn(&self.hidden_logits(&walked)?, z)?;
        }
        let logits = Tensor::cat(&[&first, &self.hidden_logits(&walked)?], 0)?;
        let (energies, grads) = self.grad(&Tensor::cat(&[&rows, &walked], 0)?, &logits, factors)?;
        Ok((self.states(&walked)?, energies, grads))
    }

    /// Rows of visible units drawn given hidden ones that are drawn by their logits: `[B, H]` -> `[B, V]`.
    fn drawn(&self, hidden_logits: &Tensor, z: &mut Noise) -> Result<Tensor> {
        let h = z.bernoulli(hidden_logits)?;
        self.spec.visible.draw(&self.theta(&h)?, z)
    }

    /// ln p(v) of states `[B, ...]`, of real ones the density, given ln Z: of [`Rbm::log_z_exact`], or an estimate.
    pub fn log_p(&self, v: &Tensor, log_z: f64) -> Result<Vec<f64>> {
        Ok(to_host(&self.energy(v)?.detach())?.iter().map(|energy| -energy - log_z).collect())
    }

    /// Means over the states `v` `[B, ...]` of the rows of visible units, `[V]`, and of p(h|v), `[H]`.
    pub fn unit_means(&self, v: &Tensor) -> Result<[Tensor; 2]> {
        let v = self.rows(&v.detach())?;
        Ok([v.mean(0)?, sigmoid(&self.hidden_logits(&v)?)?.detach().mean(0)?])
    }
}

/// x.w of each row: `[B, N]`, `[N]` -> `[B]`.
fn dot(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    linear(x, &w.unsqueeze(0)?, None)?.squeeze(1)
}

impl Energy for Rbm {
    /// The free energy F(v).
    fn energy(&self, v: &Tensor) -> Result<Tensor> {
        let v = self.rows(v)?;
        self.summed_out(&v, &self.hidden_logits(&v)?)
    }
}

/// Of real visible units alone, where [`Density::as_differentiable`] says so: grad F = v - b - W p(h|v).
impl Differentiable for Rbm {
    fn energy_grad(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let v = self.rows(x)?;
        let logits = self.hidden_logits(&v)?;
        let along = linear(&sigmoid(&logits)?, &self.weight, Some(&self.visible_bias))?;
        Ok((self.summed_out(&v, &logits)?, (&v - along)?.reshape(x.shape())?))
    }
}

/// All visible units are one block: hidden units are drawn given them, and then they given these.
impl Conditionals for Rbm {
    fn blocks(&self) -> usize {
        1
    }

    fn draw(&self, _block: usize, v: &Tensor, clamped: Option<&Tensor>, z: &mut Noise) -> Result<Tensor> {
        let drawn = self.drawn(&self.hidden_logits(&self.rows(v)?)?, z)?;
        unclamped(v, self.states(&drawn)?, clamped)
    }
}

impl Density for Rbm {
    fn as_differentiable(&self) -> Option<&dyn Differentiable> {
        (self.spec.visible == Visible::Gaussian).then_some(self)
    }

    fn as_energy(&self) -> Option<&dyn Energy> {
        Some(self)
    }

    fn as_conditionals(&self) -> Option<&dyn Conditionals> {
        Some(self)
    }
}
