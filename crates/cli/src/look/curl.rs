//! `langevin look curl`: how far a score is from the gradient of an energy, at each noise level.

use super::{Subject, at, denoiser};
use anyhow::Result;
use clap::Parser;
use langevin::dynamics::Denoiser;
use langevin::error::{Usage, usage};
use langevin::eval::look::curl;
use langevin::output;
use langevin::scoring::streams;
use langevin::watch::Progress;

/// How far a score is from the gradient of an energy: the antisymmetric share of its Jacobian
#[derive(Parser)]
#[command(after_long_help = "\
The share is |A|^2 / |J|^2, A the antisymmetric part of the Jacobian J in Frobenius norms: 0 for the gradient of an \
energy, 1 for pure rotation. It is estimated at data with noise added, by Hutchinson's random vectors; exactly where a \
sample has no more numbers than there are probes. That of x0 = E[x0 | x_t] has no -1/sigma^2 in it, which hides the \
share of the score where there is little noise.

Examples:
  langevin look curl runs/digits                            an energy: 0 but for rounding
  langevin look curl runs/classes --class 3                 at threes, by the score of threes
  langevin look curl google/ddpm-cifar10-32 --data cifar10:test --levels 0.1,1,10 -n 8")]
pub struct Curl {
    /// Noise levels sigma/alpha, in units of the data
    #[arg(long, value_delimiter = ',', default_value = "0.05,0.1,0.2,0.5,1,2,5")]
    pub levels: Vec<f64>,
    /// Data to look at, with noise added [default: what the run was trained on]
    #[arg(long, value_name = "SPEC")]
    pub data: Option<String>,
    /// Samples of them
    #[arg(short = 'n', value_name = "N", default_value_t = 16)]
    pub number: usize,
    /// Random vectors a sample
    #[arg(long, default_value_t = 4)]
    pub probes: usize,
    #[command(flatten)]
    pub subject: Subject,
}

/// Carries out `langevin look curl`.
pub fn run(args: &Curl) -> Result<()> {
    if args.probes == 0 {
        return usage(Usage::of("probes", "give at least 1").value("0"));
    }
    let opened = args.subject.open()?;
    let label = args.subject.label(&opened)?;
    let denoiser = denoiser(&opened, label.as_slice())?;
    let times = args.levels.iter().map(|&level| at(&denoiser, "--levels", level)).collect::<Result<Vec<_>>>()?;
    let x = args.subject.data(&opened, args.data.as_ref(), args.number, label)?;
    let (n, batch) = (x.dim(0)?, args.subject.batch);
    let mut table = vec![["level", "t", "score", "", "x0", ""].map(String::from).to_vec()];
    let mut progress = Progress::new((times.len() * n.div_ceil(batch)) as u64, "batches");
    for (level, &t) in args.levels.iter().zip(&times) {
        let marginal = denoiser.process().marginal(t);
        let (mut score, mut x0) = (vec![], vec![]);
        for first in (0..n).step_by(batch) {
            let idx: Vec<usize> = (first..n.min(first + batch)).collect();
            let mut noise = streams(&idx);
            let clean = x.narrow(0, first, idx.len())?;
            let eps = noise.normal_like(&clean)?;
            let noisy = (clean.affine(marginal.alpha, 0.)? + eps.affine(marginal.sigma, 0.)?)?.detach();
            let found = curl::curl(&denoiser, &noisy, t, args.probes, &mut noise)?;
            score.extend(found.score);
            x0.extend(found.x0);
            progress.step();
        }
        let words =
            [&score, &x0].map(|parts| curl::share(parts)).map(|(s, e)| [format!("{s:.3e}"), format!("+- {e:.1e}")]);
        table.push([vec![level.to_string(), format!("{t:.4}")], words.concat()].concat());
    }
    progress.done();
    output::aligned(&table).iter().try_for_each(|line| crate::say!("{line}"))
}
