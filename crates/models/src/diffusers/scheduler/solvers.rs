//! DPM-Solver and UniPC of diffusers, as [`Scheduler`]s.

use super::classes::{
    COSINE, EPS, LINEAR, SCALED, SOLVERS_END, clip, entries, predict, refuse_learned_variance, table, with,
};
use super::keys::Keys;
use super::levels::{End, FlowLevels, Levels, Space, Timestep};
use super::spacing::Spacing;
use super::{Rule, Scheduler};
use candle_core::{Result, bail};
use langevin_dynamics::Process;
use langevin_dynamics::predict::{AnyParametrisation, Tell, Unscaled};
use langevin_dynamics::process::{AnyProcess, Flow, Table};
use langevin_dynamics::sampler::{self, AnySampler, Bh, Extrapolate, Second};

/// What the solvers in sigma/alpha share: the table, its levels, and how a level is spaced and told.
pub(super) fn solver_levels(c: &Keys, table: &Table, spacing: &str) -> Result<Levels> {
    let total = entries(table);
    let mut sigmas: Vec<f64> = (1..=total).map(|t| (-0.5 * table.log_snr(t as f64)).exp()).collect();
    if table.options().rescale_betas_zero_snr {
        sigmas[total - 1] = ((1. - SOLVERS_END) / SOLVERS_END).sqrt();
    }
    let spaces = [
        ("use_karras_sigmas", Space::Karras),
        ("use_lu_lambdas", Space::Exponential),
        ("use_exponential_sigmas", Space::Exponential),
        ("use_beta_sigmas", Space::Beta),
    ];
    let mut space = Space::Entries;
    for (key, this) in spaces {
        if c.flag(key, false)? {
            if space != Space::Entries {
                bail!("scheduler: {key} is set beside another spacing of sigmas; only one can be");
            }
            space = this;
        }
    }
    Ok(Levels {
        sigmas,
        spacing: Spacing::read(c, spacing, total)?,
        solver: None,
        space,
        range: (None, None),
        timestep: Timestep::Exact,
        end: c.choice("final_sigmas_type", "zero", &[("zero", End::Clean), ("sigma_min", End::First)])?,
        flow: None,
        with_data: true,
    })
}

/// The process, its levels and the parametrisation of DPM-Solver and UniPC.
fn solver(c: &Keys, from_noise: bool) -> Result<(Levels, AnyProcess, AnyParametrisation)> {
    let table = table(c, (1e-4, 0.02), &[LINEAR, SCALED, COSINE], Some(SOLVERS_END))?;
    let mut levels = solver_levels(c, &table, "linspace")?;
    let total = entries(&table);
    levels.solver = Some(total);
    levels.timestep = Timestep::Truncated;
    c.refuse("use_dynamic_shifting", "a shift that depends on the image is not supported; give a fixed flow_shift")?;
    if !c.flag("use_flow_sigmas", false)? {
        return Ok((levels, table.into(), predict(c, &[EPS, "v_prediction", "sample"])?));
    }
    c.refuse("shift_terminal", "it is not supported; remove it")?;
    let shift = c.number("flow_shift", 1.)?;
    if !(0.01..=100.).contains(&shift) {
        return Err(c.wrong("flow_shift", "from 0.01 to 100"));
    }
    if total != 1000 {
        return Err(c.wrong("num_train_timesteps", "1000 with use_flow_sigmas"));
    }
    match levels.space {
        Space::Entries => {}
        Space::Karras if from_noise => {}
        _ => bail!("scheduler: use_flow_sigmas is set beside another spacing of sigmas, which is not supported"),
    }
    levels.flow = Some(FlowLevels { shift, from_noise });
    let t_max = levels.visit(1)?.levels.first().copied().unwrap_or(1.).min(1.);
    let of = Box::new(predict(c, &[EPS, "sample", "flow_prediction"])?);
    let predict = Unscaled { of, tell: Tell::Clock };
    Ok((levels, Flow { t_max, ..Default::default() }.into(), predict.into()))
}

pub(super) fn dpm_solver(c: &Keys) -> Result<Scheduler> {
    refuse_learned_variance(c)?;
    let (mut levels, process, predict) = solver(c, false)?;
    let lambda_min = c.lower_bound("lambda_min_clipped")?;
    let total = levels.sigmas.len();
    levels.solver = Some(total - levels.sigmas.iter().filter(|sigma| -sigma.ln() < lambda_min).count());
    let cosine = c.word("beta_schedule", "linear")? == "squaredcos_cap_v2";
    let rounds = c.flag("use_karras_sigmas", false)? || c.flag("use_lu_lambdas", false)?;
    levels.timestep = if rounds && !cosine { Timestep::Rounded } else { Timestep::Truncated };
    let seconds = [
        ("midpoint", Second::Midpoint),
        ("heun", Second::Heun),
        ("logrho", Second::Midpoint),
        ("bh1", Second::Midpoint),
        ("bh2", Second::Midpoint),
    ];
    let second = c.choice("solver_type", "midpoint", &seconds)?;
    let algorithms = [
        ("dpmsolver++", (Extrapolate::X0, false)),
        ("deis", (Extrapolate::X0, false)),
        ("dpmsolver", (Extrapolate::Eps, false)),
        ("sde-dpmsolver++", (Extrapolate::X0, true)),
    ];
    let (extrapolate, noisy) = c.choice("algorithm_type", "dpmsolver++", &algorithms)?;
    if extrapolate == Extrapolate::Eps && levels.end == End::Clean {
        return Err(c.wrong("final_sigmas_type", "sigma_min with algorithm_type dpmsolver"));
    }
    let lower_order_final = c.flag("lower_order_final", true)?;
    let euler_at_final = c.flag("euler_at_final", false)?;
    let sampler: AnySampler = match (c.count("solver_order", 2)?, noisy) {
        (1, false) => sampler::Euler::default().into(),
        (2, false) => {
            let set = |s: &mut sampler::Dpmpp2m| {
                (s.second, s.extrapolate) = (second, extrapolate);
                (s.lower_order_final, s.euler_at_final) = (lower_order_final, euler_at_final);
            };
            with(set)
        }
        (3, false) => {
            let set = |s: &mut sampler::Dpmpp3m| {
                (s.second, s.extrapolate) = (second, extrapolate);
                (s.lower_order_final, s.euler_at_final) = (lower_order_final, euler_at_final);
            };
            with(set)
        }
        (1, true) => sampler::Ddpm::default().into(),
        (2, true) => {
            let set = |s: &mut sampler::Dpmpp2mSde| {
                s.second = second;
                (s.lower_order_final, s.euler_at_final) = (lower_order_final, euler_at_final);
            };
            with(set)
        }
        (3, true) => {
            let set = |s: &mut sampler::Dpmpp3m| {
                (s.eta, s.second, s.sign_of_diffusers) = (1., second, true);
                (s.lower_order_final, s.euler_at_final) = (lower_order_final, euler_at_final);
            };
            with(set)
        }
        _ => return Err(c.wrong("solver_order", "1, 2 or 3")),
    };
    Ok(Scheduler {
        class: "DPMSolverMultistepScheduler",
        process,
        predict,
        sigma_data: 1.,
        clip: clip(c, None)?,
        sampler,
        steps: total.min(50),
        rule: Rule::Levels(levels),
    })
}

pub(super) fn unipc(c: &Keys) -> Result<Scheduler> {
    let (mut levels, process, predict) = solver(c, true)?;
    c.refuse("solver_p", "another predictor is not supported; remove it")?;
    if levels.space == Space::Karras {
        levels.timestep = Timestep::Rounded;
    }
    let spaced = levels.space != Space::Entries || levels.flow.is_some();
    if spaced && levels.end == End::First {
        levels.end = End::Stay;
    }
    levels.range = (c.optional("sigma_min")?, c.optional("sigma_max")?);
    check_range(c, levels.range)?;
    let solvers = [("bh1", Bh::Bh1), ("bh2", Bh::Bh2), ("midpoint", Bh::Bh2), ("heun", Bh::Bh2), ("logrho", Bh::Bh2)];
    let order = c.count("solver_order", 2)?;
    if !(1..=3).contains(&order) {
        return Err(c.wrong("solver_order", "1, 2 or 3"));
    }
    let whole = |v: &f64| v.fract() == 0. && *v >= 0.;
    let disable_corrector = c.numbers("disable_corrector")?.unwrap_or_default();
    if !disable_corrector.iter().all(whole) {
        return Err(c.wrong("disable_corrector", "a list of steps, counted from 0"));
    }
    let bh = c.choice("solver_type", "bh2", &solvers)?;
    let extrapolate = if c.flag("predict_x0", true)? { Extrapolate::X0 } else { Extrapolate::Eps };
    let lower_order_final = c.flag("lower_order_final", true)?;
    Ok(Scheduler {
        class: "UniPCMultistepScheduler",
        process,
        predict,
        sigma_data: 1.,
        clip: clip(c, None)?,
        sampler: with(|s: &mut sampler::UniPc| {
            (s.order, s.bh, s.extrapolate, s.lower_order_final) = (order, bh, extrapolate, lower_order_final);
            s.disable_corrector = disable_corrector.into_iter().map(|v| v as usize).collect();
        }),
        steps: levels.sigmas.len().min(50),
        rule: Rule::Levels(levels),
    })
}

/// Errors unless both ends, where they are given, are levels that fall.
pub(super) fn check_range(c: &Keys, range: (Option<f64>, Option<f64>)) -> Result<()> {
    let (low, high) = (range.0.unwrap_or(1e-6), range.1.unwrap_or(f64::MAX));
    if low <= 0. || low >= high {
        return Err(c.wrong(if range.0.is_some() { "sigma_min" } else { "sigma_max" }, "above 0, and below sigma_max"));
    }
    Ok(())
}
