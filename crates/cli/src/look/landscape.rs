//! `langevin look landscape`: an energy as a picture, of the plane or of a plane through three samples.

use super::{Subject, at, denoiser, energies, energy};
use anyhow::Result;
use candle_core::{Device, Tensor};
use clap::Parser;
use langevin::data::Kind;
use langevin::dynamics::Denoiser;
use langevin::error::{Usage, usage};
use langevin::eval::look::plane::Plane;
use langevin::open::Opened;
use langevin::output::{self, View};
use langevin::watch::Progress;
use std::path::PathBuf;

/// Data that are shown over an energy of points.
const POINTS: usize = 500;

/// The energy as a picture: of points, or on a plane through three samples
#[derive(Parser)]
#[command(after_long_help = "\
Bright is where the energy is low. Of points the whole plane around the data is shown, with 500 of them; of anything \
else the plane through three samples, which are seeds or image files and are shown as points.

Examples:
  langevin look landscape runs/toy-two-moons
  langevin look landscape runs/digits --through 0,1,2 --out plane.png
  langevin look landscape runs/digits --size 1440        a larger picture, in four times the time
  langevin look landscape runs/digits --through three.png,eight.png,5 --level 0.5")]
pub struct Landscape {
    /// Three samples that the plane goes through, seeds or image files [default: 0,1,2]
    #[arg(long, value_name = "A,B,C", value_delimiter = ',')]
    pub through: Vec<String>,
    /// Data to show over an energy of points [default: what the run was trained on]
    #[arg(long, value_name = "SPEC")]
    pub data: Option<String>,
    /// Noise level sigma/alpha of the energy, in units of the data
    #[arg(long, default_value_t = 0.2)]
    pub level: f64,
    /// The picture
    #[arg(long, value_name = "FILE.png", default_value = "landscape.png")]
    pub out: PathBuf,
    /// Pixels a side of it; the energy is evaluated at every fourth [default: 720]
    #[arg(long, value_name = "PIXELS")]
    pub size: Option<u32>,
    #[command(flatten)]
    pub subject: Subject,
}

/// Carries out `langevin look landscape`.
pub fn run(args: &Landscape) -> Result<()> {
    output::writable_as(&args.out, &["png"])?;
    let side = output::side(args.size)?;
    let opened = args.subject.open()?;
    let label = args.subject.label(&opened)?;
    let denoiser = denoiser(&opened, label.as_slice())?;
    let t = at(&denoiser, "--level", args.level)?;
    energy(&denoiser)?;
    if opened.kind() != Kind::Points && args.data.is_some() {
        return usage(Usage::of(
            "data",
            "it is shown over an energy of points, and this model is not one of points; leave it out",
        ));
    }
    let (alpha, batch) = (denoiser.process().marginal(t).alpha, args.subject.batch);
    let (plane, shown) = match (opened.kind(), args.through.as_slice()) {
        (Kind::Points, []) => (None, args.subject.data(&opened, args.data.as_ref(), POINTS, label)?),
        (Kind::Points, _) => {
            return usage(Usage::of("through", "this model is one of points, whose plane is shown whole"));
        }
        (_, []) => plane(args, (&opened, label), &["0", "1", "2"].map(String::from))?,
        (_, through) => plane(args, (&opened, label), through)?,
    };
    let of = |at: &Tensor| -> Result<Tensor> {
        let at = at.to_dtype(opened.model.dtype())?.to_device(opened.model.device())?;
        let mut progress = Progress::new(at.dim(0)?.div_ceil(batch) as u64, "batches");
        let mut parts = vec![];
        for first in (0..at.dim(0)?).step_by(batch) {
            let some = at.narrow(0, first, batch.min(at.dim(0)? - first))?;
            let x = plane.as_ref().map_or(Ok(some.clone()), |plane| plane.at(&some))?;
            parts.push(energies((&opened, label.as_slice()), &x.affine(alpha, 0.)?, t, batch, || progress.step())?);
        }
        progress.done();
        Ok(Tensor::cat(&parts, 0)?.to_device(&Device::Cpu)?)
    };
    let picture = output::landscape(Some(&of), &shown.to_device(&Device::Cpu)?, View::around(&shown, side)?)?;
    output::save_png(&args.out, &picture, &[("langevin.model", opened.what.clone())])?;
    crate::say!("{}", args.out.display())
}

/// The plane through three samples, and where they are in it, `[3, 2]`.
fn plane(
    args: &Landscape,
    (opened, label): (&Opened, Option<u32>),
    through: &[String],
) -> Result<(Option<Plane>, Tensor)> {
    let [a, b, c] = through else {
        return usage(Usage::of("through", format!("{} samples; a plane goes through three", through.len())));
    };
    let sample = |name: &String| args.subject.sample(opened, label, "--through", name);
    let plane = match Plane::through(&sample(a)?, &sample(b)?, &sample(c)?) {
        Ok(plane) => plane,
        Err(e) => return usage(Usage::of("through", format!("{e}"))),
    };
    let places = plane.points().into_iter().flatten().map(|v| v as f32);
    let places = Tensor::from_iter(places, &Device::Cpu)?.reshape((3, 2))?;
    Ok((Some(plane), places))
}
