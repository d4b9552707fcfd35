//! The energy along a path: E itself, or for a model with a score alone its line integral -int score . dx.
//!
//! The integral is Simpson's rule over both halves of each piece of the path, its error that against whole pieces. Where a score is
//! no gradient, another path between the same ends gives another difference: then it is a property of the path.

use candle_core::{DType, Result, Tensor, bail};
use langevin_dynamics::Denoiser;
use langevin_ops::shape::{scale, to_host};

/// The energy at the points of a path, that of the first taken for 0.
#[derive(Clone, Debug)]
pub struct Profile {
    /// E - E at the first point, one for each.
    pub energy: Vec<f64>,
    /// The largest error of the integral, estimated; `None` where the energy is known.
    pub error: Option<f64>,
}

impl Profile {
    /// The energy of the highest point above the higher end: 0 if no hill lies between the two, NaN if that of a point is.
    pub fn barrier(&self) -> f64 {
        let (Some(first), Some(last)) = (self.energy.first(), self.energy.last()) else { return f64::NAN };
        self.energy.iter().copied().fold(f64::NEG_INFINITY, greater) - first.max(*last)
    }
}

/// The greater of two, NaN if one is.
fn greater(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

/// `points` points of the straight line from `a` to `b`, both `[1, ...]`: `[points, ...]`.
pub fn straight(a: &Tensor, b: &Tensor, points: usize) -> Result<Tensor> {
    if points < 2 || a.dims() != b.dims() || a.dim(0)? != 1 {
        bail!(
            "path: {points} points from {:?} to {:?}; give two samples of one shape, and at least 2",
            a.dims(),
            b.dims()
        );
    }
    let weights: Vec<f64> = (0..points).map(|i| i as f64 / (points - 1) as f64).collect();
    let mut shape = a.dims().to_vec();
    shape[0] = points;
    let all = |x: &Tensor| x.broadcast_as(shape.as_slice())?.contiguous();
    let rest: Vec<f64> = weights.iter().map(|w| 1. - w).collect();
    scale(&all(a)?, &rest)? + scale(&all(b)?, &weights)?
}

/// The energy at time `t` along `path` `[N, ...]` of x_t, straight from point to point; `batch` points at a time. Before
/// the first and after each `watch` is told how many batches there were, of how many.
pub fn along(
    m: &dyn Denoiser,
    path: &Tensor,
    t: f64,
    batch: usize,
    mut watch: impl FnMut(usize, usize),
) -> Result<Profile> {
    let (n, batch) = (path.dim(0)?, batch.max(1));
    let (mut done, points) = (0, n.div_ceil(batch));
    if n < 2 {
        bail!("path: {n} points; give at least 2");
    }
    let pieces = |path: &Tensor| -> Result<Vec<Tensor>> {
        let count = path.dim(0)?;
        (0..count).step_by(batch).map(|i| path.narrow(0, i, batch.min(count - i))).collect()
    };
    if let Some(energy) = m.noisy_energy() {
        watch(0, points);
        let at = |x: &Tensor| {
            let found = to_host(&energy.energy_at(x, &[t])?.detach())?;
            done += 1;
            watch(done, points);
            Ok(found)
        };
        let all: Vec<f64> = pieces(path)?.iter().map(at).collect::<Result<Vec<_>>>()?.concat();
        let first = all.first().copied().unwrap_or(f64::NAN);
        return Ok(Profile { energy: all.iter().map(|e| e - first).collect(), error: None });
    }
    // of each piece a quarter, the middle and three quarters of the way
    let (from, to) = (path.narrow(0, 0, n - 1)?, path.narrow(0, 1, n - 1)?);
    let between = |part: f64| from.affine(1. - part, 0.)? + to.affine(part, 0.)?;
    let all = points + 3 * (n - 1).div_ceil(batch);
    watch(0, all);
    let mut score = |x: &Tensor| {
        let of = |x: &Tensor| {
            let found = m.score(x, &[t])?.detach();
            done += 1;
            watch(done, all);
            Ok(found)
        };
        rows(&Tensor::cat(&pieces(x)?.iter().map(of).collect::<Result<Vec<_>>>()?, 0)?)
    };
    let (ends, inner) = (score(path)?, [0.25, 0.5, 0.75].map(|part| score(&between(part)?)));
    let [quarter, middle, three] = inner;
    let (quarter, middle, three) = (quarter?, middle?, three?);
    let along = rows(&(to - from)?)?;
    let mut energy = vec![0.];
    let (mut fine, mut coarse, mut error) = (0., 0., 0.);
    for i in 0..n - 1 {
        // -1/6 d . (s_a + 4 s_m + s_b), d = b - a; each half has half of d
        let slope = |scores: &[f64]| along[i].iter().zip(scores).map(|(d, s)| -d * s).sum::<f64>();
        let [a, q, m, t, b] = [&ends[i], &quarter[i], &middle[i], &three[i], &ends[i + 1]].map(|s| slope(s));
        fine += (a + 4. * q + 2. * m + 4. * t + b) / 12.;
        coarse += (a + 4. * m + b) / 6.;
        energy.push(fine);
        error = greater(error, (fine - coarse).abs() / 15.);
    }
    Ok(Profile { energy, error: Some(error) })
}

/// Each sample as a row on the host.
fn rows(x: &Tensor) -> Result<Vec<Vec<f64>>> {
    x.flatten_from(1)?.to_dtype(DType::F64)?.to_vec2()
}
