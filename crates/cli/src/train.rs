//! `langevin train`: a run folder, the loop, and what people see of it.

mod shown;

use crate::args::Train;
use crate::changes::Changes;
use crate::folder::{Folder, Log};
use crate::run::{Run, Stopped, usage};
use crate::stop::{self, Hold};
use crate::tensorboard::Events;
use crate::{facts, idle, open, output, sample, start};
use anyhow::{Context, Result};
use candle_core::{DType, Device};
use langevin_data::{Batch, Dataset, Facts, Loader, LoaderOptions, Prefetch};
use langevin_models::{Model, checkpoint};
use langevin_train::{Point, TrainOptions, Trainer, Values, last_checkpoint};
use shown::{Beside, Line, Shown};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Samples in the pictures of a run.
const PICTURE: usize = 64;

/// A batch that takes longer is waited for in a way that a signal can end.
const LONG: Duration = Duration::from_millis(100);

/// The options that may change when a run goes on, beside those of the sampler: none of them changes a bit of the weights.
const MAY_CHANGE: [&str; 5] =
    ["train.steps", "train.log_every", "train.sample_every", "train.checkpoint_every", "train.snapshot_every"];

/// Carries out `langevin train`.
pub fn run(args: Train) -> Result<()> {
    let device = args.machine.open()?;
    let (mut run, from) = configuration(&args, &device)?;
    if args.dry_run {
        crate::say!("{}", run.to_toml()?.trim_end())?;
        return Ok(());
    }
    if cfg!(debug_assertions) {
        crate::talk!("warning: this is a build without optimisation, many times slower; use cargo run --release");
    }
    // before the data are read: another process may be training there
    let going_on = args.resume.as_deref().map(Folder::open).transpose()?;
    let (data, facts) = match &args.resume {
        Some(dir) => facts::go_on(&mut run, dir, &args)?,
        None => facts::begin(&mut run, from.as_ref())?,
    };
    let (run, trainer) = prepare(run, from, &facts, &device)?; // before there is a folder: a mistake leaves none
    let folder = match going_on {
        Some(folder) => folder,
        None => Folder::create(args.out.as_deref(), &name(&args), &run.to_toml()?)?,
    };
    match Session::start(run, (data.into(), facts), folder, trainer)? {
        Some(session) => session.train(),
        None => Ok(()),
    }
}

/// The run with the steps of its distillation filled in, and its trainer at step 0.
fn prepare(mut run: Run, from: Option<open::Opened>, facts: &Facts, device: &Device) -> Result<(Run, Trainer)> {
    let model = Model::new(run.model_spec(facts)?, run.train.seed, DType::F32, device)?;
    let first = match from {
        Some(from) => {
            let (steps, first) = start::begin(&run, &model, from)?;
            run.train.distil = Some(steps);
            first
        }
        None => None,
    };
    let loss = run.loss.0.clone();
    let mut trainer = Trainer::new(model, loss, run.optimiser.clone(), run.ema.clone(), run.train.clone())?;
    first.into_iter().try_for_each(|first| trainer.begin_with(first))?;
    Ok((run, trainer))
}

/// What the run computes: the preset or file with its changes, or what the folder's run was started with; and the model that
/// it starts from, as long as that is needed.
fn configuration(args: &Train, device: &Device) -> Result<(Run, Option<open::Opened>)> {
    if args.new_data && args.resume.is_none() {
        return usage("--new-data: it is for a run that goes on, with --resume DIR; a new run takes any data");
    }
    let mut changes = args.changes.clone();
    if let Some(dir) = &args.resume {
        match &args.preset {
            Some(preset) if !preset.contains('=') => {
                let dir = dir.display();
                return usage(format!(
                    "{preset}: a run goes on with the preset that it was started with; leave it out: langevin train --resume {dir}"
                ));
            }
            preset => changes.extend(preset.clone()), // the first word is a change too
        }
        if let Some(other) = changes.iter().find(|change| !may_change(change)) {
            return usage(format!(
                "`{other}`: when a run goes on, only {} and sampler.KEY may change; start a new run for the rest",
                MAY_CHANGE.join(", ")
            ));
        }
        if args.seed.is_some() {
            return usage("--seed: a run goes on with the seed that it was started with");
        }
        let path = Folder::config_of(dir)?;
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut run = Run::parse(&text, &changes).with_context(|| path.display().to_string())?;
        named_data(&mut run, args.data.as_deref())?;
        let at = last_checkpoint(&Folder::state_of(dir));
        let from = run.model.from.as_ref().filter(|_| at.is_none_or(|step| step < run.train.distil()));
        let from = from.map(|from| start::opened(from, device)).transpose()?;
        return Ok((run, from));
    }
    let typed = Changes::typed(&changes)?;
    for (option, is, key) in
        [("--seed", args.seed.is_some(), "train.seed"), ("--data", args.data.is_some(), "data.spec")]
    {
        if let Some(change) = typed.first(|typed| is && typed == key) {
            return usage(format!("{option} and `{change}`: both say the same thing; leave one out"));
        }
    }
    if let Some(seed) = args.seed {
        changes.push(format!("train.seed={seed}"));
    }
    let preset = args.preset.as_deref().unwrap_or_default();
    let (mut run, from) = start::configuration(preset, &changes, device)?;
    if typed.first(|key| key == "data.spec").is_some() {
        idle::ambiguous("data.spec", &run.data.spec)?;
    }
    named_data(&mut run, args.data.as_deref())?;
    idle::of_run(&mut run, &typed)?;
    Ok((run, from))
}

/// Takes the data of --data: a bare folder is the run's data set in that folder, where that data set has files.
fn named_data(run: &mut Run, asked: Option<&str>) -> Result<()> {
    let Some(spec) = asked else { return Ok(()) };
    let named = run.data.spec.split([':', '=']).next().unwrap_or_default();
    let of_run = Path::new(spec).is_dir() && langevin_data::has_files(named);
    if !of_run {
        idle::ambiguous("--data", spec)?;
    }
    run.data.spec = if of_run { format!("{named}={spec}") } else { spec.into() };
    Ok(())
}

/// Whether a run that goes on may take the change `key=value`.
fn may_change(change: &str) -> bool {
    let key = change.split('=').next().unwrap_or_default().trim();
    MAY_CHANGE.contains(&key) || key == "sampler" || key.starts_with("sampler.")
}

/// The name of a new run: its preset or file without its folder and ending.
fn name(args: &Train) -> String {
    let preset = args.preset.as_deref().unwrap_or("run");
    let stem = Path::new(preset).file_stem().map_or(preset.into(), |stem| stem.to_string_lossy());
    stem.replace(':', "-")
}

/// Samples on which the error of a score is measured, of one batch.
const MEASURED: usize = 32;

/// A run under way.
struct Session {
    run: Run,
    data: Arc<dyn Dataset>,
    facts: Facts,
    folder: Folder,
    trainer: Trainer,
    log: Log,
    events: Events,
    /// A signal ends the run when its state is saved.
    _hold: Hold,
}

impl Session {
    /// Takes the state of the folder, if there is one, and opens its log; `None` if nothing is left to do.
    fn start(
        run: Run,
        (data, facts): (Arc<dyn Dataset>, Facts),
        folder: Folder,
        mut trainer: Trainer,
    ) -> Result<Option<Self>> {
        for refused in trainer.resume(&folder.state())? {
            crate::talk!("warning: {refused}");
        }
        let (done, steps) = (trainer.step_number(), run.train.steps);
        if steps < done {
            return usage(format!("train.steps = {steps}: the run is at step {done} already; give at least that"));
        }
        let before = folder.run()?;
        let finished = done == steps && folder.model().is_file() && folder.has_samples(done);
        if finished {
            of_finished(&before, &run, &facts, &folder)?;
        }
        let before = before.train;
        output::save(&folder.config(), run.to_toml()?.as_bytes())?;
        output::save(&folder.data(), &serde_json::to_vec_pretty(&facts)?)?;
        crate::talk!(
            "{}: {} samples {:?}, {} with {} parameters, sigma_data {:.3}",
            folder.path().display(),
            data.len(),
            data.shape(),
            run.model.net.name(),
            trainer.model().parameters(),
            trainer.model().spec.sigma_data
        );
        if done > 0 {
            crate::say!("resumed at step {done}")?;
            warn_of_lr(&before, &run.train, done);
        }
        if finished {
            crate::say!(
                "this run is finished; to train it further give more steps, such as train.steps={}",
                2 * steps
            )?;
            return Ok(None);
        }
        let (log, events) = (folder.log(done)?, Events::create(&folder.tensorboard(), done)?);
        Ok(Some(Self { run, data, facts, folder, trainer, log, events, _hold: stop::hold() }))
    }

    fn train(mut self) -> Result<()> {
        let options = self.run.train.clone();
        let loader = LoaderOptions {
            batch: options.batch,
            seed: options.seed,
            flip: self.run.data.flip,
            dequantise: self.run.data.dequantise,
        };
        let loader = Arc::new(Loader::new(self.data.clone(), loader)?);
        let per_step = options.accumulate as u64;
        let mut batches = loader.clone().prefetch(self.trainer.step_number() * per_step);
        self.errors(&loader)?;
        let mut shown = Shown::new(self.trainer.step_number(), &options);
        if self.lacks_picture() {
            shown.pause(Beside::Picture, || self.picture())?;
        }
        while self.trainer.step_number() < options.steps && stop::asked().is_none() {
            let begun = Instant::now();
            let group = (0..options.accumulate).map(|_| self.batch(&mut batches)).collect::<Result<Vec<_>>>()?;
            let report = self.trainer.step(&group).map_err(|e| self.diverged(e))?;
            let step = report.step;
            let last = step == options.steps;
            if let Some(line) = shown.add(report, begun.elapsed(), last || step.is_multiple_of(options.log_every)) {
                self.record(&line)?;
            }
            if options.snapshot_every > 0 && (last || step.is_multiple_of(options.snapshot_every)) {
                shown.pause(Beside::Snapshot, || self.snapshot())?;
            }
            if step == options.distil() {
                shown.suspend(|| self.errors(&loader))?;
            }
            if !last && options.sample_every > 0 && step.is_multiple_of(options.sample_every) {
                shown.pause(Beside::Picture, || self.picture())?;
            }
            // the state comes last: a run killed before it makes this step again, with its snapshot and its picture
            if last || step.is_multiple_of(options.checkpoint_every) {
                shown.pause(Beside::Checkpoint, || self.checkpoint())?;
            }
        }
        shown.done();
        if self.trainer.step_number() < options.steps {
            return Err(self.stopped());
        }
        self.save(&self.folder.model(), 0)?; // a run that is only resumed to be finished may lack them
        let picture = self.picture()?;
        crate::say!("model: {}", self.folder.model().display())?;
        crate::say!("samples: {picture}")?;
        Ok(())
    }

    /// Saves the state; the error says how to go on.
    fn stopped(&self) -> anyhow::Error {
        if let Err(e) = self.checkpoint() {
            return e;
        }
        let (step, all, dir) = (self.trainer.step_number(), self.run.train.steps, self.folder.path().display());
        let why = format!("stopped at step {step} of {all}; go on with: langevin train --resume {dir}");
        anyhow::Error::new(Stopped(why))
    }

    /// Does what leaves the state as it is between two steps: a signal saves that and ends the run, wherever `work` is.
    fn between_steps<R>(&self, work: impl FnOnce() -> R) -> R {
        stop::during(|| crate::report(&self.stopped()), work)
    }

    /// Whether the picture of this step is due, and a signal ended it.
    fn lacks_picture(&self) -> bool {
        let (step, options) = (self.trainer.step_number(), &self.run.train);
        let due = options.sample_every > 0 && step > 0 && step.is_multiple_of(options.sample_every);
        due && step < options.steps && !self.folder.has_samples(step)
    }

    fn batch(&self, batches: &mut Prefetch) -> Result<Batch> {
        let batch = batches.wait(LONG).or_else(|| self.between_steps(|| batches.next()));
        Ok(batch.context("the data ended")??)
    }

    /// Prints how far the score is from that of the model which the run starts from, while it learns that: all that is
    /// measured beside a loss so far.
    fn errors(&mut self, loader: &Loader) -> Result<()> {
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
        crate::say!("relative error of the score at step {step}, by sigma/alpha:")?;
        crate::say!("  {}\n  {}", row(|e| e.0.exp()), row(|e| e.1))?;
        if step > 0 && step < self.run.train.distil() {
            return Ok(()); // resumed in between: the log stays that of a run that was not
        }
        self.log.line(&serde_json::json!({ "step": step, "score_error_by_log_sigma": errors }))?;
        errors.iter().try_for_each(|(level, error)| {
            self.events.scalar(&format!("score_error_at_log_sigma/{level:+.1}"), step, *error)
        })?;
        self.events.flush()
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
        let mut notes = BTreeMap::from([(open::RUN.to_string(), self.run.to_toml()?), (open::STEP.to_string(), step)]);
        if let Some(width) = self.trainer.widths()[track] {
            notes.insert(open::SIGMA_REL.into(), width.to_string());
        }
        notes.insert(open::DATA.into(), serde_json::to_string(&self.facts)?);
        Ok(checkpoint::save(path, &self.trainer.model().spec, &self.trainer.averaged_track(track)?, &notes)?)
    }

    /// Samples of the averaged model, always from the same seeds; says where the picture is.
    fn picture(&self) -> Result<String> {
        let seeds: Vec<u64> = (0..PICTURE as u64).collect();
        let path = self.folder.samples(self.trainer.step_number());
        let draw = || -> Result<_> {
            let model = self.trainer.averaged_model()?;
            sample::picture(&model, &self.run.sampler, &seeds, self.data.columns(), &path)
        };
        Ok(self.between_steps(draw)?.display().to_string())
    }

    /// One line of the log, to the file and to TensorBoard.
    fn record(&mut self, line: &Line) -> Result<()> {
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

/// Errors if a finished run is asked for what more steps alone could take: it would be written down, and not be so.
fn of_finished(before: &Run, now: &Run, facts: &Facts, folder: &Folder) -> Result<()> {
    let more = "this run is finished, so that nothing would come of it; give more train.steps as well";
    if toml::to_string(&before.sampler)? != toml::to_string(&now.sampler)? {
        return usage(format!("sampler.KEY: {more}, or change the sampler of langevin sample"));
    }
    match facts::of_run(folder.path())?.and_then(|kept| kept.difference(facts)) {
        Some(_) => usage(format!("--new-data: {more}")),
        None => Ok(()),
    }
}

/// Says so where the run goes on with another learning rate than the one that its steps so far were planned with.
fn warn_of_lr(before: &TrainOptions, now: &TrainOptions, done: u64) {
    let (planned, next) = (before.lr_at(done), now.lr_at(done));
    if done < now.steps && planned != next {
        crate::talk!(
            "train.steps was {} and is {}: the learning rate goes from {:.2e} at step {done} to {next:.2e} at step {}, since it \
             follows a cosine over all steps",
            before.steps,
            now.steps,
            before.lr_at(done.saturating_sub(1)),
            done + 1
        );
    }
}
