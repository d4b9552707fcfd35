//! One function a scheduler class of diffusers: its keys, with the defaults of its signature, as a [`Scheduler`].

use super::keys::Keys;
use super::spacing::Spacing;
use super::{Rule, Scheduler, To, euler, solvers};
use candle_core::{Result, bail};
use langevin_dynamics::Process;
use langevin_dynamics::predict::{AnyParametrisation, Consistency, Eps, Score, Tell, Unscaled, V, Velocity, X0};
use langevin_dynamics::process::{Betas, Edm, Table, TableOptions};
use langevin_dynamics::sampler::{self, AnySampler, Mixed, Norms, Variance};
use langevin_dynamics::wrap::Clip;

type Read = fn(&Keys) -> Result<Scheduler>;

/// Every class and what reads it.
pub(super) const ALL: &[(&str, Read)] = &[
    ("DDPMScheduler", ddpm),
    ("DDIMScheduler", ddim),
    ("PNDMScheduler", pndm),
    ("DPMSolverMultistepScheduler", solvers::dpm_solver),
    ("UniPCMultistepScheduler", solvers::unipc),
    ("EulerDiscreteScheduler", euler::euler),
    ("EulerAncestralDiscreteScheduler", euler::euler_ancestral),
    ("HeunDiscreteScheduler", euler::heun),
    ("ScoreSdeVeScheduler", score_sde_ve),
    ("CMStochasticIterativeScheduler", consistency),
];

/// abar at which diffusers' solvers in sigma/alpha end a table that is rescaled to end at 0.
pub(super) const SOLVERS_END: f64 = 1. / 16_777_216.;

pub(super) const LINEAR: (&str, Betas) = ("linear", Betas::Linear);
pub(super) const SCALED: (&str, Betas) = ("scaled_linear", Betas::ScaledLinear);
pub(super) const COSINE: (&str, Betas) = ("squaredcos_cap_v2", Betas::Cosine);

/// The table of betas. `rescaled_end` is where `rescale_betas_zero_snr` leads, none for a class without that key.
pub(super) fn table(
    c: &Keys,
    betas: (f64, f64),
    schedules: &[(&str, Betas)],
    rescaled_end: Option<f64>,
) -> Result<Table> {
    let trained_betas = c.numbers("trained_betas")?;
    let rescaled_end = match rescaled_end {
        Some(end) if c.flag("rescale_betas_zero_snr", false)? => Some(end),
        _ => None,
    };
    Table::new(TableOptions {
        num_train_timesteps: c.count("num_train_timesteps", 1000)?,
        beta_schedule: match trained_betas {
            Some(_) => Betas::Linear,
            None => c.choice("beta_schedule", "linear", schedules)?,
        },
        beta_start: c.number("beta_start", betas.0)?,
        beta_end: c.number("beta_end", betas.1)?,
        trained_betas,
        rescale_betas_zero_snr: rescaled_end.is_some(),
        last_alpha_bar: rescaled_end.unwrap_or(0.),
        single_precision: true,
    })
}

pub(super) fn entries(table: &Table) -> usize {
    table.options().num_train_timesteps
}

pub(super) const EPS: &str = "epsilon";

pub(super) fn predict(c: &Keys, supported: &[&str]) -> Result<AnyParametrisation> {
    let all: [(&str, AnyParametrisation); 5] = [
        ("epsilon", Eps {}.into()),
        ("v_prediction", V {}.into()),
        ("sample", X0 {}.into()),
        ("original_sample", X0 {}.into()),
        ("flow_prediction", Velocity {}.into()),
    ];
    let some: Vec<_> = all.into_iter().filter(|(name, _)| supported.contains(name)).collect();
    c.choice("prediction_type", EPS, &some)
}

/// `thresholding` and, where the class has it, `clip_sample`.
pub(super) fn clip(c: &Keys, clip_sample: Option<bool>) -> Result<Option<Clip>> {
    let clip = if c.flag("thresholding", false)? {
        let quantile = Some(c.number("dynamic_thresholding_ratio", 0.995)?);
        Clip { range: 1., quantile, max_threshold: Some(c.number("sample_max_value", 1.)?) }
    } else if let Some(default) = clip_sample
        && c.flag("clip_sample", default)?
    {
        Clip { range: c.number("clip_sample_range", 1.)?, ..Default::default() }
    } else {
        return Ok(None);
    };
    clip.check()?;
    Ok(Some(clip))
}

/// A sampler with options set.
pub(super) fn with<S: Default + Into<AnySampler>>(set: impl FnOnce(&mut S)) -> AnySampler {
    let mut sampler = S::default();
    set(&mut sampler);
    sampler.into()
}

fn ddpm(c: &Keys) -> Result<Scheduler> {
    refuse_learned_variance(c)?;
    let (small, large) = (Variance::FixedSmall, Variance::FixedLarge);
    let variances =
        [("fixed_small", small), ("fixed_small_log", small), ("fixed_large", large), ("fixed_large_log", large)];
    let variance = c.choice("variance_type", "fixed_small", &variances)?;
    let schedules = [LINEAR, SCALED, COSINE, ("sigmoid", Betas::Sigmoid), ("laplace", Betas::Laplace)];
    let table = table(c, (1e-4, 0.02), &schedules, Some(0.))?;
    Ok(Scheduler {
        class: "DDPMScheduler",
        predict: predict(c, &[EPS, "v_prediction", "sample"])?,
        sigma_data: 1.,
        clip: clip(c, Some(true))?,
        sampler: sampler::Ddpm { variance, noisy_end: true }.into(),
        steps: entries(&table).min(1000),
        rule: Rule::Entries { spacing: Spacing::read(c, "leading", entries(&table))?, to: To::Next, end: 0. },
        process: table.into(),
    })
}

pub(super) fn refuse_learned_variance(c: &Keys) -> Result<()> {
    if let word @ ("learned" | "learned_range") = c.word("variance_type", "")? {
        bail!(
            "scheduler: variance_type is {word}: its network tells a variance beside its prediction, in twice the \
             channels, which is not supported; fixed_small and fixed_large are"
        );
    }
    Ok(())
}

fn ddim(c: &Keys) -> Result<Scheduler> {
    let table = table(c, (1e-4, 0.02), &[LINEAR, SCALED, COSINE], Some(0.))?;
    let end = if c.flag("set_alpha_to_one", true)? { 0. } else { 1. };
    Ok(Scheduler {
        class: "DDIMScheduler",
        predict: predict(c, &[EPS, "v_prediction", "sample"])?,
        sigma_data: 1.,
        clip: clip(c, Some(true))?,
        sampler: sampler::Ddim { eta: 0., use_clipped_model_output: false }.into(),
        steps: entries(&table).min(50),
        rule: Rule::Entries { spacing: Spacing::read(c, "leading", entries(&table))?, to: To::Stride, end },
        process: table.into(),
    })
}

fn pndm(c: &Keys) -> Result<Scheduler> {
    let table = table(c, (1e-4, 0.02), &[LINEAR, SCALED, COSINE], None)?;
    let skip_prk_steps = c.flag("skip_prk_steps", false)?;
    let end = if c.flag("set_alpha_to_one", false)? { 0. } else { 1. };
    let predict = predict(c, &[EPS, "v_prediction"])?;
    let mix = if matches!(predict, AnyParametrisation::V(_)) { Mixed::V } else { Mixed::Eps };
    let to = To::StrideFrom(if skip_prk_steps { 1 } else { 3 });
    Ok(Scheduler {
        class: "PNDMScheduler",
        predict,
        sigma_data: 1.,
        clip: None,
        sampler: with(|s: &mut sampler::Pndm| (s.skip_prk_steps, s.mix) = (skip_prk_steps, mix)),
        steps: entries(&table).min(50),
        rule: Rule::Entries { spacing: Spacing::read(c, "leading", entries(&table))?, to, end },
        process: table.into(),
    })
}

/// Errors unless the levels rise, between sizes that their powers and logarithms stand.
fn check_levels(c: &Keys, process: &Edm) -> Result<()> {
    process.check()?;
    match (process.sigma_min < 1e-9, process.sigma_max > 1e9) {
        (true, _) => Err(c.wrong("sigma_min", "at least 1e-9")),
        (_, true) => Err(c.wrong("sigma_max", "at most 1e9")),
        _ => Ok(()),
    }
}

fn score_sde_ve(c: &Keys) -> Result<Scheduler> {
    let process = Edm { sigma_min: c.number("sigma_min", 0.01)?, sigma_max: c.number("sigma_max", 1348.)? };
    check_levels(c, &process)?;
    let sampling_eps = c.number("sampling_eps", 1e-5)?;
    if !(0. ..1.).contains(&sampling_eps) {
        return Err(c.wrong("sampling_eps", "from 0 to 1, 1e-5 is usual"));
    }
    let sampler: AnySampler = sampler::Pc {
        snr: c.number("snr", 0.15)?,
        corrector_steps: c.count("correct_steps", 1)?.min(1000),
        norms: Norms::Batch,
        ..Default::default()
    }
    .into();
    sampler.get().check()?;
    Ok(Scheduler {
        class: "ScoreSdeVeScheduler",
        predict: Unscaled { of: Box::new(Score {}.into()), tell: Tell::Sigma }.into(),
        sigma_data: 1.,
        clip: None,
        sampler,
        steps: 2000,
        rule: Rule::Ve { sigma_min: process.sigma_min, sigma_max: process.sigma_max, sampling_eps },
        process: process.into(),
    })
}

fn consistency(c: &Keys) -> Result<Scheduler> {
    let process = Edm { sigma_min: c.number("sigma_min", 0.002)?, sigma_max: c.number("sigma_max", 80.)? };
    check_levels(c, &process)?;
    let (sigma_data, rho) = (c.number("sigma_data", 0.5)?, c.number("rho", 7.)?);
    if !(0.1..=1000.).contains(&rho) {
        return Err(c.wrong("rho", "from 0.1 to 1000, 7 is usual"));
    }
    if sigma_data <= 0. {
        return Err(c.wrong("sigma_data", "above 0"));
    }
    let total = c.count("num_train_timesteps", 40)?;
    if !(1..=1_000_000).contains(&total) {
        return Err(c.wrong("num_train_timesteps", "from 1 to 1000000"));
    }
    let sampler: AnySampler = sampler::ConsistencySampler { s_noise: c.number("s_noise", 1.)? }.into();
    sampler.get().check()?;
    Ok(Scheduler {
        class: "CMStochasticIterativeScheduler",
        predict: Consistency { sigma_min: process.sigma_min }.into(),
        sigma_data,
        clip: c.flag("clip_denoised", true)?.then(Clip::default),
        sampler,
        steps: 1,
        rule: Rule::Consistency { sigma_min: process.sigma_min, sigma_max: process.sigma_max, rho, total },
        process: process.into(),
    })
}
