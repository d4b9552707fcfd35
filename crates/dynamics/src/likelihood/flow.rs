//! log p along the probability-flow ODE: log p_t(x) = log p_T(x_T) + integral of the divergence from t to T.
//! \[Song21, eq. 39; Grathwohl19\]
//!
//! In the angle theta = atan(sigma/alpha) and y = x / r, r^2 = alpha^2 + sigma^2, the ODE is dy/dtheta = (alpha/sigma) y -
//! (r/sigma) x0, finite for every process, and its divergence D alpha/sigma - (r^2/sigma) tr dx0/dx. The change of
//! variables adds D ln(r_T / r_t).

use crate::Denoiser;
use crate::ode::{Field, Place, Solver, State, angle, radii};
use candle_core::{DType, Result, Tensor, bail};
use langevin_ops::noise::Noise;
use langevin_ops::shape::{PerSample, combine, scale, sum_per_sample, to_host};
use langevin_ops::stats::{log_gaussian, mean_and_error};
use serde::{Deserialize, Serialize};

/// Up to so many numbers a sample the divergence is exact unless it is said how it is to be taken.
pub const FEW: usize = 16;

/// How the trace of the Jacobian is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Divergence {
    /// [`Divergence::Exact`] for samples of up to [`FEW`] numbers, else [`Divergence::Hutchinson`] with one probe of signs.
    #[default]
    ByDimension,
    /// By all D vector-Jacobian products: each evaluation of the model costs D of them, so that an image of 784 numbers
    /// takes hundreds of times as long as with one probe.
    Exact,
    /// The mean of v . J v over random probes v, others at each step of the solver, so that their errors average out along
    /// the way: without bias in log p.
    Hutchinson {
        /// Probes a sample.
        probes: usize,
        /// What they are drawn from.
        probe: Probe,
    },
}

impl Divergence {
    /// What it is for samples of `d` numbers: exact, or by probes.
    pub fn of(self, d: usize) -> Self {
        match self {
            Self::ByDimension if d <= FEW => Self::Exact,
            Self::ByDimension => Self::Hutchinson { probes: 1, probe: Probe::default() },
            chosen => chosen,
        }
    }
}

/// The distribution of a probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Probe {
    /// Signs: the least variance.
    #[default]
    Rademacher,
    /// Standard normal.
    Normal,
}

/// The likelihood by the ODE, and how well it is solved.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Absolute error of a step: of a component of y, and of log p a dimension.
    pub atol: f64,
    /// Error of a step relative to y, and to the change of log p.
    pub rtol: f64,
    /// Steps tried at most.
    pub max_steps: usize,
    /// The trace: exact for samples of few numbers and else by one probe, unless it is said here. With probes log_p is
    /// random, without bias; two or more probes a sample tell their error.
    pub divergence: Divergence,
    /// Standard deviation of the Gaussian at the prior end; sigma there if not given.
    pub prior_std: Option<f64>,
}

impl Default for Flow {
    fn default() -> Self {
        Self { atol: 1e-5, rtol: 1e-5, max_steps: 10_000, divergence: Divergence::default(), prior_std: None }
    }
}

/// What the ODE says of each sample.
#[derive(Clone, Debug)]
pub struct FlowLikelihood {
    /// log p_t(x) = log prior(latent) + volume, `[B]`. NaN where the way of a sample was lost.
    pub log_p: Vec<f64>,
    /// Its standard error from the spread of two or more probes, `[B]`.
    pub error: Option<Vec<f64>>,
    /// x at the prior end, the shape of x.
    pub latent: Tensor,
    /// The logarithm of the volume that the flow from t to the prior end multiplies, `[B]`.
    pub volume: Vec<f64>,
    /// How often the model was asked about each sample.
    pub evaluations: Vec<usize>,
}

/// Rows of the model's batch at a time times their numbers, where several probes are taken at once.
const AT_ONCE: usize = 1 << 16;

impl Flow {
    /// Errors, naming the option, if one is out of its range.
    pub fn check(&self) -> Result<()> {
        for (name, value) in [("atol", self.atol), ("rtol", self.rtol), ("prior_std", self.prior_std.unwrap_or(1.))] {
            if !(value.is_finite() && value > 0.) {
                bail!("{name} is {value}; it must be a number above 0");
            }
        }
        if let Divergence::Hutchinson { probes: 0, .. } = self.divergence {
            bail!("probes is 0; Hutchinson's estimate needs at least 1");
        }
        Ok(())
    }

    /// log p_t of `x` `[B, ...]`; `t` in the span, one for all samples or one a sample. `watch` is told the part of the way
    /// that is done. Only the probes of Hutchinson draw noise, from `B` streams.
    pub fn log_p(
        &self,
        m: &dyn Denoiser,
        x: &Tensor,
        t: &[f64],
        z: &mut Noise,
        watch: &mut dyn FnMut(f64) -> Result<()>,
    ) -> Result<FlowLikelihood> {
        self.check()?;
        let (process, batch) = (m.process(), x.dim(0)?);
        let (low, high) = process.span();
        t.check(batch, "times of the likelihood")?;
        if let Some(t) = t.iter().find(|&&t| !(t >= low * (1. - 1e-6) && t < high)) {
            bail!("likelihood: time {t} lies outside the span of {process:?}, from {low} to below {high}");
        }
        let each: Vec<f64> = (0..batch).map(|i| t.at(i).max(low)).collect();
        let d = x.elem_count() / batch.max(1);
        let divergence = self.divergence.of(d);
        let (probes, numbers) = match divergence {
            Divergence::Hutchinson { probes, .. } => (vec![], probes),
            _ => (along_each(x, d)?, 1),
        };
        let start = State { y: scale(x, &radii(process, &each, |r| 1. / r))?, beside: vec![vec![0.; numbers]; batch] };
        let from: Vec<f64> = each.iter().map(|&t| angle(process, t)).collect();
        let end = vec![angle(process, high); batch];
        let mut pace: Vec<f64> = from.iter().map(|theta| theta.min(0.05)).collect();
        let solver = Solver { name: "likelihood", atol: self.atol, rtol: self.rtol, max_steps: self.max_steps };
        let mut field = Divergent { m, probes, divergence, like: x, z, watch };
        let (state, evaluations) = solver.solve(&mut field, start, (from, end), &mut pace)?;

        let latent = scale(&state.y, &radii(process, &[high], |r| r))?;
        let radius = |t: f64| radii(process, &[t], f64::ln)[0];
        let traces: Vec<(f64, f64)> = state.beside.iter().map(|sums| mean_and_error(sums)).collect();
        let change = |(&t, (trace, _)): (&f64, &(f64, f64))| d as f64 * (radius(high) - radius(t)) + trace;
        let volume: Vec<f64> = each.iter().zip(&traces).map(change).collect();
        let prior = log_gaussian(&latent, self.prior_std.unwrap_or(process.marginal(high).sigma))?;
        Ok(FlowLikelihood {
            log_p: prior.iter().zip(&volume).map(|(prior, volume)| prior + volume).collect(),
            error: (numbers > 1).then(|| traces.iter().map(|(_, error)| *error).collect()),
            latent,
            volume,
            evaluations,
        })
    }
}

/// A probe along each dimension, of the shape of `x`.
fn along_each(x: &Tensor, d: usize) -> Result<Vec<Tensor>> {
    let along = |i: usize| {
        let mut one = vec![0f32; d];
        one[i] = 1.;
        let mut dims = x.dims().to_vec();
        dims[0] = 1;
        let one = Tensor::from_vec(one, dims, x.device())?.to_dtype(x.dtype())?;
        one.broadcast_as(x.shape())?.contiguous()
    };
    (0..d).map(along).collect()
}

/// The probability-flow ODE with its divergence beside it: the exact one, or one estimate a probe.
struct Divergent<'a> {
    m: &'a dyn Denoiser,
    probes: Vec<Tensor>,
    divergence: Divergence,
    like: &'a Tensor,
    z: &'a mut Noise,
    watch: &'a mut dyn FnMut(f64) -> Result<()>,
}

impl Field for Divergent<'_> {
    fn slope(&mut self, rows: &[u32], theta: &[f64], y: &Tensor) -> Result<State> {
        let n = rows.len();
        let index = Tensor::new(rows, y.device())?;
        let place = Place::at(self.m.process(), y, theta)?;
        let (a, b) = place.factors();
        let radii = radii(self.m.process(), &place.t, |r| r);
        let together = if self.whole_batch() { 1 } else { (AT_ONCE / y.elem_count().max(1)).max(1) };
        let (mut x0, mut beside) = (None, vec![vec![]; n]);
        for some in self.probes.chunks(together) {
            let v = some.iter().map(|v| v.index_select(&index, 0)).collect::<Result<Vec<_>>>()?;
            let v = Tensor::cat(&v, 0)?; // probe by probe
            let x = Tensor::cat(&vec![&place.x; some.len()], 0)?;
            let (values, vjp) = self.m.x0_vjp(&x, &place.t.repeat(some.len()), &v)?;
            let dot = |a: &Tensor| to_host(&sum_per_sample(&(a * &v)?.to_dtype(DType::F64)?)?);
            let (along, square) = (dot(&vjp)?, dot(&v)?);
            for (i, (along, square)) in along.into_iter().zip(square).enumerate() {
                beside[i % n].push(a[i % n] * square + b[i % n] * radii[i % n] * along);
            }
            x0 = Some(values.narrow(0, 0, n)?);
        }
        if self.divergence == Divergence::Exact {
            beside = beside.into_iter().map(|terms: Vec<f64>| vec![terms.iter().sum()]).collect();
        }
        match x0 {
            Some(x0) => Ok(State { y: combine(&a, y, &b, &x0)?.detach(), beside }),
            None => bail!("likelihood: samples of no dimension"),
        }
    }

    /// Each sample draws in its own steps alone, so that its probes do not depend on how many steps others take.
    fn anew(&mut self, going: &[u32]) -> Result<bool> {
        let Divergence::Hutchinson { probes, probe } = self.divergence else { return Ok(false) };
        let mut places = vec![0u32; self.like.dim(0)?]; // of those that have arrived any will do
        going.iter().zip(0..).for_each(|(&row, place)| places[row as usize] = place);
        let places = Tensor::new(places, self.like.device())?;
        let like = self.like.narrow(0, 0, going.len())?;
        let draw = |z: &mut Noise| match probe {
            Probe::Rademacher => z.rademacher_like(&like),
            Probe::Normal => z.normal_like(&like),
        };
        let all = |_| self.z.among(going, draw)?.index_select(&places, 0);
        self.probes = (0..probes).map(all).collect::<Result<_>>()?;
        Ok(true)
    }

    fn whole_batch(&self) -> bool {
        self.m.whole_batch()
    }

    fn watch(&mut self, part: f64) -> Result<()> {
        (self.watch)(part)
    }
}
