//! How far chains can be trusted: effective sample sizes and R-hat, over chains of equal length, which are cut in half first.
//!
//! With W the variance within chains, V that of all draws and c_t the covariance at lag t within chains,
//! rho_t = 1 - (W - c_t) / V; the effective number of N draws is N / tau with tau = -1 + 2 sum_t rho_t, the sum cut by Geyer's
//! initial monotone sequence; R-hat is sqrt(V / W). \[Vehtari et al. 2021, 1903.08008\]
//!
//! [`ess`] is arviz' `ess(method="mean")`, [`ess_bulk`] its `"bulk"` and [`ess_tail`] its `"tail"`; [`r_hat`] is its
//! `rhat(method="rank")`. Two things differ: a quantity that never changes has no effective number (NaN, where arviz gives
//! N), and halves of fewer than five draws are not taken for free of correlation (arviz gives N log10 N).
//!
//! Correlations over more steps than a half has are not seen: of short chains that have not mixed ESS says too much, and R-hat
//! tells.

use crate::density::Evaluated;
use candle_core::{DType, Device, Result, Tensor, bail};
use langevin_ops::noise::Noise;
use langevin_ops::shape::to_host;
use statrs::function::erf::erf_inv;

/// Chains of fewer steps, which a level of a sampler may well have, say nothing: effective numbers and R-hat are NaN.
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

/// The mean, as the first number and the mean distance from it: exact of equal numbers, and good where all lie far from 0.
fn mean_of(v: &[f64]) -> f64 {
    let first = v.first().copied().unwrap_or(f64::NAN);
    first + mean(v.iter().map(|v| v - first))
}

/// The variance, divided by one less than the number.
fn variance(v: &[f64]) -> f64 {
    let (n, middle) = (v.len() as f64, mean_of(v));
    v.iter().map(|v| (v - middle).powi(2)).sum::<f64>() / (n - 1.)
}

/// (W, V) of chains of `n` steps: exactly 0 where nothing ever changes.
fn variances(chains: &[&[f64]]) -> (f64, f64) {
    let n = chains[0].len() as f64;
    let means: Vec<f64> = chains.iter().map(|chain| mean_of(chain)).collect();
    let within = mean(chains.iter().map(|chain| variance(chain)));
    (within, within * (n - 1.) / n + variance(&means))
}

/// The number of independent draws that tell the mean as well as these `chains` `[chains][steps]` do; at most
/// N log10 N. NaN with fewer than [`LEAST`] steps, with draws that are not finite, and where all draws are equal: what never
/// moved says nothing. Chains that each stay where they are, at different places, count as little as they can.
pub fn ess(chains: &[Vec<f64>]) -> f64 {
    let Some(halves) = halves(chains) else { return f64::NAN };
    let origin = halves[0][0]; // far from 0 the mean would be rounded to what can be written there
    let near: Vec<Vec<f64>> = halves.iter().map(|chain| chain.iter().map(|v| v - origin).collect()).collect();
    effective(&slices(&near))
}

/// [`ess`] of the ranks as quantiles of a normal: how well chains tell where most of the mass is, whatever its mean and
/// variance are.
pub fn ess_bulk(chains: &[Vec<f64>]) -> f64 {
    match halves(chains) {
        Some(halves) if finite(&halves) => effective(&slices(&normal_scores(&halves))),
        _ => f64::NAN,
    }
}

/// The lesser [`ess`] of the two indicators of lying at or below the 5% and the 95% quantile: how well chains tell the
/// tails. A quantile that all draws lie at or below is left out.
pub fn ess_tail(chains: &[Vec<f64>]) -> f64 {
    let Some(halves) = halves(chains).filter(|halves| finite(halves)) else { return f64::NAN };
    let mut all: Vec<f64> = chains.concat();
    all.sort_unstable_by(f64::total_cmp);
    let below = |part: f64| {
        let limit = quantile(&all, part);
        let one = |chain: &&[f64]| chain.iter().map(|&v| if v <= limit { 1. } else { 0. }).collect();
        effective(&slices(&halves.iter().map(one).collect::<Vec<Vec<f64>>>()))
    };
    below(0.05).min(below(0.95))
}

/// The quantile of `sorted` numbers, linear between them: type 7 of R.
fn quantile(sorted: &[f64], part: f64) -> f64 {
    let place = part * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    low + place.fract() * (high - low)
}

fn slices(chains: &[Vec<f64>]) -> Vec<&[f64]> {
    chains.iter().map(Vec::as_slice).collect()
}

fn finite(chains: &[&[f64]]) -> bool {
    chains.iter().copied().flatten().all(|v| v.is_finite())
}

/// The effective number of draws of chains that are cut already.
fn effective(chains: &[&[f64]]) -> f64 {
    let steps = chains[0].len();
    let draws = (chains.len() * steps) as f64;
    let means: Vec<f64> = chains.iter().map(|chain| mean_of(chain)).collect();
    let (within, all) = variances(chains);
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
    let rho = |lag: usize| match lag {
        0 => 1.,
        lag if lag < steps => 1. - (within - covariance(lag)) / all,
        _ => 0.,
    };
    // sums of neighbours are positive and fall for every reversible chain: the rest is noise
    let (mut sum, mut least, mut lag) = (0., f64::INFINITY, 0);
    let mut pair = [rho(0), rho(1)];
    while pair[0] + pair[1] > 0. && lag < steps.saturating_sub(4).max(1) {
        least = least.min(pair[0] + pair[1]);
        (sum, lag) = (sum + least, lag + 2);
        pair = [rho(lag), rho(lag + 1)];
    }
    // the first of the pair that is left out still counts once, which makes the error of anticorrelated chains less
    draws / (2. * sum - 1. + pair[0].max(0.)).max(1. / draws.log10())
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
/// the median: 1 where all chains, and their halves, have the same distribution; above 1.01 they have not mixed yet;
/// infinite where each chain stays where it is and they are at different places. NaN with fewer than [`LEAST`] steps, with
/// draws that are not finite, and where all draws are equal.
pub fn r_hat(chains: &[Vec<f64>]) -> f64 {
    let Some(chains) = halves(chains).filter(|halves| finite(halves)) else { return f64::NAN };
    let mut all: Vec<f64> = chains.concat();
    all.sort_unstable_by(f64::total_cmp);
    let median = 0.5 * (all[(all.len() - 1) / 2] + all[all.len() / 2]);
    let folded: Vec<Vec<f64>> = chains.iter().map(|chain| chain.iter().map(|v| (v - median).abs()).collect()).collect();
    let ratio = |chains: &[&[f64]]| {
        let (within, all) = variances(&slices(&normal_scores(chains)));
        (all / within).sqrt()
    };
    ratio(&chains).max(ratio(&slices(&folded)))
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
    pub fn record(&mut self, at: &Evaluated) -> Result<()> {
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

    /// How many of the chains never moved: nothing that is watched of them ever changed. 0 of a single step, which tells
    /// nothing.
    pub fn stuck(&self) -> usize {
        let still = |n: usize| {
            let same = |steps: &Vec<Vec<f64>>| steps.iter().all(|step| step.get(n) == steps[0].get(n));
            self.watched.iter().all(same)
        };
        if self.steps() < 2 { 0 } else { (0..self.chains()).filter(|&n| still(n)).count() }
    }

    /// The least [`ess`] of what is watched, what never changes left out; NaN if anything is not finite in any chain, with
    /// fewer than [`LEAST`] steps, and where no chain moves.
    pub fn ess(&self) -> f64 {
        self.least(ess)
    }

    /// The least [`ess_bulk`]; left out, and NaN, as [`Trace::ess`].
    pub fn ess_bulk(&self) -> f64 {
        self.least(ess_bulk)
    }

    /// The least [`ess_tail`]; left out, and NaN, as [`Trace::ess`].
    pub fn ess_tail(&self) -> f64 {
        self.least(ess_tail)
    }

    fn least(&self, f: fn(&[Vec<f64>]) -> f64) -> f64 {
        let known = self.finite() && self.stuck() < self.chains();
        if known { self.each(f).fold(f64::NAN, f64::min) } else { f64::NAN }
    }

    /// The greatest R-hat of what is watched; left out as [`Trace::ess`]. NaN if anything is not finite, with fewer than
    /// [`LEAST`] steps, and where nothing differs; infinite where chains stay at different places.
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
            trace.record(&Evaluated { score: Some(x.clone()), x, energy }).unwrap();
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
