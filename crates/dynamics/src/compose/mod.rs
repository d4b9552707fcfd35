//! Models made of models by their energies: products, powers, negations and mixtures. \[Hinton02; Du20; Du23\]
//!
//! `a & b` has the energy E_a + E_b, `w*a` w E_a, `!a` -E_a, all of it divided by a temperature; `a | r:b` has
//! -ln(exp(-E_a) + r exp(-E_b)) and asks for normalised energies, which [`crate::likelihood::Normalised`] makes of others,
//! compositions among them. At noise level t these are compositions of noisy densities, which are not the noisy
//! composition: no reverse process leads from one to the next, and samplers need MCMC at each level (`pc` with a corrector,
//! as \[Du23\]; `annealed-mcmc`, in small steps), or weights (`smc`).
//!
//! A negated part must leave the whole integrable: `2*a & !b` where b is not much narrower than a (of Gaussians, where its
//! variance is more than half of a's). At pure noise all parts are one Gaussian: with weights that add up to 0 or less, as in
//! `a & !b`, the composition is refused, however wide b is. Where tails make it diverge, chains run away, which their reports
//! show.

mod expression;

pub use expression::Expression;

use crate::denoiser::each;
use crate::noisy::{Jet, NoisyEnergy};
use crate::process::Within;
use crate::wrap::Reframed;
use crate::{Denoiser, Process};
use candle_core::{Result, Tensor, bail};
use langevin_ops::shape::{scale, to_host};

/// A composition of models. Those of other processes than the first are reframed onto that of the first, and its span is
/// what of that all of them know.
pub struct Composed<'a> {
    parts: Vec<Reframed<'a>>,
    process: Within<'a>,
    tree: Tree,
    precision: f64,
    normalised: bool,
}

/// The expression with its models by their place, weights and temperature included.
enum Tree {
    Part(usize),
    Weighted(f64, Box<Tree>),
    Product(Vec<Tree>),
    Mixture(Vec<(f64, Tree)>), // with ln of the ratio
}

impl Tree {
    fn of(expression: &Expression, names: &[&str]) -> Result<Self> {
        Ok(match expression {
            Expression::Model(name) => match names.iter().position(|known| known == name) {
                Some(at) => Self::Part(at),
                None => bail!("compose: there is no model `{name}`; there are: {}", names.join(", ")),
            },
            Expression::Weighted(w, of) => Self::Weighted(*w, Box::new(Self::of(of, names)?)),
            Expression::Product(parts) => {
                Self::Product(parts.iter().map(|part| Self::of(part, names)).collect::<Result<_>>()?)
            }
            Expression::Mixture(parts) => {
                let part =
                    |(ratio, of): &(Option<f64>, Expression)| Ok((ratio.unwrap_or(1.).ln(), Self::of(of, names)?));
                Self::Mixture(parts.iter().map(part).collect::<Result<_>>()?)
            }
        })
    }

    /// The energy, of those of the parts.
    fn energy(&self, of: &[f64]) -> f64 {
        match self {
            Self::Part(at) => of[*at],
            Self::Weighted(w, inner) => w * inner.energy(of),
            Self::Product(parts) => parts.iter().map(|part| part.energy(of)).sum(),
            Self::Mixture(parts) => {
                let logs = logs(parts, of);
                let top = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                -top - logs.iter().map(|log| (log - top).exp()).sum::<f64>().ln()
            }
        }
    }

    /// Adds `share` times dE/dE_k, for each part k, to `shares`: by them go all derivatives of the energy.
    fn spread(&self, of: &[f64], share: f64, shares: &mut [f64]) {
        match self {
            Self::Part(at) => shares[*at] += share,
            Self::Weighted(w, inner) => inner.spread(of, w * share, shares),
            Self::Product(parts) => parts.iter().for_each(|part| part.spread(of, share, shares)),
            Self::Mixture(parts) => {
                let energy = self.energy(of);
                for (log, (_, part)) in logs(parts, of).iter().zip(parts) {
                    part.spread(of, share * (log + energy).exp(), shares);
                }
            }
        }
    }

    /// Whether the shares depend on the energies.
    fn mixes(&self) -> bool {
        match self {
            Self::Part(_) => false,
            Self::Weighted(_, inner) => inner.mixes(),
            Self::Product(parts) => parts.iter().any(Self::mixes),
            Self::Mixture(_) => true,
        }
    }

    /// The precision of the composition in units of that of pure noise, of those of the parts: weights add up, and the
    /// widest of a mixture counts.
    fn precision(&self, of: &[f64]) -> f64 {
        match self {
            Self::Part(at) => of[*at],
            Self::Weighted(w, inner) => w * inner.precision(of),
            Self::Product(parts) => parts.iter().map(|part| part.precision(of)).sum(),
            Self::Mixture(parts) => parts.iter().map(|(_, part)| part.precision(of)).fold(f64::INFINITY, f64::min),
        }
    }

    /// See [`Composed::unevenness`].
    fn unevenness(&self, of: &[f64]) -> f64 {
        match self {
            Self::Part(_) => 1.,
            Self::Weighted(_, inner) => inner.unevenness(of),
            Self::Product(parts) => parts.iter().map(|part| part.unevenness(of)).fold(1., f64::max),
            Self::Mixture(parts) => {
                let widest = self.precision(of);
                parts.iter().map(|(_, part)| part.unevenness(of).max(part.precision(of) / widest)).fold(1., f64::max)
            }
        }
    }
}

/// ln(ratio) - E of each part of a mixture.
fn logs(parts: &[(f64, Tree)], of: &[f64]) -> Vec<f64> {
    parts.iter().map(|(log, part)| log - part.energy(of)).collect()
}

impl<'a> Composed<'a> {
    /// `expression` over `models`, each with its name, at a temperature that divides the energy. Energies that are normalised
    /// are taken to have one constant, all the same; [`crate::likelihood::Constants::same`] gives each its own.
    ///
    /// Errors if a name has no model or a model no name in it, if the models have no noise level in common, if a mixture
    /// has a part without an energy or a normaliser and no ratio, or if no density comes of it.
    pub fn new(expression: &Expression, models: &[(&str, &'a dyn Denoiser)], temperature: f64) -> Result<Self> {
        if !(temperature.is_finite() && temperature > 0.) {
            bail!("compose: temperature is {temperature}; it must be a number above 0");
        }
        let names: Vec<&str> = models.iter().map(|(name, _)| *name).collect();
        let tree = Tree::of(expression, &names)?;
        let used = expression.names();
        if let Some(idle) = names.iter().find(|name| !used.contains(name)) {
            bail!("compose: the model `{idle}` is not in \"{expression}\"; leave it out, or name it there");
        }
        let Some((_, first)) = models.first() else { bail!("compose: there are no models") };
        let mut process = Within::all(first.process());
        let mut parts = vec![];
        for (_, model) in models {
            process = process.and(model.process())?;
            parts.push(Reframed::new(*model, first.process())?);
        }
        let energy = |name: &str| models.iter().find(|(own, _)| *own == name).and_then(|(_, m)| m.noisy_energy());
        let known = |name: &str| energy(name).is_some_and(|e| e.normalised());
        if tree.mixes()
            && let Some((name, _)) = models.iter().find(|(_, model)| model.noisy_energy().is_none())
        {
            bail!("compose: a mixture needs energies, and `{name}` has a score alone; use & and weights, or an energy");
        }
        if let Some((_, of)) = expression.unnormalised(&known).iter().find(|(ratio, _)| ratio.is_none()) {
            bail!(
                "compose: `{of}` is part of a mixture, but how much of it there is depends on its normaliser, which is not \
                 known; estimate it with --estimate-ratios, train it with model.normalised = true and loss.time, or give \
                 the ratio of its exp(-E) to the others', such as 1:{of}"
            );
        }
        let own: Vec<f64> = models.iter().map(|(_, model)| model.prior_precision()).collect();
        let precision = tree.precision(&own) / temperature;
        if !(precision.is_finite() && precision > 0.) {
            bail!(
                "compose: the weights of \"{expression}\" add up to {}: there is no such density; they must add up to \
                 more than 0",
                precision * temperature
            );
        }
        let normalised = temperature == 1. && expression.normalised(&known);
        let tree = Tree::Weighted(1. / temperature, Box::new(tree));
        Ok(Self { parts, process, tree, precision, normalised })
    }

    /// By how many times the precisions of the parts of a mixture differ at the prior end, r: 1 for those alike. Samples
    /// begin as wide as the widest part, and find the others only while D/2 (r - 1 - ln r) is a few nats, D the dimension.
    pub fn unevenness(&self) -> f64 {
        let own: Vec<f64> = self.parts.iter().map(|part| part.prior_precision()).collect();
        self.tree.unevenness(&own)
    }

    /// Shares of the parts that hold everywhere; `None` where they depend on the energies.
    fn shares(&self) -> Option<Vec<f64>> {
        if self.tree.mixes() {
            return None;
        }
        let mut shares = vec![0.; self.parts.len()];
        self.tree.spread(&vec![0.; self.parts.len()], 1., &mut shares);
        Some(shares)
    }

    fn energies(&self) -> Result<Vec<&dyn NoisyEnergy>> {
        match self.parts.iter().map(|part| part.noisy_energy()).collect() {
            Some(energies) => Ok(energies),
            None => bail!("compose: not every model has an energy"),
        }
    }

    /// The energy of each sample, and the shares of the parts in its derivatives, `[K][B]`, from the energies of the parts.
    fn weigh(&self, energies: &[Tensor]) -> Result<(Tensor, Vec<Vec<f64>>)> {
        let own: Vec<Vec<f64>> = energies.iter().map(to_host).collect::<Result<_>>()?;
        let Some(first) = energies.first() else { bail!("compose: there are no models") };
        let (batch, k) = (first.dim(0)?, own.len());
        let (mut energy, mut shares) = (vec![], vec![vec![0.; batch]; k]);
        for n in 0..batch {
            let of: Vec<f64> = own.iter().map(|own| own[n]).collect();
            let mut share = vec![0.; k];
            self.tree.spread(&of, 1., &mut share);
            energy.push(self.tree.energy(&of));
            shares.iter_mut().zip(share).for_each(|(shares, share)| shares[n] = share);
        }
        Ok((Tensor::from_vec(energy, batch, first.device())?.to_dtype(first.dtype())?, shares))
    }
}

/// The sum of tensors, each times its share, one for all samples or one a sample.
fn weighted<'t>(shares: &[Vec<f64>], of: impl IntoIterator<Item = &'t Tensor>) -> Result<Tensor> {
    let mut total: Option<Tensor> = None;
    for (share, x) in shares.iter().zip(of) {
        let term = scale(x, share)?;
        total = Some(match total {
            Some(total) => (total + term)?,
            None => term,
        });
    }
    total.map_or_else(|| bail!("compose: there are no models"), Ok)
}

impl Denoiser for Composed<'_> {
    fn process(&self) -> &dyn Process {
        &self.process
    }

    /// (x + sigma^2 score) / alpha: what a denoiser with that score would say. Errors at pure noise, if weights do not add
    /// up to 1 there.
    fn x0(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        let over = |f: fn(f64, f64) -> f64| each(self.process(), t, |m| f(m.alpha, m.sigma));
        let shares = self.shares();
        let rest = shares.as_ref().map(|shares| 1. - shares.iter().sum::<f64>());
        if rest != Some(0.) && over(|alpha, _| alpha).iter().any(|alpha| *alpha < 1e-6) {
            bail!(
                "compose: x0 cannot be told where alpha = 0, and {:?} is there at t = {t:?}; use sampler.name=annealed-mcmc, \
                 or a process that ends before (t_max of cosine and flow)",
                self.process()
            );
        }
        let (Some(shares), Some(rest)) = (shares, rest) else {
            let lift = scale(&self.score(x, t)?, &over(|alpha, sigma| sigma * sigma / alpha))?;
            return scale(x, &over(|alpha, _| 1. / alpha))? + lift;
        };
        let x0: Vec<Tensor> = self.parts.iter().map(|part| part.x0(x, t)).collect::<Result<_>>()?;
        let sum = weighted(&shares.iter().map(|share| vec![*share]).collect::<Vec<_>>(), &x0)?;
        if rest == 0. {
            return Ok(sum);
        }
        sum + scale(x, &over(|alpha, _| 1. / alpha).iter().map(|inverse| rest * inverse).collect::<Vec<_>>())?
    }

    fn score(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        match self.shares() {
            Some(shares) => {
                let scores: Vec<Tensor> = self.parts.iter().map(|part| part.score(x, t)).collect::<Result<_>>()?;
                weighted(&shares.iter().map(|share| vec![*share]).collect::<Vec<_>>(), &scores)
            }
            None => self.energy_grad(x, t)?.1.neg(),
        }
    }

    fn noisy_energy(&self) -> Option<&dyn NoisyEnergy> {
        self.energies().ok().map(|_| self as &dyn NoisyEnergy)
    }

    fn prior_precision(&self) -> f64 {
        self.precision
    }

    fn whole_batch(&self) -> bool {
        self.parts.iter().any(|part| part.whole_batch())
    }
}

/// Weighed on the host: autodiff does not see through it, and its own derivatives are exact.
impl NoisyEnergy for Composed<'_> {
    fn energy_at(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        let energies: Vec<Tensor> = self.energies()?.iter().map(|e| e.energy_at(x, t)).collect::<Result<_>>()?;
        Ok(self.weigh(&energies)?.0)
    }

    fn energy_grad(&self, x: &Tensor, t: &[f64]) -> Result<(Tensor, Tensor)> {
        let all: Vec<_> = self.energies()?.iter().map(|e| e.energy_grad(x, t)).collect::<Result<_>>()?;
        let (energies, gradients): (Vec<_>, Vec<_>) = all.into_iter().unzip();
        let (energy, shares) = self.weigh(&energies)?;
        Ok((energy, weighted(&shares, &gradients)?))
    }

    fn jet(&self, x: &Tensor, t: &[f64]) -> Result<Jet> {
        let all: Vec<Jet> = self.energies()?.iter().map(|e| e.jet(x, t)).collect::<Result<_>>()?;
        let (energy, shares) = self.weigh(&all.iter().map(|jet| jet.energy.clone()).collect::<Vec<_>>())?;
        let gradient = weighted(&shares, all.iter().map(|jet| &jet.gradient))?;
        Ok(Jet { energy, gradient, dt: weighted(&shares, all.iter().map(|jet| &jet.dt))? })
    }

    fn normalised(&self) -> bool {
        self.normalised
    }
}
