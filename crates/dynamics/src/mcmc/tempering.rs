//! Replica exchange: chains at neighbouring densities swap places with probability
//! min(1, exp(E_i(x_i) - E_i(x_j) + E_j(x_j) - E_j(x_i))). \[Swendsen & Wang 1986; Geyer 1991\]
//!
//! Each density is compared with itself, so constants cancel: rungs need no normaliser, and a score will do. Pairs are
//! even and odd in turn, which carries chains along the ladder faster than pairs drawn at random. \[Syed et al. 2019\]

use super::{AnyKernel, Proposal, Score, Stats, View};
use candle_core::{Result, bail};
use langevin_ops::noise::Noise;

/// The swap of chains at two densities, seen by each: chain n of the one with chain n of the other. Both sums of their
/// energies are those of `a` and `b`, so that the swap is one proposal of the pair.
pub fn swap(a: &dyn Score, b: &dyn Score, at_a: &View, at_b: &View, z: &mut Noise) -> Result<(View, View, Stats)> {
    let (to_a, to_b) = (a.look(&at_b.x)?, b.look(&at_a.x)?);
    let (rise_a, rise_b) = (a.delta_energy(at_a, &to_a)?, b.delta_energy(at_b, &to_b)?);
    let log_ratio: Vec<f64> = rise_a.value.iter().zip(&rise_b.value).map(|(a, b)| -a - b).collect();
    let error = rise_a.error.iter().zip(&rise_b.error).map(|(a, b)| a + b).collect();
    let u = z.uniform(log_ratio.len())?;
    let other = Proposal { to: to_b, log_ratio: log_ratio.clone(), error: vec![0.; log_ratio.len()] };
    let own = Proposal { to: to_a, log_ratio, error }.settle(at_a, &u)?;
    Ok((own.at, other.settle(at_b, &u)?.at, own.stats))
}

/// Chains at each density of a ladder, the first the one that is wanted.
pub struct Ladder<'a> {
    rungs: Vec<&'a dyn Score>,
    lengths: Vec<f64>,
    kernels: Vec<AnyKernel>,
    views: Vec<View>,
    sweeps: usize,
    stats: Vec<Stats>,
    swaps: Vec<Stats>,
}

impl<'a> Ladder<'a> {
    /// Chains that start at `x` (one tensor `[B, ...]` a rung, all of one shape) and are moved by `kernel`, which adapts to
    /// each rung by itself; `lengths` are its unit of length at each.
    pub fn new(
        rungs: Vec<&'a dyn Score>,
        lengths: &[f64],
        kernel: &AnyKernel,
        x: &[candle_core::Tensor],
    ) -> Result<Self> {
        let n = rungs.len();
        if n == 0 || lengths.len() != n || x.len() != n {
            bail!(
                "tempering: {n} rungs, {} lengths, {} sets of chains; give one of each a rung",
                lengths.len(),
                x.len()
            );
        }
        if let Some(other) = x.iter().find(|other| other.dims() != x[0].dims()) {
            bail!("tempering: chains of shape {:?} and {:?}; all rungs need the same", x[0].dims(), other.dims());
        }
        kernel.get().check()?;
        let views = rungs.iter().zip(x).map(|(rung, x)| rung.look(x)).collect::<Result<_>>()?;
        Ok(Self {
            rungs,
            lengths: lengths.to_vec(),
            kernels: vec![kernel.clone(); n],
            views,
            sweeps: 0,
            stats: vec![Stats::default(); n],
            swaps: vec![Stats::default(); n - 1],
        })
    }

    /// `steps` steps of the kernel on every rung, then the swaps of every second pair.
    pub fn sweep(&mut self, steps: usize, z: &mut Noise) -> Result<()> {
        for (i, rung) in self.rungs.iter().enumerate() {
            for _ in 0..steps {
                let (view, stats) = self.kernels[i].get_mut().advance(*rung, &self.views[i], &[self.lengths[i]], z)?;
                self.views[i] = view;
                self.stats[i] += stats;
            }
        }
        for i in (self.sweeps % 2..self.swaps.len()).step_by(2) {
            let (rungs, views) = (&self.rungs, &self.views);
            let (low, high, stats) = swap(rungs[i], rungs[i + 1], &views[i], &views[i + 1], z)?;
            (self.views[i], self.views[i + 1]) = (low, high);
            self.swaps[i] += stats;
        }
        self.sweeps += 1;
        Ok(())
    }

    /// The chains of each rung.
    pub fn views(&self) -> &[View] {
        &self.views
    }

    /// What the kernel did on each rung.
    pub fn stats(&self) -> &[Stats] {
        &self.stats
    }

    /// What became of the swaps of each rung with the next.
    pub fn swaps(&self) -> &[Stats] {
        &self.swaps
    }
}
