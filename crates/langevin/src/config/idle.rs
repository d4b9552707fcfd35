//! What means nothing beside the rest of a configuration, if it was typed: an error, in place of giving it up without a word.

use crate::config::{Changes, Config, Data};
use crate::error::{Usage, usage};
use anyhow::Result;
use langevin_data::{Dataset, Kind};
use langevin_dynamics::process::{AnyProcess, Betas};
use langevin_dynamics::sampler::AnySampler;
use langevin_models::Head;

/// Keys with when they mean nothing, and why.
type Idle<'a> = (&'a [&'a str], bool, &'a str);

/// Errors if one of the keys that mean nothing is among the changes `typed`.
fn refuse(typed: &Changes, idle: &[Idle]) -> Result<()> {
    for (keys, _, why) in idle.iter().filter(|(_, idle, _)| *idle) {
        if let Some(change) = typed.first(|key| keys.contains(&key)) {
            return usage(format!("`{change}`: {why}"));
        }
    }
    Ok(())
}

/// Errors if a change that was `typed` means nothing for a new run. What a file says and these data have no use for is left
/// out, with a word.
pub fn of_run(run: &mut Config, typed: &Changes) -> Result<()> {
    of_size(&mut run.data, typed)?;
    let plain = run.model.head == Head::Denoiser;
    let table = match &run.process {
        AnyProcess::Table(table) => Some(table.options()),
        _ => None,
    };
    let given = table.is_some_and(|table| table.trained_betas.is_some());
    let curve = table.is_some_and(|table| matches!(table.beta_schedule, Betas::Cosine | Betas::Exp | Betas::Laplace));
    refuse(
        typed,
        &[
            (
                &["model.form"],
                plain,
                "a form is of an energy, and model.head = denoiser is none; leave out one of them",
            ),
            (
                &["train.second_order"],
                plain,
                "a plain denoiser is trained by first derivatives alone (model.head = denoiser); leave it out",
            ),
            (
                &["train.distil"],
                run.model.from.is_none() && run.train.distil() > 0,
                "it is for a run that starts from another model, and model.from names none; leave it out",
            ),
            (
                &["process.beta_start", "process.beta_end", "process.beta_schedule"],
                given,
                "process.trained_betas says all betas; leave out one of them",
            ),
            (
                &["process.beta_start", "process.beta_end"],
                curve,
                "this process.beta_schedule has no first and last beta; leave it out, or take linear, scaled-linear \
                     or sigmoid",
            ),
        ],
    )?;
    of_sampler(&run.sampler.sampler, typed)
}

/// A size of images that the data have no use for: an error if it was `typed`, and else left out with a word.
pub fn of_size(data: &mut Data, typed: &Changes) -> Result<()> {
    let Some(size) = data.size.filter(|_| !langevin_data::takes_size(&data.spec)) else { return Ok(()) };
    let why = format!("{} is not a folder of images, and its samples have the size that they have", data.spec);
    if typed.first(|key| key == "data.size").is_some() {
        return usage(Usage::of("data.size", format!("{why}; leave it out")).value(size));
    }
    crate::note!("data.size = {size} of the configuration is left out: {why}");
    data.size = None;
    Ok(())
}

/// The same for a sampler.
pub fn of_sampler(sampler: &AnySampler, typed: &Changes) -> Result<()> {
    let (own_step, adapts) = match sampler {
        AnySampler::Pc(pc) => {
            (pc.corrector.is_none(), pc.corrector.as_ref().is_some_and(|kernel| kernel.get().adapts()))
        }
        AnySampler::AnnealedMcmc(mcmc) => (true, mcmc.kernel.get().adapts()),
        _ => (true, true),
    };
    refuse(
        typed,
        &[
            (
                &["sampler.snr", "sampler.norms"],
                !own_step,
                "it makes the step size of the Langevin step, and sampler.corrector has one of its own; leave out \
                     one of them",
            ),
            (
                &["sampler.adapt"],
                !adapts,
                "steps adapt by a test of acceptance, and here is none; take mala or hmc, or leave it out",
            ),
        ],
    )
}

/// Errors if an option of the data means nothing for `data`, of which a new run is to be made.
pub fn of_data(of: &Data, data: &dyn Dataset) -> Result<()> {
    for (on, key) in [(of.flip, "flip"), (of.dequantise, "dequantise")] {
        if on && data.kind() != Kind::Image {
            return usage(format!("data.{key} = true: it is for images, and {} has none; leave it out", of.spec));
        }
    }
    Ok(())
}

/// Errors if `spec`, typed as the value of `option`, is both a data set's name and a folder that is here.
pub fn ambiguous(option: &str, spec: &str) -> Result<()> {
    match langevin_data::is_also_folder(spec) {
        Some(name) => {
            let why = format!(
                "{name} is a data set and a folder here; write {} for the data set, or ./{name} for the folder",
                spec.replace(name, &format!("{name}:train")),
            );
            usage(Usage { option: Some(option.into()), value: Some(spec.into()), why })
        }
        None => Ok(()),
    }
}
