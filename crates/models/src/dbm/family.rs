//! The deep Boltzmann machine as a family. \[Salakhutdinov09\]

use super::{Dbm, DbmSpec, Greedy, GreedyContrast};
use crate::family::{Family, Inferred, States, Unnormalised};
use crate::rbm::RbmLadder;
use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;
use langevin_dynamics::Ladder;
use langevin_ops::act::sigmoid;
use langevin_ops::linear::linear;
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use langevin_ops::shape::to_host;
use serde::{Deserialize, Serialize};

/// A machine with several hidden layers of bits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DbmConfig {
    /// Hidden units of each layer, from the one beside the visible units.
    pub layers: Vec<usize>,
    /// Rounds of the mean-field equations for each batch of training.
    pub mean_field: usize,
}

impl Default for DbmConfig {
    fn default() -> Self {
        Self { layers: vec![500, 1000], mean_field: 10 }
    }
}

impl Named for DbmConfig {
    const NAME: &'static str = "dbm";
    const ABOUT: &'static str = "deep Boltzmann machine with several hidden layers, of bits [Salakhutdinov09]";
}

impl DbmConfig {
    fn spec(&self, shape: &[usize]) -> DbmSpec {
        DbmSpec { shape: shape.to_vec(), layers: self.layers.clone(), mean_field: self.mean_field }
    }
}

impl Family for DbmConfig {
    fn states(&self) -> States {
        States::Bits
    }

    fn latent(&self) -> usize {
        self.spec(&[1]).latent()
    }

    fn check(&self, shape: &[usize]) -> Result<()> {
        self.spec(shape).validate()
    }

    fn build(&self, shape: &[usize], vb: VarBuilder) -> Result<Box<dyn Unnormalised>> {
        Ok(Box::new(Dbm::build(self.spec(shape), &vb)?))
    }
}

impl Unnormalised for Dbm {
    /// What the units of the even layers are where no odd one is on.
    fn begin(&self, n: usize, z: &mut Noise) -> Result<Tensor> {
        let even: Vec<_> = self.biases.iter().step_by(2).map(Tensor::detach).collect();
        z.bernoulli(&Tensor::cat(&even, 0)?.unsqueeze(0)?.repeat((n, 1))?)
    }

    fn energy_gradient(&self, x: &Tensor, factors: &[f64]) -> Result<Option<(Vec<f64>, Vec<Tensor>)>> {
        self.energy_grad(x, factors).map(Some)
    }

    fn latent_means(&self, x: &Tensor) -> Result<Option<Tensor>> {
        let hidden = self.mean_field(x, self.spec.mean_field)?;
        Tensor::cat(&hidden.into_iter().skip(1).step_by(2).collect::<Vec<_>>(), 1).map(Some)
    }

    /// By all states of the latent units if they are at most 12, else the variational bound.
    fn log_sum_latent(&self, x: &Tensor) -> Result<Option<Inferred>> {
        Ok(Some(match self.log_sum_hidden(x)? {
            Some(log_sum) => Inferred { log_sum, exact: true },
            None => Inferred { log_sum: self.bound(x)?, exact: false },
        }))
    }

    fn unit_means(&self, x: &Tensor) -> Result<Option<Vec<Tensor>>> {
        Dbm::unit_means(self, x).map(Some)
    }

    /// With m_l the offsets: dW_l' = dW_l - m_{l-1} db_l^T - db_{l-1} m_l^T, and db_l' = db_l - dW_l'^T m_{l-1} - dW_{l+1}' m_{l+1}.
    /// \[Montavon12\]
    fn centred(&self, grads: Vec<Tensor>, offsets: &[Tensor]) -> Result<Vec<Tensor>> {
        let layers = self.biases.len();
        if (grads.len(), offsets.len()) != (2 * layers - 1, layers) {
            let (found, all) = (offsets.len(), grads.len());
            bail!(
                "deep Boltzmann machine: {all} gradients and {found} offsets; there are {} and {layers}",
                2 * layers - 1
            );
        }
        let (mut biases, mut weights) = (grads[..layers].to_vec(), vec![]);
        let column = |v: &Tensor| v.unsqueeze(1);
        for (l, dw) in grads[layers..].iter().enumerate() {
            let (below, above) = (&grads[l], &grads[l + 1]);
            let dw = (dw - linear(&column(&offsets[l])?, &column(above)?, None)?)?;
            weights.push((dw - linear(&column(below)?, &column(&offsets[l + 1])?, None)?)?);
        }
        let along = |v: &Tensor, w: &Tensor| linear(&v.unsqueeze(0)?, w, None)?.squeeze(0);
        for (l, dw) in weights.iter().enumerate() {
            biases[l] = (&biases[l] - along(&offsets[l + 1], dw)?)?;
            biases[l + 1] = (&biases[l + 1] - along(&offsets[l], &dw.t()?)?)?;
        }
        biases.extend(weights);
        Ok(biases)
    }

    fn driven(&self, means: &[Tensor], pulls: &[Tensor]) -> Result<Option<Vec<Tensor>>> {
        if pulls.len() != self.weights.len() || means.len() != self.biases.len() {
            return Ok(Some(vec![]));
        }
        let weight = |(m, pull): (&Tensor, &Tensor)| m.unsqueeze(1)?.broadcast_mul(&pull.unsqueeze(0)?);
        let weights = means.iter().zip(pulls).map(weight).collect::<Result<Vec<_>>>()?;
        Ok(Some([vec![self.biases[0].detach().zeros_like()?], pulls.to_vec(), weights].concat()))
    }

    fn layers(&self) -> usize {
        self.weights.len()
    }

    fn greedy(&self, greedy: Greedy, x: &Tensor, z: &mut Noise) -> Result<Option<GreedyContrast>> {
        Dbm::greedy(self, greedy, x, z).map(Some)
    }

    /// That of [`Dbm::joined`].
    fn ladder(&self, means: Option<&[f64]>, rungs: usize) -> Result<Option<Box<dyn Ladder + '_>>> {
        joined_ladder(self, means, rungs).map(Some)
    }

    fn log_z_exact(&self) -> Result<Option<f64>> {
        Unnormalised::log_z_exact(&self.joined()?)
    }

    /// The weights of each unit of the first hidden layer.
    fn filters(&self) -> Result<Option<Tensor>> {
        let shape = [&[self.spec.layers[0]], self.spec.shape.as_slice()].concat();
        self.weights[0].detach().t()?.contiguous()?.reshape(shape).map(Some)
    }

    fn smoothed(&self, x: &Tensor) -> Result<Option<Tensor>> {
        let means = |logits: Vec<Tensor>| logits.iter().map(sigmoid).collect::<Result<Vec<_>>>();
        let odd = means(self.odd(&self.split(x)?)?)?;
        Ok(Some(Tensor::cat(&means(self.even(&odd)?)?, 1)?.detach()))
    }

    /// The means of all hidden layers by the mean-field equations.
    fn features(&self, x: &Tensor) -> Result<Option<Tensor>> {
        Tensor::cat(&self.mean_field(x, self.spec.mean_field)?, 1).map(Some)
    }
}

/// From independent units of the even layers, whose `means` may be given, to the machine.
fn joined_ladder<'a>(dbm: &Dbm, means: Option<&[f64]>, rungs: usize) -> Result<Box<dyn Ladder + 'a>> {
    let joined = dbm.joined()?;
    let own =
        || to_host(&joined.visible(&Tensor::zeros((1, joined.spec().hidden), joined.dtype(), joined.device())?)?);
    let means = means.map_or_else(own, |means| Ok(means.to_vec()))?;
    Ok(Box::new(RbmLadder::even(&joined, &means, rungs)?))
}
