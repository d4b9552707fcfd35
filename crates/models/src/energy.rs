//! A network as an energy: a scalar h(x', c_noise) for each sample, whose gradient in x' is the output F.
//!
//! Under any parametrisation the score is then exactly -grad_x E with E(x, t) = (1 - alpha c_skip) / (2 sigma^2) |x|^2
//! - alpha c_out / (sigma^2 c_in) h(c_in x, c_noise). [Salimans & Ho 2021; Du et al. 2023, 2302.11552]

use candle_core::{Result, Tensor};
use langevin_dynamics::{Cond, Net};
use langevin_ops::grad;
use langevin_ops::tape::{self, Value};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A scalar for each sample, with a gradient in x.
pub trait Potential: Send + Sync {
    /// `x` `[B, ...]`, `c_noise` `[B]` -> `[B]`.
    fn h(&self, x: &Tensor, c_noise: &Tensor, cond: &Cond) -> Result<Tensor>;
}

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
    pub fn potential(&self) -> &P {
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
}

impl Form {
    /// Every form, as configurations name them, with a line about each.
    pub const ALL: &'static [(&'static str, &'static str)] = &[
        ("residual", "h = -1/2 |x - f|^2 + 1/2 |x|^2"),
        ("inner-product", "h = x . f"),
        ("squared-norm", "h = 1/2 |f|^2"),
        ("scalar", "h = sum of a network with one output channel"),
    ];

    /// How many output channels the network has for data of `channels`.
    pub fn outputs(self, channels: usize) -> usize {
        if self == Self::Scalar { 1 } else { channels }
    }

    /// h from the input `x` and the output `f` of the network, `[B]`.
    pub fn h(self, x: &Value, f: &Value) -> Result<Value> {
        match self {
            // -1/2 |x - f|^2 + 1/2 |x|^2 without its cancellation
            Self::Residual => f.mul(&x.sub(&f.affine(0.5, 0.)?)?)?.sum_per_sample(),
            Self::InnerProduct => x.mul(f)?.sum_per_sample(),
            Self::SquaredNorm => f.mul(f)?.sum_per_sample()?.affine(0.5, 0.),
            Self::Scalar => f.sum_per_sample(),
        }
    }
}

/// A network in one of the forms.
pub struct Shaped {
    /// The network f.
    pub net: Box<dyn Net>,
    /// How it gives the scalar.
    pub form: Form,
}

impl Potential for Shaped {
    fn h(&self, x: &Tensor, c_noise: &Tensor, cond: &Cond) -> Result<Tensor> {
        tape::run(x, |x| self.form.h(x, &self.net.trace(x, c_noise, cond)?))
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
            other => other.h(x, &f),
        }
    })
}
