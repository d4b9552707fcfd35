//! The Euler family of diffusers, after k-diffusion, as [`Scheduler`]s.

use super::classes::{COSINE, EPS, LINEAR, SCALED, SOLVERS_END, entries, predict, table};
use super::keys::Keys;
use super::levels::{End, Space, Timestep};
use super::solvers::{check_range, solver_levels};
use super::spacing::Kind;
use super::{Rule, Scheduler};
use candle_core::Result;
use langevin_dynamics::predict::{AnyParametrisation, Tell, Unscaled};
use langevin_dynamics::process::{Betas, Table};
use langevin_dynamics::sampler;
use langevin_dynamics::wrap::Clip;

/// A scheduler of the Euler family.
fn k_diffusion(c: &Keys, class: &'static str, table: Table, supported: &[&str]) -> Result<Scheduler> {
    let mut levels = solver_levels(c, &table, "linspace")?;
    levels.with_data = levels.spacing.kind == Kind::Leading;
    Ok(Scheduler {
        class,
        predict: predict(c, supported)?,
        sigma_data: 1.,
        clip: None,
        sampler: sampler::Euler::default().into(),
        steps: entries(&table).min(50),
        process: table.into(),
        rule: Rule::Levels(levels),
    })
}

pub(super) fn euler(c: &Keys) -> Result<Scheduler> {
    let predictions = [EPS, "v_prediction", "sample", "original_sample"];
    let table = table(c, (1e-4, 0.02), &[LINEAR, SCALED, COSINE], Some(SOLVERS_END))?;
    let mut it = k_diffusion(c, "EulerDiscreteScheduler", table, &predictions)?;
    let Rule::Levels(levels) = &mut it.rule else { return Ok(it) };
    let log_linear = c.choice("interpolation_type", "linear", &[("linear", false), ("log_linear", true)])?;
    if log_linear && levels.space == Space::Entries {
        levels.space = Space::LogLinear;
    }
    levels.range = (c.optional("sigma_min")?, c.optional("sigma_max")?);
    check_range(c, levels.range)?;
    let continuous = c.choice("timestep_type", "discrete", &[("discrete", false), ("continuous", true)])?;
    if continuous && matches!(it.predict, AnyParametrisation::V(_)) {
        levels.timestep = Timestep::LogSigma;
        it.predict = Unscaled { of: Box::new(it.predict), tell: Tell::LogSigma }.into();
    }
    Ok(it)
}

pub(super) fn euler_ancestral(c: &Keys) -> Result<Scheduler> {
    let table = table(c, (1e-4, 0.02), &[LINEAR, SCALED, COSINE], Some(SOLVERS_END))?;
    let mut it = k_diffusion(c, "EulerAncestralDiscreteScheduler", table, &[EPS, "v_prediction"])?;
    if let Rule::Levels(levels) = &mut it.rule {
        (levels.space, levels.end) = (Space::Entries, End::Clean); // it has no such keys
    }
    it.sampler = sampler::Ddpm::default().into();
    Ok(it)
}

pub(super) fn heun(c: &Keys) -> Result<Scheduler> {
    let schedules = [LINEAR, SCALED, COSINE, ("exp", Betas::Exp)];
    let predictions = [EPS, "v_prediction", "sample"];
    let table = table(c, (0.00085, 0.012), &schedules, None)?;
    let mut it = k_diffusion(c, "HeunDiscreteScheduler", table, &predictions)?;
    if let Rule::Levels(levels) = &mut it.rule {
        levels.end = End::Clean; // it has no such key
    }
    it.sampler = sampler::Heun { angle_above: 1e9 }.into();
    if c.flag("clip_sample", false)? {
        let clip = Clip { range: c.number("clip_sample_range", 1.)?, ..Default::default() };
        clip.check()?;
        it.clip = Some(clip);
    }
    Ok(it)
}
