//! `langevin inpaint` of a density of a family: chains that hold what is known of a picture.

use super::inpaint::{Inpaint, tasks};
use crate::stop;
use anyhow::{Context, Result};
use langevin::Tensor;
use langevin::config::idle;
use langevin::data::Kind;
use langevin::density::{drawn, shown};
use langevin::dynamics::inverse::Operator;
use langevin::error::{Usage, usage};
use langevin::models::draw::{AnyChainSampler, Held};
use langevin::open::OpenedDensity;
use langevin::output::{self, Grid};
use langevin::sample::{Drawn, One, fitting, image};
use langevin::scoring::Scored;
use langevin::watch::Progress;
use std::ops::Range;
use std::path::Path;

/// Carries out `langevin inpaint` of `opened`; that `out` can be written was asked before.
pub fn run(args: &Inpaint, opened: &OpenedDensity, out: &Path) -> Result<()> {
    let model = &opened.model;
    if opened.kind() != Kind::Image {
        return usage("inpaint: this density is not one of images");
    }
    let idle = [
        ("task", args.task.is_some(), "chains hold what is known, and nothing else is measured; give --mask"),
        ("noise", args.noise != 0., "chains hold what is known as it is; leave it out"),
        ("method", !args.method.is_empty(), "chains hold what is known; sampler.name and sampler.KEY say how they go"),
        ("table", args.table, "it compares methods of models that denoise; leave it out"),
    ];
    if let Some((option, _, why)) = idle.iter().find(|(_, typed, _)| *typed) {
        return usage(Usage::of(option, why));
    }
    args.guiding.of_density()?;
    let (_, mask) = tasks(args, &model.spec.shape)?.remove(0);
    let sampler = opened.sampler(&args.changes)?;
    let (x, each) = pictures(args, opened)?;
    let sheet = Sheet::new(opened, mask.as_ref(), &x, if each { 1 } else { args.number })?;
    let _hold = stop::hold();
    sheet.fill(args, (opened, &sampler), each, out)
}

/// The pictures as states `[N, C, H, W]`: one that all samples complete, or several, `each` completed once.
fn pictures(args: &Inpaint, opened: &OpenedDensity) -> Result<(Tensor, bool)> {
    if let Some(spec) = &args.data {
        idle::ambiguous("data", spec)?;
        let data = opened.data(spec, "data")?;
        let idx: Vec<usize> = (0..args.number.min(data.len())).collect();
        return Ok((states(opened, data.get(&idx)?.x)?, true));
    }
    let path = args.input.as_deref().context("no --input")?;
    let x = image(path, &opened.model.spec.shape)?;
    let x = fitting(Scored::learnt(opened).0, ("input", path), x, args.invert)?;
    Ok((states(opened, x)?, false))
}

/// Images in [-1, 1] as states: to be looked at, so that pixels are not drawn by their grey levels.
fn states(opened: &OpenedDensity, x: Tensor) -> Result<Tensor> {
    let model = &opened.model;
    Ok(model.spec.states_of(&x.to_dtype(model.dtype())?.to_device(model.device())?)?)
}

/// The picture: a row for each image, with what is known of it and its samples.
struct Sheet {
    grid: Grid,
    columns: usize,
    x: Tensor,
    /// 1 where a pixel is known, `[1, C, H, W]`.
    known: Tensor,
}

impl Sheet {
    fn new(opened: &OpenedDensity, mask: &dyn Operator, x: &Tensor, samples: usize) -> Result<Self> {
        let (n, _, h, w) = x.dims4()?;
        let known = mask.apply(&x.narrow(0, 0, 1)?.ones_like()?)?;
        let columns = 2 + samples;
        let mut sheet = Self { grid: Grid::new(columns * n, [w, h], Some(columns))?, columns, x: x.clone(), known };
        let whole = shown(&opened.model, x)?;
        let known = sheet.known.ne(0.)?.to_device(whole.device())?.broadcast_as(x.shape())?.contiguous()?;
        sheet.put(&whole, |i| i * columns)?;
        // what is hidden is grey
        sheet.put(&known.where_cond(&whole, &whole.zeros_like()?)?, |i| i * columns + 1)?;
        Ok(sheet)
    }

    /// Puts the `i`th of some pictures at `place(i)`.
    fn put(&mut self, x: &Tensor, place: impl Fn(usize) -> usize) -> Result<()> {
        output::pictures(x)?.iter().enumerate().for_each(|(i, picture)| self.grid.put(place(i), picture));
        Ok(())
    }

    /// Draws the samples, and writes what was drawn.
    fn fill(
        mut self,
        args: &Inpaint,
        (opened, sampler): (&OpenedDensity, &AnyChainSampler),
        each: bool,
        out: &Path,
    ) -> Result<()> {
        let (model, n, columns) = (&opened.model, if each { self.x.dim(0)? } else { args.number }, self.columns);
        let seeds: Vec<u64> = (0..n as u64).collect();
        let (x, known, mut progress, mut count) = (self.x.clone(), self.known.clone(), None::<Progress>, 0);
        let one = |places: Range<usize>| {
            let states = if each { x.narrow(0, places.start, places.len())? } else { x.clone() };
            let held = Held { states, mask: known.clone() };
            let batches = n.div_ceil(args.batch);
            let drawn = drawn(model, sampler, &seeds[places], Some(&held), (&mut progress, batches))?;
            Ok(One::of(shown(model, &drawn.states)?))
        };
        let drawn = Drawn::by(n, (args.batch, false), one, &mut |batch| {
            count += batch.places.len();
            self.put(&batch.x, |i| if each { batch.places[i] * columns + 2 } else { 2 + batch.places[i] })
        });
        drop(progress);
        if count > 0 {
            let task = args.mask.clone().unwrap_or_default();
            let how = toml::to_string(sampler)?;
            let notes = [("langevin.model", opened.what.clone()), ("langevin.task", task), ("langevin.sampler", how)];
            output::save_png(out, &self.grid.finish(), &notes)?;
            crate::say!("{}", out.display())?;
        }
        drawn.whole(Some(&seeds), true, "its weights may not be finite; train it anew with a lower train.lr")
    }
}
