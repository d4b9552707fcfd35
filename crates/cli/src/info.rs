//! `langevin info`: what a run or a weights file is.

use anyhow::Result;
use candle_core::{DType, Device};
use clap::Parser;
use langevin::data::{Columns, Facts, list};
use langevin::keeps::{SIGMA_REL, STEP};
use langevin::models::diffusers::pipeline;
use langevin::models::{Form, Head};
use langevin::open::{self, AnyOpened, Opened, OpenedDensity};
use langevin::output::digits;
use std::path::Path;

/// Say what a run or a weights file is
#[derive(Parser)]
pub struct Info {
    /// A run folder, RUN@STEP, a weights file, a folder of diffusers, OWNER/NAME of the Hub, or exact:NAME
    pub model: String,
}

/// Carries out `langevin info`.
pub fn run(args: &Info) -> Result<()> {
    if let Some(folder) = open::network_folder(&args.model)? {
        return network(&folder);
    }
    let opened = match open::open_any(&args.model, &Device::Cpu)? {
        AnyOpened::Denoising(opened) => opened,
        AnyOpened::Density(opened) => return density(&opened),
    };
    for (what, value) in facts(&opened)? {
        crate::say!("{what:<12} {value}")?;
    }
    if let Some(run) = &opened.run {
        crate::say!("\n{}", run.to_toml()?.trim_end())?;
    }
    Ok(())
}

/// A density of a family: what its file says of it.
fn density(opened: &OpenedDensity) -> Result<()> {
    let (spec, run) = (&opened.model.spec, opened.run.as_ref());
    let shape: Vec<_> = spec.shape.iter().map(usize::to_string).collect();
    let mut all = vec![
        line("file", &opened.what),
        line("samples", format!("{} of {}", shape.join(" x "), spec.states())),
        line("family", format!("{}, {} parameters", spec.family.name(), thousands(opened.model.parameters()))),
    ];
    all.extend(trained(opened.notes.get(STEP), run.map(|run| run.train.steps)));
    all.extend(run.map(|run| line("data", &run.data.spec)));
    all.extend(opened.facts.as_ref().map(learnt));
    all.extend(opened.columns().map(|columns| line("columns", columns.names.join(", "))));
    all.iter().try_for_each(|(what, value)| crate::say!("{what:<12} {value}"))?;
    match run {
        Some(run) => crate::say!("\n{}", run.to_toml()?.trim_end()),
        None => Ok(()),
    }
}

/// How far its training came.
fn trained(step: Option<&String>, all: Option<u64>) -> Option<(&'static str, String)> {
    let of = all.map(|all| format!(" of {all}")).unwrap_or_default();
    step.map(|step| line("trained", format!("{step}{of} steps")))
}

/// What it keeps of the data that it learnt.
fn learnt(facts: &Facts) -> (&'static str, String) {
    let short = facts.fingerprint.get(..12).unwrap_or(&facts.fingerprint);
    line("learnt", format!("{} samples, fingerprint {short}", facts.samples))
}

fn line(what: &'static str, value: impl ToString) -> (&'static str, String) {
    (what, value.to_string())
}

/// What the file says of the model, and where it says it.
fn facts(opened: &Opened) -> Result<Vec<(&'static str, String)>> {
    let spec = &opened.model.spec;
    let shape: Vec<_> = spec.shape.iter().map(usize::to_string).collect();
    let mut all = vec![
        line("file", &opened.what),
        line("samples", shape.join(" x ")),
        line("network", format!("{}, {} parameters", spec.net.name(), thousands(opened.model.parameters()))),
        line(
            "head",
            match opened.model.inner().potential() {
                Some(_) => "energy, known exactly".into(),
                None => head(spec.head, spec.form),
            },
        ),
        line("process", spec.process.name()),
        line("predicts", spec.predict.name()),
        line("sigma_data", format!("{:.4}", spec.sigma_data)),
    ];
    if let Some(n) = spec.classes {
        let names = opened.class_names().map(|names| format!(": {}", list(names))).unwrap_or_default();
        all.push(line("classes", format!("{n}{names}{}", if spec.null_class { ", and none" } else { "" })));
    }
    all.extend(trained(opened.notes.get(STEP), opened.run.as_ref().map(|run| run.train.steps)));
    if let Some(width) = opened.notes.get(SIGMA_REL) {
        all.push(line("average", format!("power profile of relative width {width}")));
    }
    if let Some(run) = &opened.run {
        all.push(line("data", &run.data.spec));
    }
    all.extend(opened.facts.as_ref().map(learnt));
    if let Some(columns) = opened.columns()? {
        all.push(line("columns", column_lines(&columns).join(", ")));
    }
    Ok(all)
}

/// Each column with its mean and deviation, or the value that all rows have.
fn column_lines(columns: &Columns) -> Vec<String> {
    let one = |(name, (&mean, &std)): (&String, (&f64, &f64))| match std {
        0. => format!("{name} = {mean}"),
        _ => format!("{name} ({} +- {})", digits(mean, std), digits(std, std)),
    };
    columns.names.iter().zip(columns.mean.iter().zip(&columns.std)).map(one).collect()
}

fn head(head: Head, form: Form) -> String {
    match head {
        Head::Denoiser => "denoiser, a plain network".into(),
        Head::Energy => {
            let name = match form {
                Form::Residual => "residual",
                Form::InnerProduct => "inner-product",
                Form::SquaredNorm => "squared-norm",
                Form::Scalar => "scalar",
                Form::NoiseNorm => "noise-norm",
            };
            let about = Form::ALL.iter().find(|(n, _)| *n == name).map(|(_, about)| *about).unwrap_or_default();
            format!("energy, {name}: {about}")
        }
    }
}

/// A folder of diffusers: what is known without a process.
fn network(folder: &Path) -> Result<()> {
    let network = open::network(folder, DType::F32, &Device::Cpu)?;
    let c = &network.config;
    let parameters = network.vars.iter().map(|(_, var)| var.elem_count()).sum();
    crate::say!("{:<12} {}", "folder", folder.display())?;
    crate::say!("{:<12} UNet2DModel of diffusers, {} parameters", "network", thousands(parameters))?;
    crate::say!("{:<12} {} in, {} out", "channels", c.inputs, c.outputs)?;
    if let Some([h, w]) = c.size {
        crate::say!("{:<12} {h} x {w}", "trained on")?;
    }
    if let Some(n) = c.classes {
        crate::say!("{:<12} {n}", "classes")?;
    }
    let Some(scheduler) = pipeline::scheduler(folder, None)? else {
        return crate::say!("{:<12} none: apply can use it, and sample with --scheduler", "scheduler");
    };
    crate::say!("{:<12} {}, {} steps unless told otherwise", "scheduler", scheduler.class, scheduler.steps)?;
    crate::say!("{:<12} {}", "process", scheduler.process.name())?;
    crate::say!("{:<12} {}", "predicts", scheduler.predict.name())?;
    crate::say!("{:<12} {}", "sampler", scheduler.sampler.name())
}

/// 1234567 as 1,234,567.
fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn numbers_are_grouped_from_their_end() {
        assert_eq!([0, 999, 1000, 1234567].map(super::thousands), ["0", "999", "1,000", "1,234,567"]);
    }
}
