//! The density of a toy on a lattice, and how far that of a model is from it, all by the same sums.
//!
//! The square reaches far beyond the data, so that what a model holds outside of them counts. The midpoint rule converges faster
//! than any power of the step for smooth densities; how much a figure changes when the step is halved says what is left.

use anyhow::Result;
use candle_core::{Device, Tensor};
use langevin_data::ToyDensity;
use langevin_ops::stats::log_sum_exp;
use rayon::prelude::*;
use serde::Serialize;

/// Half the side of the square.
pub const HALF: f64 = 6.;
/// Cells a side: a multiple of 12, so that the edges of the checkerboard are edges of cells.
pub const CELLS: usize = 360;
/// The region of a mode is where it is the likeliest, of where this share of the data lies, at their densest.
const CORE: f64 = 0.99;
/// A mode is found if this part of its share is there.
const FOUND: f64 = 0.5;

/// The centres of `n` cells a side.
struct Lattice {
    n: usize,
    /// ln of the density of the data.
    log_p: Vec<f64>,
    /// Of which mode a cell is, if of any.
    mode: Vec<Option<usize>>,
}

impl Lattice {
    fn of(density: &ToyDensity, n: usize) -> Self {
        let parts: Vec<Vec<f64>> = (0..n * n).into_par_iter().map(|i| density.log_parts(centre(n, i))).collect();
        let log_p: Vec<f64> = parts.iter().map(|parts| log_sum_exp(parts)).collect();
        let likeliest = |parts: &Vec<f64>| {
            let top = |a: &usize, b: &usize| parts[*a].total_cmp(&parts[*b]);
            (0..parts.len()).max_by(top)
        };
        let mut order: Vec<usize> = (0..n * n).collect();
        order.sort_by(|&a, &b| log_p[b].total_cmp(&log_p[a]));
        let (mut mode, mut held) = (vec![None; n * n], 0.);
        for i in order {
            if held > CORE || log_p[i] == f64::NEG_INFINITY {
                break;
            }
            held += log_p[i].exp() * cell(n);
            mode[i] = likeliest(&parts[i]);
        }
        Self { n, log_p, mode }
    }

    /// The share of each mode, for a density by its logarithm.
    fn shares(&self, modes: usize, log_q: impl Fn(usize) -> f64) -> Vec<f64> {
        let mut shares = vec![0.; modes];
        for (i, mode) in self.mode.iter().enumerate() {
            if let Some(mode) = mode {
                shares[*mode] += log_q(i).exp() * cell(self.n);
            }
        }
        shares
    }

    /// ln of the integral of exp(log_f) over the square, and KL(data || exp(log_f) / Z).
    fn divergence(&self, log_f: &[f64]) -> (f64, f64) {
        let log_z = log_sum_exp(log_f) + cell(self.n).ln();
        let there = self.log_p.iter().zip(log_f).filter(|(log_p, _)| **log_p > f64::NEG_INFINITY);
        let kl: f64 = there.map(|(log_p, log_f)| log_p.exp() * (log_p - log_f + log_z)).sum();
        (log_z, kl * cell(self.n))
    }
}

fn cell(n: usize) -> f64 {
    (2. * HALF / n as f64).powi(2)
}

/// The centre of cell i, row by row from below.
fn centre(n: usize, i: usize) -> [f64; 2] {
    let at = |i: usize| -HALF + (i as f64 + 0.5) * 2. * HALF / n as f64;
    [at(i % n), at(i / n)]
}

/// How far a model is from the data.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// KL(data || model), in nats.
    pub kl: f64,
    /// How much it changed when the step of the lattice was halved.
    pub kl_change: f64,
    /// ln of the integral of the model's exp(-E) over the square.
    pub log_z: f64,
    /// How much that changed.
    pub log_z_change: f64,
    /// The model's share of each mode.
    pub shares: Vec<f64>,
    /// Modes that hold at least half of the share that they should.
    pub found: usize,
    /// How far the share of a mode is from what it should be, at most.
    pub worst_share: f64,
    /// ln of the model's density at each cell.
    #[serde(skip)]
    pub log_q: Vec<f64>,
}

/// The density of a toy.
pub struct Truth {
    fine: Lattice,
    coarse: Lattice,
    /// The share of each mode, but for what lies outside of all cores.
    pub shares: Vec<f64>,
    /// Its entropy, in nats.
    pub entropy: f64,
}

impl Truth {
    /// That of the data set `spec`.
    ///
    /// Errors if its density is not known.
    pub fn of(spec: &str) -> Result<Self> {
        let density = ToyDensity::of(spec)?;
        let (fine, coarse) = (Lattice::of(&density, CELLS), Lattice::of(&density, CELLS / 2));
        let shares = fine.shares(density.components(), |i| fine.log_p[i]);
        let surprise = |log_p: &&f64| **log_p > f64::NEG_INFINITY;
        let entropy = -fine.log_p.iter().filter(surprise).map(|log_p| log_p.exp() * log_p * cell(CELLS)).sum::<f64>();
        Ok(Self { fine, coarse, shares, entropy })
    }

    /// ln of the density at each cell.
    pub fn log_p(&self) -> &[f64] {
        &self.fine.log_p
    }

    /// How far the model is that has ln of its density, up to a constant, by `log_f` of points `[N, 2]` in f64.
    pub fn figures(&self, log_f: impl Fn(&Tensor) -> Result<Vec<f64>>) -> Result<Figures> {
        let on = |lattice: &Lattice| -> Result<Vec<f64>> {
            let mut all = Vec::with_capacity(lattice.n * lattice.n);
            for first in (0..lattice.n * lattice.n).step_by(AT_ONCE) {
                let some = first..(first + AT_ONCE).min(lattice.n * lattice.n);
                let points: Vec<f64> = some.flat_map(|i| centre(lattice.n, i)).collect();
                all.extend(log_f(&Tensor::from_slice(&points, (points.len() / 2, 2), &Device::Cpu)?)?);
                crate::watch::go_on()?;
            }
            Ok(all)
        };
        let (fine, coarse) = (on(&self.fine)?, on(&self.coarse)?);
        let ((log_z, kl), (rough_z, rough)) = (self.fine.divergence(&fine), self.coarse.divergence(&coarse));
        anyhow::ensure!(kl.is_finite(), "its energy is not finite where the data are");
        let log_q: Vec<f64> = fine.into_iter().map(|log_f| log_f - log_z).collect();
        let shares = self.fine.shares(self.shares.len(), |i| log_q[i]);
        let pairs = || shares.iter().zip(&self.shares);
        Ok(Figures {
            kl,
            kl_change: (kl - rough).abs(),
            log_z,
            log_z_change: (log_z - rough_z).abs(),
            found: pairs().filter(|(own, truth)| **own >= FOUND * **truth).count(),
            worst_share: pairs().map(|(own, truth)| (own - truth).abs()).fold(0., f64::max),
            shares,
            log_q,
        })
    }
}

/// Points whose energies are asked at once.
const AT_ONCE: usize = 1 << 13;
