//! Differences of energy between two places: exact for an energy, along the straight path for a score alone.
//!
//! E(y) - E(x) = -int_0^1 s(x + u (y - x)) . (y - x) du \[Sjoberg23\], by the Lobatto rule of four points and its Kronrod
//! extension to seven \[Gander & Gautschi 2000\]: both use the ends, whose scores are known already.

use crate::density::{Density, Evaluated, Score};
use candle_core::{DType, Result, Tensor, bail};
use langevin_ops::shape::dot_per_sample;

/// E(y) - E(x) of each chain, on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The difference, `[B]`; not finite where the energy is not.
    pub value: Vec<f64>,
    /// How far it may be off, `[B]`: the rounding of two energies, or the disagreement of two quadratures.
    pub error: Vec<f64>,
}

/// Half the distance of 1 and the next number of that type.
fn rounding(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => f64::EPSILON / 2.,
        DType::F16 => 0.5f64.powi(11),
        DType::BF16 => 0.5f64.powi(8),
        _ => f64::from(f32::EPSILON) / 2.,
    }
}

/// E(to) - E(from) of each chain: exact where both energies are known, else the line integral of the score along the
/// straight path, five evaluations more.
pub fn difference(m: &dyn Density, from: &Evaluated, to: &Evaluated) -> Result<Difference> {
    match (&from.energy, &to.energy, m.as_score()) {
        (Some(before), Some(after), _) => Ok(of_energies(before, after, to.x.dtype())),
        (_, _, Some(score)) => along_the_path(score, from, to),
        _ => bail!("the density gives neither values nor a score, and a difference of energies needs one of them"),
    }
}

/// From energies `[B]` that were computed in `dtype`.
fn of_energies(from: &[f64], to: &[f64], dtype: DType) -> Difference {
    let rounding = rounding(dtype);
    let pairs = || from.iter().zip(to);
    Difference {
        value: pairs().map(|(from, to)| to - from).collect(),
        error: pairs().map(|(from, to)| rounding * (from.abs() + to.abs())).collect(),
    }
}

/// Along the straight path: five evaluations of the score. Exact for an energy that is a polynomial of degree 10 on the
/// path, its error for one of degree 6; the path between other ends gives another value where the score is no gradient.
fn along_the_path(m: &dyn Score, from: &Evaluated, to: &Evaluated) -> Result<Difference> {
    let way = (&to.x - &from.x)?;
    let rise = |score: &Tensor| -> Result<Vec<f64>> {
        Ok(dot_per_sample(score, &way)?.into_iter().map(|along| -along).collect())
    };
    let at = |u: f64| rise(&m.score(&(&from.x + way.affine(0.5 * (1. + u), 0.)?)?)?);
    let (near, far) = (1. / 5f64.sqrt(), (2. / 3f64).sqrt());
    let ends = [rise(from.score()?)?, rise(to.score()?)?];
    let (near, far, middle) = ([at(-near)?, at(near)?], [at(-far)?, at(far)?], at(0.)?);
    let sum = |pair: &[Vec<f64>; 2], i: usize| pair[0][i] + pair[1][i];
    let rules = |i: usize| {
        let four = (sum(&ends, i) + 5. * sum(&near, i)) / 12.;
        let seven = (77. * sum(&ends, i) + 432. * sum(&far, i) + 625. * sum(&near, i) + 672. * middle[i]) / 2940.;
        (seven, (seven - four).abs())
    };
    let (value, error) = (0..middle.len()).map(rules).unzip();
    Ok(Difference { value, error })
}
