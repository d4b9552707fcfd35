//! Dual score matching: the energy's derivative in the noise level is matched beside its gradient in x. \[Guth25\]
//!
//! In y = x/alpha with rho = sigma/alpha, the mean of dE/d ln rho given x is that of D - |eps|^2, as the mean of sigma grad E
//! is that of eps. The loss of a sample is lambda rho^2 (|sigma grad E - eps|^2 / D + w (dE/d ln rho - D + |eps|^2)^2 / 2D):
//! both parts have a variance of at most 1 where nothing is known. The second ties the levels together, so that E has one
//! free constant in place of one a level, and -E is log p_t once that is known. A sample tells it one number where it tells
//! the first D, so that its gradient is the noisier: w is best small, about 1/D as the variances of the two have it (the paper's
//! weights are w = 1/2D).
//!
//! The equation of Fokker and Planck says what that derivative is for a score that is known:
//! dE/d ln rho = sigma^2 (Laplacian of E - |grad E|^2) \[Lai23; Plainer25\]. With w' (dE/d ln rho - that)^2 / 2D in the loss,
//! values agree with what their own score says of them, by the probability flow or by importance sampling. It needs no
//! data, so it can be asked at the model's own samples too, where a sampler comes and data do not. The Laplacian is a second
//! difference of energies along random signs; gradients go through all of it (held fixed on one side it is not stable).

use super::levels::{self, Drawn, Levels};
use super::walkers::{self, Walkers};
use super::{Context, Noisy, Objective, Part, Training, describe};
use crate::level::AnyLevel;
use crate::options::{SecondOrder, TrainOptions};
use crate::series::Series;
use crate::weight::AnyWeight;
use candle_core::{Result, Tensor, bail};
use langevin_data::Batch;
use langevin_dynamics::noisy::Jet;
use langevin_dynamics::{Cond, Denoiser, NoisyEnergy, Preconditioned};
use langevin_models::{Model, ModelSpec};
use langevin_ops::registry::Named;
use langevin_ops::shape::{combine, mean_per_sample, scale, sum_per_sample, to_host};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// The loss of an energy that learns its normaliser.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dual {
    /// How much an error counts at each level.
    pub weight: AnyWeight,
    /// Which levels are drawn.
    pub level: AnyLevel,
    /// How much the energy's derivative in the noise level counts beside its gradient in x, above 0. By it the values of
    /// the energy are learnt, up to one constant.
    pub time: f64,
    /// How much it counts, beside `time`, that this derivative is what the Fokker-Planck equation makes of the energy's
    /// gradient and Laplacian.
    #[serde(skip_serializing_if = "is_zero")]
    pub fokker_planck: f64,
    /// The model's own samples in each batch, beside the data, at which the Fokker-Planck equation counts too.
    #[serde(skip_serializing_if = "none")]
    pub walkers: usize,
}

fn is_zero(v: &f64) -> bool {
    *v == 0.
}

fn none(v: &usize) -> bool {
    *v == 0
}

impl Default for Dual {
    fn default() -> Self {
        Self { weight: Default::default(), level: Default::default(), time: 0.001, fokker_planck: 0., walkers: 0 }
    }
}

impl Named for Dual {
    const NAME: &'static str = "dual";
    const ABOUT: &'static str =
        "the energy's derivative in the noise level beside its gradient: log p up to a constant [Guth25]";
}

/// How far, in units of the noise, the energy's second difference reaches: its rounding in f32 and its bias are then both
/// small beside what one random direction scatters.
const REACH: f64 = 0.03;

impl Dual {
    /// The loss of each sample, `[B]`; inside `grad::value_and_grad` it can be differentiated in the network's weights.
    ///
    /// `sigma_data` is that of the model. The Fokker-Planck equation counts if `signs` are given: random signs, the shape
    /// of x. Errors if the model has no energy.
    pub fn errors(
        &self,
        model: &Preconditioned,
        sigma_data: f64,
        noisy: &Noisy,
        signs: Option<&Tensor>,
    ) -> Result<Tensor> {
        let jet = energy(model)?.jet(&noisy.x, &noisy.t)?;
        let (rises, d) = (rises(model, &noisy.x, &noisy.t, &jet)?, numbers(&noisy.x));
        let space = (scale(&jet.gradient, &sigmas(model, &noisy.t))? - &noisy.eps)?;
        let known = (sum_per_sample(&noisy.eps.sqr()?)? - d)?;
        let mut loss = (mean_per_sample(&space.sqr()?)? + ((&rises + known)?.sqr()? * (self.time / (2. * d)))?)?;
        if let Some(signs) = signs {
            let off = (rises - flow(model, &noisy.x, &noisy.t, &jet, signs)?)?;
            loss = (loss + (off.sqr()? * (self.fokker_planck / (2. * d)))?)?;
        }
        self.weighed(model, sigma_data, &noisy.t, &loss)
    }

    /// The part of the Fokker-Planck equation in the loss alone, `[B]`, at places `x` `[B, ...]` that need not be data.
    pub fn flow_errors(
        &self,
        model: &Preconditioned,
        sigma_data: f64,
        x: &Tensor,
        t: &[f64],
        signs: &Tensor,
    ) -> Result<Tensor> {
        let jet = energy(model)?.jet(x, t)?;
        let off = (rises(model, x, t, &jet)? - flow(model, x, t, &jet, signs)?)?;
        self.weighed(model, sigma_data, t, &(off.sqr()? * (self.fokker_planck / (2. * numbers(x))))?)
    }

    /// lambda rho^2 times `loss` `[B]`.
    fn weighed(&self, model: &Preconditioned, sigma_data: f64, t: &[f64], loss: &Tensor) -> Result<Tensor> {
        let weight = |&t: &f64| {
            let m = model.process().marginal(t);
            self.weight.get().lambda(&m, sigma_data) * (m.sigma / m.alpha).powi(2)
        };
        scale(loss, &t.iter().map(weight).collect::<Vec<_>>())
    }
}

/// Numbers in a sample.
fn numbers(x: &Tensor) -> f64 {
    x.elem_count() as f64 / x.dims().first().copied().unwrap_or(1).max(1) as f64
}

fn sigmas(model: &Preconditioned, t: &[f64]) -> Vec<f64> {
    t.iter().map(|&t| model.process().marginal(t).sigma).collect()
}

/// dE/d ln rho of y = x/alpha, `[B]`: (dE/dt + d ln alpha/dt (x . grad E - D)) / (d ln rho/dt).
fn rises(model: &Preconditioned, x: &Tensor, t: &[f64], jet: &Jet) -> Result<Tensor> {
    let (mut of_dt, mut of_x) = (vec![], vec![]);
    for &t in t {
        let m = model.process().marginal(t);
        let (stretch, rate) = (m.drift(), m.dsigma / m.sigma - m.drift()); // d ln alpha/dt, d ln rho/dt
        of_dt.push(1. / rate);
        of_x.push(stretch / rate);
    }
    let along = sum_per_sample(&(x * &jet.gradient)?)?;
    combine(&of_dt, &jet.dt, &of_x, &(along - numbers(x))?)
}

/// What it should be, `[B]`: sigma^2 (Laplacian of E - |grad E|^2), the Laplacian along `signs` \[Hutchinson 1989\].
fn flow(model: &Preconditioned, x: &Tensor, t: &[f64], jet: &Jet, signs: &Tensor) -> Result<Tensor> {
    let (energy, sigma) = (energy(model)?, sigmas(model, t));
    let by = scale(signs, &sigma.iter().map(|sigma| REACH * sigma).collect::<Vec<_>>())?;
    let around = (energy.energy_at(&(x + &by)?, t)? + energy.energy_at(&(x - &by)?, t)?)?;
    let curvature = ((around - (&jet.energy * 2.)?)? / REACH.powi(2))?;
    curvature - sum_per_sample(&scale(&jet.gradient, &sigma)?.sqr()?)?
}

fn energy<'a>(model: &'a Preconditioned) -> Result<&'a dyn NoisyEnergy> {
    match model.noisy_energy() {
        Some(energy) => Ok(energy),
        None => bail!("loss.time: the model is a plain denoiser and has no energy; use model.head = \"energy\""),
    }
}

/// Errors if an energy that learns its normaliser is not asked to, or one without is.
pub(super) fn normalises(time: f64, spec: &ModelSpec) -> Result<()> {
    if spec.normalised != (time > 0.) {
        bail!(
            "loss.time = {time} and model.normalised = {} do not go together: an energy learns its normaliser by \
             loss.time above 0, and only by that",
            spec.normalised
        );
    }
    Ok(())
}

impl Objective<Model> for Dual {
    fn description(&self) -> Result<Value> {
        describe(self)
    }

    fn check(&self, spec: &ModelSpec, options: &TrainOptions) -> Result<()> {
        self.weight.get().check()?;
        self.level.get().check()?;
        if !(self.time.is_finite() && self.time >= 0.) {
            bail!("loss.time is {}; it must be a number of at least 0, 0.001 is usual", self.time);
        }
        if !(self.fokker_planck.is_finite() && self.fokker_planck >= 0.) {
            bail!("loss.fokker_planck is {}; it must be a number of at least 0", self.fokker_planck);
        }
        if self.fokker_planck > 0. && self.time == 0. {
            bail!("loss.fokker_planck goes with loss.time, which is 0; 0.001 is usual");
        }
        if self.walkers > 0 && self.fokker_planck == 0. {
            bail!("loss.walkers is {}, for loss.fokker_planck, which is 0; 0.01 is usual", self.walkers);
        }
        if self.walkers == 1 || self.walkers > 4096 {
            bail!("loss.walkers is {}; give 0 for none, or 2 to 4096, half a batch is usual", self.walkers);
        }
        normalises(self.time, spec)?;
        if self.time == 0. {
            bail!(
                "loss.time is 0; dual score matching needs it above 0, 0.001 is usual; or use loss.name = \"denoising\""
            );
        }
        if spec.process.get().discrete().is_some() {
            bail!("loss.time: process {} has steps and no continuous time; use vp", spec.process.name());
        }
        if options.second_order == SecondOrder::FiniteDifference {
            bail!("loss.time needs train.second_order = \"exact\"");
        }
        levels::can_hide(spec, options)
    }

    fn start(&self, _: &Model) -> Result<Box<dyn Training<Model>>> {
        Ok(Box::new(Run { loss: self.clone(), levels: Levels::new(&self.level), walkers: Walkers::default() }))
    }
}

/// Keeps the noise of walkers apart from that of the data ("walkers" in ASCII).
const WALKS: u64 = 0x0077_616c_6b65_7273;

/// The loss under way.
struct Run {
    loss: Dual,
    levels: Levels,
    walkers: Walkers,
}

/// Walkers where the Fokker-Planck equation is asked for.
struct Walked<'a> {
    denoiser: Preconditioned<'a>,
    signs: Tensor,
    at: walkers::At,
}

impl Run {
    fn walk<'a>(&mut self, model: &'a Model, x0: &Tensor, at: &Context) -> Result<Option<Walked<'a>>> {
        let number = self.loss.walkers;
        if number == 0 {
            return Ok(None);
        }
        let mut z = at.noise_of(WALKS, number);
        let now = self.walkers.advance(model, number, x0, &mut z)?;
        let denoiser =
            model.denoiser(Cond { dropout: Some(at.dropout() ^ WALKS), ..Cond::class(now.labels.clone()) })?;
        Ok(Some(Walked { denoiser, signs: z.rademacher_like(&now.x)?, at: now }))
    }
}

impl Training<Model> for Run {
    fn part(&mut self, model: &Model, batch: &Batch, at: &Context) -> Result<Part> {
        let (n, sigma_data) = (batch.x.dim(0)?, model.spec.sigma_data);
        let mut z = at.noise(n);
        let drawn = self.levels.draw(model, batch, at.options, &mut z)?;
        let denoiser = model.denoiser(Cond { conditions: drawn.told.clone(), dropout: Some(at.dropout()) })?;
        let Drawn { noisy, .. } = &drawn;
        let signs = (self.loss.fokker_planck > 0.).then(|| z.rademacher_like(&noisy.x)).transpose()?;
        let walkers = self.walk(model, &noisy.x0, at)?;
        let (mut each, mut walked) = (None, None);
        let (_, grads) = at.gradient(|| {
            let losses = self.loss.errors(&denoiser, sigma_data, noisy, signs.as_ref())?;
            each = Some(losses.detach());
            let loss = scale(&losses, &drawn.factors(at))?.sum_all()?;
            let Some(Walked { denoiser, signs, at: now }) = &walkers else { return Ok(loss) };
            let own = self.loss.flow_errors(denoiser, sigma_data, &now.x, &[now.t], signs)?.mean_all()?;
            walked = Some(own.detach());
            loss + (own * (n as f64 / at.total as f64))?
        })?;
        let losses = each.map(|t| to_host(&t)).transpose()?.unwrap_or_default();
        let mut part = self.levels.part(model, at, drawn.draws, losses, grads);
        if let Some(loss) = walked {
            part.series.insert(0, Series::mean("walkers_loss", to_host(&loss.reshape(1)?)?[0]));
        }
        Ok(part)
    }

    fn place(&self, model: &Model, i: usize) -> Option<String> {
        self.levels.place(model, i)
    }

    fn updated(&mut self) {
        self.levels.updated();
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        Ok([self.levels.state()?, self.walkers.state()?].concat())
    }

    fn restore(&mut self, model: &Model, state: &BTreeMap<String, Tensor>) -> Result<()> {
        self.levels.restore(state)?;
        self.walkers.restore(state, model.device())
    }
}
