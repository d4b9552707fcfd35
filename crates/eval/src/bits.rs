//! Log-likelihoods as figures: bits per dimension or nats, with standard errors, and paired differences of methods.
//!
//! Bits per dimension of 8-bit data are -log2 p(x)/D + log2(256/range): x is the dequantised pixel value scaled to a range
//! of that width. \[Theis16, 1511.01844\]

use langevin_ops::stats::mean_and_error;
use serde::Serialize;

/// In what likelihoods are told.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Negative log-likelihood a dimension of pixels of 256 levels, which the model takes in a range of this width.
    BitsPerDim {
        /// Width of the range: 2 for [-1, 1].
        range: f64,
    },
    /// Negative log-likelihood of a sample.
    Nats,
}

impl Unit {
    /// As tables head it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::BitsPerDim { .. } => "bits/dim",
            Self::Nats => "nats",
        }
    }

    /// What a nat of a sample of `d` numbers is.
    pub fn nat(&self, d: usize) -> f64 {
        match self {
            Self::BitsPerDim { .. } => 1. / (d as f64 * std::f64::consts::LN_2),
            Self::Nats => 1.,
        }
    }

    /// What the change to pixel values adds: 7 bits for [-1, 1], 8 for [0, 1].
    pub fn offset(&self) -> f64 {
        match self {
            Self::BitsPerDim { range } => (256. / range).log2(),
            Self::Nats => 0.,
        }
    }

    /// The figure of one sample of `d` numbers.
    pub fn of(&self, log_p: f64, d: usize) -> f64 {
        self.offset() - log_p * self.nat(d)
    }
}

/// log p of some points by one method.
#[derive(Clone, Debug)]
pub struct Likelihoods {
    /// log p of each point, in nats.
    pub log_p: Vec<f64>,
    /// Standard error of their mean that the method has by itself, at these very points, in nats; NaN if not known.
    pub own: f64,
    /// The part of it that all points share, which their spread does not show: that of a constant.
    pub shared: f64,
}

/// A mean with its errors.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// The mean over points.
    pub mean: f64,
    /// Its standard error, from the spread over points.
    pub error: f64,
    /// The standard error of the method at these points; NaN if not known.
    pub own: f64,
}

impl Likelihoods {
    /// The mean over points of `d` numbers, in `unit`.
    pub fn figure(&self, unit: Unit, d: usize) -> Figure {
        let (mean, error) = mean_and_error(&self.log_p.iter().map(|&l| unit.of(l, d)).collect::<Vec<_>>());
        Figure { mean, error, own: self.own * unit.nat(d) }
    }

    /// What this has more than `other` at the same points, in `unit`, and its standard error: from the spread of the
    /// differences, and the errors that points share.
    pub fn more_than(&self, other: &Self, unit: Unit, d: usize) -> (f64, f64) {
        let apart = self.log_p.iter().zip(&other.log_p).map(|(a, b)| (b - a) * unit.nat(d)).collect::<Vec<_>>();
        let (mean, error) = mean_and_error(&apart);
        (mean, error.hypot(self.shared.hypot(other.shared) * unit.nat(d)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uniform_density_over_the_range_is_eight_bits() {
        for (range, offset) in [(2f64, 7.), (1., 8.)] {
            let unit = Unit::BitsPerDim { range };
            assert_eq!(unit.offset(), offset);
            assert!((unit.of(-12. * range.ln(), 12) - 8.).abs() < 1e-12);
        }
        assert_eq!(Unit::Nats.of(-1.5, 12), 1.5);
    }

    #[test]
    fn paired_differences_keep_what_points_share() {
        let a = Likelihoods { log_p: vec![-1., -3.], own: 0.5, shared: 0.4 };
        let b = Likelihoods { log_p: vec![-2., -5.], own: 0.3, shared: 0.3 };
        let (mean, error) = b.more_than(&a, Unit::Nats, 2);
        assert!((mean - 1.5).abs() < 1e-12 && (error - 0.5f64.hypot(0.5)).abs() < 1e-12);
        let Figure { mean, error, own } = a.figure(Unit::Nats, 2);
        assert_eq!((mean, error, own), (2., 1., 0.5));
    }
}
