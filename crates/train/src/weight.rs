//! How much an error counts at each noise level: lambda(t) in lambda(t) |x0-hat - x_0|^2.
//!
//! An error of a parametrisation's F is c_out^-1 times one of x0-hat, so a unit weight on F is lambda = 1 / c_out^2.

use candle_core::{Result, bail};
use langevin_dynamics::predict::{self, Parametrisation};
use langevin_dynamics::process::Marginal;
use langevin_ops::registry;
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// A weighting of noise levels.
pub trait Weight: Send + Sync + std::fmt::Debug {
    /// lambda at marginal `m`, for data of standard deviation `sigma_data`.
    fn lambda(&self, m: &Marginal, sigma_data: f64) -> f64;

    /// Errors, naming the option, if it makes no sense.
    fn check(&self) -> Result<()> {
        Ok(())
    }
}

registry! {
    /// Any weighting, as configurations name it.
    pub enum AnyWeight: Weight = "weight" {
        Edm, UnitEps, UnitX0, UnitV, UnitScore, UnitVelocity, UnitEdm, Snr, TruncatedSnr, MinSnr, Likelihood,
    } check Weight::check
}

impl Default for AnyWeight {
    fn default() -> Self {
        Self::Edm(Edm {})
    }
}

macro_rules! weight {
    ($(#[$meta:meta])* $Name:ident = $name:literal, $about:literal, |$m:ident, $sigma_data:ident| $lambda:expr) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $Name {}
        impl Named for $Name {
            const NAME: &'static str = $name;
            const ABOUT: &'static str = $about;
        }
        impl Weight for $Name {
            fn lambda(&self, $m: &Marginal, $sigma_data: f64) -> f64 {
                $lambda
            }
        }
    };
}

/// 1 / c_out^2.
fn unit(of: &dyn Parametrisation, m: &Marginal, sigma_data: f64) -> f64 {
    of.skip_out(m, sigma_data).1.powi(-2)
}

/// alpha^2 / sigma^2.
fn snr(m: &Marginal) -> f64 {
    (m.alpha / m.sigma).powi(2)
}

weight! {
    /// (sigma^2 + alpha^2 sigma_data^2) / (sigma sigma_data)^2. \[Karras22, table 1\], for any alpha.
    Edm = "edm", "(sigma^2 + alpha^2 sigma_data^2) / (sigma sigma_data)^2: unit variance of target and output [Karras22]",
    |m, sigma_data| (m.sigma.powi(2) + (m.alpha * sigma_data).powi(2)) / (m.sigma * sigma_data).powi(2)
}
weight! {
    /// 1 on |eps-hat - eps|^2, the SNR. \[Ho20, eq. 14\]
    UnitEps = "unit-eps", "1 on the error of eps, DDPM's simple loss [Ho20]", |m, s| unit(&predict::Eps {}, m, s)
}
weight! {
    /// 1 on |x0-hat - x_0|^2.
    UnitX0 = "unit-x0", "1 on the error of x0", |m, s| unit(&predict::X0 {}, m, s)
}
weight! {
    /// 1 on |v-hat - v|^2. \[Salimans22\]
    UnitV = "unit-v", "1 on the error of v [Salimans22]", |m, s| unit(&predict::V {}, m, s)
}
weight! {
    /// 1 on |score-hat - score|^2, alpha^2 / sigma^4. \[Vincent11\]
    UnitScore = "unit-score", "1 on the error of the score: alpha^2 / sigma^4 [Vincent11]", |m, s| unit(&predict::Score {}, m, s)
}
weight! {
    /// 1 on the error of dx/dt. \[Lipman23\]
    UnitVelocity = "unit-velocity", "1 on the error of the velocity, flow matching's loss [Lipman23]",
    |m, s| unit(&predict::Velocity {}, m, s)
}
weight! {
    /// 1 on the error of EDM's F; the same numbers as `edm`.
    UnitEdm = "unit-edm", "1 on the error of EDM's output; the same as edm", |m, s| unit(&predict::Edm {}, m, s)
}
weight! {
    /// alpha^2 / sigma^2; the same numbers as `unit-eps`.
    Snr = "snr", "alpha^2 / sigma^2; the same as unit-eps", |m, _s| snr(m)
}
weight! {
    /// max(SNR, 1). \[Salimans22\]
    TruncatedSnr = "truncated-snr", "max(SNR, 1) [Salimans22]", |m, _s| snr(m).max(1.)
}
weight! {
    /// g^2 on the error of the score, g^2 alpha^2 / sigma^4: the bound on the likelihood. \[Song21b, eq. 7\]
    Likelihood = "likelihood", "g^2 on the error of the score: trains the likelihood [Song21b]",
    |m, _s| {
        // g^2 alpha^2 = 2 sigma alpha (alpha sigma' - alpha' sigma): no division by an alpha of 0
        2. * m.alpha * (m.alpha * m.dsigma - m.dalpha * m.sigma) / m.sigma.powi(3)
    }
}

/// min(SNR, gamma), so that low noise does not take all the learning. \[Hang23, eq. 8\]
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MinSnr {
    /// Highest weight.
    pub gamma: f64,
    /// 1 / (1/SNR + 1/gamma), without the corner.
    pub soft: bool,
}

impl Default for MinSnr {
    fn default() -> Self {
        Self { gamma: 5., soft: false }
    }
}

impl Named for MinSnr {
    const NAME: &'static str = "min-snr";
    const ABOUT: &'static str = "min(SNR, gamma), or soft without the corner [Hang23]";
}

impl Weight for MinSnr {
    fn lambda(&self, m: &Marginal, _: f64) -> f64 {
        let snr = snr(m);
        if self.soft { snr * self.gamma / (snr + self.gamma) } else { snr.min(self.gamma) }
    }

    fn check(&self) -> Result<()> {
        if !(self.gamma > 0. && self.gamma.is_finite()) {
            bail!("gamma is {}; it must be a finite number above 0", self.gamma);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use langevin_dynamics::process::AnyProcess;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-9 * (1e-12 + a.abs().max(b.abs()))
    }

    /// Every formula against its definition, at noise levels of every process.
    #[test]
    fn are_what_they_are_defined_as() {
        for process in AnyProcess::defaults() {
            let process = process.get();
            let (low, high) = process.span();
            for i in 1..40 {
                let m = process.marginal(low + (high - low) * (i as f64 / 40.).powi(2));
                let (a, s, d) = (m.alpha, m.sigma, 0.6);
                let of = |name: &str| AnyWeight::named(name).unwrap().get().lambda(&m, d);
                assert!(close(of("unit-eps"), a * a / (s * s)), "{process:?} {m:?}");
                assert!(close(of("snr"), of("unit-eps")));
                assert!(close(of("unit-x0"), 1.));
                assert!(close(of("unit-v"), (a * a + s * s) / (s * s)), "v = alpha eps - sigma x0, of norm 1");
                assert!(close(of("unit-score"), a * a / s.powi(4)));
                assert!(close(of("unit-velocity"), (m.dalpha - a * m.dsigma / s).powi(2)), "velocity at a given x_t");
                assert!(close(of("unit-edm"), of("edm")));
                assert!(close(of("likelihood"), m.diffusion2() * a * a / s.powi(4)), "{process:?} {m:?}");
                assert!(close(of("min-snr"), (a * a / (s * s)).min(5.)));
                assert!(close(of("truncated-snr"), (a * a / (s * s)).max(1.)));
                let soft = MinSnr { gamma: 5., soft: true }.lambda(&m, d);
                assert!(close(1. / soft, s * s / (a * a) + 0.2) && soft <= of("min-snr"));
            }
        }
    }

    #[test]
    fn nothing_is_infinite_or_missing_at_pure_noise() {
        let m = Marginal { alpha: 0., sigma: 1., dalpha: -1., dsigma: 1. };
        for (name, _) in AnyWeight::ALL {
            let lambda = AnyWeight::named(name).unwrap().get().lambda(&m, 0.5);
            assert!(lambda.is_finite() && lambda >= 0., "{name}: {lambda}");
        }
    }
}
