//! What a network predicts, as four numbers: x0-hat = c_skip x_t + c_out F(c_in x_t, c_noise). \[Karras22, eq. 7\]
//!
//! One denoising loss serves them all: its target is (x_0 - c_skip x_t) / c_out.
//! With `sigma_data` the standard deviation of the data, c_in = 1 / sqrt(alpha^2 sigma_data^2 + sigma^2) keeps the
//! network's input at unit variance under every process.

mod consistency;
mod unscaled;

pub use consistency::Consistency;
pub use unscaled::{Tell, Unscaled};

use crate::Marginal;
use candle_core::Result;
use langevin_ops::registry;
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// The four numbers at one time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Coefficients {
    /// Factor of x_t in x0-hat.
    pub c_skip: f64,
    /// Factor of the network's output in x0-hat.
    pub c_out: f64,
    /// Factor of x_t in the network's input.
    pub c_in: f64,
    /// What the network is told of the time.
    pub c_noise: f64,
}

/// What a network predicts.
pub trait Parametrisation: Send + Sync + std::fmt::Debug {
    /// c_skip and c_out at marginal `m`.
    fn skip_out(&self, m: &Marginal, sigma_data: f64) -> (f64, f64);

    /// 1 - alpha c_skip at marginal `m`, without the cancellation that sets in near the data.
    fn unskipped(&self, m: &Marginal, sigma_data: f64) -> f64;

    /// c_noise at marginal `m`, where the process's clock shows `clock`.
    fn c_noise(&self, _m: &Marginal, clock: f64) -> f64 {
        clock
    }

    /// c_in at marginal `m`: unit variance for data of standard deviation `sigma_data`.
    fn c_in(&self, m: &Marginal, sigma_data: f64) -> f64 {
        1. / (m.alpha * sigma_data).hypot(m.sigma)
    }

    /// Errors, naming the option, if one is out of its range.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// Whether x0 can be told from it where alpha = 0 (the end of flow, cosine and zero-SNR tables).
    fn reaches_pure_noise(&self) -> bool {
        true
    }
}

registry! {
    /// Any parametrisation, as configurations name it.
    pub enum AnyParametrisation: Parametrisation = "parametrisation" {
        Edm, Eps, X0, V, Score, Velocity, Unscaled, Consistency
    } check Parametrisation::check
}

macro_rules! parametrisation {
    ($(#[$meta:meta])* $Name:ident = $name:literal, $about:literal) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $Name {}
        impl Named for $Name {
            const NAME: &'static str = $name;
            const ABOUT: &'static str = $about;
        }
    };
}

parametrisation! {
    /// F = (x_0 - c_skip x) / c_out with unit variance at every noise level. \[Karras22, table 1\], for any alpha.
    Edm = "edm", "a mix of x0 and eps that has unit variance at every noise level [Karras22]"
}
impl Parametrisation for Edm {
    fn skip_out(&self, m: &Marginal, sigma_data: f64) -> (f64, f64) {
        let signal = (m.alpha * sigma_data).powi(2);
        let total = signal + m.sigma.powi(2);
        (m.alpha * sigma_data.powi(2) / total, m.sigma * sigma_data / total.sqrt())
    }

    fn unskipped(&self, m: &Marginal, sigma_data: f64) -> f64 {
        m.sigma.powi(2) / ((m.alpha * sigma_data).powi(2) + m.sigma.powi(2))
    }

    fn c_noise(&self, m: &Marginal, _clock: f64) -> f64 {
        // alpha = 0 is told as an SNR too small to matter
        (m.sigma / m.alpha.max(1e-8)).ln() / 4.
    }
}

parametrisation! {
    /// F = eps. \[Ho20\]
    Eps = "eps", "the noise [Ho20]"
}
impl Parametrisation for Eps {
    fn skip_out(&self, m: &Marginal, _: f64) -> (f64, f64) {
        (1. / m.alpha, -m.sigma / m.alpha)
    }
    fn unskipped(&self, _: &Marginal, _: f64) -> f64 {
        0.
    }
    fn reaches_pure_noise(&self) -> bool {
        false
    }
}

parametrisation! {
    /// F = x_0.
    X0 = "x0", "the clean data"
}
impl Parametrisation for X0 {
    fn skip_out(&self, _: &Marginal, _: f64) -> (f64, f64) {
        (0., 1.)
    }
    fn unskipped(&self, _: &Marginal, _: f64) -> f64 {
        1.
    }
}

parametrisation! {
    /// F = (alpha eps - sigma x_0) / sqrt(alpha^2 + sigma^2): v of \[Salimans22\] for variance preserving processes.
    V = "v", "v = alpha eps - sigma x0, for processes that preserve variance [Salimans22]"
}
impl Parametrisation for V {
    fn skip_out(&self, m: &Marginal, _: f64) -> (f64, f64) {
        // alpha x - sigma r v = (alpha^2 + sigma^2) x_0 with r the norm
        let r = m.alpha.hypot(m.sigma);
        (m.alpha / (r * r), -m.sigma / r)
    }
    fn unskipped(&self, m: &Marginal, _: f64) -> f64 {
        (m.sigma / m.alpha.hypot(m.sigma)).powi(2)
    }
}

parametrisation! {
    /// F = -eps / sigma, the score of the noise kernel. \[Vincent11\]
    Score = "score", "the score -eps / sigma [Vincent11]"
}
impl Parametrisation for Score {
    fn skip_out(&self, m: &Marginal, _: f64) -> (f64, f64) {
        (1. / m.alpha, m.sigma * m.sigma / m.alpha)
    }
    fn unskipped(&self, _: &Marginal, _: f64) -> f64 {
        0.
    }
    fn reaches_pure_noise(&self) -> bool {
        false
    }
}

parametrisation! {
    /// F = dx/dt = alpha' x_0 + sigma' eps along the straight path of one sample. \[Lipman23\]
    Velocity = "velocity", "the velocity alpha' x0 + sigma' eps of flow matching [Lipman23]"
}
impl Parametrisation for Velocity {
    fn skip_out(&self, m: &Marginal, _: f64) -> (f64, f64) {
        // sigma v - sigma' x = (alpha' sigma - sigma' alpha) x_0
        let wronskian = m.dalpha * m.sigma - m.dsigma * m.alpha;
        (-m.dsigma / wronskian, m.sigma / wronskian)
    }
    fn unskipped(&self, m: &Marginal, _: f64) -> f64 {
        m.dalpha * m.sigma / (m.dalpha * m.sigma - m.dsigma * m.alpha)
    }
}
