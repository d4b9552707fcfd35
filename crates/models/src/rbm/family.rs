//! The restricted Boltzmann machine as a family. \[Smolensky86; Hinton12\]

use super::{Rbm, RbmLadder, RbmSpec, Visible};
use crate::family::{Contrast, Family, States, Unnormalised};
use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;
use langevin_dynamics::Ladder;
use langevin_ops::linear::linear;
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use langevin_ops::shape::to_host;
use serde::{Deserialize, Serialize};

/// A machine with one hidden layer of bits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Keys")]
pub struct RbmConfig {
    /// Number of hidden units.
    pub hidden: usize,
    /// What the visible units are: bits, if nothing is said, as descriptions without this key mean it.
    #[serde(flatten, skip_serializing_if = "Visible::is_default")]
    pub visible: Visible,
}

/// The options as they are written.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Keys {
    hidden: usize,
    visible: String,
    states: Option<usize>,
}

impl Default for Keys {
    fn default() -> Self {
        Self { hidden: RbmConfig::default().hidden, visible: "bernoulli".into(), states: None }
    }
}

/// Errors in one sentence that names the key.
impl TryFrom<Keys> for RbmConfig {
    type Error = String;

    fn try_from(Keys { hidden, visible, states }: Keys) -> std::result::Result<Self, String> {
        Ok(Self { hidden, visible: Visible::named(&visible, states)? })
    }
}

impl Default for RbmConfig {
    fn default() -> Self {
        Self { hidden: 500, visible: Visible::default() }
    }
}

impl Named for RbmConfig {
    const NAME: &'static str = "rbm";
    const ABOUT: &'static str =
        "restricted Boltzmann machine of bits, real numbers or units of several states [Smolensky86; Hinton12]";
}

impl RbmConfig {
    pub(super) fn spec(&self, shape: &[usize]) -> RbmSpec {
        RbmSpec { shape: shape.to_vec(), hidden: self.hidden, visible: self.visible }
    }
}

impl Family for RbmConfig {
    fn states(&self) -> States {
        self.visible.states()
    }

    fn check(&self, shape: &[usize]) -> Result<()> {
        self.spec(shape).validate()
    }

    fn build(&self, shape: &[usize], vb: VarBuilder) -> Result<Box<dyn Unnormalised>> {
        Ok(Box::new(Rbm::build(self.spec(shape), &vb)?))
    }
}

/// So many products are a few seconds.
const SOON: f64 = 4e9;

impl Unnormalised for Rbm {
    /// What the visible units are where no hidden one is on.
    fn begin(&self, n: usize, z: &mut Noise) -> Result<Tensor> {
        self.states(&self.spec.visible.draw(&self.visible_bias.detach().unsqueeze(0)?.repeat((n, 1))?, z)?)
    }

    fn energy_gradient(&self, x: &Tensor, factors: &[f64]) -> Result<Option<(Vec<f64>, Vec<Tensor>)>> {
        self.free_energy_grad(x, factors).map(Some)
    }

    fn contrast(&self, x: &Tensor, k: usize, factors: &[f64], z: &mut Noise) -> Result<Option<Contrast>> {
        Rbm::contrast(self, x, k, factors, z).map(Some)
    }

    fn unit_means(&self, x: &Tensor) -> Result<Option<Vec<Tensor>>> {
        Ok(Some(Rbm::unit_means(self, x)?.into()))
    }

    fn centred(&self, grads: Vec<Tensor>, offsets: &[Tensor]) -> Result<Vec<Tensor>> {
        centred(grads, offsets)
    }

    fn driven(&self, means: &[Tensor], pulls: &[Tensor]) -> Result<Option<Vec<Tensor>>> {
        let ([v, _], [pull]) = (means, pulls) else { return Ok(Some(vec![])) };
        let none = self.visible_bias.detach().zeros_like()?;
        Ok(Some(vec![pull.clone(), none, v.unsqueeze(1)?.broadcast_mul(&pull.unsqueeze(0)?)?]))
    }

    /// From independent visible units, see [`RbmLadder`], which keeps means of bits away from 0 and 1. Without means they are those of
    /// [`Unnormalised::begin`].
    fn ladder(&self, means: Option<&[f64]>, rungs: usize) -> Result<Option<Box<dyn Ladder + '_>>> {
        let own = || to_host(&self.spec.visible.mean(&self.visible_bias.detach().unsqueeze(0)?)?);
        let means = means.map_or_else(own, |means| Ok(means.to_vec()))?;
        Ok(Some(Box::new(RbmLadder::even(self, &means, rungs)?)))
    }

    fn log_z_exact(&self) -> Result<Option<f64>> {
        let (numbers, hidden) = (self.spec.numbers(), self.spec.hidden);
        let few = self.listed().exp2() * (numbers as f64) * (hidden as f64) <= SOON;
        few.then(|| Rbm::log_z_exact(self)).transpose()
    }

    /// The weights of each hidden unit; of Potts units how they rise with the state, by least squares, which is what makes a pixel lighter
    /// or darker, and for two states is the weight of the machine of bits that has the same density.
    fn filters(&self) -> Result<Option<Tensor>> {
        let rows = self.weight.detach().t()?.contiguous()?;
        let shape = [&[self.spec.hidden], self.spec.shape.as_slice()].concat();
        self.spec.visible.slopes(&rows)?.reshape(shape).map(Some)
    }

    fn smoothed(&self, x: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.visible(&self.hidden(x)?)?.detach()))
    }

    fn features(&self, x: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.hidden(x)?.detach()))
    }
}

/// The gradient in the hidden bias, the visible one and the weight as it is with units less their offsets, m of visible and l of
/// hidden ones: dW' = dW - m dc^T - db l^T, db' = db - dW' l, dc' = dc - dW'^T m. \[Montavon12; Melchior16\]
pub(crate) fn centred(grads: Vec<Tensor>, offsets: &[Tensor]) -> Result<Vec<Tensor>> {
    let ([dc, db, dw], [m, l]) = (grads.as_slice(), offsets) else {
        bail!("RBM: {} gradients and {} offsets; there are three and two", grads.len(), offsets.len());
    };
    let column = |v: &Tensor| v.unsqueeze(1);
    let dw = ((dw - linear(&column(m)?, &column(dc)?, None)?)? - linear(&column(db)?, &column(l)?, None)?)?;
    let along = |v: &Tensor, w: &Tensor| linear(&v.unsqueeze(0)?, w, None)?.squeeze(0);
    Ok(vec![(dc - along(m, &dw.t()?)?)?, (db - along(l, &dw)?)?, dw])
}
