//! Layer-wise pre-training: each pair of layers in turn, from the visible one, is trained as a restricted Boltzmann machine on what
//! the layers below make of the data. \[Salakhutdinov09, section 4\]
//!
//! In the whole machine a layer between two others is driven by both; in that of one pair it is driven by one, which therefore counts
//! twice: a layer that is not the lowest of all has another below it, in whose place stands a second copy of the layer above, and one
//! that is not the top has a second copy of the layer below. So with u = 2 copies of the lower layer x, unless the pair is the top
//! one, and d = 2 copies of the upper layer h, unless it is the lowest,
//! P(h = 1 | x) = sigmoid(c + u x W) and P(x = 1 | h) = sigmoid(b + d W h).
//!
//! A layer between two others has a bias in both of their machines, and in the whole one the mean of the two.

use super::Dbm;
use crate::rbm::centred;
use candle_core::{Result, Tensor, bail};
use langevin_ops::act::{sigmoid, softplus_sum};
use langevin_ops::linear::{linear, linear_of_bits};
use langevin_ops::noise::Noise;
use langevin_ops::shape::{mean_per_sample, to_host};

/// Which pair of layers is trained, and what the pairs below have come to.
pub struct Greedy<'a> {
    /// The upper layer of the pair, from 1.
    pub layer: usize,
    /// Steps of Gibbs sampling from the data.
    pub k: usize,
    /// The factor of each sample in the gradient.
    pub factor: f64,
    /// The biases that the layers below the pair have as upper layers, from layer 1; those that are not there are taken of the machine
    /// as it is now, and kept.
    pub frozen: &'a mut Vec<Tensor>,
}

/// What a batch says of a pair of layers.
#[derive(Debug)]
pub struct GreedyContrast {
    /// The free energies of the data and of what the chains have come to, in the machine of the pair alone.
    pub energies: [Vec<f64>; 2],
    /// The means over the data of the lower and of the upper layer, `[n]` each.
    pub means: Vec<Tensor>,
    /// The mean squared difference between the data and what the chains have come to, of each sample.
    pub errors: Vec<f64>,
    layer: usize,
    pair: Vec<Tensor>, // of the bias of the upper layer, of the lower, of the weight
    none: Vec<Tensor>, // 0 for each parameter
}

impl GreedyContrast {
    /// The gradient in the order of the parameters, 0 where they are not of the pair; as it is with units less `offsets`, such as
    /// their means, of the lower and the upper layer.
    pub fn grads(self, offsets: Option<&[Tensor]>) -> Result<Vec<Tensor>> {
        let pair = offsets.map_or(Ok(self.pair.clone()), |offsets| centred(self.pair, offsets))?;
        let (mut grads, layer) = (self.none, self.layer);
        let weight = grads.len() / 2 + layer; // there is one bias more than weights
        let share = if layer == 1 { 1. } else { 0.5 }; // the bias of a layer in between is the mean of two
        grads[layer - 1] = (&pair[1] * share)?;
        for (i, grad) in [layer, weight].into_iter().zip([&pair[0], &pair[2]]) {
            grads[i] = grad.clone();
        }
        Ok(grads)
    }
}

/// A pair of layers as a machine of its own.
struct Pair {
    weight: Tensor, // [lower, upper]
    lower: Tensor,  // its bias, in this machine
    upper: Tensor,
    copies: [f64; 2], // u and d
}

impl Pair {
    /// c + u x W: `[B, lower]` -> `[B, upper]`.
    fn up(&self, x: &Tensor) -> Result<Tensor> {
        (linear_of_bits(x, &self.weight.t()?, None)? * self.copies[0])?.broadcast_add(&self.upper)
    }

    /// b + d W h.
    fn down(&self, h: &Tensor) -> Result<Tensor> {
        (linear_of_bits(h, &self.weight, None)? * self.copies[1])?.broadcast_add(&self.lower)
    }

    /// F(x) = -u x.b - d sum softplus(c + u x W) of rows with their logits.
    fn energy(&self, x: &Tensor, logits: &Tensor) -> Result<Vec<f64>> {
        let own = (linear(x, &self.lower.unsqueeze(0)?, None)?.squeeze(1)? * -self.copies[0])?;
        to_host(&(own - (softplus_sum(logits)? * self.copies[1])?)?)
    }
}

impl Dbm {
    /// The pair below `layer` as it is now, with `frozen` biases below.
    fn pair(&self, layer: usize, frozen: &[Tensor]) -> Result<Pair> {
        let top = self.weights.len();
        let weight = self.weights[layer - 1].detach();
        let lower = match layer.checked_sub(2).and_then(|i| frozen.get(i)) {
            // of the machine below it is the other half of the mean
            Some(other) => ((self.biases[layer - 1].detach() * 2.)? - other)?,
            None => self.biases[layer - 1].detach(),
        };
        let copies = [if layer == top { 1. } else { 2. }, if layer == 1 { 1. } else { 2. }];
        Ok(Pair { weight, lower, upper: self.biases[layer].detach(), copies })
    }

    /// What the layers below `layer` make of data `[B, ...]`: drawn units of the layer beneath it, `[B, n]`.
    fn below(&self, layer: usize, v: &Tensor, frozen: &[Tensor], z: &mut Noise) -> Result<Tensor> {
        let mut x = self.rows(&v.detach())?;
        for (weight, bias) in self.weights.iter().zip(frozen).take(layer - 1) {
            let logits = (linear_of_bits(&x, &weight.detach().t()?, None)? * 2.)?.broadcast_add(bias)?;
            x = z.bernoulli(&logits)?;
        }
        Ok(x)
    }

    /// Contrastive divergence of one pair of layers on data `[B, ...]`.
    ///
    /// Errors if there is no such pair.
    pub fn greedy(&self, mut greedy: Greedy, v: &Tensor, z: &mut Noise) -> Result<GreedyContrast> {
        self.freeze(&mut greedy)?;
        let (layer, each) = (greedy.layer, greedy.factor);
        let x = self.below(layer, v, greedy.frozen, z)?;
        let pair = self.pair(layer, greedy.frozen)?;
        let first = pair.up(&x)?;
        let (mut y, mut logits) = (x.clone(), first.clone());
        for _ in 0..greedy.k {
            let h = z.bernoulli(&logits)?;
            y = z.bernoulli(&pair.down(&h)?)?;
            logits = pair.up(&y)?;
        }
        let (p, q) = (sigmoid(&first)?, sigmoid(&logits)?);
        let less = |a: Tensor, b: Tensor| (b - a)? * each; // down the data's side, up the chains'
        let lower = less(x.sum(0)?, y.sum(0)?)?;
        let upper = less(p.sum(0)?, q.sum(0)?)?;
        let product = |x: &Tensor, p: &Tensor| linear_of_bits(&x.t()?, &p.t()?, None);
        let weight = less(product(&x, &p)?, product(&y, &q)?)?;
        let zero = |t: &Tensor| t.detach().zeros_like();
        Ok(GreedyContrast {
            energies: [pair.energy(&x, &first)?, pair.energy(&y, &logits)?],
            means: vec![x.mean(0)?, p.mean(0)?],
            errors: to_host(&mean_per_sample(&(&x - &y)?.sqr()?)?)?,
            layer,
            pair: vec![upper, lower, weight],
            none: self.biases.iter().chain(&self.weights).map(zero).collect::<Result<_>>()?,
        })
    }

    /// Keeps the biases of the layers below the pair.
    fn freeze(&self, greedy: &mut Greedy) -> Result<()> {
        let top = self.weights.len();
        if !(1..=top).contains(&greedy.layer) {
            bail!("deep Boltzmann machine: no pair of layers {} in {top}", greedy.layer);
        }
        while greedy.frozen.len() + 1 < greedy.layer {
            greedy.frozen.push(self.biases[greedy.frozen.len() + 1].detach().copy()?);
        }
        Ok(())
    }
}
