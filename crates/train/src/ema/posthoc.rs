//! An average of any length, after training: the combination of snapshots whose profile is nearest to the wanted one.
//! With p_i(t) the profile of snapshot i, x solves <p_i, p_j> x_j = <p_i, p_target>. \[Karras24, sec. 3.2, alg. 3\]

use super::exponent;
use candle_core::{Result, Tensor, bail};
use langevin_ops::linalg::Cholesky;

/// What a snapshot's weights are: the average of relative width `sigma_rel` as it stood after `step` updates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Profile {
    /// Updates made.
    pub step: u64,
    /// Width relative to the run until then.
    pub sigma_rel: f64,
}

/// <p_a, p_b> of p(t) = (gamma+1) t^gamma / T^(gamma+1) on [0, T], times the longer T (which cancels).
fn dot((ta, ga): (f64, f64), (tb, gb): (f64, f64)) -> f64 {
    let shorter = if ta < tb { (ta / tb).powf(gb) } else { (tb / ta).powf(ga) };
    (ga + 1.) * (gb + 1.) / (ga + gb + 1.) * shorter / ta.max(tb)
}

/// The factor of each snapshot in the average `target`; their sum is 1.
///
/// The sum is held at 1, which the paper does not do: on the trajectory of the tests below it came 4 to 80 times nearer.
/// Snapshots later than the target are given no weight. Errors if there is none until then, or the widths make no sense.
pub fn factors(snapshots: &[Profile], target: Profile) -> Result<Vec<f64>> {
    let usable: Vec<usize> = (0..snapshots.len()).filter(|&i| (1..=target.step).contains(&snapshots[i].step)).collect();
    if usable.is_empty() {
        bail!("no snapshot until step {}: an EMA of that step cannot be rebuilt", target.step);
    }
    let mut all = vec![0.; snapshots.len()];
    if let Some(&same) = usable.iter().find(|&&i| snapshots[i] == target) {
        all[same] = 1.;
        return Ok(all);
    }
    // in units of the target's step, so that the numbers stay near 1
    let unit = |p: &Profile| Ok((p.step as f64 / target.step as f64, exponent(p.sigma_rel)?));
    let profiles = usable.iter().map(|&i| unit(&snapshots[i])).collect::<Result<Vec<_>>>()?;
    let wanted = unit(&target)?;
    let n = profiles.len();
    // Unit diagonal, and a touch of ridge: profiles of near steps are nearly the same.
    let norm: Vec<f64> = profiles.iter().map(|&p| dot(p, p).sqrt()).collect();
    let gram = |i: usize, j: usize| dot(profiles[i], profiles[j]) / (norm[i] * norm[j]);
    let a: Vec<Vec<f64>> =
        (0..n).map(|i| (0..n).map(|j| gram(i, j) + if i == j { 1e-13 } else { 0. }).collect()).collect();
    let b: Vec<f64> = (0..n).map(|i| dot(profiles[i], wanted) / norm[i]).collect();
    let ones: Vec<f64> = norm.iter().map(|norm| 1. / norm).collect();
    let system = Cholesky::of(a);
    let (mut x, y) = (system.solve(&b), system.solve(&ones));
    if x.iter().chain(&y).any(|v| !v.is_finite()) {
        bail!("the snapshots' profiles are too alike to be told apart; give fewer");
    }
    // Lagrange's condition that the factors add up to 1: what all snapshots share stays as it is.
    let sum = |v: &[f64]| v.iter().zip(&norm).map(|(v, norm)| v / norm).sum::<f64>();
    let shift = (1. - sum(&x)) / sum(&y);
    x.iter_mut().zip(&y).for_each(|(x, y)| *x += shift * y);
    for (i, &at) in usable.iter().enumerate() {
        all[at] = x[i] / norm[i];
    }
    Ok(all)
}

/// Combines snapshots into the average `target`; `load(i)` reads the weights of snapshot i, one at a time.
pub fn rebuild(
    snapshots: &[Profile],
    target: Profile,
    mut load: impl FnMut(usize) -> Result<Vec<(String, Tensor)>>,
) -> Result<Vec<(String, Tensor)>> {
    let mut total: Vec<(String, Tensor)> = Vec::new();
    for (i, factor) in factors(snapshots, target)?.into_iter().enumerate().filter(|(_, factor)| *factor != 0.) {
        let weights = load(i)?;
        if total.is_empty() {
            total = weights
                .into_iter()
                .map(|(name, t)| Ok((name, (t.to_dtype(candle_core::DType::F64)? * factor)?)))
                .collect::<Result<_>>()?;
            continue;
        }
        if weights.len() != total.len() {
            bail!("the snapshot of step {} holds {} tensors, others {}", snapshots[i].step, weights.len(), total.len());
        }
        for ((name, sum), (other, t)) in total.iter_mut().zip(weights) {
            if *name != other {
                bail!("the snapshot of step {} holds `{other}` where others hold `{name}`", snapshots[i].step);
            }
            *sum = (&*sum + (t.to_dtype(candle_core::DType::F64)? * factor)?)?;
        }
    }
    total.into_iter().map(|(name, t)| Ok((name, t.to_dtype(candle_core::DType::F32)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Power, Profile as _};
    use super::*;
    use candle_core::Device;

    /// Weights that fall and wander like those of a training run.
    fn theta(k: u64, i: usize) -> f64 {
        let t = k as f64 / 1000.;
        3. + (1. + i as f64) * (-t * (0.4 + i as f64)).exp() + 0.3 * (t * (2. + i as f64)).sin() / (1. + t)
    }

    /// Averages of width `widths`, at every `every`-th step of `steps`.
    fn track(widths: &[f64], every: u64, steps: u64) -> Vec<(Profile, Vec<f64>)> {
        let power = Power { sigma_rel: widths.to_vec() };
        let mut now = vec![vec![0.; 5]; widths.len()];
        let mut kept = Vec::new();
        for k in 1..=steps {
            for (i, track) in now.iter_mut().enumerate() {
                let beta = power.beta(i, k);
                track.iter_mut().enumerate().for_each(|(j, e)| *e = beta * *e + (1. - beta) * theta(k, j));
                if k % every == 0 {
                    kept.push((Profile { step: k, sigma_rel: widths[i] }, track.clone()));
                }
            }
        }
        kept
    }

    #[test]
    fn any_length_is_rebuilt() -> Result<()> {
        let steps = 4000;
        let snapshots = track(&[0.05, 0.10], 250, steps);
        let profiles: Vec<_> = snapshots.iter().map(|s| s.0).collect();
        let moved = |j: usize| (theta(1, j) - theta(steps, j)).abs();
        for sigma_rel in [0.05, 0.06, 0.075, 0.10, 0.13, 0.15, 0.2, 0.25] {
            let target = Profile { step: steps, sigma_rel };
            let direct = &track(&[sigma_rel], steps, steps)[0].1;
            let rebuilt = rebuild(&profiles, target, |i| {
                Ok(vec![("w".into(), Tensor::new(snapshots[i].1.clone(), &Device::Cpu)?)])
            })?;
            let rebuilt: Vec<f64> = langevin_ops::shape::to_host(&rebuilt[0].1)?;
            for j in 0..5 {
                let off = (rebuilt[j] - direct[j]).abs();
                // relative to the weights, and to the distance that they have moved, which is far less
                let (bound, of_path) = match sigma_rel {
                    0.05 | 0.10 => (1e-7, 1e-7), // the tracks themselves
                    ..=0.15 => (2e-5, 1e-4),
                    _ => (1e-2, 2e-2), // reaches back to before the first snapshot
                };
                let (value, path) = (direct[j].abs(), moved(j));
                assert!(off < bound * value, "sigma_rel {sigma_rel}, weight {j}: off by {off} of {value}");
                assert!(off < of_path * path, "sigma_rel {sigma_rel}, weight {j}: off by {off}, moved {path}");
            }
        }
        Ok(())
    }

    #[test]
    fn factors_add_up_and_leave_the_future_alone() -> Result<()> {
        let profiles: Vec<_> = track(&[0.05, 0.10], 100, 2000).iter().map(|s| s.0).collect();
        let factors = factors(&profiles, Profile { step: 1200, sigma_rel: 0.08 })?;
        assert!((factors.iter().sum::<f64>() - 1.).abs() < 1e-9);
        assert!(profiles.iter().zip(&factors).all(|(p, &x)| p.step <= 1200 || x == 0.));
        assert!(super::factors(&profiles, Profile { step: 50, sigma_rel: 0.08 }).is_err());
        Ok(())
    }
}
