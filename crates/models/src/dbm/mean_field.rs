//! The hidden layers given data: independent bits whose means solve the mean-field equations
//! m_l = sigmoid(b_l + m_{l-1} W_l + W_{l+1} m_{l+1}), and the bound of ln p that they give. \[Salakhutdinov09, section 3\]

use super::Dbm;
use candle_core::{Result, Tensor};
use langevin_ops::act::sigmoid;
use langevin_ops::linear::linear;
use langevin_ops::shape::to_host;

/// Rounds of the mean-field equations for a bound, at most, and the change of a mean from which on they go on: that of the bound is of
/// its square.
const SETTLED: usize = 1000;
const STILL: f64 = 1e-7;

impl Dbm {
    /// The means of all hidden layers given visible units `[B, ...]` by so many `rounds` of the mean-field equations
    /// m_l = sigmoid(b_l + m_{l-1} W_l + W_{l+1} m_{l+1}), from 1/2 on, odd layers first: `[B, n_l]` each. \[Salakhutdinov09, (7)\]
    pub fn mean_field(&self, v: &Tensor, rounds: usize) -> Result<Vec<Tensor>> {
        let mut field = Field::new(self, v)?;
        for _ in 0..rounds {
            field.round()?;
        }
        Ok(field.hidden())
    }

    /// The same, of each sample until a round changes no mean by more than 1e-7, or 1000 rounds.
    fn settled(&self, v: &Tensor) -> Result<Vec<Tensor>> {
        let (mut field, rows) = (Field::new(self, v)?, v.dim(0)?);
        let (mut left, mut done) = ((0..rows as u32).collect::<Vec<_>>(), Vec::<(Vec<u32>, Vec<Tensor>)>::new());
        for round in 1..=SETTLED {
            let changed = field.round()?;
            let ends = |change: f64| change <= STILL || change.is_nan() || round == SETTLED;
            let (end, go): (Vec<_>, Vec<_>) = (0..left.len() as u32).partition(|&i| ends(changed[i as usize]));
            if !end.is_empty() {
                let these = Tensor::new(end.as_slice(), v.device())?;
                let pick = |t: Tensor| t.index_select(&these, 0);
                let names = end.iter().map(|&i| left[i as usize]).collect();
                done.push((names, field.hidden().into_iter().map(pick).collect::<Result<_>>()?));
                if go.is_empty() {
                    break;
                }
                field = field.select(&go)?;
                left = go.iter().map(|&i| left[i as usize]).collect();
            }
        }
        // back in their order
        let mut places = vec![0u32; rows];
        let order = done.iter().flat_map(|(names, _)| names);
        order.enumerate().for_each(|(place, &name)| places[name as usize] = place as u32);
        let places = Tensor::new(places, v.device())?;
        let layer = |l: usize| {
            let parts: Vec<_> = done.iter().map(|(_, hidden)| &hidden[l]).collect();
            Tensor::cat(&parts, 0)?.index_select(&places, 0)
        };
        (0..self.spec.layers.len()).map(layer).collect()
    }

    /// The variational bound of ln sum_h exp(-E(v, h)) for visible units `[B, ...]`: -E(v, m) plus the entropy of independent hidden
    /// units of the means m, settled by the mean-field equations. At most the sum itself, by the divergence of these from
    /// p(h | v). \[Salakhutdinov09, (6)\]
    pub fn bound(&self, v: &Tensor) -> Result<Vec<f64>> {
        let latent = self.settled(v)?.into_iter().skip(1).step_by(2).collect();
        let even = [vec![self.rows(&v.detach())?], latent].concat();
        // odd layers are best for these even ones: their part is the softplus of their logits
        let mut sum = self.summed_out(&even, &self.odd(&even)?)?.neg()?;
        for mean in &even[1..] {
            sum = (sum + entropy(mean)?)?;
        }
        to_host(&sum.detach())
    }
}

/// Means of the hidden layers given visible units, on their way to the mean-field equations.
struct Field<'a> {
    dbm: &'a Dbm,
    from_visible: Tensor, // b_1 + v W_1
    odd: Vec<Tensor>,
    latent: Vec<Tensor>, // layers 2, 4, ...
}

impl<'a> Field<'a> {
    fn new(dbm: &'a Dbm, v: &Tensor) -> Result<Self> {
        let from_visible = dbm.logits(1, Some(&dbm.rows(&v.detach())?), None)?.detach();
        let half = |&n: &usize| from_visible.narrow(1, 0, 1)?.zeros_like()?.affine(0., 0.5)?.repeat((1, n));
        let latent = dbm.spec.layers.iter().skip(1).step_by(2).map(half).collect::<Result<_>>()?;
        Ok(Self { dbm, from_visible, odd: vec![], latent })
    }

    /// The odd layers anew, and then the even ones; the largest change of a mean of these, of each sample.
    fn round(&mut self) -> Result<Vec<f64>> {
        let (dbm, top) = (self.dbm, self.dbm.biases.len());
        let mean = |logits: Tensor| Ok(sigmoid(&logits)?.detach());
        // the visible layer is in its place, but its part is known
        let even = [std::slice::from_ref(&self.from_visible), self.latent.as_slice()].concat();
        let odd = |l: usize| match l {
            1 => mean((&self.from_visible + linear(&even[1], &dbm.weights[1], None)?)?),
            _ => mean(dbm.given(l, &even)?),
        };
        self.odd = (1..top).step_by(2).map(odd).collect::<Result<_>>()?;
        let mut changed = vec![0f64; self.from_visible.dim(0)?];
        for (i, l) in (2..top).step_by(2).enumerate() {
            let new = mean(dbm.given(l, &self.odd)?)?;
            let change = to_host(&(&new - &self.latent[i])?.abs()?.max(1)?)?;
            changed.iter_mut().zip(change).for_each(|(all, this)| *all = all.max(this));
            self.latent[i] = new;
        }
        Ok(changed)
    }

    /// The hidden layers in turn.
    fn hidden(&self) -> Vec<Tensor> {
        let layer = |l: usize| if l % 2 == 1 { self.odd[l / 2].clone() } else { self.latent[l / 2 - 1].clone() };
        (1..self.dbm.biases.len()).map(layer).collect()
    }

    /// Of some of the samples, in this order.
    fn select(&self, rows: &[u32]) -> Result<Self> {
        let rows = Tensor::new(rows, self.from_visible.device())?;
        let pick = |all: &[Tensor]| all.iter().map(|t| t.index_select(&rows, 0)).collect::<Result<_>>();
        let from_visible = self.from_visible.index_select(&rows, 0)?;
        Ok(Self { dbm: self.dbm, from_visible, odd: pick(&self.odd)?, latent: pick(&self.latent)? })
    }
}

/// The entropy of independent bits with these means, in nats: `[B, n]` -> `[B]`.
fn entropy(means: &Tensor) -> Result<Tensor> {
    // below 1e-300 p ln p is 0
    let part = |p: Tensor| p.clone() * p.clamp(1e-30, 1.)?.log()?;
    (part(means.clone())? + part(means.affine(-1., 1.)?)?)?.sum(1)?.neg()
}
