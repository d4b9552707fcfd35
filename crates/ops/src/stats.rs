//! Sums and means of logarithms and samples, in f64 on the host.

use crate::shape::{sum_per_sample, to_host};
use crate::{DType, Result, Tensor};
use std::f64::consts::PI;

/// log N(x; 0, std^2 I) of each sample of `x` `[B, ...]`.
pub fn log_gaussian(x: &Tensor, std: f64) -> Result<Vec<f64>> {
    let d = (x.elem_count() / x.dim(0)?.max(1)) as f64;
    let squares = to_host(&sum_per_sample(&x.to_dtype(DType::F64)?.sqr()?)?)?;
    let of = |square: f64| -0.5 * (square / (std * std) + d * (2. * PI * std * std).ln());
    Ok(squares.into_iter().map(of).collect())
}

/// Mean and standard error of `v`; the error of fewer than two numbers is NaN.
pub fn mean_and_error(v: &[f64]) -> (f64, f64) {
    let n = v.len() as f64;
    let mean = v.iter().sum::<f64>() / n;
    let square: f64 = v.iter().map(|v| (v - mean).powi(2)).sum();
    (mean, (square / (n - 1.) / n).sqrt())
}

/// ln sum exp(v): minus infinity of nothing.
pub fn log_sum_exp(v: &[f64]) -> f64 {
    let top = v.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if top.is_finite() { top + v.iter().map(|v| (v - top).exp()).sum::<f64>().ln() } else { top }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;

    #[test]
    fn gaussians() -> Result<()> {
        let x = Tensor::new(&[[[0f32, 0.], [0., 0.]], [[1., -2.], [3., 0.]]], &Device::Cpu)?;
        let log = log_gaussian(&x, 2.)?;
        let at_0 = -2. * (8. * PI).ln();
        assert!((log[0] - at_0).abs() < 1e-14 && (log[1] - (at_0 - 14. / 8.)).abs() < 1e-14, "{log:?}");
        Ok(())
    }

    #[test]
    fn means_and_their_errors() {
        let (mean, error) = mean_and_error(&[1., 2., 3., 6.]);
        assert!((mean - 3.).abs() < 1e-15 && (error - (14f64 / 3. / 4.).sqrt()).abs() < 1e-15, "{mean} {error}");
        assert!(mean_and_error(&[1.]).1.is_nan());
    }

    #[test]
    fn sums_of_exponentials() {
        assert!((log_sum_exp(&[1000., 1000.]) - 1000. - 2f64.ln()).abs() < 1e-12);
        assert!((log_sum_exp(&[-1000., f64::NEG_INFINITY]) + 1000.).abs() < 1e-12);
        assert_eq!(log_sum_exp(&[]), f64::NEG_INFINITY);
        assert_eq!(log_sum_exp(&[f64::NEG_INFINITY; 2]), f64::NEG_INFINITY);
    }
}
