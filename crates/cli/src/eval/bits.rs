//! `langevin eval bits`: the likelihood of data under a model, in up to three ways that must agree.

mod measure;

use crate::args::Machine;
use crate::density;
use crate::idle;
use crate::open;
use crate::output;
use crate::run::{Stopped, usage};
use crate::stop;
use crate::typed::Typed;
use anyhow::Result;
use candle_core::DType;
use clap::Parser;
use langevin_data::Kind;
use langevin_dynamics::likelihood::{Annealing, Divergence, Flow, Probe};
use langevin_dynamics::mcmc::AnyKernel;
use langevin_models::Model;
use measure::{Found, Task};
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
    idle::ambiguous("--data", &args.data)?;
    let dtype = args.dtype.as_deref().map(|name| if name == "f32" { DType::F32 } else { DType::F64 });
    let mut opened = open::open_as(&args.model, None, dtype.unwrap_or(DType::F32), &device)?;
    if dtype.is_none() && opened.kind() != Kind::Image {
        opened = open::open_as(&args.model, None, DType::F64, &device)?;
    }
    density::refuse(&opened.model)?;
    let methods = args.methods(&opened.model)?;
    let task = Task::of(args, &opened)?;
    let _hold = stop::hold();
    let (mut found, mut failed) = (vec![], None);
    for method in &methods {
        match task.measure(method).and_then(|new| task.line(found.is_empty(), &new).map(|()| new)) {
            Ok(new) => found.push(new),
            Err(e) => {
                failed = Some((method, e));
                break;
            }
        }
    }
    if !found.is_empty() {
        task.tell(&found)?; // whatever became of the others
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

/// How much annealing does.
pub struct Effort {
    pub levels: usize,
    pub particles: usize,
    pub runs: usize,
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
        if let Err(why) = self.flow(1).check().and_then(|()| self.annealing(&self.effort(2, 1))?.check()) {
            return usage(why.to_string());
        }
        self.json.as_deref().map_or(Ok(()), output::writable)
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

    /// The flow for samples of `d` numbers.
    fn flow(&self, d: usize) -> Flow {
        let probe = if self.probe.as_deref() == Some("normal") { Probe::Normal } else { Probe::Rademacher };
        let probes = Divergence::Hutchinson { probes: self.probes.unwrap_or(1), probe };
        let divergence = match self.divergence.as_deref() {
            Some("exact") => Divergence::Exact,
            None if self.probes.is_none() && self.probe.is_none() => Divergence::ByDimension,
            _ => probes,
        };
        let divergence = divergence.of(d);
        Flow { rtol: self.rtol, atol: self.atol, max_steps: self.max_steps, divergence, ..Flow::default() }
    }

    /// What annealing does for `n` points of so many classes, each of which has a log Z: in all as much work as points, so
    /// that the error of log Z stays the same part of the points' own; but in no class more than for 256 points, or less
    /// than tells an error at all.
    pub fn effort(&self, n: usize, classes: usize) -> Effort {
        let mut share = (n as f64 / (256 * classes.max(1)) as f64).min(1.);
        let mut take = |typed: Option<usize>, most: f64, least: f64| {
            let chosen = (most * share).round().clamp(least, most);
            share = (share * most / chosen).min(1.);
            typed.unwrap_or(chosen as usize)
        };
        let (runs, particles) = (take(self.runs, 16., 8.), take(self.particles, 64., 16.));
        Effort { runs, particles, levels: take(self.levels, 200., 50.) }
    }

    fn annealing(&self, effort: &Effort) -> candle_core::Result<Annealing> {
        let kernel = AnyKernel::named(&self.kernel).map_err(candle_core::Error::Msg)?;
        kernel.check_by_score()?;
        Ok(Annealing { levels: effort.levels, steps_per_level: self.moves, kernel, ..Annealing::default() })
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
                    return usage(format!("--method {method}: {why}"));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn effort(options: &str, n: usize, classes: usize) -> [usize; 3] {
        let words = ["bits", "m", "--data", "d"].into_iter().chain(options.split_whitespace());
        let Effort { levels, particles, runs } = Bits::parse_from(words).effort(n, classes);
        [runs, particles, levels]
    }

    /// As much work as points between the bounds, whatever the classes.
    #[test]
    fn annealing_works_in_proportion_to_the_points() {
        assert_eq!(effort("", 256, 1), [16, 64, 200]);
        assert_eq!(effort("", 100_000, 1), [16, 64, 200]);
        assert_eq!(effort("", 8, 1), [8, 16, 50]);
        assert_eq!(effort("", 2, 1), [8, 16, 50]);
        for (n, classes) in [(8, 1), (20, 1), (50, 1), (100, 1), (200, 1), (256, 2), (256, 10), (2000, 10)] {
            let work = classes * effort("", n, classes).iter().product::<usize>();
            let share = work as f64 / n as f64 / (16. * 64. * 200. / 256.);
            assert!((0.95..1.05).contains(&share), "{n} points of {classes} classes: {share}");
        }
        assert_eq!(effort("--runs 5 --particles 100 --levels 7", 8, 3), [5, 100, 7]);
        assert_eq!(effort("--runs 5", 8, 1), [5, 16, 50]);
    }
}
