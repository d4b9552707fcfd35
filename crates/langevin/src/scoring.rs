//! Scores of what does not belong: detectors fitted to training data under a model, then asked about other data.

use crate::config::{Changes, idle};
use crate::error::{Usage, usage};
use crate::open::{AnyOpened, Opened, OpenedDensity};
use crate::watch::Progress;
use crate::{classes, sample as guide};
use anyhow::{Context, Result, bail};
use candle_core::{DType, Tensor};
use langevin_data::{Dataset, Kind, Options, dequantise, spread};
use langevin_dynamics::Denoiser;
use langevin_eval::score::{Energy, Typicality, times};
use langevin_eval::{AnyDetector, Rule};
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use std::sync::Arc;

/// Of the choice of samples that scores are fitted to.
pub const FITTED: u64 = 1;
/// Samples that are fitted to, or held out, where there are so many.
pub const USUAL: usize = 1000;
/// Keeps the noise within grey levels apart from that of the scores ("dequanti" in ASCII).
const DEQUANTISED: u64 = 0x6465_7175_616e_7469;
/// Samples at a time at most for slow scores: a batch of them takes as long as many of others.
const SLOW: usize = 16;

/// Which scores, and what they are fitted to.
#[derive(Clone, Debug)]
pub struct Scoring {
    /// Names of scores; none: all that the model can give, but for likelihood, which is slow.
    pub scores: Vec<String>,
    /// Noise levels sigma/alpha of every score, in units of the data; none: each score's own.
    pub levels: Vec<f64>,
    /// Data that the scores are fitted to, if not what the run was trained on.
    pub fit: Option<String>,
    /// Samples that the scores are fitted to.
    pub fit_samples: Option<usize>,
    /// Class that the model is told of every sample, by its name or number; data that belong are then those of that class.
    pub class: Option<String>,
    /// Samples at a time.
    pub batch: usize,
}

impl Default for Scoring {
    fn default() -> Self {
        Self { scores: vec![], levels: vec![], fit: None, fit_samples: None, class: None, batch: 100 }
    }
}

impl Scoring {
    /// What the scores are fitted to. Errors if numbers make no sense, or nothing says which data that are.
    fn spec(&self, model: &dyn Scored) -> Result<String> {
        if self.batch == 0 || self.fit_samples.is_some_and(|n| n < 2) {
            let (option, least) = if self.batch == 0 { ("batch", 1) } else { ("fit-samples", 2) };
            let value = if self.batch == 0 { 0 } else { self.fit_samples.unwrap_or(0) };
            return usage(Usage::of(option, format!("give at least {least}")).value(value));
        }
        if let Some(level) = self.levels.iter().find(|level| !(level.is_finite() && **level > 0.)) {
            return usage(Usage::of("levels", "give finite numbers above 0").value(level));
        }
        self.fit.iter().try_for_each(|spec| idle::ambiguous("fit", spec))?;
        match self.fit.clone().or_else(|| model.learnt().0) {
            Some(spec) => Ok(spec),
            None => usage("the model does not say what it was trained on; name it with --fit SPEC"),
        }
    }

    /// The detectors that are asked for, with their options changed by `changes` (NAME.KEY=value): those of the `usual` ones that
    /// the model `suits`, or all that are named.
    fn detectors(
        &self,
        usual: &[&str],
        changes: &[String],
        suits: impl Fn(&AnyDetector) -> std::result::Result<(), &'static str>,
    ) -> Result<Vec<AnyDetector>> {
        let all: Vec<String> = usual.iter().map(|name| name.to_string()).collect();
        let names = if self.scores.is_empty() { &all } else { &self.scores };
        let changes = Changes::typed(changes)?;
        let of_used = |key: &str| names.iter().any(|name| key.split('.').next() == Some(name.as_str()));
        if let Some(change) = changes.first(|key| !of_used(key)) {
            let example = names.first().map_or("energy", String::as_str);
            return usage(format!(
                "`{change}`: changes are of the scores that are used, such as {example}.levels=[0.5]"
            ));
        }
        let mut chosen = vec![];
        for (i, name) in names.iter().enumerate() {
            if names[..i].contains(name) {
                return usage(Usage::of("scores", "it is named twice; leave one out").value(name));
            }
            let mut detector = match AnyDetector::named(name) {
                Ok(detector) => detector,
                Err(why) => return usage(Usage::of("scores", why)),
            };
            if !self.levels.is_empty() {
                detector.get_mut().levels().clone_from(&self.levels);
            }
            let detector = changes.clone().split(name).0.of(name, &detector)?;
            match (suits(&detector), self.scores.is_empty()) {
                (Ok(()), _) => chosen.push(detector),
                (Err(_), true) => crate::note!("{name} is left out: this model has a score but no energy"),
                (Err(why), false) => return usage(Usage::of("scores", why).value(name)),
            }
        }
        Ok(chosen)
    }
}

/// A model that samples can be scored under.
pub trait Scored {
    /// The file that it came from, for people.
    fn what(&self) -> &str;

    /// What the data are that it learnt, and whether it says that it learnt them by training.
    fn learnt(&self) -> (Option<String>, bool);

    /// What is asked for: mistakes are found before anything is read.
    fn plan(&self, asked: &Scoring, changes: &[String]) -> Result<Chosen>;

    /// A data set in the shape that it takes, its notes told, and that it changed if it is what the model learnt; `option` names it.
    fn data(&self, spec: &str, option: &str) -> Result<Box<dyn Dataset>>;

    /// The places of the samples of `data` that it is asked about when it is told `label`.
    fn members(&self, label: Option<u32>, data: &dyn Dataset) -> Result<Vec<usize>>;

    /// About how often `detector` asks it about `n` samples.
    fn evaluations(&self, detector: &AnyDetector, n: usize) -> u64;

    /// What `detector` reads off it about some samples `of` a data set, by their places: a row of numbers each.
    fn features(
        &self,
        detector: &AnyDetector,
        label: Option<u32>,
        of: (&dyn Dataset, &[usize]),
        watch: &mut dyn FnMut(f64) -> candle_core::Result<()>,
    ) -> Result<Vec<Vec<f64>>>;

    /// How `detectors` were used, in words: a line, and one each.
    fn settings(&self, detectors: &[&AnyDetector]) -> Vec<String>;
}

impl Scored for Opened {
    fn what(&self) -> &str {
        &self.what
    }

    fn learnt(&self) -> (Option<String>, bool) {
        (Opened::learnt(self), self.run.is_some())
    }

    fn plan(&self, asked: &Scoring, changes: &[String]) -> Result<Chosen> {
        let spec = asked.spec(self)?;
        let label = guide::told(self, asked.class.as_deref())?;
        let denoiser = self.model.denoiser(guide::cond(&self.model, label.as_slice())?)?;
        let has = denoiser.noisy_energy().is_some();
        let quick = AnyDetector::defaults().into_iter().filter(|detector| !detector.get().slow());
        let usual: Vec<_> = quick.map(|detector| detector.name()).collect();
        let mut detectors =
            asked.detectors(&usual, changes, |detector| match detector.get().needs_energy() && !has {
                true => {
                    Err("this model has a score but no energy, as its output is not the gradient of a scalar; use \
                             score-norms or reconstruction")
                }
                false => Ok(()),
            })?;
        for detector in &mut detectors {
            let (name, levels) = (detector.name(), detector.get_mut().levels());
            times(denoiser.process(), levels).context(name)?;
        }
        Ok(Chosen { detectors, spec, label })
    }

    fn data(&self, spec: &str, option: &str) -> Result<Box<dyn Dataset>> {
        open(self, spec, option)
    }

    fn members(&self, label: Option<u32>, data: &dyn Dataset) -> Result<Vec<usize>> {
        members(self, label, data)
    }

    fn evaluations(&self, detector: &AnyDetector, n: usize) -> u64 {
        (n as u64).saturating_mul(detector.get().evaluations() as u64)
    }

    fn features(
        &self,
        detector: &AnyDetector,
        label: Option<u32>,
        (data, some): (&dyn Dataset, &[usize]),
        watch: &mut dyn FnMut(f64) -> candle_core::Result<()>,
    ) -> Result<Vec<Vec<f64>>> {
        let denoiser = self.model.denoiser(guide::cond(&self.model, label.as_slice())?)?;
        let x = samples(self, data, some)?;
        Ok(detector.get().features_watched(&denoiser, &x, &mut streams(some), watch)?)
    }

    fn settings(&self, detectors: &[&AnyDetector]) -> Vec<String> {
        let mut lines = vec!["at the noise levels".to_string()];
        for detector in detectors {
            let mut detector = AnyDetector::clone(detector);
            let levels = detector.get_mut().levels().iter().map(f64::to_string).collect::<Vec<_>>().join(", ");
            lines.push(format!("  {:<15} {levels}", detector.name()));
        }
        if self.dequantised() {
            lines.push(
                "images with uniform noise within each of 256 levels, as those that the model was trained on".into(),
            );
        }
        lines
    }
}

impl AnyOpened {
    /// The model as what samples can be scored under.
    pub fn scored(&self) -> &dyn Scored {
        match self {
            Self::Denoising(opened) => opened,
            Self::Density(opened) => opened,
        }
    }
}

/// Densities are scored by their energy, of an RBM the free one.
impl Scored for OpenedDensity {
    fn what(&self) -> &str {
        &self.what
    }

    fn learnt(&self) -> (Option<String>, bool) {
        (self.run.as_ref().map(|run| run.data.spec.clone()), self.run.is_some())
    }

    fn plan(&self, asked: &Scoring, changes: &[String]) -> Result<Chosen> {
        if !asked.levels.is_empty() {
            return usage(Usage::of("levels", "a density of a family has no noise levels; leave it out"));
        }
        if let Some(class) = &asked.class {
            return usage(Usage::of("class", "a density of a family is told no class; leave it out").value(class));
        }
        if let Some(change) = Changes::typed(changes)?.first(|_| true) {
            return usage(format!("`{change}`: the scores of a density of a family have no options; leave it out"));
        }
        let usual = [Energy::NAME, Typicality::NAME];
        let detectors = asked.detectors(&usual, changes, |detector| match usual.contains(&detector.name()) {
            true => Ok(()),
            false => Err("it goes by noise levels, and a density of a family has none; use energy or typicality"),
        })?;
        Ok(Chosen { detectors, spec: asked.spec(self)?, label: None })
    }

    fn data(&self, spec: &str, option: &str) -> Result<Box<dyn Dataset>> {
        OpenedDensity::data(self, spec, option)
    }

    fn members(&self, _label: Option<u32>, data: &dyn Dataset) -> Result<Vec<usize>> {
        Ok((0..data.len()).collect())
    }

    fn evaluations(&self, _detector: &AnyDetector, n: usize) -> u64 {
        n as u64
    }

    fn features(
        &self,
        _detector: &AnyDetector,
        _label: Option<u32>,
        (data, some): (&dyn Dataset, &[usize]),
        _watch: &mut dyn FnMut(f64) -> candle_core::Result<()>,
    ) -> Result<Vec<Vec<f64>>> {
        Ok(self.energy(&self.states(data, some)?)?.into_iter().map(|energy| vec![energy]).collect())
    }

    fn settings(&self, detectors: &[&AnyDetector]) -> Vec<String> {
        let names: Vec<_> = detectors.iter().map(|detector| detector.name()).collect();
        vec![format!("by the energy of the {}: {}", self.model.spec.family.name(), names.join(", "))]
    }
}

/// Whether the model `has learnt` the samples of `spec`, in words, or `may have`; `apart` if they are no rest of what scores
/// are fitted to.
pub fn learnt(model: &dyn Scored, spec: &str, apart: bool) -> Option<&'static str> {
    let part = langevin_data::held_out;
    let spec = &whole(spec);
    let same = |own: &str| own == spec || part(own).is_some_and(|test| part(spec) == Some(test));
    match model.learnt() {
        (Some(own), true) if same(&whole(&own)) => Some("has learnt"),
        (_, false) if !apart => Some("may have learnt"),
        _ => None,
    }
}

/// `spec` in the one way to write it: with the path that leads there without `..` and links.
pub(crate) fn whole(spec: &str) -> String {
    let path = langevin_data::path(spec);
    match path.and_then(|path| Some((path, std::fs::canonicalize(path).ok()?))) {
        Some((path, whole)) => format!("{}{}", &spec[..spec.len() - path.len()], whole.display()),
        None => spec.into(),
    }
}

/// Detectors, the data that they are fitted to, and what the model is told of every sample.
pub struct Chosen {
    detectors: Vec<AnyDetector>,
    /// The data.
    pub spec: String,
    /// What the model is told.
    pub label: Option<u32>,
}

impl Chosen {
    /// About how often `model` will be asked about `samples` samples, those that are fitted to among them.
    pub fn evaluations(&self, model: &dyn Scored, samples: usize) -> u64 {
        self.detectors.iter().map(|detector| model.evaluations(detector, samples)).sum()
    }

    /// How many scores there will be.
    pub fn scores(&self) -> usize {
        self.detectors.len()
    }

    /// Their names.
    pub fn names(&self) -> Vec<&'static str> {
        self.detectors.iter().map(AnyDetector::name).collect()
    }

    /// Leaves out all but `n` scores. Those of values of an energy go first: they pass what is smooth and plain.
    pub fn keep(&mut self, n: usize) {
        if self.detectors.len() > n {
            self.detectors.sort_by_key(|detector| detector.get().needs_energy());
            self.detectors.truncate(n);
        }
    }
}

/// A data set in the shape that `model` takes, its notes told, and that it changed if it is what the model learnt; `option`
/// names it.
pub fn open(opened: &Opened, spec: &str, option: &str) -> Result<Box<dyn Dataset>> {
    let data = load(opened, spec, option, false)?;
    tell(spec, data.as_ref());
    if is_learnt(opened, spec)
        && let Some(what) = opened.changed(data.as_ref())?
    {
        crate::note!(
            "warning: {spec} are not the data that the model learnt any more: they have {what}; give the data that \
                 it learnt with --{option}"
        );
    }
    Ok(data)
}

/// As [`open`], and what `take` makes of a few samples of it: images are decoded when they are asked for. Where one cannot be,
/// all are decoded, and the others alone make the data set. Whether contents changed is not looked at.
pub fn open_some<T>(
    opened: &Opened,
    spec: &str,
    option: &str,
    take: impl Fn(&Arc<dyn Dataset>) -> Result<T>,
) -> Result<(Arc<dyn Dataset>, T)> {
    let data: Arc<dyn Dataset> = load(opened, spec, option, true)?.into();
    let learnt = opened.facts.as_ref().filter(|_| is_learnt(opened, spec));
    // a folder where some images could not be decoded when the model learnt the others
    let fewer = learnt.is_some_and(|facts| facts.samples != data.len());
    match take(&data) {
        Ok(taken) if !fewer => {
            tell(spec, data.as_ref());
            Ok((data, taken))
        }
        Err(e) if data.files().is_none() => Err(e),
        _ => {
            let data: Arc<dyn Dataset> = open(opened, spec, option)?.into();
            let taken = take(&data)?;
            Ok((data, taken))
        }
    }
}

/// Whether `spec` is what the model learnt.
fn is_learnt(opened: &Opened, spec: &str) -> bool {
    opened.learnt().is_some_and(|own| whole(&own) == whole(spec))
}

fn load(opened: &Opened, spec: &str, option: &str, on_demand: bool) -> Result<Box<dyn Dataset>> {
    let options = Options {
        size: opened.run.as_ref().filter(|_| is_learnt(opened, spec)).and_then(|run| run.data.size),
        shape: Some(opened.model.spec.shape.clone()),
        scaling: opened.scaling()?,
        on_demand,
        ..Options::default()
    };
    let reading = Progress::named(&format!("reading {spec}"));
    let data = match langevin_data::open(spec, &options) {
        Ok(data) => data,
        Err(e) => return usage(Usage::of(option, e).value(spec)),
    };
    reading.done();
    Ok(data)
}

fn tell(spec: &str, data: &dyn Dataset) {
    data.notes().iter().for_each(|note| crate::note!("{spec}: {note}"));
}

/// Detectors that are fitted one after another.
pub struct Scorer<'a> {
    model: &'a dyn Scored,
    /// What they are fitted to, and the places of the samples.
    fit: (&'a dyn Dataset, &'a [usize]),
    waiting: std::vec::IntoIter<AnyDetector>,
    fitted: Vec<(AnyDetector, Rule)>,
    label: Option<u32>,
    batch: usize,
}

impl<'a> Scorer<'a> {
    /// Of detectors to fit to `fit`, a data set and the places of samples; none is yet.
    pub fn new(
        model: &'a dyn Scored,
        args: &Scoring,
        plan: Chosen,
        fit: (&'a dyn Dataset, &'a [usize]),
    ) -> Result<Self> {
        let (data, idx) = fit;
        if data.kind() == Kind::Table && outside(&data.get(idx)?.x)?.contains(&true) {
            return usage(
                Usage::of(
                    "fit",
                    "some rows have another value in a column that was constant in what the model learnt; leave them \
                 out",
                )
                .value(plan.spec),
            );
        }
        for slow in plan.detectors.iter().filter(|detector| detector.get().slow()) {
            crate::note!(
                "{} asks the model some hundred times about each sample, of which {} are fitted to; --fit-samples \
                 makes them fewer",
                slow.name(),
                idx.len()
            );
        }
        let (waiting, label, batch) = (plan.detectors.into_iter(), plan.label, args.batch);
        Ok(Self { model, fit, waiting, fitted: vec![], label, batch })
    }

    /// Fits the next detector; its name, if there is one more.
    pub fn fit_next(&mut self, progress: &mut Progress) -> Result<Option<&'static str>> {
        let Some(detector) = self.waiting.next() else { return Ok(None) };
        let (name, rows) = (detector.name(), self.features(&detector, self.fit.0, self.fit.1, progress)?);
        let rule = detector.get().fit(&rows).context(name)?;
        self.fitted.push((detector, rule));
        Ok(Some(name))
    }

    /// The names of the scores that are fitted, in order.
    pub fn names(&self) -> Vec<&'static str> {
        self.fitted.iter().map(|(detector, _)| detector.name()).collect()
    }

    /// Samples at a time.
    fn at_once(&self, detector: &AnyDetector) -> usize {
        if detector.get().slow() { self.batch.min(SLOW) } else { self.batch }
    }

    /// What was done, in words.
    pub fn settings(&self) -> String {
        let detectors: Vec<_> = self.fitted.iter().map(|(detector, _)| detector).collect();
        let lines = self.model.settings(&detectors).join("\n");
        format!("fitted to {} samples, {lines}", self.fit.1.len())
    }

    /// The score that was fitted last, of the samples `idx` of `data`. The noise of a sample belongs to its index. Where the
    /// model is not finite a sample is as far out as can be.
    pub fn scores(&self, data: &dyn Dataset, idx: &[usize], progress: &mut Progress) -> Result<Vec<f64>> {
        let Some((detector, rule)) = self.fitted.last() else { bail!("no score is fitted") };
        let outside = match data.kind() {
            Kind::Table => outside(&data.get(idx)?.x)?,
            _ => vec![false; idx.len()],
        };
        let scores = self.features(detector, data, idx, progress)?.into_iter().map(|row| rule(&row));
        let far = |(s, outside): (f64, &bool)| if *outside || s.is_nan() { f64::INFINITY } else { s };
        Ok(scores.zip(&outside).map(far).collect())
    }

    fn features(
        &self,
        detector: &AnyDetector,
        data: &dyn Dataset,
        idx: &[usize],
        progress: &mut Progress,
    ) -> Result<Vec<Vec<f64>>> {
        let mut rows = Vec::with_capacity(idx.len());
        for some in idx.chunks(self.at_once(detector)) {
            let (all, mut done) = (self.model.evaluations(detector, some.len()), 0);
            let mut watch = |part: f64| {
                let now = (part * all as f64) as u64;
                progress.steps(now.saturating_sub(done));
                done = done.max(now);
                Ok(())
            };
            rows.extend(self.model.features(detector, self.label, (data, some), &mut watch)?);
            progress.steps(all - done.min(all));
        }
        Ok(rows)
    }
}

/// The places of the samples of `data` that a model is asked about which is told `label`: where that is a class, and the
/// data have classes, those of the class.
pub fn members(opened: &Opened, label: Option<u32>, data: &dyn Dataset) -> Result<Vec<usize>> {
    let all: Vec<usize> = (0..data.len()).collect();
    let class = label.filter(|&label| opened.model.spec.classes.is_some_and(|n| (label as usize) < n));
    let Some(own) = class.map(|label| classes::in_data(opened, label, data)).transpose()?.flatten() else {
        return Ok(all);
    };
    let mut places = vec![];
    for some in all.chunks(1000) {
        let Some(labels) = data.labels(some)? else { bail!("--class: the data do not say which class they are of") };
        let labels: Vec<u32> = labels.to_vec1()?;
        places.extend(some.iter().zip(labels).filter(|(_, label)| *label == own).map(|(i, _)| *i));
    }
    if places.is_empty() {
        return usage(Usage::of("class", "the data have no samples of that class"));
    }
    Ok(places)
}

/// `n` of `places`, spread evenly and drawn by `seed`.
pub fn choose(places: &[usize], n: usize, seed: u64) -> Vec<usize> {
    spread(places.len(), n, seed).into_iter().map(|i| places[i]).collect()
}

/// The samples `idx` of `data` as the model takes them, `[B, ...]`: images with noise within their grey levels if those that
/// it was trained on had that. The noise of a sample belongs to its index.
pub fn samples(opened: &Opened, data: &dyn Dataset, idx: &[usize]) -> Result<Tensor> {
    let model = &opened.model;
    let mut x = data.get(idx)?.x;
    if opened.dequantised() && data.kind() == Kind::Image {
        x = dequantise(&x, &mut Noise::seeds(&idx.iter().map(|&i| i as u64 ^ DEQUANTISED).collect::<Vec<_>>()))?;
    }
    Ok(model.spec.ranged(&x.to_dtype(model.dtype())?.to_device(model.device())?)?)
}

/// Which rows `x` `[B, D]` of a table have another value in a column that was constant in what the model learnt.
pub fn outside(x: &Tensor) -> Result<Vec<bool>> {
    let rows: Vec<Vec<f32>> = x.to_dtype(DType::F32)?.to_vec2()?;
    Ok(rows.iter().map(|row| row.iter().any(|v| v.is_infinite())).collect())
}

/// The noise of the samples with these indices.
pub fn streams(idx: &[usize]) -> Noise {
    Noise::seeds(&idx.iter().map(|&i| i as u64).collect::<Vec<_>>())
}
