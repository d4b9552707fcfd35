//! Moving averages of the weights: ema <- beta ema + (1 - beta) theta after every update; a profile says beta.

mod constant;
pub mod posthoc;
mod power;
pub mod snapshots;
mod warmup;

pub use constant::Constant;
pub use power::{Power, exponent};
pub use warmup::WarmUp;

use crate::inplace::{self, Float};
use crate::state::moved;
use candle_core::{Result, Tensor, Var, bail};
use langevin_ops::registry;
use std::collections::BTreeMap;

/// How fast averages forget.
pub trait Profile: Send + Sync + std::fmt::Debug {
    /// Factor of the average at update `k` (from 1), in track `track`.
    fn beta(&self, track: usize, k: u64) -> f64;

    /// Relative standard deviation of each track's profile, where it has one (the power profile); one entry a track.
    fn tracks(&self) -> Vec<Option<f64>> {
        vec![None]
    }

    /// Errors, naming the option, if it makes no sense.
    fn check(&self) -> Result<()>;
}

registry! {
    /// Any profile, as configurations name it.
    pub enum AnyEma: Profile = "EMA" { WarmUp, Constant, Power } check Profile::check
}

/// The averages of a run: one set of weights a track.
pub struct Ema {
    profile: AnyEma,
    names: Vec<String>,
    tracks: Vec<Vec<Tensor>>,
}

impl Ema {
    /// Starts every track at the weights. Errors if an option makes no sense.
    pub fn new(profile: AnyEma, vars: &[(String, Var)]) -> Result<Self> {
        profile.get().check()?;
        let copy = |_| vars.iter().map(|(_, v)| v.detach().copy()).collect::<Result<Vec<_>>>();
        let tracks = profile.get().tracks().iter().map(copy).collect::<Result<_>>()?;
        Ok(Self { profile, names: vars.iter().map(|(name, _)| name.clone()).collect(), tracks })
    }

    /// Takes in the weights of update `k` (from 1).
    pub fn update(&mut self, vars: &[(String, Var)], k: u64) -> Result<()> {
        for (i, track) in self.tracks.iter().enumerate() {
            let beta = self.profile.get().beta(i, k);
            for (ema, (_, theta)) in track.iter().zip(vars) {
                blend(ema, theta, beta)?;
            }
        }
        Ok(())
    }

    /// Relative standard deviation of each track, where it has one.
    pub fn widths(&self) -> Vec<Option<f64>> {
        self.profile.get().tracks()
    }

    /// The averaged weights of a track, by name; empty if there is no such track.
    pub fn weights(&self, track: usize) -> Vec<(String, Tensor)> {
        let of = |track: &Vec<Tensor>| self.names.iter().cloned().zip(track.iter().cloned()).collect();
        self.tracks.get(track).map(of).unwrap_or_default()
    }

    /// Every track's weights, named `emaTRACK/WEIGHT`.
    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        let named = |i: usize| self.weights(i).into_iter().map(move |(name, t)| (format!("ema{i}/{name}"), t));
        (0..self.tracks.len()).flat_map(named).collect()
    }

    /// Takes the tensors of [`Ema::tensors`] back.
    pub fn restore(&mut self, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
        for (name, ema) in self.tensors() {
            match tensors.get(&name) {
                Some(t) if t.dims() == ema.dims() => inplace::set(&ema, &moved(t, &ema)?)?,
                Some(t) => bail!("`{name}` has shape {:?} where the EMA has {:?}", t.dims(), ema.dims()),
                None => bail!("`{name}` of the EMA is missing"),
            }
        }
        Ok(())
    }

    /// Exchanges the weights and a track's averages, in place; twice is nothing.
    pub(crate) fn swap(&self, vars: &[(String, Var)], track: usize) -> Result<()> {
        let Some(track) = self.tracks.get(track) else { bail!("EMA: there is no track {track}") };
        track.iter().zip(vars).try_for_each(|(ema, (_, theta))| inplace::swap(theta, ema))
    }
}

/// ema + (1 - beta) (theta - ema).
fn blend(ema: &Tensor, theta: &Tensor, beta: f64) -> Result<()> {
    fn here<T: Float>(ema: &Tensor, theta: &Tensor, rest: f64) -> Result<()> {
        let rest = T::from_f64(rest);
        inplace::read::<T, _>(theta, |theta| {
            inplace::pass::<T>(&[ema], |from, all| {
                if let [ema] = all {
                    ema.iter_mut().zip(&theta[from..]).for_each(|(e, &v)| *e += rest * (v - *e));
                }
            })
        })?
    }
    if beta <= 0. {
        return inplace::set(ema, theta); // exactly, without a rounding on the way
    }
    if inplace::fits::<f32>(ema) && inplace::fits::<f32>(theta) {
        here::<f32>(ema, theta, 1. - beta)
    } else if inplace::fits::<f64>(ema) && inplace::fits::<f64>(theta) {
        here::<f64>(ema, theta, 1. - beta)
    } else {
        inplace::set(ema, &(ema + ((theta.detach() - ema)? * (1. - beta))?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn follows_the_recurrence_in_every_dtype_and_size() -> Result<()> {
        for n in [3usize, 100_000] {
            let at = |k: u64| (0..n).map(|i| ((i as u64 * k) as f64 * 0.1).sin()).collect::<Vec<_>>();
            for profile in AnyEma::defaults() {
                let var = Var::from_tensor(&Tensor::new(at(1), &Device::Cpu)?)?;
                let vars = [("w".to_string(), var.clone())];
                let mut ema = Ema::new(profile.clone(), &vars)?;
                let mut expected = at(1);
                for k in 1..6 {
                    var.set(&Tensor::new(at(k + 1), &Device::Cpu)?)?;
                    ema.update(&vars, k)?;
                    let beta = profile.get().beta(0, k);
                    expected.iter_mut().zip(at(k + 1)).for_each(|(e, v)| *e = beta * *e + (1. - beta) * v);
                }
                let got = ema.weights(0)[0].1.to_vec1::<f64>()?;
                let near = got.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-14); // which a NaN is not
                assert!(near, "{profile:?}: {got:?} for {expected:?}");
                ema.swap(&vars, 0)?;
                assert_eq!(var.to_vec1::<f64>()?, got);
                assert_eq!(ema.weights(0)[0].1.to_vec1::<f64>()?, at(6));
            }
        }
        Ok(())
    }
}
