//! `langevin look histogram`: the energies of data beside those of samples.

use super::{Subject, at, energies, energy};
use anyhow::Result;
use candle_core::Tensor;
use clap::Parser;
use langevin::dynamics::{Cond, Denoiser};
use langevin::eval::look::ks::{Ks, ks};
use langevin::open::Opened;
use langevin::ops::shape::to_host;
use langevin::output::{self, chart};
use langevin::sample::Start;
use langevin::watch::Progress;
use langevin::{classes, scoring};
use std::path::PathBuf;

/// The energies of data and of samples, as histograms, with the test of Kolmogorov and Smirnov
#[derive(Parser)]
#[command(after_long_help = "\
Where a model has learnt the density, its samples have the energies of the data. Those are of alpha x, without noise \
added (but for that within grey levels, if the model was trained with data.dequantise), at the noise level of --level. \
A model with classes is told those of the data, for as many samples of each; with --class K it is the data of that \
class alone.

Examples:
  langevin look histogram runs/digits --data digits:test
  langevin look histogram runs/classes --class 3
  langevin look histogram runs/digits --data digits:test -n 1000 --level 0.5 --out energies.png")]
pub struct Histogram {
    /// Data to compare samples with [default: what the run was trained on]
    #[arg(long, value_name = "SPEC")]
    pub data: Option<String>,
    /// Data, and as many samples
    #[arg(short = 'n', value_name = "N", default_value_t = 256)]
    pub number: usize,
    /// Noise level sigma/alpha of the energy, in units of the data
    #[arg(long, default_value_t = 0.2)]
    pub level: f64,
    /// The picture
    #[arg(long, value_name = "FILE.png", default_value = "energies.png")]
    pub out: PathBuf,
    #[command(flatten)]
    pub subject: Subject,
}

/// Carries out `langevin look histogram`.
pub fn run(args: &Histogram) -> Result<()> {
    output::writable_as(&args.out, &["png"])?;
    let opened = args.subject.open()?;
    let denoiser = opened.model.denoiser(Cond::default())?;
    let t = at(&denoiser, "--level", args.level)?;
    energy(&denoiser)?;
    let (data, labels) = labelled(args, &opened)?;
    let seeds: Vec<u64> = (0..data.dim(0)? as u64).collect();
    let drawn = args.subject.drawn(&opened, &seeds, &labels, Start::Noise)?;
    let (alpha, batch) = (denoiser.process().marginal(t).alpha, args.subject.batch);
    let mut progress = Progress::new(2 * seeds.len().div_ceil(batch) as u64, "batches");
    let mut of =
        |x| to_host(&energies((&opened, &labels), x, t, batch, || progress.step())?).map_err(anyhow::Error::from);
    let both = [of(&data.affine(alpha, 0.)?)?, of(&drawn.affine(alpha, 0.)?)?];
    progress.done();
    for (name, energies) in ["data", "samples"].iter().zip(&both) {
        let n = energies.len() as f64;
        let mean = energies.iter().sum::<f64>() / n;
        let std = (energies.iter().map(|e| (e - mean).powi(2)).sum::<f64>() / (n - 1.).max(1.)).sqrt();
        crate::say!("{name:<8} mean {mean:.4}  std {std:.4}  n {n}")?;
    }
    let Ks { statistic, p_value } = ks(&both[0], &both[1])?;
    crate::say!("KS       D = {statistic:.4}  p = {p_value:.2e}")?;
    let title = format!("energies at noise level {}", args.level);
    let picture = chart::histograms(&[(title.as_str(), vec![("data", &both[0]), ("samples", &both[1])])])?;
    output::save_png(&args.out, &picture, &[("langevin.model", opened.what.clone())])?;
    crate::say!("{}", args.out.display())
}

/// The data as the model takes them, and what it is told of them and of its samples: nothing, one label for all, or the
/// label of each.
fn labelled(args: &Histogram, opened: &Opened) -> Result<(Tensor, Vec<u32>)> {
    let subject = &args.subject;
    let asked = if subject.class.is_some() { subject.label(opened)? } else { None };
    let (data, idx) = subject.places(opened, args.data.as_ref(), args.number, asked)?;
    let x = scoring::samples(opened, data.as_ref(), &idx)?;
    let labels = match subject.class {
        None => classes::labels(opened, data.as_ref(), &idx, "--data")?,
        Some(_) => None,
    };
    match labels {
        Some(labels) => Ok((x, labels)),
        None => Ok((x, subject.label(opened)?.into_iter().collect())),
    }
}
