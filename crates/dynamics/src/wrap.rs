//! Denoisers made of denoisers: clipped, guided, of another process; and one derived from an energy.
//!
//! Samplers know of none of these: they are given the wrapped model.

mod reframed;

pub use reframed::Reframed;

use crate::denoiser::{Frame, each};
use crate::noisy::{self, Jet, NoisyEnergy};
use crate::sum::Sum;
use crate::{Denoiser, Marginal, Process};
use candle_core::{Result, Tensor, bail};
use langevin_ops::grad;
use langevin_ops::shape::{combine, per_sample, scale, to_host};
use serde::{Deserialize, Serialize};

/// How x0 is kept in the range of the data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Clip {
    /// Data lie in [-range, range].
    pub range: f64,
    /// Dynamic thresholding: clip each sample at this quantile of its own |x0| (0.995 is usual) if that is beyond the
    /// range, and scale it back into the range. \[Saharia22, section 2.3\]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantile: Option<f64>,
    /// Most that a dynamic threshold may be; no bound if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_threshold: Option<f64>,
}

impl Default for Clip {
    fn default() -> Self {
        Self { range: 1., quantile: None, max_threshold: None }
    }
}

impl Clip {
    /// Errors, naming the option, if one is out of its range.
    pub fn check(&self) -> Result<()> {
        if !(self.range.is_finite() && self.range > 0.) {
            bail!("clip: range is {}; it must be positive, 1 for images", self.range);
        }
        if let Some(q) = self.quantile.filter(|q| !(0. ..=1.).contains(q)) {
            bail!("clip: quantile is {q}; it must be from 0 to 1, 0.995 is usual");
        }
        match self.max_threshold {
            Some(max) if max.is_nan() || max < self.range => {
                bail!("clip: max_threshold is {max}; it must be at least range = {}", self.range)
            }
            Some(_) if self.quantile.is_none() => {
                bail!("clip: max_threshold bounds a dynamic threshold; give a quantile")
            }
            _ => Ok(()),
        }
    }

    /// `x0` in the range, the same shape.
    pub fn apply(&self, x0: &Tensor) -> Result<Tensor> {
        let Some(quantile) = self.quantile else { return x0.clamp(-self.range, self.range) };
        let each = x0.elem_count() / x0.dim(0)?.max(1);
        let abs: Vec<f64> = to_host(x0)?.into_iter().map(f64::abs).collect();
        let most = self.max_threshold.unwrap_or(f64::INFINITY);
        let thresholds = abs.chunks(each.max(1)).map(|row| quantile_of(row, quantile).max(self.range).min(most));
        let thresholds: Vec<f64> = thresholds.collect();
        let bound = per_sample(&thresholds, x0)?.broadcast_as(x0.shape())?;
        let factors: Vec<f64> = thresholds.iter().map(|s| self.range / s).collect();
        scale(&x0.minimum(&bound)?.maximum(&bound.neg()?)?, &factors)
    }
}

/// The quantile with straight lines between the ordered numbers, as torch.quantile has it.
fn quantile_of(row: &[f64], quantile: f64) -> f64 {
    let mut row = row.to_vec();
    row.sort_unstable_by(f64::total_cmp);
    let at = quantile * (row.len() - 1) as f64;
    let (below, above) = (row[at.floor() as usize], row[at.ceil() as usize]);
    below + (above - below) * at.fract()
}

/// A denoiser whose x0 is kept in the range of the data.
pub struct Clamped<'a> {
    model: &'a dyn Denoiser,
    clip: Clip,
}

impl<'a> Clamped<'a> {
    /// Errors if an option of `clip` is out of its range.
    pub fn new(model: &'a dyn Denoiser, clip: Clip) -> Result<Self> {
        clip.check()?;
        Ok(Self { model, clip })
    }
}

/// Its energy is not that of the model, and no longer known.
impl Denoiser for Clamped<'_> {
    fn frame(&self) -> Frame<'_> {
        self.model.frame()
    }

    fn x0(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        self.clip.apply(&self.model.x0(x, t)?)
    }

    fn x0_unclipped(&self, x: &Tensor, t: &[f64]) -> Result<(Tensor, Tensor)> {
        let (x0, unclipped) = self.model.x0_unclipped(x, t)?;
        Ok((self.clip.apply(&x0)?, unclipped))
    }
}

/// How much a model is guided, and where.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Guidance {
    /// w in x0 = x0_guide + w (x0_model - x0_guide): 1 is the model alone, more goes away from the guide.
    pub scale: f64,
    /// Guidance only where sigma/alpha is from the first to the second; everywhere if not given. \[Kynkaanniemi24\]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<(f64, f64)>,
}

impl Default for Guidance {
    fn default() -> Self {
        Self { scale: 1., interval: None }
    }
}

impl Guidance {
    /// Errors, naming the option, if one is out of its range.
    pub fn check(&self) -> Result<()> {
        if !self.scale.is_finite() {
            bail!("guidance: scale is {}; it must be a finite number, 1 for no guidance", self.scale);
        }
        match self.interval {
            Some((from, to)) if from.is_nan() || to.is_nan() || from < 0. || from >= to => {
                bail!("guidance: interval is from {from} to {to} (of sigma/alpha); it must rise from 0 or more")
            }
            _ => Ok(()),
        }
    }

    /// w at a noise level.
    fn weight(&self, m: Marginal) -> f64 {
        match self.interval {
            // sigma/alpha is infinite where alpha is 0, and inside only if the interval is open there
            Some((from, to)) if !(from..=to).contains(&(m.sigma / m.alpha)) => 1.,
            _ => self.scale,
        }
    }
}

impl<'a> Sum<'a> {
    /// Guidance by a second model: one without the class (classifier-free guidance), or a worse one.
    /// x0 = w x0_model + (1 - w) x0_guide, and so with energies where both have one; their normaliser is not known.
    /// \[HoSalimans22; KarrasAuto24\]
    ///
    /// A guide of another process is reframed onto that of the model: it errors at noise levels that it does not know, and
    /// an interval of guidance leaves these out. Where w is 1 for the whole batch the guide is not evaluated.
    ///
    /// Errors if an option is out of its range, or if the two models have no noise level in common.
    pub fn guided(model: &'a dyn Denoiser, guide: &'a dyn Denoiser, guidance: Guidance) -> Result<Self> {
        guidance.check()?;
        let (process, again) = (model.process(), guidance.clone());
        let w = Box::new(move |m| guidance.weight(m));
        Self::new([model, guide], process, vec![w, Box::new(move |m| 1. - again.weight(m))])
    }
}

/// An energy E(x, t) as a denoiser: score = -grad_x E by autodiff, x0 = (x + sigma^2 score) / alpha. \[Vincent11\]
pub struct FromEnergy<'a, E> {
    process: &'a dyn Process,
    energy: E,
    normalised: bool,
}

impl<'a, E: Fn(&Tensor, &[f64]) -> Result<Tensor>> FromEnergy<'a, E> {
    /// `energy(x, t)` is E of each sample, `[B]`, made of operations that can be differentiated; p_t is in proportion
    /// to exp(-E). Times are one for all samples or one a sample.
    pub fn new(process: &'a dyn Process, energy: E) -> Result<Self> {
        process.check()?;
        Ok(Self { process, energy, normalised: false })
    }

    /// Says that exp(-E(., t)) has the same integral at every t.
    pub fn normalised(self) -> Self {
        Self { normalised: true, ..self }
    }

    /// E(x, t), `[B]`.
    pub fn energy(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        let energy = (self.energy)(x, t)?;
        if energy.dims() != [x.dim(0)?] {
            bail!(
                "energy: it has shape {:?} for a batch of {}; it must be one number a sample",
                energy.dims(),
                x.dim(0)?
            );
        }
        Ok(energy)
    }
}

impl<E: Fn(&Tensor, &[f64]) -> Result<Tensor>> Denoiser for FromEnergy<'_, E> {
    fn frame(&self) -> Frame<'_> {
        Frame::of(self.process)
    }

    /// Errors where alpha = 0: no score tells x0 there.
    fn x0(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        if let Some(t) = t.iter().find(|&&t| self.process.marginal(t).alpha < 1e-6) {
            bail!(
                "an energy cannot tell x0 where alpha = 0, and {:?} is there at t = {t}; use a process that \
                 ends before (t_max of cosine and flow)",
                self.process
            );
        }
        let of_x = each(self.process, t, |m| 1. / m.alpha);
        let of_score = each(self.process, t, |m| m.sigma * m.sigma / m.alpha);
        combine(&of_x, x, &of_score, &self.score(x, t)?)
    }

    fn eps(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        scale(&self.score(x, t)?, &each(self.process, t, |m| -m.sigma))
    }

    fn score(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        grad::gradient(x, |x| self.energy(x, t))?.1.neg()
    }

    fn noisy_energy(&self) -> Option<&dyn NoisyEnergy> {
        Some(self)
    }
}

impl<E: Fn(&Tensor, &[f64]) -> Result<Tensor>> NoisyEnergy for FromEnergy<'_, E> {
    fn energy_at(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        self.energy(x, t)
    }

    /// dE/dt by fourth-order differences: the closure takes its times from the host. Good to about 1e-11 of |E| in f64.
    fn jet(&self, x: &Tensor, t: &[f64]) -> Result<Jet> {
        let (energy, gradient) = self.energy_grad(x, t)?;
        let at = |by: f64| self.energy(x, &t.iter().map(|t| t * (1. + by * noisy::STEP)).collect::<Vec<_>>());
        let near = ((at(1.)? - at(-1.)?)? * 8.)?;
        let rise = (near - (at(2.)? - at(-2.)?)?)?;
        let dt = scale(&rise, &t.iter().map(|t| 1. / (12. * noisy::STEP * t)).collect::<Vec<_>>())?;
        Ok(Jet { energy, gradient, dt })
    }

    fn normalised(&self) -> bool {
        self.normalised
    }
}
