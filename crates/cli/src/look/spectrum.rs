//! `langevin look spectrum`: the curvature of an energy, by the eigenvalues of its Hessian.

use super::{Subject, at, denoiser, energy};
use anyhow::Result;
use clap::Parser;
use langevin::dynamics::Denoiser;
use langevin::error::{Usage, usage};
use langevin::eval::look::lanczos;
use langevin::output::{self, chart};
use langevin::scoring::streams;
use langevin::watch::Progress;
use std::path::PathBuf;

/// Points of the curve of the density.
const CURVE: usize = 400;

/// The eigenvalues of the Hessian of an energy at some data, by Lanczos
#[derive(Parser)]
#[command(after_long_help = "\
For each sample: the least and the largest eigenvalue with their errors, and how many of the D directions have a \
negative one, or one below half of 1/sigma^2: along those the density of x_t is wider than the noise alone would make \
it, so the data go that way. The counts are Gauss quadratures from one random vector, rough where D is small. The \
picture is the density of eigenvalues, each blurred by a sixtieth of the range.

Examples:
  langevin look spectrum runs/digits -n 8 --steps 60
  langevin look spectrum runs/digits --data digits:test --level 0.1 --out curvature.png")]
pub struct Spectrum {
    /// Data to look at, with noise added [default: what the run was trained on]
    #[arg(long, value_name = "SPEC")]
    pub data: Option<String>,
    /// Samples of them
    #[arg(short = 'n', value_name = "N", default_value_t = 4)]
    pub number: usize,
    /// Steps of Lanczos: products with the Hessian
    #[arg(long, default_value_t = 40)]
    pub steps: usize,
    /// Noise level sigma/alpha of the energy, in units of the data
    #[arg(long, default_value_t = 0.2)]
    pub level: f64,
    /// The picture
    #[arg(long, value_name = "FILE.png", default_value = "spectrum.png")]
    pub out: PathBuf,
    #[command(flatten)]
    pub subject: Subject,
}

/// Carries out `langevin look spectrum`.
pub fn run(args: &Spectrum) -> Result<()> {
    if args.steps < 2 {
        return usage(Usage::of("steps", "give at least 2").value(args.steps));
    }
    output::writable_as(&args.out, &["png"])?;
    let opened = args.subject.open()?;
    let label = args.subject.label(&opened)?;
    let denoiser = denoiser(&opened, label.as_slice())?;
    let (energy, t) = (energy(&denoiser)?, at(&denoiser, "--level", args.level)?);
    let marginal = denoiser.process().marginal(t);
    let x = args.subject.data(&opened, args.data.as_ref(), args.number, label)?;
    let (n, batch, d) = (x.dim(0)?, args.subject.batch, x.elem_count() / x.dim(0)?);
    let mut progress = Progress::new((n.div_ceil(batch) * args.steps.min(d)) as u64, "steps");
    let mut spectra = vec![];
    for first in (0..n).step_by(batch) {
        let idx: Vec<usize> = (first..n.min(first + batch)).collect();
        let mut noise = streams(&idx);
        let clean = x.narrow(0, first, idx.len())?;
        let eps = noise.normal_like(&clean)?;
        let noisy = (clean.affine(marginal.alpha, 0.)? + eps.affine(marginal.sigma, 0.)?)?.detach();
        let start = noise.rademacher_like(&noisy)?;
        spectra.extend(lanczos::hessian(energy, &noisy, t, &start, args.steps, &mut || {
            progress.step();
            Ok(())
        })?);
    }
    progress.done();
    let stiff = 0.5 / (marginal.sigma * marginal.sigma);
    let head = ["sample", "least", "", "largest", "", "negative", "below half of 1/sigma^2"];
    let mut table = vec![head.map(String::from).to_vec()];
    for (i, spectrum) in spectra.iter().enumerate() {
        let end = |at: Option<(&f64, &f64)>| {
            at.map_or([String::new(), String::new()], |(v, e)| [format!("{v:.4}"), format!("+- {e:.1e}")])
        };
        let pairs = || spectrum.values.iter().zip(&spectrum.errors);
        let below = |limit: f64| {
            let low = spectrum.values.iter().zip(&spectrum.weights).filter(|(v, _)| **v < limit);
            let part = low.fold(0., |part, (_, weight)| part + weight);
            format!("{:.1} of {d}", part * d as f64)
        };
        let [least, least_error] = end(pairs().next());
        let [largest, largest_error] = end(pairs().next_back());
        table.push(vec![i.to_string(), least, least_error, largest, largest_error, below(0.), below(stiff)]);
    }
    output::aligned(&table).iter().try_for_each(|line| crate::say!("{line}"))?;
    let title = format!("eigenvalues of the Hessian, noise level {}; 1/sigma^2 = {:.4}", args.level, 2. * stiff);
    let curve = [("density".to_string(), density(&spectra))];
    let picture = chart::lines(&title, ["eigenvalue", "density"], &curve)?;
    output::save_png(&args.out, &picture, &[("langevin.model", opened.what.clone())])?;
    crate::say!("{}", args.out.display())
}

/// The mean over the spectra of sum_i w_i N(value_i, width^2), as points of a curve.
fn density(spectra: &[lanczos::Spectrum]) -> Vec<(f64, f64)> {
    let values = || spectra.iter().flat_map(|s| s.values.iter().copied());
    let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    let width = (high - low).max(1e-9) / 60.;
    let (low, high) = (low - 3. * width, high + 3. * width);
    let bell = |x: f64| (-0.5 * (x / width).powi(2)).exp() / (width * std::f64::consts::TAU.sqrt());
    let at = |x: f64| {
        let of = spectra.iter().flat_map(|s| s.values.iter().zip(&s.weights));
        of.map(|(value, weight)| weight * bell(x - value)).sum::<f64>() / spectra.len() as f64
    };
    (0..CURVE).map(|i| low + (high - low) * i as f64 / (CURVE - 1) as f64).map(|x| (x, at(x))).collect()
}
