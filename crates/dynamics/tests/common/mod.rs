//! What the tests share: the mixture, a model that refuses t = 0, distances between sets of points, reference cases.

#![allow(dead_code)] // each test file uses its part of it

use candle_core::{Result, Tensor, bail};
use langevin_dynamics::noisy::Jet;
use langevin_dynamics::{Denoiser, Frame, Mixture, NoisyEnergy, Process};
use langevin_ops::shape::{PerSample, to_host};
use std::fmt;
use std::path::{Path, PathBuf};

/// Every folder of `family` with a `case.json`: below `$LANGEVIN_REFERENCE`, else of the copies beside the tests.
pub fn cases(family: &str) -> Vec<PathBuf> {
    let copies = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference");
    let root = std::env::var_os("LANGEVIN_REFERENCE").map_or(copies, PathBuf::from).join(family);
    let entries = std::fs::read_dir(&root).unwrap_or_else(|e| panic!("cannot read {}: {e}", root.display()));
    let mut cases: Vec<_> = entries.map(|e| e.unwrap().path()).filter(|p| p.join("case.json").is_file()).collect();
    cases.sort();
    assert!(!cases.is_empty(), "no cases in {}", root.display());
    cases
}

/// The largest of `errors`; infinite if one is NaN, which [`f64::max`] passes over.
pub fn worst(errors: impl IntoIterator<Item = f64>) -> f64 {
    errors.into_iter().fold(0., |worst, e| if e.is_nan() { f64::INFINITY } else { e.max(worst) })
}

/// The largest difference of two numbers of tensors of the same shape.
pub fn largest(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    let (a, b) = (to_host(a).unwrap(), to_host(b).unwrap());
    worst(a.iter().zip(&b).map(|(a, b)| (a - b).abs()))
}

/// Three separate modes of different weight and shape.
pub fn mixture() -> Mixture {
    let means = [vec![-1.8, 0.2], vec![1.4, 1.5], vec![0.9, -1.6]];
    let covariances = [vec![0.12, 0.05, 0.05, 0.1], vec![0.08, 0., 0., 0.04], vec![0.05, -0.02, -0.02, 0.1]];
    Mixture::full(&[0.5, 0.3, 0.2], &means, &covariances).unwrap()
}

/// A model without its energy.
pub struct Plain<'a>(pub &'a dyn Denoiser);

impl Denoiser for Plain<'_> {
    fn frame(&self) -> Frame<'_> {
        self.0.frame()
    }

    fn x0(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        self.0.x0(x, t)
    }
}

/// x0 of that mixture, as [`Mixture::under`] has it, written out for two dimensions to be fast.
pub struct Fast<'a> {
    process: &'a dyn Process,
    parts: Vec<(f64, [f64; 2], [f64; 3])>, // weight, mean, covariance
}

impl<'a> Fast<'a> {
    pub fn new(mixture: &Mixture, process: &'a dyn Process) -> Self {
        let part = |k: usize| {
            let (m, c) = (mixture.mean_of(k), mixture.covariance_of(k));
            (mixture.weights()[k], [m[0], m[1]], [c[0], c[1], c[3]])
        };
        Self { process, parts: (0..mixture.components()).map(part).collect() }
    }

    /// x0, and log p_t.
    fn point(&self, alpha: f64, sigma: f64, x: [f64; 2]) -> ([f64; 2], f64) {
        let each = |(w, m, c): &(f64, [f64; 2], [f64; 3])| {
            let [a, b, d] =
                [alpha * alpha * c[0] + sigma * sigma, alpha * alpha * c[1], alpha * alpha * c[2] + sigma * sigma];
            let det = a * d - b * b;
            let far = [x[0] - alpha * m[0], x[1] - alpha * m[1]];
            let solved = [(d * far[0] - b * far[1]) / det, (a * far[1] - b * far[0]) / det];
            let log = w.ln() - 0.5 * (det.ln() + far[0] * solved[0] + far[1] * solved[1]);
            let x0 = [
                m[0] + alpha * (c[0] * solved[0] + c[1] * solved[1]),
                m[1] + alpha * (c[1] * solved[0] + c[2] * solved[1]),
            ];
            (log, x0)
        };
        let mut all = [(f64::NEG_INFINITY, [0.; 2]); 4];
        self.parts.iter().zip(&mut all).for_each(|(part, to)| *to = each(part));
        let top = all.iter().fold(f64::NEG_INFINITY, |top, (log, _)| top.max(*log));
        let (mut sum, mut mean) = (0., [0.; 2]);
        for (log, x0) in &all[..self.parts.len()] {
            let r = (log - top).exp();
            sum += r;
            mean = [mean[0] + r * x0[0], mean[1] + r * x0[1]];
        }
        ([mean[0] / sum, mean[1] / sum], top + sum.ln() - (2. * std::f64::consts::PI).ln())
    }

    fn points(&self, x: &Tensor, t: &[f64]) -> Result<Vec<([f64; 2], f64)>> {
        let m: Vec<_> = t.iter().map(|&t| self.process.marginal(t)).collect();
        let one = |(i, p): (usize, &[f64])| {
            let m = m.at(i);
            self.point(m.alpha, m.sigma, [p[0], p[1]])
        };
        Ok(to_host(x)?.chunks(2).enumerate().map(one).collect())
    }
}

impl Denoiser for Fast<'_> {
    fn frame(&self) -> Frame<'_> {
        Frame::of(self.process)
    }

    fn x0(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        let x0 = self.points(x, t)?.into_iter().flat_map(|(x0, _)| x0);
        Tensor::from_iter(x0, x.device())?.to_dtype(x.dtype())?.reshape(x.shape())
    }

    fn noisy_energy(&self) -> Option<&dyn NoisyEnergy> {
        Some(self)
    }
}

impl NoisyEnergy for Fast<'_> {
    fn energy_at(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        Ok(self.energy_grad(x, t)?.0)
    }

    fn energy_grad(&self, x: &Tensor, t: &[f64]) -> Result<(Tensor, Tensor)> {
        let points = self.points(x, t)?;
        let energy = Tensor::from_iter(points.iter().map(|(_, log_p)| -log_p), x.device())?;
        let m: Vec<_> = t.iter().map(|&t| self.process.marginal(t)).collect();
        let grad = to_host(x)?.into_iter().enumerate().map(|(i, x)| {
            let m = m.at(i / 2);
            (x - m.alpha * points[i / 2].0[i % 2]) / (m.sigma * m.sigma)
        });
        let grad = Tensor::from_iter(grad.collect::<Vec<_>>(), x.device())?;
        Ok((energy.to_dtype(x.dtype())?, grad.to_dtype(x.dtype())?.reshape(x.shape())?))
    }

    fn jet(&self, _: &Tensor, _: &[f64]) -> Result<Jet> {
        bail!("no sampler needs it")
    }

    fn normalised(&self) -> bool {
        true
    }
}

/// A model that errors where none may be asked: at sigma = 0, or about points that are not finite.
pub struct Guard<'a>(pub &'a dyn Denoiser);

impl Denoiser for Guard<'_> {
    fn frame(&self) -> Frame<'_> {
        self.0.frame()
    }

    fn x0(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        self.check(x, t)?;
        self.0.x0(x, t)
    }

    fn noisy_energy(&self) -> Option<&dyn NoisyEnergy> {
        self.0.noisy_energy().map(|_| self as &dyn NoisyEnergy)
    }
}

impl NoisyEnergy for Guard<'_> {
    fn energy_at(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        Ok(self.energy_grad(x, t)?.0)
    }

    fn energy_grad(&self, x: &Tensor, t: &[f64]) -> Result<(Tensor, Tensor)> {
        self.check(x, t)?;
        self.0.noisy_energy().expect("it was there").energy_grad(x, t)
    }

    fn jet(&self, _: &Tensor, _: &[f64]) -> Result<Jet> {
        bail!("no sampler needs it")
    }

    fn normalised(&self) -> bool {
        true
    }
}

impl Guard<'_> {
    fn check(&self, x: &Tensor, t: &[f64]) -> Result<()> {
        let (low, high) = self.process().span();
        if let Some(t) = t.iter().find(|t| !(low * (1. - 1e-9)..=high * (1. + 1e-9)).contains(*t)) {
            bail!("asked at t = {t}, outside of the span {low} to {high}");
        }
        if !x.flatten_all()?.sum(0)?.to_dtype(candle_core::DType::F64)?.to_scalar::<f64>()?.is_finite() {
            bail!("asked about points that are not finite at t = {t:?}");
        }
        Ok(())
    }
}

/// How far the points of each mode are from what they should be, at worst.
pub struct Found {
    /// Of the part of all points.
    pub occupancy: f64,
    /// Of the mean, in units of the data.
    pub mean: f64,
    /// Of an entry of the covariance, relative to its trace.
    pub covariance: f64,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "occupancy {:.4} mean {:.4} covariance {:.4}", self.occupancy, self.mean, self.covariance)
    }
}

/// `x` `[n * 2]` against the modes of `mixture`, each point counted to its nearest mean.
pub fn compare(x: &[f64], mixture: &Mixture) -> Found {
    let k = mixture.components();
    let mut sets: Vec<Vec<&[f64]>> = vec![vec![]; k];
    for p in x.chunks(2) {
        let far = |k: &usize| mixture.mean_of(*k).iter().zip(p).map(|(m, p)| (m - p).powi(2)).sum::<f64>();
        sets[(0..k).min_by(|a, b| far(a).total_cmp(&far(b))).unwrap()].push(p);
    }
    let (mut found, n) = (Found { occupancy: 0., mean: 0., covariance: 0. }, x.len() as f64 / 2.);
    for (k, set) in sets.iter().enumerate() {
        let count = set.len() as f64;
        found.occupancy = worst([found.occupancy, (count / n - mixture.weights()[k]).abs()]);
        let mean: Vec<f64> = (0..2).map(|i| set.iter().map(|p| p[i]).sum::<f64>() / count).collect();
        let truth = mixture.covariance_of(k);
        for i in 0..2 {
            found.mean = worst([found.mean, (mean[i] - mixture.mean_of(k)[i]).abs()]);
            for j in 0..2 {
                let c = set.iter().map(|p| (p[i] - mean[i]) * (p[j] - mean[j])).sum::<f64>() / count;
                found.covariance = worst([found.covariance, (c - truth[2 * i + j]).abs() / (truth[0] + truth[3])]);
            }
        }
    }
    found
}

/// The mean over 8 directions of 2 E|X - Y| - E|X - X'| - E|Y - Y'| of the projections of points `[n * 2]`. [Szekely]
pub fn energy_distance(x: &[f64], y: &[f64]) -> f64 {
    let project = |x: &[f64], a: f64| x.chunks(2).map(|p| p[0] * a.cos() + p[1] * a.sin()).collect::<Vec<_>>();
    let each = (0..8).map(|i| f64::from(i) * std::f64::consts::PI / 8.);
    // it is twice the integral of the squared difference of the two distribution functions
    each.map(|a| 2. * cramer(project(x, a), project(y, a))).sum::<f64>() / 8.
}

fn cramer(x: Vec<f64>, y: Vec<f64>) -> f64 {
    let (n, m) = (x.len() as f64, y.len() as f64);
    let mut all: Vec<(f64, f64)> =
        x.into_iter().map(|v| (v, 1. / n)).chain(y.into_iter().map(|v| (v, -1. / m))).collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut difference, mut total) = (0., 0.);
    for pair in all.windows(2) {
        difference += pair[0].1;
        total += difference * difference * (pair[1].0 - pair[0].0);
    }
    total
}

/// Steps on the Karras grid by which a sampler must have drawn the mixture.
pub fn steps_for(name: &str) -> usize {
    match name {
        "rk45" => 2,
        "consistency" => 3,
        "euler" | "ddim" | "euler-maruyama" | "reverse-diffusion" | "pc" => 200,
        "ddpm" => 400,
        "annealed-langevin" | "annealed-mcmc" => 100,
        "tempering" => 12,
        _ => 80,
    }
}

/// Draws by which most samplers are judged.
pub const DRAWS: usize = 20_000;

/// Draws by which a sampler is judged: fewer for one whose work grows with the square of its levels.
pub fn draws_for(name: &str) -> usize {
    if name == "tempering" { DRAWS / 5 } else { DRAWS }
}

/// Independent draws that they are worth: fewer where particles are drawn again, and have descendants.
pub fn worth(name: &str) -> usize {
    if name == "smc" { DRAWS / 4 } else { draws_for(name) }
}

/// Steps between which its bias must shrink.
pub fn few_and_many(name: &str) -> (usize, usize) {
    if name == "tempering" { (2, 12) } else { (8, 64) }
}

/// What [`compare`] and [`energy_distance`] may find then. The noise of 20,000 draws alone is 0.009, 0.005, 0.013, 1e-4.
pub struct Bound {
    pub occupancy: f64,
    pub mean: f64,
    pub covariance: f64,
    pub distance: f64,
}

impl Bound {
    /// Whether it is not reached.
    pub fn holds(&self, found: &Found, distance: f64) -> bool {
        let moments = found.mean < self.mean && found.covariance < self.covariance;
        moments && found.occupancy < self.occupancy && distance < self.distance
    }
}

/// The bounds for a sampler: wider for those whose bias is that of dynamics cut short at each level, and for fewer draws.
pub fn bound_for(name: &str) -> Bound {
    match name {
        "tempering" => Bound { occupancy: 0.03, mean: 0.04, covariance: 0.12, distance: 1.5e-3 },
        "annealed-langevin" => Bound { occupancy: 0.03, mean: 0.02, covariance: 0.32, distance: 3.5e-3 },
        // nothing but the chains takes mass from mode to mode: what of it has not gone over when they part is where it was
        "annealed-mcmc" => Bound { occupancy: 0.026, mean: 0.025, covariance: 0.08, distance: 1.2e-3 },
        _ => Bound { occupancy: 0.014, mean: 0.025, covariance: 0.08, distance: 6e-4 },
    }
}
