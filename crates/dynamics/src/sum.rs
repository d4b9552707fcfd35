//! Models added up by their energies: E(x, t) = sum_k w_k(x, t) E_k(x, t) + c(t), over models taken as of one process.
//!
//! The score is sum_k w_k s_k, with w_k = dE/dE_k where the weights depend on the energies, and
//! x0 = sum_k w_k x0_k + (1 - sum_k w_k) x / alpha. Guidance ([`Sum::guided`]), compositions ([`Sum::composed`]) and energies
//! with their log Z(t) ([`Sum::normalised`]) are such sums.

use crate::denoiser::{Frame, each, eps_from, score_from};
use crate::noisy::{Jet, NoisyEnergy, filled};
use crate::process::Within;
use crate::wrap::Reframed;
use crate::{Denoiser, Marginal, Process};
use candle_core::{Result, Tensor, bail};
use langevin_ops::shape::{scale, to_host};

/// A sum of models, weighted by the noise level or by their energies. It has an energy where all of them have one.
pub struct Sum<'a> {
    pub(crate) parts: Vec<Reframed<'a>>,
    pub(crate) process: Within<'a>,
    /// w_k of each part; `None` where they depend on the energies.
    pub(crate) weights: Option<Vec<LevelWeight<'a>>>,
    /// 1 - sum_k w_k of weights that do not.
    pub(crate) deficit: f64,
    /// E as a function of the energies of the parts. Without it E is sum_k w_k E_k, and eps and score follow from x0.
    pub(crate) energy: Option<HostEnergy<'a>>,
    pub(crate) constant: Option<Constant<'a>>,
    pub(crate) prior_precision: f64,
    pub(crate) normalised: bool,
    pub(crate) unevenness: f64,
}

/// A weight at a noise level.
pub(crate) type LevelWeight<'a> = Box<dyn Fn(Marginal) -> f64 + 'a>;

/// E of a sample and dE/dE_k `[K]`, from E_k `[K]`.
pub(crate) type HostEnergy<'a> = Box<dyn Fn(&[f64]) -> (f64, Vec<f64>) + 'a>;

/// c and dc/dt at a time. Errors where they are not known.
pub(crate) type Constant<'a> = Box<dyn Fn(f64) -> Result<(f64, f64)> + 'a>;

/// Values of the parts, each with its weights: one for all samples or one a sample.
struct Terms<T>(Vec<(Vec<f64>, T)>);

impl<T> Terms<T> {
    /// sum_k w_k times one tensor of each value.
    fn sum(&self, of: impl Fn(&T) -> &Tensor) -> Result<Tensor> {
        let mut terms = self.0.iter().map(|(w, value)| scale(of(value), w));
        let Some(first) = terms.next() else { bail!("sum: every weight is 0") };
        terms.try_fold(first?, |sum, term| sum + term?)
    }
}

impl<'a> Sum<'a> {
    /// `models` as of `process`, with weights that add up to 1 at each noise level.
    pub(crate) fn new(
        models: impl IntoIterator<Item = &'a dyn Denoiser>,
        process: &'a dyn Process,
        weights: Vec<LevelWeight<'a>>,
    ) -> Result<Self> {
        let parts = models.into_iter().map(|model| Reframed::new(model, process)).collect::<Result<Vec<_>>>()?;
        let end = process.marginal(process.span().1);
        Ok(Self {
            prior_precision: parts.iter().zip(&weights).map(|(part, w)| w(end) * part.prior_precision()).sum(),
            parts,
            process: Within::all(process),
            weights: Some(weights),
            deficit: 0.,
            energy: None,
            constant: None,
            normalised: false,
            unevenness: 1.,
        })
    }

    /// The part that this is, but for the constant.
    fn single(&self) -> Option<&Reframed<'a>> {
        match (&self.energy, self.parts.as_slice()) {
            (None, [part]) => Some(part),
            _ => None,
        }
    }

    /// What `f` gives for each part at the times `t`. A part whose weight is 0 throughout is not evaluated; where it is 0 for
    /// some samples, their times are moved into its span. Errors for a mixture.
    fn terms<T>(&self, t: &[f64], f: impl Fn(&Reframed<'a>, &[f64]) -> Result<T>) -> Result<Terms<T>> {
        let Some(weights) = &self.weights else {
            bail!("compose: the weights of a mixture depend on x, and have no derivatives here; compose without |")
        };
        let weights = weights.iter().map(|w| each(&self.process, t, w));
        let weighing = self.parts.iter().zip(weights).filter(|(_, w)| w.iter().any(|w| *w != 0.));
        let term = |(part, w): (&Reframed<'a>, Vec<f64>)| {
            let (low, high) = part.process().span();
            let known = |(t, w): (&f64, &f64)| if *w == 0. { t.clamp(low, high) } else { *t };
            let times: Vec<f64> = t.iter().zip(&w).map(known).collect();
            Ok((w, f(part, &times)?))
        };
        weighing.map(term).collect::<Result<_>>().map(Terms)
    }

    /// E `[B]`, and what `f` gives for each part, with its weights in the derivatives of E; `energy` is E_k of that.
    fn energy_terms<T>(
        &self,
        t: &[f64],
        f: impl Fn(&Reframed<'a>, &[f64]) -> Result<T>,
        energy: impl Fn(&T) -> &Tensor,
    ) -> Result<(Tensor, Terms<T>)> {
        let (sum, terms) = match &self.energy {
            None => {
                let terms = self.terms(t, f)?;
                (terms.sum(energy)?, terms)
            }
            Some(of) => {
                let parts = self.parts.iter().map(|part| f(part, t)).collect::<Result<Vec<_>>>()?;
                let (sum, shares) = on_host(of, &parts.iter().map(energy).collect::<Vec<_>>())?;
                (sum, Terms(shares.into_iter().zip(parts).collect()))
            }
        };
        Ok((self.add_constant(sum, t, |c| c.0)?, terms))
    }

    /// `to` `[B]` and one of c and dc/dt.
    fn add_constant(&self, to: Tensor, t: &[f64], of: fn((f64, f64)) -> f64) -> Result<Tensor> {
        let Some(constant) = &self.constant else { return Ok(to) };
        let values = t.iter().map(|&t| constant(t).map(of)).collect::<Result<Vec<_>>>()?;
        &to + filled(&values, &to)?
    }

    /// `sum` of the parts, and (1 - sum_k w_k) x / alpha.
    fn add_deficit(&self, sum: Tensor, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        if self.deficit == 0. {
            return Ok(sum);
        }
        sum + scale(x, &each(&self.process, t, |m| self.deficit * (1. / m.alpha)))?
    }

    /// Errors where alpha = 0, unless the weights add up to 1: no score tells x0 there.
    fn check_x0(&self, t: &[f64]) -> Result<()> {
        let whole = self.weights.is_some() && self.deficit == 0.;
        if !whole && t.iter().any(|&t| self.process.marginal(t).alpha < 1e-6) {
            bail!(
                "compose: x0 cannot be told where alpha = 0, and {:?} is there at t = {t:?}; use sampler.name=annealed-mcmc, \
                 or a process that ends before (t_max of cosine and flow)",
                self.process()
            );
        }
        Ok(())
    }
}

/// The energy `[B]` of those of the parts, `[B]` each, and its derivatives in them, `[K][B]`.
fn on_host(energy: &HostEnergy, parts: &[&Tensor]) -> Result<(Tensor, Vec<Vec<f64>>)> {
    let Some(first) = parts.first() else { bail!("compose: there are no models") };
    let columns: Vec<Vec<f64>> = parts.iter().map(|e| to_host(e)).collect::<Result<_>>()?;
    let (batch, mut energies, mut shares) = (first.dim(0)?, vec![], vec![vec![]; parts.len()]);
    for n in 0..batch {
        let (e, share) = energy(&columns.iter().map(|column| column[n]).collect::<Vec<_>>());
        energies.push(e);
        shares.iter_mut().zip(share).for_each(|(shares, share)| shares.push(share));
    }
    Ok((Tensor::from_vec(energies, batch, first.device())?.to_dtype(first.dtype())?, shares))
}

impl Denoiser for Sum<'_> {
    fn frame(&self) -> Frame<'_> {
        let whole_batch = self.parts.iter().any(|part| part.whole_batch());
        Frame { process: &self.process, prior_precision: self.prior_precision, whole_batch }
    }

    /// sum_k w_k x0_k + (1 - sum_k w_k) x / alpha, or (x + sigma^2 score) / alpha where the weights depend on the energies.
    /// Errors where alpha = 0, unless the weights add up to 1.
    fn x0(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        self.check_x0(t)?;
        if self.weights.is_none() {
            let lift = scale(&self.score(x, t)?, &each(&self.process, t, |m| m.sigma * m.sigma / m.alpha))?;
            return scale(x, &each(&self.process, t, |m| 1. / m.alpha))? + lift;
        }
        self.add_deficit(self.terms(t, |part, t| part.x0(x, t))?.sum(|x0| x0)?, x, t)
    }

    fn eps(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        match self.single() {
            Some(part) => part.eps(x, t),
            None => eps_from(&self.process, x, &self.x0(x, t)?, t),
        }
    }

    fn score(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        if self.weights.is_none() {
            return self.energy_grad(x, t)?.1.neg();
        }
        match self.energy.is_none() && self.single().is_none() {
            true => score_from(&self.process, x, &self.x0(x, t)?, t),
            false => self.terms(t, |part, t| part.score(x, t))?.sum(|score| score),
        }
    }

    /// By the parts, each as it has it. Errors for a mixture: autodiff does not see how its weights change with x.
    fn x0_vjp(&self, x: &Tensor, t: &[f64], v: &Tensor) -> Result<(Tensor, Tensor)> {
        self.check_x0(t)?;
        let terms = self.terms(t, |part, t| part.x0_vjp(x, t, v))?;
        let (x0, vjp) = (terms.sum(|(x0, _)| x0)?, terms.sum(|(_, vjp)| vjp)?);
        Ok((self.add_deficit(x0, x, t)?, self.add_deficit(vjp, v, t)?))
    }

    fn noisy_energy(&self) -> Option<&dyn NoisyEnergy> {
        self.parts.iter().all(|part| part.noisy_energy().is_some()).then_some(self as &dyn NoisyEnergy)
    }
}

/// Weights of the noise level alone are on the tensors, where autodiff sees them. An expression is evaluated on the host, and
/// its derivatives are those given here.
impl NoisyEnergy for Sum<'_> {
    fn energy_at(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        Ok(self.energy_terms(t, |part, t| part.energy_at(x, t), |energy| energy)?.0)
    }

    fn energy_grad(&self, x: &Tensor, t: &[f64]) -> Result<(Tensor, Tensor)> {
        let (energy, terms) = self.energy_terms(t, |part, t| part.energy_grad(x, t), |(energy, _)| energy)?;
        Ok((energy, terms.sum(|(_, gradient)| gradient)?))
    }

    /// Within an interval of guidance and outside it, not across its ends.
    fn jet(&self, x: &Tensor, t: &[f64]) -> Result<Jet> {
        let (energy, terms) = self.energy_terms(t, |part, t| part.jet(x, t), |jet| &jet.energy)?;
        let dt = self.add_constant(terms.sum(|jet| &jet.dt)?, t, |c| c.1)?;
        Ok(Jet { energy, gradient: terms.sum(|jet| &jet.gradient)?, dt })
    }

    fn normalised(&self) -> bool {
        self.normalised
    }
}
