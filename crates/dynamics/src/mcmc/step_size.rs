//! Step sizes that adapt to a rate of acceptance, each chain its own, by dual averaging. \[Hoffman & Gelman 2014, section 3.2\]
//!
//! After step m with probability of acceptance a: H = (1 - 1/(m + t0)) H + (target - a) / (m + t0),
//! ln e = mu - H sqrt(m) / gamma, and ln e-bar = m^-kappa ln e + (1 - m^-kappa) ln e-bar, which is what stays. Here mu is the
//! logarithm of the size that a chain comes with; theirs is that of ten times it, for a search that begins far too small.
//!
//! A size that still adapts depends on where its chain has been, so its steps leave the density a little off: only those
//! after it has come to rest count.

use candle_core::{DType, Device, Result, Tensor, bail};
use langevin_ops::shape::PerSample;

const GAMMA: f64 = 0.05;
const T0: f64 = 10.;
const KAPPA: f64 = 0.75;
/// So far, as a factor, may a step size go from where it came in: there is no best one for a flat density.
const MOST: f64 = 1e4;

/// The state of one chain.
#[derive(Clone, Copy, Debug, Default)]
struct Average {
    /// ln of the step size that it came with, relative to the first.
    from: f64,
    error: f64,
    /// ln of the step size by which it goes on, and its mean, relative to the one that it came with.
    log: f64,
    log_mean: f64,
}

/// The step sizes of a set of chains, as factors of the first.
#[derive(Clone, Debug, Default)]
pub struct StepSizes {
    /// The kernel that found them.
    kernel: &'static str,
    chains: Vec<Average>,
    done: usize,
    frozen: bool,
    steps: Option<usize>, // as many in place of the kernel's own
}

impl StepSizes {
    /// `first`, as each of `batch` chains has adapted it with `kernel`, times `units` (one for all chains or one a chain); one
    /// number where all share. Sizes that another kernel found are forgotten.
    pub fn times(&mut self, kernel: &'static str, units: &[f64], batch: usize, first: f64) -> Result<Vec<f64>> {
        units.check(batch, "units of length of chains")?;
        if self.chains.len() != batch || self.kernel != kernel {
            *self = Self { kernel, steps: self.steps, ..Self::default() }; // none has adapted, or these are other chains
        }
        let frozen = self.frozen;
        let own = |chain: &Average| chain.from + if frozen { chain.log_mean } else { chain.log };
        let n = units.len().max(self.chains.len());
        Ok((0..n).map(|i| first * units.at(i) * self.chains.get(i).map_or(1., |chain| own(chain).exp())).collect())
    }

    /// The same chains at another density: over `steps` steps they adapt again, from the sizes that they have.
    pub(super) fn again(&mut self, steps: usize) {
        for chain in &mut self.chains {
            let now = if self.frozen { chain.log_mean } else { chain.log };
            *chain = Average { from: chain.from + now, ..Average::default() };
        }
        (self.done, self.frozen, self.steps) = (0, false, Some(steps));
    }

    /// All that they are, as numbers to be saved: `[B + 1, 4]` in f64. `None` where no chain has adapted.
    pub fn numbers(&self) -> Result<Option<Tensor>> {
        if self.chains.is_empty() {
            return Ok(None);
        }
        let steps = self.steps.map_or(-1., |steps| steps as f64);
        let all = [self.done as f64, f64::from(u8::from(self.frozen)), steps, 0.];
        let rows = self.chains.iter().flat_map(|chain| [chain.from, chain.error, chain.log, chain.log_mean]);
        Tensor::from_iter(all.into_iter().chain(rows), &Device::Cpu)?.reshape(((), 4)).map(Some)
    }

    /// Back from [`StepSizes::numbers`], for chains that `kernel` moves.
    ///
    /// Errors if they are not such numbers.
    pub fn of_numbers(kernel: &'static str, numbers: &Tensor) -> Result<Self> {
        let rows = match numbers.dims() {
            [n, 4] if *n > 1 => numbers.to_dtype(DType::F64)?.to_vec2::<f64>()?,
            other => bail!("step sizes of shape {other:?}; they are [B + 1, 4]"),
        };
        let chain = |row: &Vec<f64>| Average { from: row[0], error: row[1], log: row[2], log_mean: row[3] };
        let (all, chains) = (&rows[0], rows[1..].iter().map(chain).collect());
        let steps = (all[2] >= 0.).then_some(all[2] as usize);
        Ok(Self { kernel, chains, done: all[0] as usize, frozen: all[1] == 1., steps })
    }

    /// The probabilities of acceptance, `[B]`, change the next step sizes so that their mean becomes `target`, for the first `steps`
    /// steps, or as many as [`super::Chains::adapt`] said in their place.
    pub fn adapt(&mut self, probability: &[f64], target: f64, steps: usize) {
        let steps = self.steps.unwrap_or(steps);
        if self.done >= steps {
            return;
        }
        self.chains.resize(probability.len(), Average::default());
        self.done += 1;
        let (m, most) = (self.done as f64, MOST.ln());
        for (chain, probability) in self.chains.iter_mut().zip(probability) {
            let share = 1. / (m + T0);
            chain.error = (1. - share) * chain.error + share * (target - probability);
            chain.log = (-chain.error * m.sqrt() / GAMMA).clamp(-most, most);
            let share = m.powf(-KAPPA);
            chain.log_mean = share * chain.log + (1. - share) * chain.log_mean;
        }
        self.frozen = self.done == steps;
    }
}

/// Errors, naming the option of `kernel`, if one is out of its range.
pub(super) fn check(kernel: &str, step: f64, target: f64) -> Result<()> {
    if !(step.is_finite() && step > 0.) {
        bail!("{kernel}: step is {step}; it must be a number above 0");
    }
    if !(target > 0. && target < 1.) {
        bail!("{kernel}: target is {target}; it must be a rate of acceptance, above 0 and below 1");
    }
    Ok(())
}
