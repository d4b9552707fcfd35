//! A network as an energy: a scalar h(x', c_noise) for each sample, whose gradient in x' is the output F.
//!
//! Under any parametrisation the score is then exactly -grad_x E with E(x, t) = (1 - alpha c_skip) / (2 sigma^2) |x|^2
//! - alpha c_out / (sigma^2 c_in) h(c_in x, c_noise). [Salimans & Ho 2021; Du et al. 2023, 2302.11552]

use crate::embed::{Embedding, Sinusoid};
use crate::params::Affine;
use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;
use langevin_dynamics::{Cond, Net, Potential};
use langevin_ops::act::silu;
use langevin_ops::grad;
use langevin_ops::tape::{self, Value};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The gradient of a potential as a network: F = grad_x h.
///
/// Inside `grad::value_and_grad` or `grad::gradient` it can be differentiated: exactly, or by differences where
/// `grad::differences` says so.
pub struct GradNet<P>(Arc<P>);

impl<P: Potential> GradNet<P> {
    /// The gradient of `potential`.
    pub fn new(potential: P) -> Self {
        Self(Arc::new(potential))
    }

    /// The potential.
    pub fn inner(&self) -> &P {
        &self.0
    }
}

impl<P: Potential + 'static> Net for GradNet<P> {
    fn forward(&self, x: &Tensor, c_noise: &Tensor, cond: &Cond) -> Result<Tensor> {
        if grad::by_differences() {
            let (potential, c_noise, cond) = (self.0.clone(), c_noise.clone(), cond.clone());
            return grad::gradient_by_differences(x, move |x| potential.h(x, &c_noise, &cond));
        }
        let gradient = if x.track_op() && !x.is_variable() {
            // x was itself computed: the gradient at x + d, d = 0, taken in d, leaves the graph of x whole
            let d = x.zeros_like()?.detach();
            grad::gradient(&d, |d| self.0.h(&(x + d)?, c_noise, cond))?.1
        } else {
            grad::gradient(x, |x| self.0.h(x, c_noise, cond))?.1
        };
        Ok(gradient)
    }

    fn potential(&self) -> Option<&dyn Potential> {
        Some(self.0.as_ref())
    }
}

/// How a network f gives the scalar h.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// h = -1/2 |x - f|^2 + 1/2 |x|^2: F is f where the Jacobian of f vanishes.
    #[default]
    Residual,
    /// h = x . f
    InnerProduct,
    /// h = 1/2 |f|^2
    SquaredNorm,
    /// h = sum of f, a network with one output channel.
    Scalar,
    /// The h for which E = 1/2 |c x - s f|^2, half the square of the noise that the network sees: with r the ratio of
    /// noise and data, s = 1 / sqrt(1 + r^2) and c = r s. E then is of the order of D at every noise level, where the
    /// other forms have large numbers cancel near the data: the form for energies whose values are learnt too.
    NoiseNorm,
}

impl Form {
    /// Every form, as configurations name them, with a line about each.
    pub const ALL: &'static [(&'static str, &'static str)] = &[
        ("residual", "h = -1/2 |x - f|^2 + 1/2 |x|^2"),
        ("inner-product", "h = x . f"),
        ("squared-norm", "h = 1/2 |f|^2"),
        ("scalar", "h = sum of a network with one output channel"),
        ("noise-norm", "E = 1/2 |c x - s f|^2, half the square of the noise: for normalised energies"),
    ];

    /// How many output channels the network has for data of `channels`.
    pub fn outputs(self, channels: usize) -> usize {
        if self == Self::Scalar { 1 } else { channels }
    }

    /// h from the input `x` and the output `f` of the network, `[B]`; `ratio` `[B]` is sigma / (alpha sigma_data).
    pub fn h(self, x: &Value, f: &Value, ratio: impl FnOnce() -> Result<Value>) -> Result<Value> {
        match self {
            // -1/2 |x - f|^2 + 1/2 |x|^2 without its cancellation
            Self::Residual => f.mul(&x.sub(&f.affine(0.5, 0.)?)?)?.sum_per_sample(),
            Self::InnerProduct => x.mul(f)?.sum_per_sample(),
            Self::SquaredNorm => f.mul(f)?.sum_per_sample()?.affine(0.5, 0.),
            Self::Scalar => f.sum_per_sample(),
            // E = 1/2 |x|^2 - h / r, and 1 - c^2 = s^2: h = c (1/2 s (|x|^2 - |f|^2) + c x . f)
            Self::NoiseNorm => {
                let r = ratio()?;
                let s = r.mul(&r)?.affine(1., 1.)?.powf(-0.5)?;
                let c = r.mul(&s)?;
                let squares = x.mul(x)?.sub(&f.mul(f)?)?.sum_per_sample()?.affine(0.5, 0.)?;
                c.mul(&s.mul(&squares)?.add(&c.mul(&x.mul(f)?.sum_per_sample()?)?)?)
            }
        }
    }
}

/// What the energy has beyond a Gaussian's normaliser, learnt as a function of the noise: D times a small network of
/// c_noise, 0 at first.
pub struct LogNormaliser {
    embedding: Embedding,
    out: Affine,
    numbers: f64,
}

/// Numbers in the hidden layers of [`LogNormaliser`].
const WIDTH: usize = 64;

impl LogNormaliser {
    /// For samples of `numbers` components.
    pub fn new(numbers: usize, vb: VarBuilder) -> Result<Self> {
        let sinusoid = Sinusoid { channels: WIDTH, cos_first: true, freq_shift: 0. };
        let embedding = Embedding::new(sinusoid, WIDTH, None, &vb)?;
        Ok(Self { embedding, out: Affine::zero((1, WIDTH), vb.pp("out"))?, numbers: numbers as f64 })
    }

    /// `[B] -> [B]`.
    fn of(&self, c_noise: &Tensor) -> Result<Tensor> {
        // a span of c_noise is a few units: stretched, so that the slow angles of the embedding turn
        let e = self.embedding.forward(&(c_noise * 10.)?, &Cond::default())?;
        let n = self.out.linear(&silu(&e)?)?.reshape(c_noise.dims1()?)?.affine(self.numbers, 0.)?;
        if grad::recording() { n.tensor() } else { n.data() }
    }
}

/// A network in one of the forms.
pub struct Shaped {
    /// The network f.
    pub net: Box<dyn Net>,
    /// How it gives the scalar.
    pub form: Form,
    /// The standard deviation of the data.
    pub sigma_data: f64,
    /// The normaliser, if the energy has one.
    pub normaliser: Option<LogNormaliser>,
}

impl Potential for Shaped {
    fn h(&self, x: &Tensor, c_noise: &Tensor, cond: &Cond) -> Result<Tensor> {
        // c_noise of the parametrisation edm is ln(sigma / alpha) / 4
        let ratio = || Ok(Value::of(&((c_noise * 4.)?.exp()? / self.sigma_data)?));
        tape::run(x, |x| self.form.h(x, &self.net.trace(x, c_noise, cond)?, ratio))
    }

    fn normalised(&self) -> bool {
        self.normaliser.is_some()
    }

    fn log_normaliser(&self, c_noise: &Tensor) -> Result<Tensor> {
        match &self.normaliser {
            Some(normaliser) => normaliser.of(c_noise),
            None => c_noise.zeros_like(),
        }
    }
}

/// The energy that a plain network gives in its own inputs, `[B]`: 1/2 |x - f|^2, x . f, 1/2 |f|^2, or the sum of f.
pub fn raw_energy(net: &dyn Net, form: Form, x: &Tensor, c_noise: &Tensor, cond: &Cond) -> Result<Tensor> {
    tape::run(x, |x| {
        let f = net.trace(x, c_noise, cond)?;
        match form {
            Form::Residual => {
                let rest = x.sub(&f)?;
                rest.mul(&rest)?.sum_per_sample()?.affine(0.5, 0.)
            }
            Form::NoiseNorm => {
                bail!("energy noise-norm: it needs the noise level, which a network alone does not tell")
            }
            other => other.h(x, &f, || bail!("no ratio")),
        }
    })
}
