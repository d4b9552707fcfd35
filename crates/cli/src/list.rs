//! `langevin list`: everything that configurations can name; and the licences of what is in the program.

use anyhow::Result;
use clap::Parser;
use langevin::config::PRESETS;
use langevin::dynamics::grid::AnyGrid;
use langevin::dynamics::inverse::{AnyMethod, AnyTask};
use langevin::dynamics::mcmc::AnyKernel;
use langevin::dynamics::predict::AnyParametrisation;
use langevin::dynamics::process::AnyProcess;
use langevin::dynamics::sampler::AnySampler;
use langevin::error::usage;
use langevin::eval::AnyDetector;
use langevin::models::draw::AnyChainSampler;
use langevin::models::family::AnyFamily;
use langevin::models::{AnyNet, Form};
use langevin::train::{AnyDensityObjective, AnyEma, AnyLevel, AnyObjective, AnyOptimiser, AnyWeight};

/// Names, each with a line about it.
type Names = Vec<(&'static str, &'static str)>;

/// Every kind of thing: what it is called, where its name is written, and its members.
fn kinds() -> Vec<(&'static str, &'static str, Names)> {
    vec![
        ("presets", "langevin train NAME", presets()),
        ("data", "--data NAME, data.spec", langevin::data::ALL.to_vec()),
        ("processes", "process.name", AnyProcess::ALL.to_vec()),
        ("parametrisations", "model.predict", AnyParametrisation::ALL.to_vec()),
        ("samplers", "sampler.name", AnySampler::ALL.to_vec()),
        ("kernels", "sampler.kernel, sampler.corrector", AnyKernel::ALL.to_vec()),
        ("grids", "sampler.grid", AnyGrid::ALL.to_vec()),
        ("tasks", "langevin inpaint --task NAME", AnyTask::ALL.to_vec()),
        ("methods", "langevin inpaint --method NAME", AnyMethod::ALL.to_vec()),
        ("losses", "loss.name", [AnyObjective::ALL, AnyDensityObjective::ALL].concat()),
        ("weights", "loss.weight", AnyWeight::ALL.to_vec()),
        ("levels", "loss.level", AnyLevel::ALL.to_vec()),
        ("optimisers", "optimiser.name", AnyOptimiser::ALL.to_vec()),
        ("emas", "ema.name", AnyEma::ALL.to_vec()),
        ("scores", "langevin eval ood --scores, langevin detect --scores", AnyDetector::ALL.to_vec()),
        ("networks", "model.net.name", AnyNet::ALL.to_vec()),
        ("families", "model.family", AnyFamily::ALL.to_vec()),
        ("chains", "sampler.name, with model.family", AnyChainSampler::ALL.to_vec()),
        ("models", "MODEL or MODEL:PROCESS, everywhere", langevin::models::mixture::EXACT.to_vec()),
        ("forms", "model.form, with model.head = \"energy\"", Form::ALL.to_vec()),
    ]
}

/// List what configurations can name
#[derive(Parser)]
pub struct List {
    /// A kind of thing [default: all of them]
    pub kind: Option<String>,
}

/// Carries out `langevin list`.
pub fn run(args: &List) -> Result<()> {
    let all = kinds();
    let Some(kind) = &args.kind else {
        for (i, (kind, place, names)) in all.iter().enumerate() {
            crate::say!("{}{kind} ({place})", if i > 0 { "\n" } else { "" })?;
            show(names, "  ")?;
        }
        return Ok(());
    };
    match all.iter().find(|(name, ..)| *name == kind.to_lowercase()) {
        Some((_, _, names)) => show(names, ""),
        None => {
            let kinds: Vec<_> = all.iter().map(|(name, ..)| *name).collect();
            usage(format!("no kind `{kind}`; one of: {}", kinds.join(", ")))
        }
    }
}

fn show(names: &Names, margin: &str) -> Result<()> {
    let width = names.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, about) in names {
        crate::say!("{margin}{name:<width$}  {about}")?;
    }
    Ok(())
}

/// The presets, each with the first comment line of its file.
fn presets() -> Names {
    let about = |text: &'static str| text.lines().find_map(|line| line.strip_prefix('#')).unwrap_or_default().trim();
    PRESETS.iter().map(|(name, text)| (*name, about(text))).collect()
}

/// The licences of the program and of the data inside it.
pub fn licences() -> Result<()> {
    crate::say!("Langevin is licensed under either of the MIT licence and the Apache Licence 2.0, at your choice.\n")?;
    crate::say!("{}\n", include_str!("../../../LICENSE-MIT").trim_end())?;
    crate::say!("{}\n", include_str!("../../../LICENSE-APACHE").trim_end())?;
    crate::say!("{}\n", langevin::data::digits::NOTICE.trim_end())?;
    crate::say!("The letters in its charts are those of DejaVu Sans.\n")?;
    crate::say!("{}", include_str!("../assets/dejavu.LICENSE.txt").trim_end())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_a_line_about_it() {
        for (kind, _, names) in kinds() {
            assert!(!names.is_empty(), "{kind}");
            for (name, about) in names {
                assert!(!about.is_empty() && !about.contains('\n'), "{kind} {name}: {about:?}");
            }
        }
    }
}
