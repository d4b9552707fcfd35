//! A model of one process as one of another: the same data under the same noise, with x on another scale and another clock.
//!
//! Where sigma/alpha are equal, at t of the new process and at u of the model's own, x_t = r x_u with r = alpha_t / alpha_u:
//! x0(x, t) = x0'(x/r, u), score = score'/r, E(x, t) = E'(x/r, u) + D ln r, so that what is normalised stays so, and
//! dE/dt = u' dE'/du + (ln r)' (D - x . grad E). With theta = atan(sigma/alpha), u' = theta_t' / theta_u'. \[Karras22, table 1\]

use crate::denoiser::Frame;
use crate::noisy::{Jet, NoisyEnergy, filled};
use crate::process::{self, Within};
use crate::{Denoiser, Marginal, Process};
use candle_core::{Result, Tensor, bail};
use langevin_ops::shape::{combine, scale, sum_per_sample};

/// The model, as one of the other process. It knows the noise levels that both have, and errors at others.
///
/// A model that denoises the process already is passed through as it is.
pub struct Reframed<'a> {
    model: &'a dyn Denoiser,
    process: Within<'a>,
    own: bool, // the noise at each t is that of the model's process
}

/// One noise level in both processes.
struct Place {
    /// At t of the new process.
    to: Marginal,
    /// At u of the model's.
    from: Marginal,
    u: f64,
}

impl Place {
    /// alpha_t / alpha_u, and where alpha is 0 its limit.
    fn r(&self) -> f64 {
        self.to.alpha.hypot(self.to.sigma) / self.from.alpha.hypot(self.from.sigma)
    }

    /// du/dt.
    fn du(&self) -> f64 {
        let turn = |m: &Marginal| (m.alpha * m.dsigma - m.sigma * m.dalpha) / (m.alpha.powi(2) + m.sigma.powi(2));
        turn(&self.to) / turn(&self.from)
    }

    /// d ln r / dt.
    fn dln_r(&self) -> f64 {
        let growth = |m: &Marginal| (m.alpha * m.dalpha + m.sigma * m.dsigma) / (m.alpha.powi(2) + m.sigma.powi(2));
        growth(&self.to) - growth(&self.from) * self.du()
    }
}

/// Log SNR by which a time may lie outside.
const ROUNDING: f64 = 1e-6;

impl<'a> Reframed<'a> {
    /// `model` as one of `process`.
    ///
    /// Errors if its own process and that one have no noise level in common.
    pub fn new(model: &'a dyn Denoiser, process: &'a dyn Process) -> Result<Self> {
        let own = process::alike(model.process(), process);
        Ok(Self { model, process: Within::all(process).and(model.process())?, own })
    }

    /// Where the times `t` of the new process are in the model's own; `None` where they are the same.
    fn places(&self, t: &[f64]) -> Result<Option<Vec<Place>>> {
        if self.own {
            return Ok(None);
        }
        let from = self.model.process();
        let (low, high) = from.span();
        let (least, most) = (from.log_snr(high), from.log_snr(low));
        let place = |&t: &f64| {
            let to = self.process.marginal(t);
            let log_snr = to.log_snr();
            if !(log_snr >= least - ROUNDING && log_snr <= most + ROUNDING) {
                let ((a, b), (from_t, to_t)) = (Within::all(from).levels(), self.process.span());
                bail!(
                    "reframed: {from:?} has the noise levels sigma/alpha from {a:.4} to {b:.4}, and at t = {t} it is {:.4}; \
                     keep to times from {from_t} to {to_t}",
                    to.sigma / to.alpha
                );
            }
            let u = from.t_at(log_snr);
            Ok(Place { to, from: from.marginal(u), u })
        };
        t.iter().map(place).collect::<Result<_>>().map(Some)
    }

    /// `f` of x and the times of the model's own process; what it gives is scaled by r to the power `by`.
    fn evaluate(
        &self,
        x: &Tensor,
        t: &[f64],
        by: i32,
        f: impl FnOnce(&Tensor, &[f64]) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let Some(places) = self.places(t)? else { return f(x, t) };
        let value = f(&shrunk(x, &places)?, &times(&places))?;
        if by == 0 { Ok(value) } else { scale(&value, &column(&places, |p| p.r().powi(by))) }
    }

    fn energy(&self) -> Result<&'a dyn NoisyEnergy> {
        match self.model.noisy_energy() {
            Some(energy) => Ok(energy),
            None => bail!("reframed: this model has a score but no energy"),
        }
    }
}

fn times(places: &[Place]) -> Vec<f64> {
    places.iter().map(|p| p.u).collect()
}

fn column(places: &[Place], f: impl Fn(&Place) -> f64) -> Vec<f64> {
    places.iter().map(f).collect()
}

/// x / r.
fn shrunk(x: &Tensor, places: &[Place]) -> Result<Tensor> {
    scale(x, &column(places, |p| 1. / p.r()))
}

/// `energy` `[B]` of samples of `x`, with D ln r added.
fn lifted(energy: &Tensor, x: &Tensor, places: &[Place]) -> Result<Tensor> {
    let d = numbers(x)?;
    energy + filled(&column(places, |p| d * p.r().ln()), energy)?
}

/// Numbers in a sample, D.
fn numbers(x: &Tensor) -> Result<f64> {
    Ok((x.elem_count() / x.dim(0)?.max(1)) as f64)
}

impl Denoiser for Reframed<'_> {
    fn frame(&self) -> Frame<'_> {
        Frame { process: &self.process, ..self.model.frame() }
    }

    fn x0(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        self.evaluate(x, t, 0, |x, u| self.model.x0(x, u))
    }

    fn x0_unclipped(&self, x: &Tensor, t: &[f64]) -> Result<(Tensor, Tensor)> {
        match self.places(t)? {
            Some(places) => self.model.x0_unclipped(&shrunk(x, &places)?, &times(&places)),
            None => self.model.x0_unclipped(x, t),
        }
    }

    fn eps(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        self.evaluate(x, t, 0, |x, u| self.model.eps(x, u))
    }

    fn score(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        self.evaluate(x, t, -1, |x, u| self.model.score(x, u))
    }

    fn x0_vjp(&self, x: &Tensor, t: &[f64], v: &Tensor) -> Result<(Tensor, Tensor)> {
        let Some(places) = self.places(t)? else { return self.model.x0_vjp(x, t, v) };
        let (x0, vjp) = self.model.x0_vjp(&shrunk(x, &places)?, &times(&places), v)?;
        Ok((x0, shrunk(&vjp, &places)?))
    }

    fn noisy_energy(&self) -> Option<&dyn NoisyEnergy> {
        self.model.noisy_energy().map(|_| self as &dyn NoisyEnergy)
    }
}

impl NoisyEnergy for Reframed<'_> {
    fn energy_at(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        let Some(places) = self.places(t)? else { return self.energy()?.energy_at(x, t) };
        lifted(&self.energy()?.energy_at(&shrunk(x, &places)?, &times(&places))?, x, &places)
    }

    fn energy_grad(&self, x: &Tensor, t: &[f64]) -> Result<(Tensor, Tensor)> {
        let Some(places) = self.places(t)? else { return self.energy()?.energy_grad(x, t) };
        let (energy, gradient) = self.energy()?.energy_grad(&shrunk(x, &places)?, &times(&places))?;
        Ok((lifted(&energy, x, &places)?, shrunk(&gradient, &places)?))
    }

    fn jet(&self, x: &Tensor, t: &[f64]) -> Result<Jet> {
        let Some(places) = self.places(t)? else { return self.energy()?.jet(x, t) };
        let jet = self.energy()?.jet(&shrunk(x, &places)?, &times(&places))?;
        let gradient = shrunk(&jet.gradient, &places)?;
        let (d, rate) = (numbers(x)?, column(&places, Place::dln_r));
        let own =
            combine(&column(&places, Place::du), &jet.dt, &column(&places, |p| d * p.dln_r()), &jet.dt.ones_like()?)?;
        let dt = (own - scale(&sum_per_sample(&(x * &gradient)?)?, &rate)?)?;
        Ok(Jet { energy: lifted(&jet.energy, x, &places)?, gradient, dt })
    }

    fn normalised(&self) -> bool {
        self.model.noisy_energy().is_some_and(|energy| energy.normalised())
    }
}
