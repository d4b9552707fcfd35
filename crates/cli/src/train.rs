//! `langevin train`: a run folder, the loop, and what people see of it.

use crate::args::Train;
use crate::changes::Changes;
use crate::folder::{Folder, Log};
use crate::progress::{self, PAUSE, rate};
use crate::run::{Run, Stopped, usage};
use crate::tensorboard::Events;
use crate::{facts, idle, open, output, sample, start};
use anyhow::{Context, Result};
use candle_core::{DType, Device};
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use langevin_data::{Batch, Dataset, Facts, Loader, LoaderOptions};
use langevin_models::{Model, checkpoint};
use langevin_train::{Report, Trainer};
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Instant;

/// Samples in the pictures of a run.
const PICTURE: usize = 64;

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
    let (data, facts) = match &args.resume {
        Some(dir) => facts::go_on(&mut run, dir, &args)?,
        None => facts::begin(&mut run, from.as_ref())?,
    };
    let (run, trainer) = prepare(run, from, &facts, &device)?; // before there is a folder: a mistake leaves none
    let folder = match &args.resume {
        Some(dir) => Folder::open(dir)?,
        None => Folder::create(args.out.as_deref(), &name(&args), &run.to_toml()?)?,
    };
    Session::start(run, (data.into(), facts), folder, trainer)?.train()
}

/// The run with the steps of its distillation filled in, and its trainer at step 0.
fn prepare(mut run: Run, from: Option<open::Opened>, facts: &Facts, device: &Device) -> Result<(Run, Trainer)> {
    let model = Model::new(run.model_spec(facts)?, run.train.seed, DType::F32, device)?;
    let teacher = match from {
        Some(from) => {
            let (steps, teacher) = start::begin(&run, &model, from)?;
            run.train.distil = Some(steps);
            teacher
        }
        None => None,
    };
    let mut trainer = Trainer::new(model, run.loss.clone(), run.optimiser.clone(), run.ema.clone(), run.train.clone())?;
    teacher.into_iter().for_each(|teacher| trainer.learn_from(teacher));
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
        if let Some(other) = changes.iter().find(|c| !c.starts_with("train.steps=")) {
            return usage(format!(
                "`{other}`: only train.steps can change when a run goes on; start a new run for the rest"
            ));
        }
        if args.seed.is_some() {
            return usage("--seed: a run goes on with the seed that it was started with");
        }
        let path = Folder::config_of(dir)?;
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut run = Run::parse(&text, &changes).with_context(|| path.display().to_string())?;
        named_data(&mut run, args.data.as_deref())?;
        let at = Trainer::last_checkpoint(&Folder::state_of(dir));
        let from = run.model.from.as_ref().filter(|_| at.is_none_or(|step| step < run.train.distil()));
        let from = from.map(|from| start::opened(from, device)).transpose()?;
        return Ok((run, from));
    }
    let typed = Changes::parse(&changes)?;
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
    idle::of_run(&run, &typed)?;
    Ok((run, from))
}

/// Takes the data of --data: a bare folder is the run's data set in that folder, where that data set has files.
fn named_data(run: &mut Run, asked: Option<&str>) -> Result<()> {
    let Some(spec) = asked else { return Ok(()) };
    idle::ambiguous("--data", spec)?;
    let named = run.data.spec.split([':', '=']).next().unwrap_or_default();
    let of_run = Path::new(spec).is_dir() && langevin_data::has_files(named);
    run.data.spec = if of_run { format!("{named}={spec}") } else { spec.into() };
    Ok(())
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
    /// Set by Ctrl-C.
    stop: Arc<AtomicBool>,
}

impl Session {
    /// Takes the state of the folder, if there is one, and opens its log.
    fn start(run: Run, (data, facts): (Arc<dyn Dataset>, Facts), folder: Folder, mut trainer: Trainer) -> Result<Self> {
        for refused in trainer.resume(&folder.state())? {
            crate::talk!("warning: {refused}");
        }
        let (done, steps) = (trainer.step_number(), run.train.steps);
        if steps < done {
            return usage(format!("train.steps = {steps}: the run is at step {done} already; give at least that"));
        }
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
        }
        let stop = Arc::new(AtomicBool::new(false));
        let flag = stop.clone();
        ctrlc::set_handler(move || {
            if flag.swap(true, SeqCst) {
                std::process::exit(130);
            }
        })
        .context("cannot listen for Ctrl-C")?;
        let (log, events) = (folder.log(done)?, Events::create(&folder.tensorboard())?);
        Ok(Self { run, data, facts, folder, trainer, log, events, stop })
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
        let mut seen = Seen::new(self.trainer.step_number(), options.steps, options.batch * options.accumulate);
        while self.trainer.step_number() < options.steps && !self.stop.load(SeqCst) {
            let mut group = Vec::with_capacity(options.accumulate);
            for _ in 0..options.accumulate {
                group.push(batches.next().context("the data ended")??);
            }
            let report = self.trainer.step(&group).map_err(|e| self.diverged(e))?;
            let step = report.step;
            let last = step == options.steps;
            if let Some(line) = seen.add(report, last || step.is_multiple_of(options.log_every)) {
                self.record(&line)?;
            }
            if options.snapshot_every > 0 && (last || step.is_multiple_of(options.snapshot_every)) {
                self.snapshot()?;
            }
            if step == options.distil() {
                seen.bar.suspend(|| self.errors(&loader))?;
            }
            if !last && options.sample_every > 0 && step.is_multiple_of(options.sample_every) {
                self.picture()?;
            }
            // the state comes last: a run killed before it makes this step again, with its snapshot and its picture
            if last || step.is_multiple_of(options.checkpoint_every) {
                self.checkpoint()?;
            }
        }
        seen.bar.finish_and_clear();
        let step = self.trainer.step_number();
        let dir = self.folder.path().display().to_string();
        if step < options.steps {
            self.checkpoint()?;
            let all = options.steps;
            let why = format!("stopped at step {step} of {all}; go on with: langevin train --resume {dir}");
            return Err(anyhow::Error::new(Stopped(why)));
        }
        self.save(&self.folder.model(), 0)?; // a run that is only resumed to be finished may lack them
        let picture = self.picture()?;
        crate::say!("model: {}", self.folder.model().display())?;
        crate::say!("samples: {picture}")?;
        Ok(())
    }

    /// Prints how far the score is from that of the model which the run starts from, while it learns that.
    fn errors(&mut self, loader: &Loader) -> Result<()> {
        let batch = loader.batch(0)?;
        let few = batch.x.dim(0)?.min(MEASURED);
        let labels = batch.labels.map(|labels| labels.narrow(0, 0, few)).transpose()?;
        let Some(errors) = self.trainer.score_errors(&Batch { x: batch.x.narrow(0, 0, few)?, labels })? else {
            return Ok(());
        };
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
        })
    }

    /// The error of a step, with what to do about it.
    fn diverged(&self, e: candle_core::Error) -> anyhow::Error {
        let good = match Trainer::last_checkpoint(&self.folder.state()) {
            Some(step) => format!("the last good checkpoint is step {step} in {}", self.folder.path().display()),
            None => "no checkpoint was written yet".into(),
        };
        anyhow::anyhow!("{e}; {good}. Try a lower train.lr, train.clip = 1, or a longer train.warmup")
    }

    /// The averaged weights that others read, then the state to go on from.
    fn checkpoint(&mut self) -> Result<()> {
        self.save(&self.folder.model(), 0)?;
        self.trainer.save_state(&self.folder.state())?;
        self.events.flush()
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
    fn picture(&mut self) -> Result<String> {
        let seeds: Vec<u64> = (0..PICTURE as u64).collect();
        let path = self.folder.samples(self.trainer.step_number());
        let model = self.trainer.averaged_model()?;
        Ok(sample::picture(&model, &self.run.sampler, &seeds, self.data.columns(), &path)?.display().to_string())
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
        if let Some(walkers) = line.walkers {
            self.events.scalar("walkers_loss", step, walkers)?;
        }
        for (level, loss, _) in &line.by_level {
            self.events.scalar(&format!("loss_at_log_sigma/{level:+.1}"), step, *loss)?;
        }
        self.events.flush()
    }
}

/// What one line of the log says of the steps since the last.
struct Line {
    step: u64,
    loss: f64,
    walkers: Option<f64>,
    grad_norm: f64,
    lr: f64,
    rate: f64,
    by_level: Vec<(f64, f64, usize)>,
}

impl Line {
    fn json(&self) -> serde_json::Value {
        let by_level: Vec<_> =
            self.by_level.iter().map(|(level, loss, n)| serde_json::json!([level, loss, n])).collect();
        let mut json = serde_json::json!({
            "step": self.step, "loss": self.loss, "grad_norm": self.grad_norm, "lr": self.lr,
            "images_per_s": self.rate, "loss_by_log_sigma": by_level,
        });
        if let Some(walkers) = self.walkers {
            json["walkers_loss"] = walkers.into();
        }
        json
    }
}

/// What is shown while it trains: a bar on a terminal, a line now and then elsewhere; and the means between log lines.
struct Seen {
    bar: ProgressBar,
    per_step: usize,
    since: Instant,
    told: Instant,
    reports: Vec<Report>,
}

impl Seen {
    fn new(done: u64, steps: u64, per_step: usize) -> Self {
        let bar = if std::io::stderr().is_terminal() { ProgressBar::new(steps) } else { ProgressBar::hidden() };
        bar.set_length(steps);
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} steps  {rate}  {eta} left  {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).with_key("rate", progress::of_state));
        bar.set_position(done);
        bar.reset_eta();
        Self { bar, per_step, since: Instant::now(), told: Instant::now(), reports: vec![] }
    }

    /// Takes one report; with `full`, gives the means since the last line.
    fn add(&mut self, report: Report, full: bool) -> Option<Line> {
        self.bar.set_position(report.step);
        self.reports.push(report);
        if !full {
            self.between();
            return None;
        }
        let reports = std::mem::take(&mut self.reports);
        let last = reports.last()?;
        let mean = |of: fn(&Report) -> f64| reports.iter().map(of).sum::<f64>() / reports.len() as f64;
        let seconds = std::mem::replace(&mut self.since, Instant::now()).elapsed().as_secs_f64();
        let line = Line {
            step: last.step,
            loss: mean(|r| r.loss),
            walkers: last.walkers.map(|_| mean(|r| r.walkers.unwrap_or(0.))),
            grad_norm: mean(|r| r.grad_norm),
            lr: last.lr,
            rate: (reports.len() * self.per_step) as f64 / seconds,
            by_level: by_level(&reports),
        };
        self.bar.set_message(format!("loss {:.4}", line.loss));
        if self.bar.is_hidden() {
            self.told = Instant::now();
            let (left, walkers) = (self.left(line.step, seconds / reports.len() as f64), line.walkers);
            crate::talk!(
                "step {}  loss {:.4}{}  grad norm {:.3}  lr {:.2e}  {:.0} samples/s  {left} left",
                line.step,
                line.loss,
                walkers.map(|loss| format!("  of walkers {loss:.4}")).unwrap_or_default(),
                line.grad_norm,
                line.lr,
                line.rate,
            );
        }
        Some(line)
    }

    /// That something goes on, where a line of the log is long in coming.
    fn between(&mut self) {
        if let (true, Some(last)) = (self.bar.is_hidden() && self.told.elapsed() >= PAUSE, self.reports.last()) {
            self.told = Instant::now();
            let each = self.since.elapsed().as_secs_f64() / self.reports.len() as f64;
            let all = self.bar.length().unwrap_or(0);
            crate::talk!("step {} of {all}, {}, {} left", last.step, rate(1. / each), self.left(last.step, each));
        }
    }

    /// How long the steps after `step` take.
    fn left(&self, step: u64, each: f64) -> HumanDuration {
        let steps = self.bar.length().unwrap_or(0).saturating_sub(step);
        HumanDuration(std::time::Duration::from_secs_f64(steps as f64 * each))
    }
}

/// The mean loss in each bin of log sigma/alpha over several reports: (centre, mean, number).
fn by_level(reports: &[Report]) -> Vec<(f64, f64, usize)> {
    let mut bins: BTreeMap<i64, (f64, f64, usize)> = BTreeMap::new();
    for &(level, loss, n) in reports.iter().flat_map(|r| &r.by_level) {
        let bin = bins.entry((level * 1e3).round() as i64).or_insert((level, 0., 0));
        bin.1 += loss * n as f64;
        bin.2 += n;
    }
    bins.into_values().map(|(level, sum, n)| (level, sum / n as f64, n)).collect()
}
