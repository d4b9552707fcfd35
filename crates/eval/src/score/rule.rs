//! One number from a row of them, fitted to rows of training data: the mean z-score, and a Gaussian's energy.

use candle_core::{Result, bail};
use faer::linalg::solvers::{Llt, Solve};
use faer::{Mat, Side};

/// A number from a row of features, higher the less its sample belongs; NaN for a row that is not finite.
pub type Rule = Box<dyn Fn(&[f64]) -> f64 + Send + Sync>;

/// Mean of the rows `[N][K]`, K numbers; errors if there are too few rows, or they are not all of one length and finite.
fn mean(rows: &[Vec<f64>]) -> Result<Vec<f64>> {
    let (n, k) = (rows.len(), rows.first().map_or(0, Vec::len));
    if n < 2 || k == 0 {
        bail!("{n} samples of {k} numbers are too few to fit a score to; give at least 2");
    }
    if rows.iter().any(|row| row.len() != k || row.iter().any(|v| !v.is_finite())) {
        bail!("the model is not finite on its training data at one of the noise levels; leave that level out");
    }
    Ok((0..k).map(|j| rows.iter().filter_map(|row| row.get(j)).sum::<f64>() / n as f64).collect())
}

/// (1/K) sum_j (row_j - mean_j) / std_j over the K numbers of a row. \[Graham22\]
pub fn mean_z(rows: &[Vec<f64>]) -> Result<Rule> {
    let mean = mean(rows)?;
    let spread = |(j, mean): (usize, &f64)| {
        let squares: f64 = rows.iter().filter_map(|row| row.get(j)).map(|v| (v - mean).powi(2)).sum();
        let std = (squares / (rows.len() as f64 - 1.)).sqrt();
        // what never varied is compared in its own unit
        (*mean, if std > 0. { std } else { 1. })
    };
    let of: Vec<(f64, f64)> = mean.iter().enumerate().map(spread).collect();
    Ok(Box::new(move |row| row.iter().zip(&of).map(|(v, (mean, std))| (v - mean) / std).sum::<f64>() / of.len() as f64))
}

/// N(mean, C + r diag C), fitted to rows.
pub struct Gaussian {
    mean: Vec<f64>,
    factor: Llt<f64>,
}

impl Gaussian {
    /// `ridge` r keeps directions in which the rows hardly vary from deciding all. Errors unless rows are more than the numbers
    /// of one: K or fewer vary in less than K directions, whatever the ridge makes of it.
    pub fn fit(rows: &[Vec<f64>], ridge: f64) -> Result<Self> {
        let mean = mean(rows)?;
        let k = mean.len();
        if rows.len() <= k {
            bail!(
                "{} samples are too few to fit a Gaussian of {k} numbers to; give at least {}, or fewer levels",
                rows.len(),
                k + 1
            );
        }
        let centred = Mat::from_fn(rows.len(), k, |i, j| rows[i][j] - mean[j]);
        let mut covariance = centred.transpose() * &centred * faer::Scale(1. / (rows.len() as f64 - 1.));
        for j in 0..k {
            covariance[(j, j)] *= 1. + ridge;
        }
        match covariance.llt(Side::Lower) {
            Ok(factor) => Ok(Self { mean, factor }),
            Err(_) => bail!(
                "the {k} numbers of a sample do not vary freely over the {} samples that they are fitted to: some never vary, or \
                 two are the same; give other samples or fewer levels, or where they vary a little a larger ridge than {ridge:e}",
                rows.len()
            ),
        }
    }

    /// 1/2 (row - mean)^T C^-1 (row - mean): minus the log-density up to a constant, half the squared distance of
    /// Mahalanobis.
    pub fn energy(&self, row: &[f64]) -> f64 {
        let off = Mat::from_fn(self.mean.len(), 1, |i, _| row.get(i).copied().unwrap_or(f64::NAN) - self.mean[i]);
        let solved = self.factor.solve(&off);
        (0..self.mean.len()).map(|i| off[(i, 0)] * solved[(i, 0)]).sum::<f64>() / 2.
    }
}
