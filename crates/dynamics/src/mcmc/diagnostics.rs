//! How far chains can be trusted: effective sample size and R-hat, over chains of equal length.
//!
//! With W the variance within chains, V that of all draws and c_t the covariance at lag t within chains,
//! rho_t = 1 - (W - c_t) / V; the effective number of N draws is N / (1 + 2 sum_t rho_t), the sum cut by Geyer's initial
//! monotone sequence; R-hat is sqrt(V / W) of chains cut in half, on ranks. \[Vehtari et al. 2021, 1903.08008\]

use super::View;
use candle_core::{DType, Device, Result, Tensor, bail};
use langevin_ops::noise::Noise;
use langevin_ops::shape::to_host;
use statrs::function::erf::erf_inv;

/// Chains of fewer steps, which a level of a sampler may well have, say nothing: [`ess`] and [`r_hat`] are NaN.
pub const LEAST: usize = 4;

/// Chains cut in half, the middle draw of an odd number left out; `None` if there are too few steps or they differ.
fn halves(chains: &[Vec<f64>]) -> Option<Vec<&[f64]>> {
    let steps = chains.first()?.len();
    if steps < LEAST || chains.iter().any(|chain| chain.len() != steps) {
        return None;
    }
    Some(chains.iter().flat_map(|chain| [&chain[..steps / 2], &chain[steps - steps / 2..]]).collect())
}

fn mean(v: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = v.len() as f64;
    v.sum::<f64>() / n
}

fn mean_of(v: &[f64]) -> f64 {
    mean(v.iter().copied())
}

/// The variance, divided by one less than the number.
fn variance(v: &[f64]) -> f64 {
    let (n, middle) = (v.len() as f64, mean_of(v));
    v.iter().map(|v| (v - middle).powi(2)).sum::<f64>() / (n - 1.)
}

/// (W, V) of chains of `n` steps.
fn variances(chains: &[&[f64]]) -> (f64, f64) {
    let n = chains[0].len() as f64;
    let means: Vec<f64> = chains.iter().map(|chain| mean_of(chain)).collect();
    let within = mean(chains.iter().map(|chain| variance(chain)));
    (within, within * (n - 1.) / n + variance(&means))
}

/// The number of independent draws that tell the mean as well as these `chains` `[chains][steps]` do; at most
/// N log10 N. NaN with fewer than [`LEAST`] steps, with draws that are not finite, and for a chain that never moves.
pub fn ess(chains: &[Vec<f64>]) -> f64 {
    let Some(chains) = halves(chains) else { return f64::NAN };
    let steps = chains[0].len();
    let draws = (chains.len() * steps) as f64;
    let means: Vec<f64> = chains.iter().map(|chain| mean_of(chain)).collect();
    let (within, all) = variances(&chains);
    if !(all.is_finite() && all > 0.) {
        return f64::NAN;
    }
    let covariance = |lag: usize| {
        let one = |(chain, middle): (&&[f64], &f64)| {
            let pairs = chain.iter().zip(&chain[lag..]);
            pairs.map(|(a, b)| (a - middle) * (b - middle)).sum::<f64>() / steps as f64
        };
        mean(chains.iter().zip(&means).map(one))
    };
    let rho = |lag: usize| 1. - (within - covariance(lag)) / all;
    // sums of neighbours are positive and fall for every reversible chain: the rest is noise
    let (mut sum, mut least) = (0., f64::INFINITY);
    for lag in (0..steps - 1).step_by(2) {
        let pair = (if lag == 0 { 1. } else { rho(lag) }) + rho(lag + 1);
        if pair.is_nan() || pair <= 0. {
            break;
        }
        least = least.min(pair);
        sum += least;
    }
    draws / (2. * sum - 1.).max(1. / draws.log10())
}

/// The ranks of all draws, as quantiles of a normal: what chains that wander far cannot spoil.
fn normal_scores(chains: &[&[f64]]) -> Vec<Vec<f64>> {
    let steps = chains[0].len();
    let all: Vec<f64> = chains.iter().flat_map(|chain| chain.iter().copied()).collect();
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.sort_unstable_by(|&a, &b| all[a].total_cmp(&all[b]));
    let (mut scores, mut below) = (vec![0.; all.len()], 0);
    for ties in order.chunk_by(|&a, &b| all[a] == all[b]) {
        let rank = below as f64 + 0.5 * (ties.len() + 1) as f64; // their mean
        below += ties.len();
        let p = (rank - 0.375) / (all.len() as f64 + 0.25);
        ties.iter().for_each(|&i| scores[i] = 2f64.sqrt() * erf_inv(2. * p - 1.));
    }
    scores.chunks(steps).map(<[f64]>::to_vec).collect()
}

/// Split R-hat of `chains` `[chains][steps]`, the greater of that of the ranks and that of the ranks of the distance from
/// the median: 1 where all chains, and their halves, have the same distribution; above 1.01 they have not mixed yet. NaN with
/// fewer than [`LEAST`] steps, with draws that are not finite, and where nothing moves.
pub fn r_hat(chains: &[Vec<f64>]) -> f64 {
    let Some(chains) = halves(chains) else { return f64::NAN };
    let mut all: Vec<f64> = chains.iter().flat_map(|chain| chain.iter().copied()).collect();
    if all.iter().any(|v| !v.is_finite()) {
        return f64::NAN;
    }
    all.sort_unstable_by(f64::total_cmp);
    let median = 0.5 * (all[(all.len() - 1) / 2] + all[all.len() / 2]);
    let folded: Vec<Vec<f64>> = chains.iter().map(|chain| chain.iter().map(|v| (v - median).abs()).collect()).collect();
    let ratio = |chains: &[&[f64]]| {
        let scores = normal_scores(chains);
        let (within, all) = variances(&scores.iter().map(Vec::as_slice).collect::<Vec<_>>());
        (all / within).sqrt()
    };
    ratio(&chains).max(ratio(&folded.iter().map(Vec::as_slice).collect::<Vec<_>>()))
}

/// Samples of at most so many numbers are watched number by number.
const FEW: usize = 16;
/// So many directions are watched of others, the same ones always.
const DIRECTIONS: usize = 8;

/// The course of chains, step by step, in a few numbers each: every number of a sample, or their mean and some fixed random
/// directions where they are many; the mean of their squares; and the energy where it is known.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    watched: Vec<Vec<Vec<f64>>>, // [steps][chains] each
}

/// What is watched of chains at `x` `[B, ...]` by their places: `[watched][chains]`.
fn places(x: &Tensor) -> Result<Vec<Vec<f64>>> {
    let numbers = x.elem_count() / x.dim(0)?.max(1);
    let x = to_host(x)?;
    let of = |f: &dyn Fn(&[f64]) -> f64| x.chunks(numbers.max(1)).map(f).collect::<Vec<f64>>();
    let mut watched = vec![of(&|x| mean(x.iter().map(|v| v * v)))];
    if numbers <= FEW {
        watched.extend((0..numbers).map(|i| of(&|x| x[i])));
        return Ok(watched);
    }
    watched.push(of(&|x| mean_of(x)));
    let seeds: Vec<u64> = (0..DIRECTIONS as u64).collect();
    let directions = to_host(&Noise::seeds(&seeds).normal((DIRECTIONS, numbers), DType::F64, &Device::Cpu)?)?;
    for direction in directions.chunks(numbers) {
        watched.push(of(&|x| x.iter().zip(direction).map(|(x, along)| x * along).sum()));
    }
    Ok(watched)
}

impl Trace {
    /// Notes where the chains are now. Errors if they are not as many as before, or another number is known of them.
    pub fn record(&mut self, at: &View) -> Result<()> {
        let (batch, before) = (at.x.dim(0)?, self.chains());
        if before > 0 && before != batch {
            bail!("trace: {batch} chains after {before}; a trace is of one set of chains");
        }
        let values: Vec<Vec<f64>> = places(&at.x)?.into_iter().chain(at.energy.clone()).collect();
        if self.watched.is_empty() {
            self.watched = vec![vec![]; values.len()];
        }
        if self.watched.len() != values.len() {
            bail!(
                "trace: {} numbers known of a chain after {}; the energy always, or never",
                values.len(),
                self.watched.len()
            );
        }
        self.watched.iter_mut().zip(values).for_each(|(steps, values)| steps.push(values));
        Ok(())
    }

    /// Chains of the same course beside these.
    pub fn append(&mut self, other: Self) {
        if self.watched.is_empty() {
            return *self = other;
        }
        for (own, other) in self.watched.iter_mut().zip(other.watched) {
            own.iter_mut().zip(other).for_each(|(own, other)| own.extend(other));
        }
    }

    /// The number of chains.
    pub fn chains(&self) -> usize {
        self.watched.first().and_then(|steps| steps.first()).map_or(0, Vec::len)
    }

    /// The number of steps.
    pub fn steps(&self) -> usize {
        self.watched.first().map_or(0, Vec::len)
    }

    /// The least effective sample size of what is watched, what never moves left out; NaN if anything is not finite in any
    /// chain, with fewer than [`LEAST`] steps, and where nothing moves.
    pub fn ess(&self) -> f64 {
        if self.finite() { self.each(ess).fold(f64::NAN, f64::min) } else { f64::NAN }
    }

    /// The greatest R-hat of what is watched; left out, and NaN, as [`Trace::ess`].
    pub fn r_hat(&self) -> f64 {
        if self.finite() { self.each(r_hat).fold(f64::NAN, f64::max) } else { f64::NAN }
    }

    /// Whether everything that was watched is a number.
    fn finite(&self) -> bool {
        self.watched.iter().flatten().flatten().all(|v| v.is_finite())
    }

    fn each(&self, f: fn(&[Vec<f64>]) -> f64) -> impl Iterator<Item = f64> {
        let chains = |steps: &Vec<Vec<f64>>| -> Vec<Vec<f64>> {
            (0..self.chains()).map(|n| steps.iter().filter_map(|step| step.get(n)).copied().collect()).collect()
        };
        self.watched.iter().map(move |steps| f(&chains(steps)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The trace of two chains over `steps` steps, with energies by step and chain.
    fn trace(steps: usize, energy: impl Fn(usize, usize) -> f64) -> Trace {
        let (mut trace, mut z) = (Trace::default(), Noise::seeds(&[1, 2]));
        for t in 0..steps {
            let x = z.normal((2, 1), DType::F64, &Device::Cpu).unwrap();
            let energy = Some((0..2).map(|n| energy(t, n)).collect());
            trace.record(&View { score: x.clone(), x, energy }).unwrap();
        }
        trace
    }

    #[test]
    fn energies_that_are_not_finite_are_not_passed_over() {
        let said = |trace: &Trace| [trace.ess(), trace.r_hat()].map(f64::is_finite);
        assert_eq!(said(&trace(40, |t, n| ((7 * t + n) % 5) as f64)), [true; 2]);
        // what never moves says nothing, and hides nothing
        assert_eq!(said(&trace(40, |_, _| 3.)), [true; 2]);
        for bad in [f64::NAN, f64::INFINITY] {
            let one = trace(40, |t, n| if (t, n) == (17, 1) { bad } else { t as f64 });
            assert_eq!(said(&one), [false; 2], "{bad}");
            assert_eq!(said(&trace(40, |_, n| if n == 1 { bad } else { 0. })), [false; 2], "{bad}");
        }
        for (steps, enough) in [(LEAST - 1, false), (LEAST, true)] {
            assert_eq!(said(&trace(steps, |t, n| (t * t + n) as f64)), [enough; 2], "{steps}");
        }
    }
}
