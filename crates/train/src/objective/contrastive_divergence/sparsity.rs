//! Hidden units that are on as often as is asked: with q the mean of a unit over the data so far, a cost times
//! -p ln q - (1-p) ln(1-q) is added to the loss, whose gradient in what drives the unit is cost (q - p). \[Hinton12, section 11\]

use super::{ContrastiveDivergence, EnergyGradient, slid};
use candle_core::{Result, Tensor, bail};

/// If nothing is said.
const COST: f64 = 0.1;

impl ContrastiveDivergence {
    /// Errors, naming the option, if one is out of its range.
    pub(super) fn check_sparsity(&self) -> Result<()> {
        match (self.sparsity, self.sparsity_cost) {
            (None, Some(_)) => {
                bail!("loss.sparsity_cost is of loss.sparsity, which is not given; give how often units should be on")
            }
            (Some(p), _) if !(p > 0. && p < 1.) => bail!("loss.sparsity is {p}; give a number above 0 and below 1"),
            (_, Some(cost)) if !(cost.is_finite() && cost >= 0.) => {
                bail!("loss.sparsity_cost is {cost}; give a number from 0 on")
            }
            _ => Ok(()),
        }
    }

    /// Errors if the model has no hidden units.
    pub(super) fn suits_sparsity<M: EnergyGradient>(&self, model: &M) -> Result<()> {
        self.sparsity.map_or(Ok(()), |_| model.driven(&[], &[]).map(drop))
    }

    /// Adds the gradient of what it costs that hidden units are `active` too often or too rarely, of which a part with this `share` of
    /// the step, of states `x` of the data, has its share.
    pub(super) fn sparse<M: EnergyGradient>(
        &self,
        model: &M,
        (x, share): (&Tensor, f64),
        active: &mut Vec<Tensor>,
        grads: &mut [Tensor],
    ) -> Result<()> {
        let Some(p) = self.sparsity else { return Ok(()) };
        let means = model.unit_means(x)?;
        *active = slid(active, means[1..].to_vec())?;
        let cost = self.sparsity_cost.unwrap_or(COST) * share;
        let pulls = active.iter().map(|q| q.affine(cost, -p * cost)).collect::<Result<Vec<_>>>()?;
        for (grad, more) in grads.iter_mut().zip(model.driven(&means, &pulls)?) {
            *grad = (&*grad + more)?;
        }
        Ok(())
    }
}
