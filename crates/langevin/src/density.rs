//! Densities of a family, such as a restricted Boltzmann machine: opened, drawn from, completed, and weighed.

use crate::bounds::Bounds;
use crate::config::{Changes, DensityConfig};
use crate::error::{Stopped, Usage, usage};
use crate::open::{OpenedDensity, density_kind};
use crate::output::{self, Grid, View};
use crate::sample::{Batch, Drawn, Keep, One, Source, Walked, What, listed};
use crate::scoring;
use crate::watch::{self, Progress, go_on};
use ::image::RgbImage;
use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use langevin_data::{Binarise, Columns, Dataset, Kind, Options, Scaling};
use langevin_dynamics::likelihood::LogZ;
use langevin_models::DensityModel;
use langevin_models::draw::{AnyChainSampler, Held};
use langevin_models::family::{Ais, Raise, States};
use langevin_ops::noise::Noise;
use langevin_ops::shape::to_host;
use std::path::{Path, PathBuf};

impl OpenedDensity {
    /// How samples of it are drawn, with `changes`, `sampler.KEY=value`.
    pub fn sampler(&self, changes: &[String]) -> Result<AnyChainSampler> {
        let own = self.run.as_ref().map(|run| run.sampler.clone()).unwrap_or_default();
        let sampler = DensityConfig::sampler_with(&own, &Changes::typed(changes)?)?;
        DensityConfig::suits(&sampler, &self.model)?;
        Ok(sampler)
    }

    /// A data set whose samples have the shape of its states, its notes told, and that it changed if it is what the density learnt;
    /// `option` names it.
    pub fn data(&self, spec: &str, option: &str) -> Result<Box<dyn Dataset>> {
        let scaling = match (self.columns(), self.model.spec.states()) {
            (Some(columns), _) => Scaling::Like(columns.clone()),
            (None, States::Bits) => Scaling::Bits,
            (None, States::Real) => Scaling::No,
            (None, States::Integers(q)) => Scaling::Integers(q),
        };
        let learnt = self.run.as_ref().filter(|run| scoring::whole(&run.data.spec) == scoring::whole(spec));
        let size = learnt.and_then(|run| run.data.size);
        let options = Options { size, shape: Some(self.model.spec.shape.clone()), scaling, ..Options::default() };
        let reading = Progress::named(&format!("reading {spec}"));
        let data = match langevin_data::open(spec, &options) {
            Ok(data) => data,
            Err(e) => return usage(Usage::of(option, e).value(spec)),
        };
        reading.done();
        data.notes().iter().for_each(|note| crate::note!("{spec}: {note}"));
        match self.model.spec.states() {
            States::Bits => langevin_data::check_bits(data.as_ref()),
            States::Integers(q) => langevin_data::check_integers(data.as_ref(), q),
            States::Real => Ok(()),
        }
        .map_err(|why| Usage::of(option, why).value(spec))?;
        if learnt.is_some()
            && let Some(what) = self.changed(data.as_ref())?
        {
            crate::note!(
                "warning: {spec} are not the data that the model learnt any more: they have {what}; give the data that it \
                 learnt with --{option}"
            );
        }
        Ok(data)
    }

    /// The samples `idx` of `data` as states, `[B, ...]`: images as bits by the way that its run had, so that they are what it learnt.
    /// Where each pixel is drawn the noise of a sample belongs to its index.
    pub fn states(&self, data: &dyn Dataset, idx: &[usize]) -> Result<Tensor> {
        self.states_drawn(data, idx, 0)
    }

    /// The same with draws of another `seed`.
    pub(crate) fn states_drawn(&self, data: &dyn Dataset, idx: &[usize], seed: u64) -> Result<Tensor> {
        let key = BITS ^ seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let (model, x) = (&self.model, data.get(idx)?.x);
        let x = match self.binarise() {
            Some(how) if data.kind() == Kind::Image => {
                let mut noise = Noise::seeds(&idx.iter().map(|&i| i as u64 ^ key).collect::<Vec<_>>());
                how.bits(&x, &mut noise)?
            }
            _ => model.spec.states_of(&x)?,
        };
        Ok(x.to_dtype(model.dtype())?.to_device(model.device())?)
    }

    /// How its run made bits of images, if it is a density of bits and says so.
    pub fn binarise(&self) -> Option<Binarise> {
        let bits = self.model.spec.states() == States::Bits && self.kind() == Kind::Image;
        self.run.as_ref().filter(|_| bits).map(|run| run.data.binarise.unwrap_or_default())
    }

    /// E of each of the samples `x` `[B, ...]` as [`OpenedDensity::states`] gives them, log p but for log Z turned over; with latent
    /// units too many to be summed over it is bounded from above.
    ///
    /// Errors if the family gives no energy.
    pub fn energy(&self, x: &Tensor) -> Result<Vec<f64>> {
        Ok(self.model.log_sum(x)?.log_sum.iter().map(|log_sum| -log_sum).collect())
    }

    /// Samples with these seeds: all of the density, or of it given what is `held`.
    pub fn sample(&self, seeds: Vec<u64>, changes: &[String], batch: Option<usize>) -> Result<DensitySamples<'_>> {
        if batch == Some(0) {
            return usage(Usage::of("batch", "give at least 1").value(0));
        }
        if seeds.is_empty() {
            return usage(Usage::of("seeds", "there are none, and so no samples; give one a sample"));
        }
        Ok(DensitySamples { opened: self, sampler: self.sampler(changes)?, seeds, batch: batch.unwrap_or(BATCH) })
    }
}

/// Keeps the draws of bits apart from other noise of samples ("binarise" in ASCII).
const BITS: u64 = 0x6269_6e61_7269_7365;

/// Samples at a time, and states whose energy is asked at once.
const BATCH: usize = 64;
const STATES: usize = 1000;

/// Samples of a density, and how they are drawn.
pub struct DensitySamples<'a> {
    opened: &'a OpenedDensity,
    sampler: AnyChainSampler,
    seeds: Vec<u64>,
    batch: usize,
}

impl Source for DensitySamples<'_> {
    fn what(&self) -> Result<What> {
        let (kind, shape) = (self.opened.kind(), self.opened.model.spec.shape.clone());
        Ok(What { kind, shape, columns: self.opened.columns().cloned(), labels: None })
    }

    fn seeds(&self) -> &[u64] {
        &self.seeds
    }

    fn reports(&self) -> Result<()> {
        Ok(())
    }

    fn draw(&self, keep: Keep, take: &mut dyn FnMut(Batch) -> Result<()>) -> Result<Drawn> {
        if keep.frames.is_some() {
            return usage(Usage::of("gif", "chains of a density go no way from noise to data; leave it out"));
        }
        let (model, mut progress) = (&self.opened.model, None);
        let batches = self.seeds.len().div_ceil(self.batch);
        let one = |places: std::ops::Range<usize>| {
            let drawn = drawn(model, &self.sampler, &self.seeds[places], None, (&mut progress, batches))?;
            let (x, report) = (shown(model, &drawn.states)?, Some(Walked::Rungs(drawn.visits)));
            Ok(One { x, path: vec![], report })
        };
        Ok(Drawn::by(self.seeds.len(), (self.batch, keep.traced), one, take))
    }

    fn notes(&self, done: usize) -> Result<Vec<(&'static str, String)>> {
        let (model, seeds) = (self.opened.what.clone(), listed(&self.seeds[..done]));
        let how = toml::to_string(&self.sampler)?;
        Ok(vec![("langevin.model", model), ("langevin.seeds", seeds), ("langevin.sampler", how)])
    }

    fn picture(&self, _t: Option<f64>, _x: &Tensor, _view: View) -> Result<RgbImage> {
        usage("samples of a density of a family are images or rows, and no points of the plane")
    }

    fn advice(&self) -> String {
        "its weights may not be finite; train it anew with a lower train.lr".into()
    }
}

/// States as data, on the CPU.
pub fn shown(model: &DensityModel, states: &Tensor) -> Result<Tensor> {
    Ok(model.spec.shown(states)?.to_device(&Device::Cpu)?.to_dtype(DType::F32)?)
}

/// A sample for each of `seeds`, given what is `held`. The bar of `progress`, of so many such batches, begins with the first step.
pub fn drawn(
    model: &DensityModel,
    sampler: &AnyChainSampler,
    seeds: &[u64],
    held: Option<&Held>,
    (progress, batches): (&mut Option<Progress>, usize),
) -> Result<langevin_models::draw::Drawn> {
    Ok(sampler.draw(model, seeds, held, &mut |_, all| {
        progress.get_or_insert_with(|| Progress::new((batches * all) as u64, "steps")).step();
        go_on()
    })?)
}

/// Writes the usual picture of samples of a density to `path`, images as greys without the noise of their last draw where the density
/// knows them, and its filters beside it if it has some; a table goes to a CSV file.
/// Says where it is.
pub fn picture(
    model: &DensityModel,
    sampler: &AnyChainSampler,
    seeds: &[u64],
    columns: Option<&Columns>,
    path: &Path,
) -> Result<PathBuf> {
    let seeds = match model.spec.shape[..] {
        [_, height, width] => &seeds[..Grid::at_most(seeds.len(), [width, height])],
        _ => seeds,
    };
    let (mut progress, batches) = (None, seeds.len().div_ceil(BATCH));
    let parts = seeds.chunks(BATCH).map(|some| Ok(drawn(model, sampler, some, None, (&mut progress, batches))?.states));
    let states = Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)?;
    let grey = if density_kind(model) == Kind::Image { model.body().smoothed(&states)? } else { None };
    let x = shown(model, grey.as_ref().unwrap_or(&states))?;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    if density_kind(model) != Kind::Image {
        let path = path.with_extension("csv");
        output::save_samples(&path, columns, &x)?;
        return Ok(path);
    }
    output::save_png(path, &output::grid(&x, None)?, &[])?;
    if let Some(filters) = filters(model, FILTERS)? {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        output::save_png(&path.with_file_name(format!("filters-{name}")), &filters, &[])?;
    }
    Ok(path.into())
}

/// Filters in a picture of a run.
const FILTERS: usize = 64;

/// The first `most` filters of a density of images as a picture, each from black, its least number, to white; the middle grey is 0.
pub fn filters(model: &DensityModel, most: usize) -> Result<Option<RgbImage>> {
    let (Some(filters), Kind::Image) = (model.body().filters()?, density_kind(model)) else { return Ok(None) };
    let n = Grid::at_most(most.min(filters.dim(0)?), [model.spec.shape[2], model.spec.shape[1]]);
    let filters = filters.narrow(0, 0, n)?.to_device(&Device::Cpu)?;
    let top = filters.abs()?.flatten_from(1)?.max_keepdim(1)?.clamp(1e-12, f64::INFINITY)?;
    let top = top.reshape((n, 1, 1, 1))?;
    Ok(Some(output::grid(&filters.broadcast_div(&top)?, None)?))
}

/// log Z of a density, and how well it knows some data.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Likelihood {
    /// log Z by annealed importance sampling, with its error.
    pub log_z: LogZ,
    /// log Z itself, where it can be enumerated.
    pub exact: Option<f64>,
    /// Both from the other side, by reverse annealing of some of the data.
    pub reverse: Option<Bounds>,
    /// Whether `mean` and `log_p` are bounds from below, of a density with latent units too many to be summed over.
    pub bound: bool,
    /// The mean of ln p over the data, and its standard error.
    pub mean: f64,
    /// The same.
    pub error: f64,
    /// ln p of each.
    pub log_p: Vec<f64>,
}

impl OpenedDensity {
    /// The means over at most `most` samples of the data that it learnt, as a ladder wants them ([`DensityModel::sums`]), latent units
    /// given the data; `None` if it does not say
    /// which they were, or they are not there.
    pub fn means(&self, most: usize) -> Result<Option<Vec<f64>>> {
        let Some(spec) = self.run.as_ref().map(|run| run.data.spec.clone()) else { return Ok(None) };
        let without = |why: String| {
            crate::note!(
                "{why}: the ladder begins at what the density says of itself, and not at the means of its data"
            );
            Ok(None)
        };
        let data = match self.data(&spec, "data") {
            Ok(data) => data,
            Err(why) => return without(format!("what the model learnt cannot be read ({why:#})")),
        };
        if self.changed(data.as_ref())?.is_some() {
            return without(format!("{spec} is not what the model learnt"));
        }
        let idx = langevin_data::spread(data.len(), most, 0);
        let (mut sums, mut n) = (vec![], 0.);
        for some in idx.chunks(STATES) {
            let states = self.model.completed(&self.states(data.as_ref(), some)?)?;
            let sum = to_host(&self.model.sums(&states)?)?;
            sums.resize(sum.len(), 0.);
            sums.iter_mut().zip(sum).for_each(|(all, sum)| *all += sum);
            n += some.len() as f64;
        }
        Ok(Some(sums.into_iter().map(|sum| sum / n).collect()))
    }

    /// log Z by `ais`, its noise that of `seed`, and ln p of the samples `idx` of `data`; and of some of them by `raise`.
    ///
    /// Errors if the family knows no ladder, or gives no energy.
    pub fn likelihood(
        &self,
        (ais, raise): (&Ais, &Raise),
        seed: u64,
        data: &dyn Dataset,
        idx: &[usize],
    ) -> Result<Likelihood> {
        let stopped = |e: anyhow::Error| match watch::stops() {
            true => Stopped("stopped before log Z was known".into()).into(),
            false => e,
        };
        let means = self.means(USUAL)?;
        let mut progress: Option<Progress> = None;
        let log_z = ais.log_z(&self.model, means.as_deref(), seed, &mut |_, all| {
            progress.get_or_insert_with(|| Progress::new(all as u64, "rungs")).step();
            go_on()
        });
        let log_z = log_z.map_err(|e| stopped(e.into()))?;
        progress.into_iter().for_each(Progress::done);
        if log_z.spread > APART || log_z.spread.is_nan() {
            crate::note!(
                "particles' values of log Z differ by {:.1} nats, so that a few carry it and its error is larger than it says; \
                 take more --rungs or --particles",
                log_z.spread
            );
        }
        let exact = self.model.body().log_z_exact()?;
        let value = exact.unwrap_or(log_z.value);
        let (mut log_p, mut bound, wide) = (vec![], false, self.model.to_dtype(DType::F64)?);
        for some in idx.chunks(STATES) {
            let found = wide.log_sum(&self.states_drawn(data, some, seed)?.to_dtype(DType::F64)?)?;
            log_p.extend(found.log_sum.iter().map(|log_sum| log_sum - value));
            bound |= !found.exact;
            go_on().map_err(|e| stopped(e.into()))?;
        }
        let reverse = self.bounds((ais, raise), (means.as_deref(), &log_z), seed, (data, idx)).map_err(stopped)?;
        let (mean, of_data) = langevin_ops::stats::mean_and_error(&log_p);
        let error = if exact.is_some() { of_data } else { of_data.hypot(log_z.error) };
        Ok(Likelihood { log_z, exact, reverse, bound, mean, error, log_p })
    }
}

/// From so many nats between particles the error of log Z is not to be relied on.
const APART: f64 = 2.;

/// Samples of the data whose means the ladder begins with.
const USUAL: usize = 10_000;
