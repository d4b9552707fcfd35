//! The deep Boltzmann machine: bits in layers, E(v, h1, h2, ...) = -sum_l x_l.b_l - sum_l x_{l-1} W_l x_l with x_0 = v and
//! x_l = h_l. \[Salakhutdinov09\]
//!
//! Layers of even number are independent given those of odd number, and these given them. A state is therefore a row
//! (v, h2, h4, ...) of the even ones: the odd ones are summed out in closed form, as in a restricted Boltzmann machine whose
//! visible units are all even ones and whose hidden units are all odd ones, [`Dbm::joined`]. Of its units h2, h4, ... are latent:
//! data say nothing of them, and sums over them have no closed form. Their means given v are those of the mean-field equations, which
//! also bound log p(v) from below.

mod family;
mod greedy;
mod mean_field;

pub use family::DbmConfig;
pub use greedy::{Greedy, GreedyContrast};

use crate::rbm::{Rbm, binary};
use candle_core::{DType, Device, Result, Tensor, bail};
use candle_nn::{Init, VarBuilder};
use langevin_dynamics::density::unclamped;
use langevin_dynamics::{Conditionals, Density, Energy};
use langevin_ops::act::{sigmoid, softplus_sum};
use langevin_ops::linear::{linear, linear_of_bits};
use langevin_ops::noise::Noise;
use langevin_ops::shape::{PerSample, scale, to_host};
use langevin_ops::stats::log_sum_exp;

/// What a machine is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DbmSpec {
    /// Shape of the visible units: `[1, 28, 28]` of images, `[D]` of rows.
    pub shape: Vec<usize>,
    /// Hidden units of each layer, from the one beside the visible units.
    pub layers: Vec<usize>,
    /// Rounds of the mean-field equations in training.
    pub mean_field: usize,
}

/// Units in all, and weights of one pair of layers, at most.
const MOST: usize = 1 << 28;

/// Hidden layers at most.
const DEEPEST: usize = 9;

impl DbmSpec {
    /// Number of visible units.
    pub fn units(&self) -> usize {
        self.shape.iter().product()
    }

    /// Units of all layers, the visible ones first.
    pub fn sizes(&self) -> Vec<usize> {
        [&[self.units()], self.layers.as_slice()].concat()
    }

    /// Units of the hidden layers of even number, which states hold beside the visible ones.
    pub fn latent(&self) -> usize {
        self.layers.iter().skip(1).step_by(2).sum()
    }

    /// One sentence that names the key and what it may be.
    pub fn validate(&self) -> Result<()> {
        let visible = self.shape.iter().fold(1usize, |n, &d| n.saturating_mul(d));
        if self.shape.is_empty() || self.shape.len() > 4 || visible == 0 || visible > MOST {
            bail!("visible units of shape {:?}: give [C, H, W] or [D] with at most 2^28 of them", self.shape);
        }
        let layers = &self.layers;
        if !(2..=DEEPEST).contains(&layers.len()) {
            bail!(
                "`layers` is {layers:?}; give 2 to {DEEPEST} hidden layers, such as [500, 1000]; one alone is a model of the family rbm"
            );
        }
        if layers.contains(&0) || layers.iter().fold(visible, |n, &d| n.saturating_add(d)) > MOST {
            bail!("`layers` is {layers:?}; give each layer at least 1 unit, and all together at most 2^28");
        }
        if !(1..=10_000).contains(&self.mean_field) {
            bail!("`mean_field` is {}; give 1 to 10000 rounds", self.mean_field);
        }
        Ok(())
    }
}

/// A deep Boltzmann machine.
#[derive(Clone, Debug)]
pub struct Dbm {
    spec: DbmSpec,
    biases: Vec<Tensor>,  // of each layer, [n_l]
    weights: Vec<Tensor>, // between each layer and the next, [n_l, n_{l+1}]
}

/// Standard deviation of the first weights. \[Hinton12, section 8\]
const FIRST: f64 = 0.01;

/// Latent units whose states are all summed for log p(v), at most.
const EXACT: usize = 12;

impl Dbm {
    /// The machine of the `weights` between each layer and the next, `[n_l, n_{l+1}]`, and the `biases` of each, `[n_l]`, the visible
    /// one first, in their type, with visible units of `shape`.
    ///
    /// Errors, naming it, if one has another shape.
    pub fn of(shape: &[usize], weights: &[Tensor], biases: &[Tensor]) -> Result<Self> {
        let layers = biases.iter().skip(1).map(Tensor::elem_count).collect();
        let spec = DbmSpec { shape: shape.to_vec(), layers, mean_field: DbmConfig::default().mean_field };
        spec.validate()?;
        let sizes = spec.sizes();
        let found: Vec<_> = biases.iter().chain(weights).map(|t| t.dims().to_vec()).collect();
        let pairs = sizes.windows(2).map(<[usize]>::to_vec);
        let needed: Vec<_> = sizes.iter().map(|&n| vec![n]).chain(pairs).collect();
        if found != needed {
            bail!("deep Boltzmann machine: biases and weights of shapes {found:?}; give {needed:?}");
        }
        let own = |t: &Tensor| t.detach();
        Ok(Self { spec, biases: biases.iter().map(own).collect(), weights: weights.iter().map(own).collect() })
    }

    /// The machine of the parameters that `vb` gives: `bias.0` of the visible units, `bias.1`, ..., and `weight.1` between them and
    /// the first hidden layer, `weight.2`, ...
    pub(crate) fn build(spec: DbmSpec, vb: &VarBuilder) -> Result<Self> {
        spec.validate()?;
        let (sizes, small) = (spec.sizes(), Init::Randn { mean: 0., stdev: FIRST });
        let bias = |(l, &n): (usize, &usize)| vb.get_with_hints(n, &format!("bias.{l}"), Init::Const(0.));
        let weight = |(l, n): (usize, &[usize])| vb.get_with_hints((n[0], n[1]), &format!("weight.{}", l + 1), small);
        let biases = sizes.iter().enumerate().map(bias).collect::<Result<_>>()?;
        let weights = sizes.windows(2).enumerate().map(weight).collect::<Result<_>>()?;
        Ok(Self { spec, biases, weights })
    }

    /// What it is made of.
    pub fn spec(&self) -> &DbmSpec {
        &self.spec
    }

    /// The biases of each layer, `[n_l]`, the visible one first.
    pub fn biases(&self) -> &[Tensor] {
        &self.biases
    }

    /// The weights between each layer and the next, `[n_l, n_{l+1}]`.
    pub fn weights(&self) -> &[Tensor] {
        &self.weights
    }

    /// Type of the parameters, and of the states.
    pub fn dtype(&self) -> DType {
        self.biases[0].dtype()
    }

    /// Where the parameters are.
    pub fn device(&self) -> &Device {
        self.biases[0].device()
    }

    /// A copy in another type.
    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        let wide = |all: &[Tensor]| all.iter().map(|t| t.detach().to_dtype(dtype)).collect::<Result<Vec<_>>>();
        Ok(Self { spec: self.spec.clone(), ..Self::of(&self.spec.shape, &wide(&self.weights)?, &wide(&self.biases)?)? })
    }

    /// The even layers of states `[B, V + latent]`: `[B, n_l]` each.
    fn split(&self, x: &Tensor) -> Result<Vec<Tensor>> {
        let (sizes, units) = (self.spec.sizes(), self.spec.units() + self.spec.latent());
        if x.rank() != 2 || x.dim(1)? != units {
            bail!("deep Boltzmann machine: states of shape {:?}; give [B, {units}]", x.dims());
        }
        let (mut layers, mut from) = (vec![], 0);
        for n in sizes.into_iter().step_by(2) {
            layers.push(x.narrow(1, from, n)?.contiguous()?);
            from += n;
        }
        Ok(layers)
    }

    /// Data `[B, ...]` as rows `[B, V]`.
    fn rows(&self, v: &Tensor) -> Result<Tensor> {
        match v.dims() {
            [_, shape @ ..] if shape == self.spec.shape => v.flatten_from(1),
            other => {
                let shape = &self.spec.shape;
                bail!("deep Boltzmann machine: visible units of shape {other:?}; give [B, ...] with {shape:?} each")
            }
        }
    }

    /// Layer `l`'s logits given its neighbours: b_l + x_{l-1} W_l + x_{l+1} W_{l+1}^T.
    fn logits(&self, l: usize, below: Option<&Tensor>, above: Option<&Tensor>) -> Result<Tensor> {
        let from_below = below.map(|x| Ok::<_, candle_core::Error>((x, self.weights[l - 1].t()?))).transpose()?;
        let from_above = above.map(|x| (x, self.weights[l].clone()));
        let mut sum: Option<Tensor> = None;
        for (x, w) in from_below.into_iter().chain(from_above) {
            sum = Some(match sum {
                Some(sum) => (sum + linear_of_bits(x, &w, None)?)?,
                None => linear_of_bits(x, &w, Some(&self.biases[l]))?,
            });
        }
        sum.map_or_else(|| bail!("deep Boltzmann machine: layer {l} has no neighbours"), Ok)
    }

    /// The logits of layer `l` given all layers whose numbers are even where its own is odd, and odd where it is even.
    fn given(&self, l: usize, others: &[Tensor]) -> Result<Tensor> {
        // of the even layers its neighbours are those of places l/2 and l/2 + 1, of the odd ones those of l/2 - 1 and l/2
        let below = (l / 2 + l % 2).checked_sub(1);
        self.logits(l, below.and_then(|i| others.get(i)), others.get(l / 2 + l % 2))
    }

    /// [`Dbm::given`] of the odd layers, given the even ones.
    fn odd(&self, even: &[Tensor]) -> Result<Vec<Tensor>> {
        (1..self.biases.len()).step_by(2).map(|l| self.given(l, even)).collect()
    }

    /// [`Dbm::given`] of the even layers, given the odd ones.
    fn even(&self, odd: &[Tensor]) -> Result<Vec<Tensor>> {
        (0..self.biases.len()).step_by(2).map(|l| self.given(l, odd)).collect()
    }

    /// -sum of x_l.b_l over the even layers, less softplus of the logits of the odd ones: `[B]`.
    fn summed_out(&self, even: &[Tensor], odd_logits: &[Tensor]) -> Result<Tensor> {
        let mut sum = even[0].zeros_like()?.detach().sum(1)?;
        for (x, bias) in even.iter().zip(self.biases.iter().step_by(2)) {
            sum = (sum - linear(x, &bias.unsqueeze(0)?, None)?.squeeze(1)?)?;
        }
        for logits in odd_logits {
            sum = (sum - softplus_sum(logits)?)?;
        }
        Ok(sum)
    }

    /// E of all layers, the visible units as rows `[B, V]`, of bits or, since E is linear in each layer, of means of independent
    /// units: `[B]`.
    pub fn joint_energy(&self, layers: &[Tensor]) -> Result<Tensor> {
        let mut sum = layers[0].zeros_like()?.sum(1)?;
        for (l, x) in layers.iter().enumerate() {
            let logits = match l {
                0 => x.zeros_like()?.broadcast_add(&self.biases[0])?,
                _ => self.logits(l, layers.get(l - 1), None)?,
            };
            sum = (sum - (x * logits)?.sum(1)?)?;
        }
        Ok(sum)
    }

    /// ln sum_h exp(-E(v, h)) for visible units `[B, ...]`, by all states of the latent units; `None` if these are more than 12.
    pub fn log_sum_hidden(&self, v: &Tensor) -> Result<Option<Vec<f64>>> {
        let (v, latent) = (self.rows(v)?, self.spec.latent());
        if latent > EXACT {
            return Ok(None);
        }
        let (rows, states) = (v.dim(0)?, 1 << latent);
        let mut sums = vec![f64::NEG_INFINITY; rows];
        let all = binary(0, states, latent, self.device())?.to_dtype(self.dtype())?;
        for s in 0..states {
            let x = Tensor::cat(&[&v, &all.narrow(0, s, 1)?.repeat((rows, 1))?], 1)?;
            let energies = to_host(&self.energy(&x)?.detach())?;
            sums.iter_mut().zip(energies).for_each(|(sum, energy)| *sum = log_sum_exp(&[*sum, -energy]));
        }
        Ok(Some(sums))
    }

    /// The same joint density as a restricted Boltzmann machine: its visible units are the even layers in turn, its hidden units the
    /// odd ones; layers that are no neighbours have weights 0. What is known of such a machine (log Z, ladders) is known of this one.
    pub fn joined(&self) -> Result<Rbm> {
        let layer = |of: &[Tensor], first: usize| {
            let these: Vec<_> = of.iter().skip(first).step_by(2).map(Tensor::detach).collect();
            Tensor::cat(&these, 0)
        };
        let (even, odd) = (layer(&self.biases, 0)?, layer(&self.biases, 1)?);
        let sizes = self.spec.sizes();
        let block = |e: usize, o: usize| match (e, o) {
            (e, o) if o == e + 1 => self.weights[e].detach().contiguous(),
            (e, o) if e == o + 1 => self.weights[o].detach().t()?.contiguous(),
            (e, o) => Tensor::zeros((sizes[e], sizes[o]), self.dtype(), self.device()),
        };
        let row =
            |e: usize| Tensor::cat(&(1..sizes.len()).step_by(2).map(|o| block(e, o)).collect::<Result<Vec<_>>>()?, 1);
        let weight = Tensor::cat(&(0..sizes.len()).step_by(2).map(row).collect::<Result<Vec<_>>>()?, 0)?;
        Rbm::of(&[even.elem_count()], &weight, &even, &odd)
    }

    /// E of each of the states `x` `[B, V + latent]`, of bits or of means of independent units, with the odd layers summed out; and the
    /// gradient of the sum of `factors` (one, or one a state) times E, in the order `bias.0`, `bias.1`, ..., `weight.1`, ...: with p_l
    /// the means of an odd layer, dE/db_l = -p_l and dE/dW = -x p, and -x_l of an even one.
    pub fn energy_grad(&self, x: &Tensor, factors: &[f64]) -> Result<(Vec<f64>, Vec<Tensor>)> {
        factors.check(x.dim(0)?, "factors of states")?;
        let even = self.split(&x.detach())?;
        let logits: Vec<_> = self.odd(&even)?.iter().map(Tensor::detach).collect();
        let energies = to_host(&self.summed_out(&even, &logits)?.detach())?;
        let down: Vec<f64> = (0..x.dim(0)?).map(|i| -factors.at(i)).collect();
        let row = Tensor::new(down.as_slice(), x.device())?.to_dtype(x.dtype())?.unsqueeze(0)?;
        let odd = logits.iter().map(sigmoid).collect::<Result<Vec<_>>>()?;
        let scaled = odd.iter().map(|p| scale(p, &down)?.t()).collect::<Result<Vec<_>>>()?; // [n_l, B]
        let bias = |l: usize| {
            let x = if l % 2 == 1 { &odd[l / 2] } else { &even[l / 2] };
            linear(&row, &x.t()?, None)?.squeeze(0)
        };
        let weight = |l: usize| match l % 2 {
            0 => linear_of_bits(&even[l / 2].t()?, &scaled[l / 2], None),
            _ => linear(&scaled[l / 2], &even[l / 2 + 1].t()?, None),
        };
        let biases = (0..self.biases.len()).map(bias);
        let grads = biases.chain((0..self.weights.len()).map(weight)).collect::<Result<_>>()?;
        Ok((energies, grads))
    }

    /// The means over the states `x` `[B, V + latent]` of the units of each layer, of the odd ones given the others: `[n_l]` each.
    pub fn unit_means(&self, x: &Tensor) -> Result<Vec<Tensor>> {
        let even = self.split(&x.detach())?;
        let odd = self.odd(&even)?;
        let mean = |l: usize| match l % 2 {
            0 => even[l / 2].mean(0),
            _ => sigmoid(&odd[l / 2])?.detach().mean(0),
        };
        (0..self.biases.len()).map(mean).collect()
    }
}

impl Energy for Dbm {
    /// E(v, h2, h4, ...) of states `[B, V + latent]`, the odd layers summed out.
    fn energy(&self, x: &Tensor) -> Result<Tensor> {
        let even = self.split(x)?;
        self.summed_out(&even, &self.odd(&even)?)
    }
}

/// All even layers are one block: the odd layers are drawn given them, and then they given these.
impl Conditionals for Dbm {
    fn blocks(&self) -> usize {
        1
    }

    fn draw(&self, _block: usize, x: &Tensor, clamped: Option<&Tensor>, z: &mut Noise) -> Result<Tensor> {
        let mut bits = |logits: Vec<Tensor>| logits.iter().map(|l| z.bernoulli(l)).collect::<Result<Vec<_>>>();
        let odd = bits(self.odd(&self.split(x)?)?)?;
        let drawn = Tensor::cat(&bits(self.even(&odd)?)?, 1)?;
        unclamped(x, drawn, clamped)
    }
}

impl Density for Dbm {
    fn as_energy(&self) -> Option<&dyn Energy> {
        Some(self)
    }

    fn as_conditionals(&self) -> Option<&dyn Conditionals> {
        Some(self)
    }
}
