//! A network that takes x_t as it is, c_in = 1, whatever it predicts: NCSN++, flows of diffusers.

use super::{AnyParametrisation, Parametrisation, V};
use crate::Marginal;
use candle_core::{Result, bail};
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// What such a network is told of the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tell {
    /// What the process's clock shows.
    #[default]
    Clock,
    /// sigma/alpha. \[Song21\]
    Sigma,
    /// ln(sigma/alpha) / 4. \[Karras22\]
    LogSigma,
}

/// Another parametrisation, but for c_in and what is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Unscaled {
    /// What the network predicts.
    pub of: Box<AnyParametrisation>,
    /// What it is told.
    pub tell: Tell,
}

impl Default for Unscaled {
    fn default() -> Self {
        Self { of: Box::new(V {}.into()), tell: Tell::default() }
    }
}

impl Named for Unscaled {
    const NAME: &'static str = "unscaled";
    const ABOUT: &'static str = "another one (`of`), whose network takes x_t as it is, and may be told sigma [Song21]";
}

impl Parametrisation for Unscaled {
    fn skip_out(&self, m: &Marginal, sigma_data: f64) -> (f64, f64) {
        self.of.get().skip_out(m, sigma_data)
    }

    fn unskipped(&self, m: &Marginal, sigma_data: f64) -> f64 {
        self.of.get().unskipped(m, sigma_data)
    }

    fn c_in(&self, _: &Marginal, _: f64) -> f64 {
        1.
    }

    fn c_noise(&self, m: &Marginal, clock: f64) -> f64 {
        match self.tell {
            Tell::Clock => self.of.get().c_noise(m, clock),
            Tell::Sigma => m.sigma / m.alpha.max(1e-8),
            Tell::LogSigma => (m.sigma / m.alpha.max(1e-8)).ln() / 4.,
        }
    }

    fn reaches_pure_noise(&self) -> bool {
        self.of.get().reaches_pure_noise()
    }

    fn check(&self) -> Result<()> {
        if matches!(*self.of, AnyParametrisation::Unscaled(_)) {
            bail!("`of` is itself unscaled; give what the network predicts, such as v or score");
        }
        self.of.get().check()
    }
}
