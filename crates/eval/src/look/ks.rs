//! Whether two samples come from one distribution: the largest distance of their distribution functions, D = sup |F - G|.
//!
//! Its p-value is Kolmogorov's Q(lambda) = 2 sum_k (-1)^(k-1) exp(-2 k^2 lambda^2) at
//! lambda = (sqrt n + 0.12 + 0.11 / sqrt n) D, n = n_a n_b / (n_a + n_b). \[Stephens 1970\]

use candle_core::{Result, bail};

/// The test of Kolmogorov and Smirnov for two samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ks {
    /// D, from 0 to 1.
    pub statistic: f64,
    /// The chance of a D as large if the two distributions are the same.
    pub p_value: f64,
}

/// Errors if a sample is empty, or a number is none.
pub fn ks(a: &[f64], b: &[f64]) -> Result<Ks> {
    if a.is_empty() || b.is_empty() || a.iter().chain(b).any(|v| v.is_nan()) {
        bail!("ks: samples of {} and {} numbers; give some of each, and none that is not a number", a.len(), b.len());
    }
    let mut all: Vec<(f64, bool)> = a.iter().map(|&v| (v, true)).collect();
    all.extend(b.iter().map(|&v| (v, false)));
    all.sort_by(|x, y| x.0.total_cmp(&y.0));
    let (mut below, mut statistic) = ([0usize; 2], 0f64);
    for same in all.chunk_by(|x, y| x.0 == y.0) {
        let of_a = same.iter().filter(|(_, of_a)| *of_a).count();
        below = [below[0] + of_a, below[1] + same.len() - of_a];
        statistic = statistic.max((below[0] as f64 / a.len() as f64 - below[1] as f64 / b.len() as f64).abs());
    }
    let n = ((a.len() * b.len()) as f64 / (a.len() + b.len()) as f64).sqrt();
    Ok(Ks { statistic, p_value: kolmogorov((n + 0.12 + 0.11 / n) * statistic) })
}

/// Q(lambda).
fn kolmogorov(lambda: f64) -> f64 {
    if lambda < 0.2 {
        return 1.; // to 13 digits; the series converges slowly there
    }
    let term = |k: i32| (-2. * (f64::from(k) * lambda).powi(2)).exp() * if k % 2 == 1 { 2. } else { -2. };
    (1..=20).map(term).sum::<f64>().clamp(0., 1.)
}
