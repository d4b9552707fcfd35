//! Runs: a configuration, its data, a folder, and the training that goes on from where it was.

mod denoising;
mod density;
mod facts;
mod folder;
mod from;
mod log;
mod tensorboard;

pub use folder::{Folder, Log};
pub use log::{Beside, Line, Show};
pub use tensorboard::Events;

use crate::config::{Changes, Config, Data, DensityConfig, idle};
use crate::error::{Stopped, Usage, usage};
use crate::keeps;
use crate::output;
use crate::watch::{self, interruptible};
use anyhow::{Context, Result, bail};
use langevin_data::{Batch, Columns, Dataset, Facts, Loader, Prefetch, Scaling};
use langevin_models::checkpoint;
use langevin_train::{Point, TrainOptions, Trainable, Trainer, Values, last_checkpoint};
use log::Since;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use toml::{Table, Value};

/// Samples in the pictures of a run.
const PICTURE: usize = 64;

/// A batch that takes longer is waited for in a way that a signal can end.
const LONG: Duration = Duration::from_millis(100);

/// The options that may change when a run goes on, beside those of the sampler: none of them changes a bit of the weights.
const MAY_CHANGE: [&str; 5] =
    ["train.steps", "train.log_every", "train.sample_every", "train.checkpoint_every", "train.snapshot_every"];

/// A configuration that says what is learnt: of models that denoise, or of others.
pub trait Learns: Clone + Send + Sync {
    /// What it trains.
    type Model: Trainable + 'static;

    /// The configuration in `text`, changed by `changes`.
    fn parse(text: &str, changes: &[String]) -> Result<Self>;

    /// As TOML, every key present.
    fn to_toml(&self) -> Result<String>;

    /// What to train on.
    fn data(&self) -> &Data;

    /// The same, to change it.
    fn data_mut(&mut self) -> &mut Data;

    /// How long, how much at a time, how fast.
    fn train(&self) -> &TrainOptions;

    /// How samples are drawn, as JSON.
    fn sampler(&self) -> Result<serde_json::Value>;

    /// How a table is scaled, if it is a new one.
    fn scaling(&self) -> Scaling {
        Scaling::Own
    }

    /// Whether the model is told classes.
    fn conditional(&self) -> bool {
        false
    }

    /// The deviation of the data that the configuration gives, if what is trained asks for one.
    fn sigma_data(&mut self) -> Option<&mut Option<f64>> {
        None
    }

    /// Batches of the data.
    fn loader(&self, data: Arc<dyn Dataset>) -> Result<Loader>;

    /// What is trained, in words.
    fn about(&self, model: &Self::Model) -> String;

    /// A second model, with the averaged weights.
    fn averaged(&self, trainer: &Trainer<Self::Model>) -> Result<Self::Model>;

    /// Writes the picture of samples of `model` to `path` or beside it; says where it is.
    fn picture(&self, model: &Self::Model, columns: Option<&Columns>, path: &Path) -> Result<PathBuf>;
}

/// A new run, as it is asked for.
#[derive(Clone, Debug, Default)]
pub struct New {
    /// A preset, toy:NAME, or a configuration FILE.toml.
    pub preset: String,
    /// Changes of it, `key=value`.
    pub changes: Vec<String>,
    /// Data in place of its own.
    pub data: Option<String>,
    /// Seed of everything random in it.
    pub seed: Option<u64>,
    /// Its folder, if not runs/PRESET, numbered if taken.
    pub out: Option<PathBuf>,
}

/// A run that goes on, as it is asked for.
#[derive(Clone, Debug, Default)]
pub struct GoOn {
    /// Its folder.
    pub dir: PathBuf,
    /// Changes of what may change.
    pub changes: Vec<String>,
    /// Where its data are now.
    pub data: Option<String>,
    /// Whether it goes on with other data than it began with.
    pub new_data: bool,
}

/// Takes the data `spec` in place of those of a configuration: a bare folder is the run's data set in that folder, where that
/// data set has files.
fn named_data(data: &mut Data, asked: Option<&str>) -> Result<()> {
    let Some(spec) = asked else { return Ok(()) };
    let named = data.spec.split([':', '=']).next().unwrap_or_default();
    let of_run = Path::new(spec).is_dir() && langevin_data::has_files(named);
    if !of_run {
        idle::ambiguous("data", spec)?;
    }
    data.spec = if of_run { format!("{named}={spec}") } else { spec.into() };
    Ok(())
}

/// Whether a run that goes on may take the change `key=value`.
fn may_change(change: &str) -> bool {
    let key = change.split('=').next().unwrap_or_default().trim();
    MAY_CHANGE.contains(&key) || key == "sampler" || key.starts_with("sampler.")
}

/// A run of either kind of model.
#[allow(clippy::large_enum_variant)] // there is one at a time
pub enum AnyRun {
    /// Of one that denoises.
    Denoising(Run<Config>),
    /// Of a density of a family.
    Density(Run<DensityConfig>),
}

impl AnyRun {
    /// As [`Run::train`].
    pub fn train(&mut self, show: &mut dyn Show) -> Result<Option<Made>> {
        match self {
            Self::Denoising(run) => run.train(show),
            Self::Density(run) => run.train(show),
        }
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        match self {
            Self::Denoising(run) => run.path(),
            Self::Density(run) => run.path(),
        }
    }

    /// The steps that are made.
    pub fn step_number(&self) -> u64 {
        match self {
            Self::Denoising(run) => run.step_number(),
            Self::Density(run) => run.step_number(),
        }
    }
}

impl New {
    /// All changes, the options among them.
    fn all_changes(&self) -> Result<Vec<String>> {
        let (mut changes, typed) = (self.changes.clone(), Changes::parse(&self.changes)?);
        for (option, is, key) in
            [("seed", self.seed.is_some(), "train.seed"), ("data", self.data.is_some(), "data.spec")]
        {
            if let Some(change) = typed.first(|typed| is && typed == key) {
                return usage(format!("--{option} and `{change}`: both say the same thing; leave one out"));
            }
        }
        if let Some(seed) = self.seed {
            changes.push(format!("train.seed={seed}"));
        }
        Ok(changes)
    }

    /// The name of its folder: the preset or file without its folder and ending.
    fn name(&self) -> String {
        let preset = if self.preset.is_empty() { "run" } else { &self.preset };
        let stem = Path::new(preset).file_stem().map_or(preset.into(), |stem| stem.to_string_lossy());
        stem.replace(':', "-")
    }
}

impl GoOn {
    /// The text of its configuration, and where that is.
    fn text(&self) -> Result<(String, PathBuf)> {
        if let Some(other) = self.changes.iter().find(|change| !may_change(change)) {
            return usage(format!(
                "`{other}`: when a run goes on, only {} and sampler.KEY may change; start a new run for the rest",
                MAY_CHANGE.join(", ")
            ));
        }
        let path = Folder::config_of(&self.dir)?;
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok((text, path))
    }
}

/// Samples on which the error of a score is measured, of one batch.
const MEASURED: usize = 32;

/// A run under way.
pub struct Run<C: Learns = Config> {
    config: C,
    data: Arc<dyn Dataset>,
    facts: Facts,
    folder: Folder,
    trainer: Trainer<C::Model>,
    /// Nothing is left to do.
    finished: bool,
}

/// What is written of the steps.
struct Records {
    log: Log,
    events: Events,
}

/// Where what a run has made is.
#[derive(Clone, Debug)]
pub struct Made {
    /// The averaged weights.
    pub model: PathBuf,
    /// Samples of them.
    pub samples: PathBuf,
}

impl<C: Learns> Run<C> {
    /// Takes the state of the folder, if there is one.
    fn start(
        config: C,
        (data, facts): (Arc<dyn Dataset>, Facts),
        folder: Folder,
        mut trainer: Trainer<C::Model>,
    ) -> Result<Self> {
        for refused in trainer.resume(&folder.state())? {
            crate::note!("warning: {refused}");
        }
        let (done, steps) = (trainer.step_number(), config.train().steps);
        if steps < done {
            let why = format!("the run is at step {done} already; give at least that");
            return usage(Usage::of("train.steps", why).value(steps));
        }
        let before: C = folder.config()?;
        let finished = done == steps && folder.model().is_file() && folder.has_samples(done);
        if finished {
            of_finished(&before, &config, &facts, &folder)?;
        }
        output::save(&folder.config_file(), config.to_toml()?.as_bytes())?;
        output::save(&folder.data(), &serde_json::to_vec_pretty(&facts)?)?;
        crate::note!(
            "{}: {} samples {:?}, {}",
            folder.path().display(),
            data.len(),
            data.shape(),
            config.about(trainer.model())
        );
        if done > 0 {
            watch::current().line(&format!("resumed at step {done}"))?;
            warn_of_lr(before.train(), config.train(), done);
        }
        Ok(Self { config, data, facts, folder, trainer, finished })
    }

    /// In the folder `out`: a new one, or that of the same run.
    fn in_folder(
        config: C,
        (data, facts): (Arc<dyn Dataset>, Facts),
        out: &Path,
        trainer: Trainer<C::Model>,
    ) -> Result<Self> {
        if Folder::config_of(out).is_err() {
            return Self::begin(config, (data, facts), Some(out), "run", trainer);
        }
        let folder = Folder::open(out)?;
        if let Some(what) = facts::of_run(out)?.and_then(|kept| kept.difference(&facts)) {
            bail!("{}: its run began with other data: these have {what}; give another folder", out.display());
        }
        let kept: C = folder.config()?;
        if let Some(key) = other_key(&table(&kept)?, &table(&config)?, "") {
            let out = out.display();
            let why = format!("{out} holds a run of another configuration, which differs in it; give another folder");
            return usage(Usage::of(&key, why));
        }
        Self::start(config, (data, facts), folder, trainer)
    }

    /// In a new folder, which a mistake does not leave.
    fn begin(
        config: C,
        (data, facts): (Arc<dyn Dataset>, Facts),
        out: Option<&Path>,
        name: &str,
        trainer: Trainer<C::Model>,
    ) -> Result<Self> {
        config.loader(data.clone()).with_context(|| config.data().spec.clone())?;
        let folder = Folder::create(out, name, &config.to_toml()?)?;
        Self::start(config, (data, facts), folder, trainer)
    }

    /// The steps that are made.
    pub fn step_number(&self) -> u64 {
        self.trainer.step_number()
    }

    /// What it trains.
    pub fn trainer(&self) -> &Trainer<C::Model> {
        &self.trainer
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Trains to the last step, with checkpoints, snapshots, pictures and a log in the folder. `show` is shown each step.
    ///
    /// `None` if it was finished already. Errors with [`Stopped`], its state saved, if the [`Watch`](watch::Watch) wants it to stop.
    pub fn train(&mut self, show: &mut dyn Show) -> Result<Option<Made>> {
        let options = self.config.train().clone();
        if self.finished {
            let more = 2 * options.steps;
            let line = format!("this run is finished; to train it further give more steps, such as train.steps={more}");
            watch::current().line(&line)?;
            return Ok(None);
        }
        let done = self.trainer.step_number();
        let mut records =
            Records { log: self.folder.log(done)?, events: Events::create(&self.folder.tensorboard(), done)? };
        let _hold = watch::current().hold();
        let loader = Arc::new(self.config.loader(self.data.clone())?);
        let (per_step, samples) = (options.accumulate as u64, options.batch * options.accumulate);
        let mut batches = loader.clone().prefetch(done * per_step);
        self.errors(&loader, &mut records)?;
        show.begin(done, &options);
        let mut since = Since::default();
        if self.lacks_picture() {
            beside(show, Some(Beside::Picture), || self.picture())?;
        }
        while self.trainer.step_number() < options.steps && !watch::stops() {
            let begun = Instant::now();
            let group = (0..options.accumulate).map(|_| self.batch(&mut batches)).collect::<Result<Vec<_>>>()?;
            let report = self.trainer.step(&group).map_err(|e| self.diverged(e))?;
            let step = report.step;
            let last = step == options.steps;
            let (time, full) = (begun.elapsed(), last || step.is_multiple_of(options.log_every));
            let line = since.add(report.clone(), time, full, samples);
            show.step(&report, time, line.as_ref());
            if let Some(line) = line {
                records.add(&line)?;
            }
            if options.snapshot_every > 0 && (last || step.is_multiple_of(options.snapshot_every)) {
                beside(show, Some(Beside::Snapshot), || self.snapshot())?;
            }
            if step == options.distil() {
                beside(show, None, || self.errors(&loader, &mut records))?;
            }
            if !last && options.sample_every > 0 && step.is_multiple_of(options.sample_every) {
                beside(show, Some(Beside::Picture), || self.picture())?;
            }
            // the state comes last: a run killed before it makes this step again, with its snapshot and its picture
            if last || step.is_multiple_of(options.checkpoint_every) {
                beside(show, Some(Beside::Checkpoint), || self.checkpoint())?;
            }
        }
        show.done();
        if self.trainer.step_number() < options.steps {
            return Err(self.stopped());
        }
        self.save(&self.folder.model(), 0)?; // a run that is only resumed to be finished may lack them
        let made = Made { model: self.folder.model(), samples: self.picture()? };
        watch::current().line(&format!("model: {}", made.model.display()))?;
        watch::current().line(&format!("samples: {}", made.samples.display()))?;
        Ok(Some(made))
    }

    /// Saves the state; the error says how to go on.
    fn stopped(&self) -> anyhow::Error {
        if let Err(e) = self.checkpoint() {
            return e;
        }
        let (step, all, dir) = (self.trainer.step_number(), self.config.train().steps, self.folder.path().display());
        let why = format!("stopped at step {step} of {all}; go on with: langevin train --resume {dir}");
        anyhow::Error::new(Stopped(why))
    }

    /// Does what leaves the state as it is between two steps: a wish to stop saves that and ends the run, wherever `work` is.
    fn between_steps<R>(&self, work: impl FnOnce() -> Result<R>) -> Result<R> {
        match interruptible(&|| self.stopped(), work)? {
            Err(_) if watch::stops() => Err(self.stopped()), // work that looks for it itself
            done => done,
        }
    }

    /// Whether the picture of this step is due, and a signal ended it.
    fn lacks_picture(&self) -> bool {
        let (step, options) = (self.trainer.step_number(), self.config.train());
        let due = options.sample_every > 0 && step > 0 && step.is_multiple_of(options.sample_every);
        due && step < options.steps && !self.folder.has_samples(step)
    }

    fn batch(&self, batches: &mut Prefetch) -> Result<Batch> {
        let batch = match batches.wait(LONG) {
            Some(batch) => batch,
            None => self.between_steps(|| batches.next().context("the data ended"))?,
        };
        Ok(batch?)
    }

    /// Tells how far the score is from that of the model which the run starts from, while it learns that: all that is
    /// measured beside a loss so far.
    fn errors(&self, loader: &Loader, records: &mut Records) -> Result<()> {
        let measure = || -> Result<_> {
            let batch = loader.batch(0)?;
            let few = batch.x.dim(0)?.min(MEASURED);
            let conditions = batch.conditions.narrow(0, few)?;
            Ok(self.trainer.measure(&Batch { x: batch.x.narrow(0, 0, few)?, conditions })?)
        };
        let measured = self.between_steps(measure)?;
        let Some(errors) = measured.iter().find(|series| series.name == "score_error") else { return Ok(()) };
        let errors: Vec<(f64, f64)> = errors.points().iter().map(|p| (p.at, p.mean)).collect();
        let step = self.trainer.step_number();
        let row = |of: fn(&(f64, f64)) -> f64| errors.iter().map(|e| format!("{:>8.3}", of(e))).collect::<String>();
        let told = watch::current();
        told.line(&format!("relative error of the score at step {step}, by sigma/alpha:"))?;
        told.line(&format!("  {}\n  {}", row(|e| e.0.exp()), row(|e| e.1)))?;
        if step > 0 && step < self.config.train().distil() {
            return Ok(()); // resumed in between: the log stays that of a run that was not
        }
        records.log.line(&serde_json::json!({ "step": step, "score_error_by_log_sigma": errors }))?;
        errors.iter().try_for_each(|(level, error)| {
            records.events.scalar(&format!("score_error_at_log_sigma/{level:+.1}"), step, *error)
        })?;
        records.events.flush()
    }

    /// The error of a step, with what to do about it.
    fn diverged(&self, e: candle_core::Error) -> anyhow::Error {
        let good = match last_checkpoint(&self.folder.state()) {
            Some(step) => format!("the last good checkpoint is step {step} in {}", self.folder.path().display()),
            None => "no checkpoint was written yet".into(),
        };
        anyhow::anyhow!("{e}; {good}. Try a lower train.lr, train.clip = 1, or a longer train.warmup")
    }

    /// The averaged weights that others read, then the state to go on from.
    fn checkpoint(&self) -> Result<()> {
        self.save(&self.folder.model(), 0)?;
        Ok(self.trainer.save_state(&self.folder.state())?)
    }

    /// The averages at this step, from which those of other lengths can be rebuilt.
    fn snapshot(&self) -> Result<()> {
        let step = self.trainer.step_number();
        (0..self.trainer.widths().len()).try_for_each(|track| self.save(&self.folder.snapshot(step, track), track))
    }

    /// A weights file of one average that needs nothing beside it.
    fn save(&self, path: &Path, track: usize) -> Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let step = self.trainer.step_number().to_string();
        let mut notes =
            BTreeMap::from([(keeps::RUN.to_string(), self.config.to_toml()?), (keeps::STEP.to_string(), step)]);
        if let Some(width) = self.trainer.widths()[track] {
            notes.insert(keeps::SIGMA_REL.into(), width.to_string());
        }
        notes.insert(keeps::DATA.into(), serde_json::to_string(&self.facts)?);
        Ok(checkpoint::save(path, self.trainer.model().spec(), &self.trainer.averaged_track(track)?, &notes)?)
    }

    /// Samples of the averaged model, always from the same seeds; says where the picture is.
    fn picture(&self) -> Result<PathBuf> {
        let path = self.folder.samples(self.trainer.step_number());
        self.between_steps(|| {
            let model = self.config.averaged(&self.trainer)?;
            self.config.picture(&model, self.data.columns(), &path)
        })
    }
}

impl Records {
    /// One line of the log, to the file and to TensorBoard.
    fn add(&mut self, line: &Line) -> Result<()> {
        self.log.line(&line.json())?;
        let step = line.step;
        for (tag, value) in
            [("loss", line.loss), ("grad_norm", line.grad_norm), ("lr", line.lr), ("images_per_s", line.rate)]
        {
            self.events.scalar(tag, step, value)?;
        }
        for series in &line.series {
            match &series.values {
                Values::Mean(value) => self.events.scalar(series.name, step, *value)?,
                Values::By(what, points) => points.iter().try_for_each(|Point { at, mean, .. }| {
                    self.events.scalar(&format!("{}_at_{what}/{at:+.1}", series.name), step, *mean)
                })?,
            }
        }
        self.events.flush()
    }
}

/// The options of a run.
fn table<C: Learns>(config: &C) -> Result<Table> {
    Config::table(&config.to_toml()?)
}

/// The first key in which two configurations differ, but for those that may change.
fn other_key(a: &Table, b: &Table, before: &str) -> Option<String> {
    let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    keys.into_iter().find_map(|key| {
        let whole = format!("{before}{key}");
        match (a.get(key), b.get(key)) {
            _ if may_change(&whole) => None,
            (Some(Value::Table(a)), Some(Value::Table(b))) => other_key(a, b, &format!("{whole}.")),
            (a, b) => (a != b).then_some(whole),
        }
    })
}

/// Errors if a finished run is asked for what more steps alone could take: it would be written down, and not be so.
fn of_finished<C: Learns>(before: &C, now: &C, facts: &Facts, folder: &Folder) -> Result<()> {
    let more = "this run is finished, so that nothing would come of it; give more train.steps as well";
    if before.sampler()? != now.sampler()? {
        return usage(format!("sampler.KEY: {more}, or change the sampler of langevin sample"));
    }
    match facts::of_run(folder.path())?.and_then(|kept| kept.difference(facts)) {
        Some(_) => usage(Usage::of("new-data", more)),
        None => Ok(()),
    }
}

/// Says so where the run goes on with another learning rate than the one that its steps so far were planned with.
fn warn_of_lr(before: &TrainOptions, now: &TrainOptions, done: u64) {
    let (planned, next) = (before.lr_at(done), now.lr_at(done));
    if done < now.steps && planned != next {
        crate::note!(
            "train.steps was {} and is {}: the learning rate goes from {:.2e} at step {done} to {next:.2e} at step \
             {}, since it follows a cosine over all steps",
            before.steps,
            now.steps,
            before.lr_at(done.saturating_sub(1)),
            done + 1
        );
    }
}

/// `work` beside the steps, with `show` out of its way.
fn beside<R>(show: &mut dyn Show, what: Option<Beside>, work: impl FnOnce() -> Result<R>) -> Result<R> {
    let (mut work, mut result) = (Some(work), None);
    show.beside(what, &mut || result = work.take().map(|work| work()));
    result.context("what shows the training did not do the work that it was given")?
}
