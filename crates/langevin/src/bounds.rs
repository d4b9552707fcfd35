//! log Z and mean log p from both sides: by annealed importance sampling, rather too low a log Z and too high a log p, and by
//! reverse annealing, the other way round. \[Neal01; Burda15\]

use crate::open::OpenedDensity;
use crate::scoring::choose;
use crate::watch::{Progress, go_on};
use anyhow::Result;
use candle_core::DType;
use langevin_data::Dataset;
use langevin_dynamics::likelihood::LogZ;
use langevin_models::family::{Ais, Raise};
use langevin_ops::noise::Noise;
use langevin_ops::stats::mean_and_error;
use serde::Serialize;

/// A mean and its standard error.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Mean {
    /// The mean.
    pub value: f64,
    /// Its standard error.
    pub error: f64,
}

impl Mean {
    /// Of `v`.
    pub fn of(v: &[f64]) -> Self {
        let (value, error) = mean_and_error(v);
        Self { value, error }
    }
}

/// What reverse annealing says of some states, beside what annealed importance sampling says of the same.
#[derive(Clone, Debug, Serialize)]
pub struct Bounds {
    /// log Z by reverse annealing: the mean of -E - log p over the states.
    pub log_z: Mean,
    /// The mean of log p by the log Z of annealed importance sampling, rather too high.
    pub upper: Mean,
    /// The mean of log p by reverse annealing, rather too low.
    pub lower: Mean,
    /// Chains that went back from each state.
    pub chains: usize,
    /// The places of the states in the data, from 0.
    pub places: Vec<usize>,
    /// log p of each by reverse annealing.
    pub log_p: Vec<f64>,
}

/// States that are held at once.
const STATES: usize = 1000;

/// Sweeps of Gibbs sampling that draw latent units given data.
const SWEEPS: usize = 100;

/// Keeps their noise apart from that of bits and of chains ("latent" in ASCII), and the noise of seeds apart.
const LATENT: u64 = 0x6c61_7465_6e74;
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// From so many nats between both sides on, more rungs are advised.
const APART: f64 = 1.;

/// From so many standard errors on, the lower side is not above the upper one by chance.
const CERTAIN: f64 = 3.;

impl Bounds {
    /// Of states at some `places`, of the energies `energy`, with `log_p` by reverse annealing of so many `chains` each, and `ais` by
    /// annealed importance sampling.
    pub fn new(places: Vec<usize>, chains: usize, energy: &[f64], log_p: Vec<f64>, ais: &LogZ) -> Self {
        let log_z: Vec<f64> = energy.iter().zip(&log_p).map(|(energy, log_p)| -energy - log_p).collect();
        let by_ais = Mean::of(&energy.iter().map(|energy| -energy - ais.value).collect::<Vec<_>>());
        let upper = Mean { error: by_ais.error.hypot(ais.error), ..by_ais };
        Self { log_z: Mean::of(&log_z), upper, lower: Mean::of(&log_p), chains, places, log_p }
    }

    /// A sentence that says what to do, where both sides are far apart or the wrong way round. Their distance is that of the two
    /// values of log Z, whose errors have nothing of how log p differs between states.
    pub fn advice(&self, ais: &LogZ) -> Option<String> {
        let (apart, error) = (self.log_z.value - ais.value, self.log_z.error.hypot(ais.error));
        if apart < -CERTAIN * error {
            return Some(format!(
                "mean log p by reverse annealing, the lower one, is {:.2} +- {error:.2} nats above the upper one: the rungs are too few \
                 for either; take more --rungs",
                -apart
            ));
        }
        let near = apart.abs() <= APART;
        (!near).then(|| {
            format!(
                "log Z by annealed importance sampling and by reverse annealing are {apart:.2} nats apart; take more --rungs, or \
                 more --chains, to know it better"
            )
        })
    }
}

impl OpenedDensity {
    /// What reverse annealing says of `raise.reverse` of the samples `idx` of `data`, chosen by `seed`, along the ladder of `ais` with
    /// these `means`, beside the `log_z` of that. Latent units are drawn given the samples first. `None` if it is asked for no samples. A bound that is far off is told in a note.
    ///
    /// Errors if the family knows no ladder, or gives no energy.
    pub fn bounds(
        &self,
        (ais, raise): (&Ais, &Raise),
        (means, log_z): (Option<&[f64]>, &LogZ),
        seed: u64,
        (data, idx): (&dyn Dataset, &[usize]),
    ) -> Result<Option<Bounds>> {
        if raise.reverse == 0 {
            return Ok(None);
        }
        raise.check()?;
        let places = choose(idx, raise.reverse, seed);
        let (mut energy, mut log_p, mut progress) = (vec![], vec![], None::<Progress>);
        for some in places.chunks(STATES) {
            let wide = self.model.to_dtype(DType::F64)?;
            let x = self.states_drawn(data, some, seed)?.to_dtype(DType::F64)?;
            let log_sum = wide.log_sum(&x)?.log_sum;
            let own: Vec<u64> = some.iter().map(|&place| place as u64 ^ LATENT ^ seed.wrapping_mul(GOLDEN)).collect();
            let states = wide.completed_by(&x, SWEEPS, &mut Noise::seeds(&own))?;
            let names: Vec<u64> = some.iter().map(|&place| place as u64).collect();
            let found = raise.log_p((ais, means), &self.model, (&states, &names), seed, &mut |_, all| {
                // all batches are full but for the last
                let batches =
                    |all: usize| (all / (ais.rungs - 1) * places.len()).div_ceil(some.len()) * (ais.rungs - 1);
                progress.get_or_insert_with(|| Progress::new(batches(all) as u64, "rungs back")).step();
                go_on()
            });
            log_p.extend(match wide.spec.latent() {
                0 => found?,
                // ln p of states with their latent units says what ln Z is, and that what ln p of the data is
                _ => {
                    let log_f = wide.log_f(&states)?;
                    let log_z = log_f.iter().zip(found?).map(|(log_f, log_p)| log_f - log_p);
                    log_sum.iter().zip(log_z).map(|(log_sum, log_z)| log_sum - log_z).collect()
                }
            });
            energy.extend(log_sum.iter().map(|log_sum| -log_sum));
        }
        progress.into_iter().for_each(Progress::done);
        let bounds = Bounds::new(places, raise.chains, &energy, log_p, log_z);
        bounds.advice(log_z).iter().for_each(|advice| crate::note!("{advice}"));
        Ok(Some(bounds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(reverse: f64) -> (Bounds, LogZ) {
        let ais = LogZ { value: 10., error: 0.1, spread: 1., runs: 100 };
        let energy = [1., 2., 3., 6.];
        let off = [-0.1, 0.1, -0.1, 0.1];
        let log_p = energy.iter().zip(off).map(|(energy, off)| -energy - reverse - off).collect();
        (Bounds::new(vec![4, 5, 6, 7], 2, &energy, log_p, &ais), ais)
    }

    #[test]
    fn both_sides_are_of_the_same_states() {
        let (found, _) = bounds(10.5);
        let of_energy = Mean::of(&[1., 2., 3., 6.]).error;
        assert!((found.log_z.value - 10.5).abs() < 1e-12 && (found.log_z.error - 0.2 / 12f64.sqrt()).abs() < 1e-12);
        assert!((found.upper.value + 13.).abs() < 1e-12 && (found.upper.error - of_energy.hypot(0.1)).abs() < 1e-12);
        assert!((found.lower.value + 13.5).abs() < 1e-12);
    }

    #[test]
    fn what_is_far_apart_or_the_wrong_way_round_is_told() {
        let told = |reverse: f64| {
            let (found, ais) = bounds(reverse);
            found.advice(&ais).unwrap_or_default()
        };
        assert_eq!((told(10.9), told(10.), told(9.8)), Default::default());
        assert!(told(11.2).contains("1.20 nats apart") && told(11.2).contains("--rungs"));
        assert!(told(9.6).contains("0.40 +- 0.12 nats above") && told(9.6).contains("--rungs"));
        assert!(told(f64::NAN).contains("--rungs") && told(f64::INFINITY).contains("--rungs"));
    }
}
