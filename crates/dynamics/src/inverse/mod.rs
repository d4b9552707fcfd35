//! Inverse problems: x_0 from y = A x_0 + s n, n standard normal, with a model of x_0 as what is known beforehand.
//!
//! A [`Task`] makes the linear operator A for samples of one shape, a [`Measured`] is a y of it, and a [`Method`] draws x_0
//! given y. [`Posterior`] is the model given y as a denoiser, so that samplers and MCMC kernels run on it as on any other;
//! [`posterior`] is the exact answer for a mixture.

mod along;
mod colour;
mod deblur;
mod dps;
mod exact;
mod inpaint;
mod mcmc;
mod posterior;
mod repaint;
mod replace;
mod superres;

pub use along::{Along, Separable};
pub use colour::Colour;
pub use deblur::{Blur, Deblur};
pub use dps::Dps;
pub use exact::posterior;
pub use inpaint::{Inpaint, Mask, MaskName};
pub use mcmc::Mcmc;
pub use posterior::Posterior;
pub use repaint::RePaint;
pub use replace::Replace;
pub use superres::SuperRes;

use crate::sampler::{At, Stepper, drive};
use crate::{Denoiser, Process};
use candle_core::{Result, Tensor, bail};
use langevin_ops::noise::Noise;
use langevin_ops::registry;
use std::fmt::Debug;
use std::sync::Arc;

/// A linear map A of samples, sample by sample, made of operations that can be differentiated.
pub trait Operator: Send + Sync + Debug {
    /// A x: `[B, ...]` to what is measured, `[B, ...]`.
    fn apply(&self, x: &Tensor) -> Result<Tensor>;

    /// A^T y: back to the shape of x.
    fn adjoint(&self, y: &Tensor) -> Result<Tensor>;

    /// g, where A A^T is g times the identity on all that A gives: A^T / g is then the inverse of A as far as there is one.
    /// `None` for a blur.
    fn gram(&self) -> Option<f64>;

    /// A number that |A x|^2 / |x|^2 never exceeds.
    fn norm2(&self) -> f64;

    /// y as a picture in the shape of x, for people: white where nothing is known.
    fn show(&self, y: &Tensor) -> Result<Tensor>;
}

/// A kind of measurement, which has an operator for samples of every shape that it suits.
pub trait Task: Send + Sync + Debug {
    /// The option that a value alone sets, as 2 in `superres=2`; `None` if there are no options.
    fn key(&self) -> Option<&'static str> {
        None
    }

    /// A for samples of `shape`, `[C, H, W]`. Errors if it does not suit, or an option is out of its range.
    fn operator(&self, shape: &[usize]) -> Result<Box<dyn Operator>>;
}

registry! {
    /// Any task, as the command line names it.
    pub enum AnyTask: Task = "task" { Inpaint, SuperRes, Deblur, Colour }
}

/// What was measured.
#[derive(Debug)]
pub struct Measured {
    operator: Arc<dyn Operator>,
    y: Tensor,
    noise: f64,
}

impl Measured {
    /// `y` `[1 or B, ...]` = A x_0 + s n with `noise` = s, in the units of the data; 0 if y is exact.
    pub fn new(operator: impl Into<Arc<dyn Operator>>, y: Tensor, noise: f64) -> Result<Self> {
        let operator = operator.into();
        if !(noise.is_finite() && noise >= 0.) {
            bail!("the noise of a measurement is {noise}; it must be a standard deviation, 0 or more");
        }
        let x = operator.adjoint(&y)?;
        let again = operator.apply(&x)?;
        if again.dims() != y.dims() {
            bail!("{operator:?} gives {:?} where {:?} was measured", again.dims(), y.dims());
        }
        Ok(Self { operator, y, noise })
    }

    /// A measurement of `x0` `[B, ...]`: A x_0 + s n.
    pub fn of(operator: impl Into<Arc<dyn Operator>>, x0: &Tensor, noise: f64, z: &mut Noise) -> Result<Self> {
        let operator = operator.into();
        let y = operator.apply(x0)?;
        // of what A gives alone: nothing is measured where a mask hides
        let gram = operator.gram().unwrap_or(1.);
        let drawn = match operator.gram() {
            Some(_) => operator.apply(&z.normal_like(x0)?)?.affine(1. / gram.sqrt(), 0.)?,
            None => z.normal_like(&y)?,
        };
        let y = (y + drawn.affine(noise, 0.)?)?;
        Self::new(operator, y, noise)
    }

    /// A.
    pub fn operator(&self) -> &dyn Operator {
        self.operator.as_ref()
    }

    /// y.
    pub fn y(&self) -> &Tensor {
        &self.y
    }

    /// s.
    pub fn noise(&self) -> f64 {
        self.noise
    }

    /// `scale` y - A x, with the type and device of `x` `[B, ...]`.
    pub fn residual(&self, scale: f64, x: &Tensor) -> Result<Tensor> {
        let of_x = self.operator.apply(x)?;
        let y = self.y.to_device(x.device())?.to_dtype(x.dtype())?.affine(scale, 0.)?;
        y.broadcast_as(of_x.shape())?.sub(&of_x)
    }
}

/// A way to draw x_0 given what was measured: a run that knows of it, and the steps that it takes through the levels.
pub trait Method: Send + Sync + Debug {
    /// Errors, naming the option, if one is out of its range.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// A run given `measured` down the falling `times`, which has not begun. Errors if it cannot.
    fn start<'a>(&'a self, measured: &'a Measured, times: &[f64]) -> Result<Box<dyn Stepper + 'a>>;

    /// Its steps (t, s) through the falling `times`. Errors if the options do not suit them.
    fn route(&self, _process: &dyn Process, _measured: &Measured, times: &[f64]) -> Result<Vec<(f64, f64)>> {
        Ok(times.windows(2).map(|pair| (pair[0], pair[1])).collect())
    }

    /// Samples `[B, ...]` of x_0 given `measured`, from `x`, noise at the first of the falling `times`; the last is 0. Tells
    /// `watch` after each of its steps.
    fn draw(
        &self,
        m: &dyn Denoiser,
        measured: &Measured,
        times: &[f64],
        x: &Tensor,
        z: &mut Noise,
        watch: &mut dyn FnMut(At) -> Result<()>,
    ) -> Result<Tensor> {
        self.check()?;
        let mut run = self.start(measured, times)?;
        drive(m, run.as_mut(), &self.route(m.process(), measured, times)?, x, z, watch)
    }
}

registry! {
    /// Any method, as the command line names it.
    pub enum AnyMethod: Method = "method" { Replace, RePaint, Dps, Mcmc } check Method::check
}
