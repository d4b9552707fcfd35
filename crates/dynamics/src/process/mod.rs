//! How data become noise: x_t = alpha(t) x_0 + sigma(t) eps.
//!
//! A process is four numbers at each t; drift, diffusion, SNR, the probability-flow ODE and the reverse SDE are derived
//! from them here, once: dx = f x dt + g dw with f = alpha'/alpha and g^2 = 2 sigma sigma' - 2 f sigma^2. \[Song21\]

mod cosine;
mod edm;
mod flow;
mod subvp;
mod table;
mod ve;
mod vp;
mod within;

pub use cosine::Cosine;
pub use edm::Edm;
pub use flow::Flow;
pub use subvp::SubVp;
pub use table::{Betas, Table, TableOptions};
pub use ve::Ve;
pub use vp::Vp;
pub use within::Within;

use candle_core::{Result, bail};
use langevin_ops::registry;

/// x_t = alpha x_0 + sigma eps, and the derivatives of both in t.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Marginal {
    /// Factor of the data.
    pub alpha: f64,
    /// Standard deviation of the noise, in units of the data.
    pub sigma: f64,
    /// d alpha / dt.
    pub dalpha: f64,
    /// d sigma / dt.
    pub dsigma: f64,
}

impl Marginal {
    /// Clean data, the marginal of every process at t = 0. Its derivatives are not defined: nothing may ask for them.
    pub const CLEAN: Self = Self { alpha: 1., sigma: 0., dalpha: f64::NAN, dsigma: f64::NAN };

    /// Logarithm of the signal-to-noise ratio, ln(alpha^2 / sigma^2): infinite where one of them is 0.
    pub fn log_snr(&self) -> f64 {
        2. * (self.alpha.ln() - self.sigma.ln())
    }

    /// f in dx = f x dt + g dw. Infinite where alpha = 0.
    pub fn drift(&self) -> f64 {
        self.dalpha / self.alpha
    }

    /// g^2 in dx = f x dt + g dw. Infinite where alpha = 0.
    pub fn diffusion2(&self) -> f64 {
        2. * self.sigma * (self.dsigma - self.drift() * self.sigma)
    }
}

/// A noise process. Time grows with noise; t = 0 is clean data for every process.
pub trait Process: Send + Sync + std::fmt::Debug {
    /// The marginal at `t`: [`Marginal::CLEAN`] at `t <= 0`.
    fn marginal(&self, t: f64) -> Marginal;

    /// The least noisy time that is trained and sampled (sigma > 0), and the time of the prior.
    fn span(&self) -> (f64, f64);

    /// The number by which a network is told the time, unless its parametrisation has one of its own.
    fn clock(&self, t: f64) -> f64 {
        1000. * t
    }

    /// The number T of steps of a discrete process, whose times are 1, ..., T; `None` for a continuous one.
    fn discrete(&self) -> Option<usize> {
        None
    }

    /// Errors, naming the option, if the options make no process.
    fn check(&self) -> Result<()> {
        let (low, high) = self.span();
        rising(&[("the data end of the span", low), ("its prior end", high)])
    }

    /// ln(alpha^2 / sigma^2) at `t`.
    fn log_snr(&self, t: f64) -> f64 {
        self.marginal(t).log_snr()
    }

    /// The time in the span whose log SNR is `log_snr`: the nearest end if it lies outside.
    fn t_at(&self, log_snr: f64) -> f64 {
        invert(self, log_snr)
    }
}

/// The time at which the angle theta = atan(sigma/alpha) is that of `log_snr`: the root of sin(theta_t - theta), which is
/// finite everywhere and loses no digits at either end. Regula falsi with the weights of Anderson and Bjorck (1973), and
/// each third time bisection.
fn invert<P: Process + ?Sized>(process: &P, log_snr: f64) -> f64 {
    let ratio = (-0.5 * log_snr).exp(); // sigma/alpha
    let (sin, cos) = if ratio.is_finite() { (ratio / ratio.hypot(1.), 1. / ratio.hypot(1.)) } else { (1., 0.) };
    let f = |t: f64| {
        let m = process.marginal(t);
        let size = m.alpha.hypot(m.sigma);
        ((m.sigma * cos - m.alpha * sin) / size, 2. * f64::EPSILON * m.sigma * cos / size) // value, its rounding
    };
    let (mut low, mut high) = process.span();
    let (mut below, mut above) = (f(low).0, f(high).0);
    if below >= 0. {
        return low;
    }
    if above <= 0. {
        return high;
    }
    for tries in 1..200 {
        let half = low + 0.5 * (high - low);
        if half <= low || half >= high {
            break;
        }
        let secant = low - below * (high - low) / (above - below);
        let mid = if tries % 3 == 0 || secant <= low || secant >= high { half } else { secant };
        let (at, rounding) = f(mid);
        if at.abs() <= rounding {
            return mid;
        }
        if at < 0. {
            above *= weight(at, below);
            (low, below) = (mid, at);
        } else {
            below *= weight(at, above);
            (high, above) = (mid, at);
        }
    }
    low + 0.5 * (high - low)
}

/// By how much the end that stays is scaled down, when the other goes from `old` to `new`.
fn weight(new: f64, old: f64) -> f64 {
    let m = 1. - new / old;
    if m > 0. { m } else { 0.5 }
}

/// Whether two processes are one: the same span, and the same noise within it.
pub fn same(a: &dyn Process, b: &dyn Process) -> bool {
    a.span() == b.span() && alike(a, b)
}

/// Whether two processes have the same noise at each time that lies in the spans of both.
pub fn alike(a: &dyn Process, b: &dyn Process) -> bool {
    let (low, high) = (a.span().0.max(b.span().0), a.span().1.min(b.span().1));
    low < high && [low, 0.5 * (low + high), high].iter().all(|&t| a.marginal(t) == b.marginal(t))
}

registry! {
    /// Any process, as configurations name it.
    pub enum AnyProcess: Process = "process" { Vp, Cosine, SubVp, Ve, Edm, Flow, Table } check Process::check
}

/// Errors unless 0 < first < second < ... < infinity, naming the option that breaks it.
fn rising(options: &[(&str, f64)]) -> Result<()> {
    let mut before = ("0", 0.);
    for &(name, value) in options {
        if !value.is_finite() {
            bail!("{name} is {value}; it must be a finite number");
        }
        if value <= before.1 {
            bail!(
                "{name} is {value}; it must be greater than {}",
                if before.0 == "0" { "0".into() } else { format!("{} = {}", before.0, before.1) }
            );
        }
        before = (name, value);
    }
    Ok(())
}

/// Errors unless `value` is at most `most`.
fn at_most(name: &str, value: f64, most: f64) -> Result<()> {
    if value.is_nan() || value > most {
        bail!("{name} is {value}; it must be at most {most}");
    }
    Ok(())
}
