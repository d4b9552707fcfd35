//! `langevin eval bits`: the likelihood of data under a model, in up to three ways that must agree.

use crate::machine::Machine;
use crate::stop;
use crate::typed::Typed;
use anyhow::Result;
use candle_core::DType;
use clap::Parser;
use langevin::bits::{self, Found, Task};
use langevin::config::idle;
use langevin::data::Kind;
use langevin::dynamics::likelihood::{Divergence, Flow, Probe};
use langevin::error::{Stopped, Usage, usage};
use langevin::models::Model;
use langevin::{likelihood as density, open, output};
use std::path::PathBuf;

const METHODS: [&str; 3] = ["ode", "energy", "ais"];
/// The options that a method alone has.
const OF_ODE: [&str; 6] = ["--divergence", "--probes", "--probe", "--rtol", "--atol", "--max-steps"];
const OF_AIS: [&str; 5] = ["--levels", "--particles", "--runs", "--moves", "--kernel"];

/// Measure the likelihood of data under a model: bits per dimension of images, nats of points and tables
#[derive(Parser)]
#[command(after_long_help = "\
Three methods, at the same points:
  ode     the probability-flow ODE with its divergence: every model with a score
  energy  log p = c - E in one pass: energies trained with model.normalised=true loss.time=0.001
  ais     annealed importance sampling along the noise levels, resampled where weights grow
          uneven: every energy

Without --method: all that the model allows. What the figures mean is printed below them: t, prior, range, \
dequantisation. Images get uniform noise within their grey level, and are told in bits per dimension of pixels of 256 \
levels; points and tables are told in nats a sample. What is known is printed as soon as it is. With --noised they are noisy images, which a model that has never \
seen less noise can be asked about: as they are, without the noise of t, they are far from all that it learnt there. \
`+- data` is the standard error over the points, `+- method` that of the method at these points; differences are \
paired.

The work of ais grows with the points, up to 256 a class: its error in log Z is then the same part of the error over the \
points, however many they are. --levels, --particles and --runs fix each.

Examples:
  langevin eval bits runs/digits-density --data digits:test
  langevin eval bits runs/digits-density --data digits:test -n 1000 --method ode \\
      --probes 4 --rtol 1e-4 --atol 1e-4
  # a model whose answers are known
  langevin eval bits exact:8-gaussians --data toy:8-gaussians:test
  langevin eval bits runs/digits-density --data digits:test --method ais --levels 400 --moves 1
  langevin eval bits runs/table --data rows.csv --method ode,ais --json bits.json
  langevin eval bits google/ddpm-cifar10-32 --data cifar10:test -n 64 --method ode")]
pub struct Bits {
    #[command(flatten)]
    pub typed: Typed,
    /// A run folder, RUN@STEP, a weights file, a folder of diffusers, OWNER/NAME of the Hub, or exact:NAME
    pub model: String,
    /// Data to evaluate on, as `train --data` takes them: digits:test, a folder, FILE.csv, toy:NAME:test
    #[arg(long, value_name = "SPEC")]
    pub data: String,
    /// Number of points, a random part of the data that depends on --seed
    #[arg(short = 'n', value_name = "N", default_value_t = 256)]
    pub number: usize,
    /// Methods: ode, energy, ais [default: all that the model allows]
    #[arg(long, value_delimiter = ',', value_parser = METHODS)]
    pub method: Vec<String>,
    /// The divergence of the ODE, exact or by random probes [default: exact up to 16 numbers a sample]
    #[arg(long, value_parser = ["exact", "hutchinson"])]
    pub divergence: Option<String>,
    /// Random probes a sample; two or more tell their own error; means --divergence hutchinson [default: 1]
    #[arg(long, value_name = "N")]
    pub probes: Option<usize>,
    /// What probes are drawn from; means --divergence hutchinson [default: rademacher]
    #[arg(long, value_parser = ["rademacher", "normal"])]
    pub probe: Option<String>,
    /// Relative error of a step of the ODE
    #[arg(long, default_value_t = 1e-5)]
    pub rtol: f64,
    /// Absolute error of a step of the ODE, of a number of the scaled x and of log p a dimension
    #[arg(long, default_value_t = 1e-5)]
    pub atol: f64,
    /// Steps of the ODE at most
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub max_steps: usize,
    /// The time whose density it is [default: the least noisy of the process]
    #[arg(long, value_name = "T")]
    pub t_min: Option<f64>,
    /// Give the points the noise of that time, alpha x + sigma eps: the density is then taken where the model has learnt it
    #[arg(long)]
    pub noised: bool,
    /// Noise levels of ais: with few of them far modes make it find mostly too little of log Z, and of its error [default:
    /// 200, of few points down to 50]
    #[arg(long, value_name = "N")]
    pub levels: Option<usize>,
    /// Particles of a run of ais [default: 64, of few points down to 16]
    #[arg(long, value_name = "N")]
    pub particles: Option<usize>,
    /// Independent runs of ais, whose spread is its error: of N runs that is known to a part 1/sqrt(2(N-1)) of itself
    /// [default: 16, of few points down to 8]
    #[arg(long, value_name = "N")]
    pub runs: Option<usize>,
    /// Steps of --kernel that move the particles of ais at each level: for energies whose levels do not follow from each
    /// other by noise alone, as those of compositions and of networks little trained. Each costs about as much as a level,
    /// and for exact energies more levels give more
    #[arg(long, default_value_t = 0)]
    pub moves: usize,
    /// The kernel of --moves, mala or hmc: it must leave each level as it is
    #[arg(long, value_name = "NAME", default_value = "mala")]
    pub kernel: String,
    /// Points at a time
    #[arg(long, default_value_t = 64)]
    pub batch: usize,
    /// Seed of the choice of points, their dequantisation and noise, the probes and the particles
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Class of every point, by its name or number, for a class-conditional model; `none` for one trained with
    /// train.label_dropout [default: the labels of the data, by the names of their classes]
    #[arg(long, value_name = "CLASS|none")]
    pub class: Option<String>,
    /// Type of numbers [default: f32 for images, f64 for points and tables]
    #[arg(long, value_parser = ["f32", "f64"])]
    pub dtype: Option<String>,
    /// Write all figures, with log p of each point and its place in the data (from 0), as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    #[command(flatten)]
    pub machine: Machine,
}

/// Carries out `langevin eval bits`.
pub fn run(args: &Bits) -> Result<()> {
    let device = args.machine.open()?;
    args.check()?;
    idle::ambiguous("data", &args.data)?;
    let dtype = args.dtype.as_deref().map(|name| if name == "f32" { DType::F32 } else { DType::F64 });
    let mut opened = open::open_as(&args.model, None, dtype.unwrap_or(DType::F32), &device)?;
    if dtype.is_none() && opened.kind() != Kind::Image {
        opened = open::open_as(&args.model, None, DType::F64, &device)?;
    }
    density::refuse(&opened.model)?;
    let methods = args.methods(&opened.model)?;
    let task = Task::of(args.asked(), &opened)?;
    let _hold = stop::hold();
    let (mut found, mut failed) = (vec![], None);
    for method in &methods {
        let shown = |new: &Found| {
            if found.is_empty() {
                crate::say!("{}", task.head())?;
            }
            crate::say!("{}", task.row(new))
        };
        match task.measure(method).and_then(|new| shown(&new).map(|()| new)) {
            Ok(new) => found.push(new),
            Err(e) => {
                failed = Some((method, e));
                break;
            }
        }
    }
    if !found.is_empty() {
        // whatever became of the others
        task.about(&found).iter().try_for_each(|line| crate::say!("{line}"))?;
        if let Some(path) = &args.json {
            output::save(path, &serde_json::to_vec_pretty(&task.json(&found))?)?;
        }
    }
    match failed {
        Some((method, _)) if stop::asked().is_some() => Err(anyhow::Error::new(Stopped(args.stopped(method, &found)))),
        Some((_, e)) => Err(e),
        None => Ok(()),
    }
}

impl Bits {
    fn check(&self) -> Result<()> {
        for (name, value, least) in [
            ("-n", self.number, 2),
            ("--probes", self.probes.unwrap_or(1), 1),
            ("--batch", self.batch, 1),
            ("--runs", self.runs.unwrap_or(2), 2),
            ("--particles", self.particles.unwrap_or(2), 2),
            ("--max-steps", self.max_steps, 1),
        ] {
            if value < least || value > 1_000_000 {
                return usage(format!("{name} {value}: give {least} to 1000000"));
            }
        }
        if self.divergence.as_deref() == Some("exact") && (self.probes.is_some() || self.probe.is_some()) {
            return usage("--divergence exact takes no probes; leave out --probes and --probe, or it");
        }
        if let Err(why) = self.asked().check() {
            return usage(why.to_string());
        }
        self.json.as_deref().map_or(Ok(()), output::writable)
    }

    /// What is asked of the library.
    fn asked(&self) -> bits::Bits {
        let flow = Flow { rtol: self.rtol, atol: self.atol, max_steps: self.max_steps, ..Flow::default() };
        bits::Bits {
            model: self.model.clone(),
            data: self.data.clone(),
            number: self.number,
            seed: self.seed,
            batch: self.batch,
            t_min: self.t_min,
            noised: self.noised,
            class: self.class.clone(),
            flow: Flow { divergence: self.divergence(), ..flow },
            levels: self.levels,
            particles: self.particles,
            runs: self.runs,
            moves: self.moves,
            kernel: self.kernel.clone(),
        }
    }

    fn divergence(&self) -> Divergence {
        let probe = if self.probe.as_deref() == Some("normal") { Probe::Normal } else { Probe::Rademacher };
        match self.divergence.as_deref() {
            Some("exact") => Divergence::Exact,
            None if self.probes.is_none() && self.probe.is_none() => Divergence::ByDimension,
            _ => Divergence::Hutchinson { probes: self.probes.unwrap_or(1), probe },
        }
    }

    /// What a user is told who stopped it during `method`.
    fn stopped(&self, method: &str, found: &[Found]) -> String {
        let names: Vec<&str> = found.iter().map(|found| found.method.as_str()).collect();
        match (names.join(" and "), &self.json) {
            (done, _) if done.is_empty() => format!("stopped during {method}, before any figure was known"),
            (done, Some(path)) => format!("stopped during {method}; {} has the figures of {done}", path.display()),
            (done, None) => format!("stopped during {method}; the figures above are those of {done}"),
        }
    }

    /// The methods asked for; without any, those that the model allows, and on stderr why not the others.
    fn methods(&self, model: &Model) -> Result<Vec<String>> {
        let mut left_out = vec![];
        let allowed = |method: &str| match method {
            "ode" => Ok(()),
            method => density::needs_energy(model, method == "energy"),
        };
        let mut chosen: Vec<String> = vec![];
        for method in METHODS {
            match allowed(method) {
                Err(why) if self.method.iter().any(|asked| asked == method) => {
                    return usage(Usage::of("method", why).value(method));
                }
                Err(why) if self.method.is_empty() => left_out.push(format!("not by {method}: {why}")),
                Ok(()) if self.method.is_empty() || self.method.iter().any(|asked| asked == method) => {
                    chosen.push(method.into());
                }
                _ => {}
            }
        }
        self.refuse_idle(&chosen)?;
        left_out.iter().for_each(|line| crate::talk!("{line}"));
        Ok(chosen)
    }

    /// Errors if an option was typed that is of a method which is not among `chosen`, or that another one makes meaningless.
    fn refuse_idle(&self, chosen: &[String]) -> Result<()> {
        let used = |method: &str| chosen.iter().any(|one| one == method);
        if !used("ode") {
            self.typed.refuse(&OF_ODE, "it is of --method ode, which is not used here; add that, or leave it out")?;
        }
        if !used("ais") {
            self.typed.refuse(&OF_AIS, "it is of --method ais, which is not used here; add that, or leave it out")?;
        }
        if self.moves == 0 {
            self.typed
                .refuse(&["--kernel"], "it takes the steps of --moves, of which there are none; add --moves 1")?;
        }
        Ok(())
    }
}
