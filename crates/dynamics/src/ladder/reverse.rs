//! Reverse annealing (RAISE): ln p of given states by chains that go back along a ladder, rather too small than too large.
//! \[Burda15; Grosse15\]
//!
//! Annealed importance sampling draws states: v_0 ~ p_0, the density of [`Ladder::start`], and then at each rung k = 1..K
//! v_k ~ T_k(. | v_{k-1}), some steps of a kernel that leaves f_k = exp(-E_k) as it is. Let p_ann be the density of v_K. From a state
//! v_K = v a chain goes back by the reversals of the steps, v_{k-1} ~ T'_k(. | v_k) with
//! f_k(a) T_k(b | a) = f_k(b) T'_k(a | b), and has the weight
//!
//! ln w = ln p_0(v_0) + sum_k (ln f_k(v_k) - ln f_k(v_{k-1})).
//!
//! Then E\[w\] = p_ann(v) for any number of rungs, and ln of the mean weight of some chains is on average at most ln p_ann(v).
//!
//! p_ann is not the density p of the last rung, but tends to it as rungs grow many. For v ~ p the mean of
//! ln f_K(v) - ln p_ann(v) is ln Z + KL(p | p_ann), never below ln Z. For other states, such as data, it may be, where p_ann
//! fits them better than p does.

use super::Ladder;
use super::particles::lost_is_nothing;
use crate::density::{Capability, Evaluated};
use crate::mcmc::{Chains, Kernel, StepSizes};
use candle_core::{Result, Tensor, bail};
use langevin_ops::noise::Noise;
use langevin_ops::stats::log_sum_exp;

/// Chains that go back along a ladder from given states.
#[derive(Clone, Copy, Debug)]
pub struct Reverse<'a> {
    /// What moves them, by [`Kernel::step_back`].
    pub kernel: &'a dyn Kernel,
    /// Its steps at each rung but the first.
    pub steps: usize,
    /// Chains from each state: the more of them, the less is the mean of ln of their mean weight below ln p_ann.
    pub chains: usize,
    /// Chains that go together, which changes no number.
    pub at_once: usize,
    /// Seed of their noise.
    pub seed: u64,
}

/// Of the chains of one state; their noise has streams for no more.
pub const MOST_CHAINS: usize = 1 << 20;

impl Reverse<'_> {
    /// ln of the mean weight of the chains from each of the states `x` `[B, ...]`, in nats: on average at most ln p_ann. The noise of a
    /// chain is that of the seed, of the state's number in `names`, one a state, and of its own among the chains of the state.
    /// `watch` is told after each rung how many are done, of how many in all. A chain whose energy is no number weighs nothing.
    ///
    /// Errors if the kernel changes the densities or has no reversal, and if the ladder knows no density to begin at or changes
    /// states between its rungs.
    pub fn log_p(
        &self,
        ladder: &dyn Ladder,
        x: &Tensor,
        names: &[u64],
        watch: &mut dyn FnMut(usize, usize) -> Result<()>,
    ) -> Result<Vec<f64>> {
        self.check(ladder, x, names)?;
        let n = names.len() * self.chains;
        let (mut done, all) = (0, n.div_ceil(self.at_once) * (ladder.rungs() - 1));
        let mut log_w = Vec::with_capacity(n);
        for from in (0..n).step_by(self.at_once) {
            let some = from..n.min(from + self.at_once);
            let rows: Vec<u32> = some.clone().map(|i| (i / self.chains) as u32).collect();
            let streams: Vec<_> = some.map(|i| (names[i / self.chains], (i % self.chains) as u64)).collect();
            let x = x.index_select(&Tensor::new(rows, x.device())?, 0)?;
            log_w.extend(self.log_weights(ladder, &x, &mut Noise::of_steps(self.seed, &streams), &mut || {
                done += 1;
                watch(done, all)
            })?);
        }
        Ok(log_w.chunks(self.chains).map(|log_w| log_sum_exp(log_w) - (log_w.len() as f64).ln()).collect())
    }

    /// ln w of a chain from each of the states `x` `[B, ...]`. `watch` is told after each rung.
    fn log_weights(
        &self,
        ladder: &dyn Ladder,
        x: &Tensor,
        z: &mut Noise,
        watch: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Vec<f64>> {
        let (mut x, mut log_w) = (x.clone(), vec![0.; x.dim(0)?]);
        for rung in (1..ladder.rungs()).rev() {
            let density = ladder.density(rung);
            let at = density.evaluate(&x)?; // v_k
            let own = at.energy()?.to_vec();
            let mut chains = Chains { at, length: ladder.length(rung), sizes: StepSizes::default() };
            for _ in 0..self.steps {
                self.kernel.step_back(density.as_ref(), &mut chains, z)?;
            }
            let before = chains.at.energy()?; // of v_{k-1}
            log_w.iter_mut().zip(before.iter().zip(own)).for_each(|(log_w, (before, own))| *log_w += before - own);
            x = chains.at.x;
            watch()?;
        }
        let start = ladder.log_start(&x, ladder.precision(0))?;
        Ok(log_w.iter().zip(start).map(|(log_w, start)| lost_is_nothing(log_w + start)).collect())
    }

    fn check(&self, ladder: &dyn Ladder, x: &Tensor, names: &[u64]) -> Result<()> {
        if self.chains == 0 || self.chains > MOST_CHAINS || self.at_once == 0 {
            let (chains, at_once) = (self.chains, self.at_once);
            bail!(
                "reverse annealing: {chains} chains a state, {at_once} at once; give 1 to {MOST_CHAINS} and at least 1"
            );
        }
        let states = x.dim(0)?;
        if names.len() != states || states >= u32::MAX as usize {
            bail!("reverse annealing: {} numbers for {states} states; give one each, to fewer than 2^32", names.len());
        }
        if ladder.rungs() == 0 {
            bail!("reverse annealing: the ladder has no rungs");
        }
        self.kernel.check()?;
        if !self.kernel.exact() {
            bail!("reverse annealing: {:?} changes the density of a rung, so that weights would be wrong", self.kernel);
        }
        for rung in 1..ladder.rungs() {
            let density = ladder.density(rung);
            density.check(Capability::Energy)?;
            density.check(self.kernel.needs())?;
        }
        let Some(last) = ladder.rungs().checked_sub(2).filter(|_| states > 0) else { return Ok(()) };
        let x = x.narrow(0, 0, 1)?;
        ladder.log_start(&x, ladder.precision(0))?;
        stays(ladder, last, &ladder.density(last).evaluate(&x)?)
    }
}

/// Errors if the ladder moves states from this rung to the next.
fn stays(ladder: &dyn Ladder, rung: usize, at: &Evaluated) -> Result<()> {
    let (to, kernels) = ladder.propose(rung, at, ladder.precision(rung), &mut Noise::seeds(&[0]))?;
    let moved = to.dims() != at.x.dims()
        || to.ne(&at.x)?.to_dtype(candle_core::DType::F32)?.sum_all()?.to_scalar::<f32>()? > 0.;
    if moved || kernels.iter().any(|kernel| *kernel != 0.) {
        bail!(
            "reverse annealing: this ladder moves states from rung to rung, as noise levels do, and no way back is known; \
             give one whose rungs are densities of the same states"
        );
    }
    Ok(())
}
