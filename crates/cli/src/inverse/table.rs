//! PSNR and SSIM of what a model makes of measurements, over tasks and methods.

use super::inpaint::{Inpaint, complete};
use crate::stop;
use anyhow::Result;
use candle_core::Tensor;
use langevin::dynamics::inverse::{AnyMethod, Operator};
use langevin::eval::psnr::psnr;
use langevin::eval::ssim::{SIDE, ssim};
use langevin::inverse::{Given, advice, measured};
use langevin::sample::Drawn;
use langevin::watch::Progress;
use std::sync::Arc;

/// Of white to black, in the units of the data.
const RANGE: f64 = 2.;

/// Prints a line for each task and method: the means over the images `x` `[N, C, H, W]` in [-1, 1], of a sample each.
pub fn print(
    args: &Inpaint,
    given: &Given,
    methods: &[AnyMethod],
    tasks: &[(String, Arc<dyn Operator>)],
    (x, labels): (&Tensor, Option<&[u32]>),
) -> Result<()> {
    let n = x.dim(0)?;
    let one = x.narrow(0, 0, 1)?;
    let mut steps = 0;
    for (_, operator) in tasks {
        let seen = measured(operator, &given.model.spec, &one, args.noise, &[0])?;
        steps += methods.iter().map(|method| given.steps(method.get(), &seen)).sum::<Result<u64>>()?;
    }
    let mut progress = Progress::new(steps * n.div_ceil(args.batch) as u64, "steps");
    let data = args.data.as_deref().unwrap_or_default();
    crate::say!(
        "# {n} images of {data}, a sample each, noise {}, {} noise levels; means and their \
         standard errors, what was measured among it",
        args.noise,
        given.way.steps.len()
    )?;
    crate::say!("{:<14} {:<8} {:>16} {:>18}", "task", "method", "PSNR (dB)", "SSIM")?;
    let seeds: Vec<u64> = (0..n as u64).collect();
    let mut missing = None;
    for (name, operator) in tasks {
        for method in methods {
            let (mut found, mut of) = (vec![], vec![]);
            let one = |places| complete(args, given, method, operator, (x, labels), places, &mut progress);
            let drawn = Drawn::by(n, (args.batch, false), one, &mut |batch| {
                found.push(batch.x.clamp(-1f32, 1f32)?);
                of.extend(batch.places.iter().map(|&i| i as u32));
                Ok(())
            });
            let whole = drawn.whole(Some(&seeds), false, &advice(method));
            if stop::asked().is_some() || of.is_empty() {
                whole?; // the lines above are there
            } else {
                missing = missing.or(whole.err());
            }
            let (drawn, of) = (Tensor::cat(&found, 0)?, Tensor::new(of, x.device())?);
            line((name, method), &drawn, &x.index_select(&of, 0)?)?;
        }
    }
    progress.done();
    missing.map_or(Ok(()), Err)
}

/// The line of samples beside the pictures that they are to be.
fn line((task, method): (&str, &AnyMethod), drawn: &Tensor, x: &Tensor) -> Result<()> {
    let (_, _, h, w) = x.dims4()?;
    let ssim = match h.min(w) >= SIDE {
        true => mean(&ssim(drawn, x, RANGE)?, 4),
        false => "n/a".into(),
    };
    let psnr = mean(&psnr(drawn, x, RANGE)?, 2);
    crate::say!("{task:<14} {:<8} {psnr:>16} {ssim:>18}", method.name())
}

/// The mean with its standard error.
fn mean(values: &[f64], digits: usize) -> String {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let error = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n * (n - 1.).max(1.))).sqrt();
    if n > 1. { format!("{mean:.digits$} +- {error:.digits$}") } else { format!("{mean:.digits$}") }
}
