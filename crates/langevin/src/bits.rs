//! The likelihood of data under a model, in up to three ways that must agree: the points that it is taken of, and the table of what
//! was found.

use crate::error::{Stopped, Usage, usage};
use crate::likelihood::{self, Constants, DRAWS, Points, Populations};
use crate::open::Opened;
use crate::{classes, sample as guide, scoring, watch};
use anyhow::{Result, bail};
use candle_core::{DType, Tensor};
use langevin_data::{Columns, Dataset, Kind, Loader, LoaderOptions};
use langevin_dynamics::Marginal;
use langevin_dynamics::likelihood::{Annealing, Divergence, Flow, Probe};
use langevin_dynamics::mcmc::AnyKernel;
use langevin_eval::bits::{Likelihoods, Unit};
use langevin_models::Model;
use langevin_ops::noise::Noise;
use serde_json::{Value, json};
use std::sync::Arc;

/// From so many nats between runs of ais the error of their mean is not to be relied on.
const APART: f64 = 1.;
/// Of the noise of points: no class or run of ais has this number.
const NOISE: u64 = 1 << 40;

/// What is measured, as it is asked for.
#[derive(Clone, Debug)]
pub struct Bits {
    /// The model, as it was named.
    pub model: String,
    /// The data.
    pub data: String,
    /// Number of points, a random part of the data that depends on the seed.
    pub number: usize,
    /// Of the choice of points, their dequantisation and noise, the probes and the particles.
    pub seed: u64,
    /// Points at a time.
    pub batch: usize,
    /// The time whose density it is, if not the least noisy of the process.
    pub t_min: Option<f64>,
    /// Give the points the noise of that time.
    pub noised: bool,
    /// Class of every point; none: the labels of the data, by the names of their classes.
    pub class: Option<String>,
    /// The probability-flow ODE.
    pub flow: Flow,
    /// Noise levels of annealing; none: 200, of few points down to 50.
    pub levels: Option<usize>,
    /// Particles of a run of it; none: 64, of few points down to 16.
    pub particles: Option<usize>,
    /// Independent runs of it; none: 16, of few points down to 8.
    pub runs: Option<usize>,
    /// Steps of the kernel at each level.
    pub moves: usize,
    /// Its name: it must leave each level as it is.
    pub kernel: String,
}

impl Default for Bits {
    fn default() -> Self {
        Self {
            model: String::new(),
            data: String::new(),
            number: 256,
            seed: 0,
            batch: 64,
            t_min: None,
            noised: false,
            class: None,
            flow: Flow { divergence: Divergence::ByDimension, ..Flow::default() },
            levels: None,
            particles: None,
            runs: None,
            moves: 0,
            kernel: "mala".into(),
        }
    }
}

/// How much annealing does.
pub struct Effort {
    /// Noise levels.
    pub levels: usize,
    /// Particles of a run.
    pub particles: usize,
    /// Independent runs.
    pub runs: usize,
}

impl Bits {
    /// Errors, saying why, if an option of a method makes no sense.
    pub fn check(&self) -> candle_core::Result<()> {
        self.flow.check()?;
        self.annealing(&self.effort(2, 1))?.check()
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
}

/// What is measured, and on what.
pub struct Task<'a> {
    asked: Bits,
    model: &'a Model,
    points: Points,
    /// Where in the data they are.
    places: Vec<usize>,
    unit: Unit,
    d: usize,
    /// What the user should know of the data.
    data: String,
    /// What the units of the columns of a table add to a figure in nats.
    columns: Option<f64>,
    /// The names of constant columns.
    constant: Vec<String>,
}

/// What one method found.
pub struct Found {
    /// What it is called.
    pub method: String,
    likelihoods: Likelihoods,
    /// How, in words.
    how: String,
    /// How, in figures.
    figures: Value,
}

impl<'a> Task<'a> {
    /// The points that are `asked` for, as the model takes them.
    pub fn of(asked: Bits, opened: &'a Opened) -> Result<Self> {
        if asked.batch == 0 {
            return usage(Usage::of("batch", "give at least 1").value(0));
        }
        asked.check().map_err(|why| Usage::new(why.to_string()))?;
        let model = &opened.model;
        let spec = &model.spec;
        let what = format!("--data {}", asked.data);
        let (data, (x, places, known)) = scoring::open_some(opened, &asked.data, "data", |data| {
            let n = asked.number.min(data.len());
            if n < 2 {
                return usage(format!("{what}: it has {n} samples, and a standard error takes 2"));
            }
            let (x, places) = take(data, n, asked.seed)?;
            if data.kind() == Kind::Table
                && let Some(i) = scoring::outside(&x)?.iter().position(|outside| *outside)
            {
                return usage(format!(
                    "{what}: row {} has another value in a column that was constant in what the model learnt ({}), \
                     and so no density; leave such rows out",
                    places[i] + 1,
                    constant(data.as_ref()).join(", ")
                ));
            }
            let known = match (spec.classes, &asked.class) {
                (Some(_), None) => classes::labels(opened, data.as_ref(), &places, &what)?,
                _ => None,
            };
            Ok((x, places, known))
        })?;
        let n = places.len();
        let t = asked.t_min.unwrap_or(spec.process.get().span().0);
        let (low, high) = spec.process.get().span();
        if !(t >= low && t < high) {
            return usage(
                Usage::of("t-min", format!("the process {} goes from {low} to {high}", spec.process.name())).value(t),
            );
        }
        if data.kind() == Kind::Image && opened.run.is_some() && !opened.dequantised() {
            crate::note!(
                "warning: the model was trained on images without noise within their grey levels, whose density it \
                 cannot tell; train with data.dequantise=true for figures that mean something"
            );
        }
        let columns = data.columns().map(|c| c.std.iter().filter(|std| **std != 0.).map(|std| std.ln()).sum());
        let constant = constant(data.as_ref());
        let labels = match (spec.classes, &asked.class) {
            (None, None) => None,
            (_, Some(class)) => guide::told(opened, Some(class))?.map(|label| vec![label; n]),
            (Some(_), None) if known.is_none() => {
                return usage(format!("{what}: it has no labels that the model knows; give --class"));
            }
            (Some(_), None) => known,
        };
        let x = spec.ranged(&x.to_dtype(model.dtype())?)?;
        let marginal = spec.process.get().marginal(t);
        let x = match asked.noised {
            true => noised(&x, &marginal, asked.seed)?,
            false => x,
        };
        let x = x.to_device(model.device())?;
        let (unit, of) = match data.kind() {
            Kind::Image => {
                let (range, of) = if spec.from_zero { (1., "[0, 1]") } else { (2., "[-1, 1]") };
                let unit = Unit::BitsPerDim { range };
                (unit, format!("in {of}, +{} bits/dim; uniform noise within each of 256 levels", unit.offset()))
            }
            Kind::Table => {
                let scaled = if columns.is_some() { "scaled as those that the model learnt" } else { "as they are" };
                (Unit::Nats, format!("rows of columns {scaled}"))
            }
            Kind::Points => (Unit::Nats, "points as they are".into()),
        };
        let points = Points { x, labels, t: vec![t] };
        Ok(Self { asked, model, d: spec.shape.iter().product(), points, places, unit, data: of, columns, constant })
    }

    /// What `method` finds: ode, energy or ais.
    ///
    /// Errors with [`Stopped`] if it shall stop.
    pub fn measure(&self, method: &str) -> Result<Found> {
        self.measured(method).map_err(|e| match watch::stops() {
            true => Stopped(format!("stopped during {method}")).into(),
            false => e,
        })
    }

    fn measured(&self, method: &str) -> Result<Found> {
        let (likelihoods, how, figures) = match method {
            "ode" => self.by_flow()?,
            "energy" => self.by_energy()?,
            "ais" => self.by_annealing()?,
            _ => return usage(Usage::of("method", "use ode, energy or ais").value(method)),
        };
        let lost = likelihoods.log_p.iter().filter(|l| !l.is_finite()).count();
        if lost > 0 {
            bail!(
                "{method}: log p of {lost} of {} points is not finite: the model says nothing of them",
                self.points.len()
            );
        }
        Ok(Found { method: method.into(), likelihoods, how, figures })
    }

    fn by_flow(&self) -> Result<(Likelihoods, String, Value)> {
        let (asked, n) = (&self.asked, self.points.len());
        let divergence = asked.flow.divergence.of(self.d);
        let flow = Flow { divergence, ..asked.flow.clone() };
        let seeds: Vec<u64> = (0..n as u64).map(|i| asked.seed.wrapping_shl(32).wrapping_add(i)).collect();
        let found = likelihood::flow(self.model, &flow, &self.points, &seeds, asked.batch)?;
        let evaluations = found.evaluations.iter().sum::<usize>() as f64 / n as f64;
        let (way, own) = match divergence {
            Divergence::Exact | Divergence::ByDimension => ("exact divergence".into(), 0.),
            Divergence::Hutchinson { probes, probe } => {
                let own = found.error.map_or(f64::NAN, |e| e.iter().map(|e| e * e).sum::<f64>().sqrt() / n as f64);
                let probe = if probe == Probe::Normal { "normal" } else { "rademacher" };
                (format!("hutchinson, {probes} {probe} probes"), own)
            }
        };
        let how = format!("{way}, rtol {:e}, atol {:e}, {evaluations:.1} evaluations a sample", flow.rtol, flow.atol);
        let figures =
            json!({ "divergence": divergence, "rtol": flow.rtol, "atol": flow.atol, "evaluations": evaluations });
        Ok((Likelihoods { log_p: found.log_p, own, shared: 0. }, how, figures))
    }

    fn by_energy(&self) -> Result<(Likelihoods, String, Value)> {
        let classes = self.points.classes();
        let found = likelihood::normalisers(self.model, &classes, DRAWS, self.asked.seed)?;
        let constants: Constants =
            classes.into_iter().zip(&found).map(|(class, c)| (class, (c.value, c.error))).collect();
        let values: Vec<_> = found.iter().map(|c| format!("{:.4} +- {:.4}", c.value, c.error)).collect();
        let spread = found.iter().map(|c| c.spread).fold(0., f64::max);
        let how = format!(
            "one pass; constant {} nats, spread {spread:.4} over {DRAWS} draws of the prior",
            values.join(", ")
        );
        Ok((self.of_constants(&constants)?, how, json!({ "constants": found })))
    }

    fn by_annealing(&self) -> Result<(Likelihoods, String, Value)> {
        let (asked, classes) = (&self.asked, self.points.classes());
        let effort = asked.effort(self.points.len(), classes.len());
        let Effort { levels, particles, runs } = effort;
        let chosen = match (asked.levels, asked.particles, asked.runs) {
            (Some(_), Some(_), Some(_)) => String::new(),
            _ => format!(" for {} points", self.points.len()),
        };
        let populations = Populations { annealing: asked.annealing(&effort)?, particles, runs, seed: asked.seed };
        let found = populations.log_z(self.model, &classes, self.points.t[0])?;
        let constants: Constants =
            classes.into_iter().zip(&found).map(|(class, (log_z, _))| (class, (-log_z.value, log_z.error))).collect();
        let values: Vec<_> = found.iter().map(|(z, _)| format!("{:.4} +- {:.4}", z.value, z.error)).collect();
        let spread = found.iter().map(|(z, _)| z.spread).fold(0., f64::max);
        if spread > APART {
            crate::note!(
                "ais: log Z differs by {spread:.1} nats from run to run, so that a few runs carry it and its error \
                 is larger than it says; raise --levels or --particles"
            );
        }
        let each = || found.iter().flat_map(|(_, levels)| levels).map(|level| level.particles);
        let ess = each().map(|level| level.ess).fold(1., f64::min);
        let resampled = each().filter(|level| level.resampled).count() as f64 / (found.len() * runs) as f64;
        let accepted: Vec<f64> = each().map(|level| level.acceptance).filter(|part| part.is_finite()).collect();
        let accepted = accepted.iter().sum::<f64>() / accepted.len() as f64;
        let moved = match asked.moves {
            0 => String::new(),
            n => format!("; at each level {n} of {}, {:.0} % accepted", asked.kernel, 100. * accepted),
        };
        let how = format!(
            "log Z {} nats, spread {spread:.4}; {runs} runs of {particles} particles, {levels} levels{chosen}; \
             effective particles at least {:.0} %, drawn again {resampled:.1} times a run{moved}",
            values.join(", "),
            100. * ess
        );
        let figures = json!({
            "log_z": found.iter().map(|(log_z, _)| log_z).collect::<Vec<_>>(),
            "runs": runs, "particles": particles, "levels": levels,
            "moves": asked.moves, "kernel": asked.kernel,
            "by_level": found.iter().map(|(_, all)| &all[..=levels]).collect::<Vec<_>>(),
        });
        Ok((self.of_constants(&constants)?, how, figures))
    }

    fn of_constants(&self, constants: &Constants) -> Result<Likelihoods> {
        let minus_energy = likelihood::minus_energy(self.model, &self.points, self.asked.batch)?;
        let rounding = minus_energy.iter().fold(0f64, |top, e| top.max(e.abs())) * f64::from(f32::EPSILON);
        if self.model.dtype() == DType::F32 && rounding * self.unit.nat(self.d) > 1e-3 {
            crate::note!("energies here are so large that f32 rounds them by {rounding:.2} nats; --dtype f64 does not");
        }
        let log_p = self.points.log_p(&minus_energy, constants);
        let shared = self.points.shared(constants);
        Ok(Likelihoods { log_p, own: shared, shared })
    }

    /// Every pair of methods, with the difference of their figures and its error.
    fn differences<'b>(&self, found: &'b [Found]) -> Vec<(&'b str, &'b str, f64, f64)> {
        let pairs = found.iter().enumerate().flat_map(|(i, a)| found[i + 1..].iter().map(move |b| (a, b)));
        pairs
            .map(|(a, b)| {
                let (mean, error) = a.likelihoods.more_than(&b.likelihoods, self.unit, self.d);
                (a.method.as_str(), b.method.as_str(), mean, error)
            })
            .collect()
    }

    /// The head of the table of figures.
    pub fn head(&self) -> String {
        format!("{:<14} {:>10} {:>10} {:>10}", "method", self.unit.name(), "+- data", "+- method")
    }

    /// The line of one method.
    pub fn row(&self, Found { method, likelihoods, .. }: &Found) -> String {
        let figure = likelihoods.figure(self.unit, self.d);
        let own = if figure.own.is_nan() { "-".into() } else { format!("{:.4}", figure.own) };
        format!("{method:<14} {:>10.4} {:>10.4} {own:>10}", figure.mean, figure.error)
    }

    /// Lines of how the methods differ, and of what their figures mean.
    pub fn about(&self, found: &[Found]) -> Vec<String> {
        let differences = self.differences(found).into_iter();
        let mut lines: Vec<String> = differences
            .map(|(a, b, mean, error)| format!("{:<14} {mean:>+10.4} {error:>10.4}", format!("{a} - {b}")))
            .collect();
        let process = self.model.spec.process.get();
        let (t, end) = (self.points.t[0], process.span().1);
        let (m, prior) = (process.marginal(t), process.marginal(end));
        let (n, asked) = (self.points.len(), &self.asked);
        lines.push(String::new());
        let mut line = |what: &str, text: String| lines.push(format!("{what:<14} {text}"));
        line("points", format!("{n} of {}, seed {}, {:?}", asked.data, asked.seed, self.model.dtype()));
        line("data", self.data.clone());
        if let Some(columns) = self.columns {
            line("columns", format!("{columns:+.4} nats give the figures of the columns' own units"));
        }
        if !self.constant.is_empty() {
            let text = format!(
                "{}: the model spreads each over its least noise, and the figures count that too; train without \
                 them for figures of the others",
                self.constant.join(", ")
            );
            line("constant", text);
        }
        let noise = if asked.noised { "points have the noise of it" } else { "points as they are" };
        line("t", format!("{t}, where alpha is {:.5} and sigma {:.5}; {noise}", m.alpha, m.sigma));
        line("prior", format!("N(0, {:.5}^2) at t = {end}, where alpha is {:.5}", prior.sigma, prior.alpha));
        found.iter().for_each(|Found { method, how, .. }| line(method, how.clone()));
        lines
    }

    /// All of it as JSON.
    pub fn json(&self, found: &[Found]) -> Value {
        let process = self.model.spec.process.get();
        let methods: serde_json::Map<String, Value> = found
            .iter()
            .map(|f| {
                let figure = f.likelihoods.figure(self.unit, self.d);
                let all = json!({ "figure": figure, "how": f.figures, "log_p": f.likelihoods.log_p });
                (f.method.clone(), all)
            })
            .collect();
        let differences = self
            .differences(found)
            .into_iter()
            .map(|(a, b, mean, error)| json!({ "of": [a, b], "mean": mean, "error": error }));
        json!({
            "model": self.asked.model, "data": self.asked.data, "n": self.points.len(), "seed": self.asked.seed,
            "unit": self.unit, "dimensions": self.d, "t": self.points.t[0], "noised": self.asked.noised,
            "prior": { "t": process.span().1, "std": process.marginal(process.span().1).sigma },
            "dequantised": matches!(self.unit, Unit::BitsPerDim { .. }), "columns": self.columns,
            "places": self.places, "methods": methods, "differences": differences.collect::<Vec<_>>(),
        })
    }
}

/// alpha x + sigma eps, each sample with noise of its own.
fn noised(x: &Tensor, at: &Marginal, seed: u64) -> Result<Tensor> {
    let eps = Noise::of_step(seed, NOISE, x.dims()[0]).normal_like(x)?;
    Ok((x.affine(at.alpha, 0.)? + eps.affine(at.sigma, 0.)?)?)
}

/// The names of the constant columns.
fn constant(data: &dyn Dataset) -> Vec<String> {
    let names = |c: &Columns| c.constant().map(|j| c.names[j].clone()).collect();
    data.columns().map(names).unwrap_or_default()
}

/// The first `n` samples of the data in the order of the seed, f32 on the CPU, images dequantised; and their places in
/// the data.
fn take(data: &Arc<dyn Dataset>, n: usize, seed: u64) -> Result<(Tensor, Vec<usize>)> {
    let batch = n.min(512);
    let dequantise = data.kind() == Kind::Image;
    let loader = Loader::new(data.clone(), LoaderOptions { batch, seed, flip: false, dequantise })?;
    let numbers = || 0..n.div_ceil(batch) as u64;
    let batches = numbers().map(|i| loader.batch(i)).collect::<candle_core::Result<Vec<_>>>()?;
    let mut places = numbers().map(|i| loader.places(i)).collect::<candle_core::Result<Vec<_>>>()?.concat();
    places.truncate(n);
    let x = Tensor::cat(&batches.iter().map(|batch| &batch.x).collect::<Vec<_>>(), 0)?.narrow(0, 0, n)?;
    Ok((x, places))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effort(bits: Bits, n: usize, classes: usize) -> [usize; 3] {
        let Effort { levels, particles, runs } = bits.effort(n, classes);
        [runs, particles, levels]
    }

    /// As much work as points between the bounds, whatever the classes.
    #[test]
    fn annealing_works_in_proportion_to_the_points() {
        assert_eq!(effort(Bits::default(), 256, 1), [16, 64, 200]);
        assert_eq!(effort(Bits::default(), 100_000, 1), [16, 64, 200]);
        assert_eq!(effort(Bits::default(), 8, 1), [8, 16, 50]);
        assert_eq!(effort(Bits::default(), 2, 1), [8, 16, 50]);
        for (n, classes) in [(8, 1), (20, 1), (50, 1), (100, 1), (200, 1), (256, 2), (256, 10), (2000, 10)] {
            let work = classes * effort(Bits::default(), n, classes).iter().product::<usize>();
            let share = work as f64 / n as f64 / (16. * 64. * 200. / 256.);
            assert!((0.95..1.05).contains(&share), "{n} points of {classes} classes: {share}");
        }
        let five = Bits { runs: Some(5), ..Bits::default() };
        assert_eq!(effort(Bits { levels: Some(7), particles: Some(100), ..five.clone() }, 8, 3), [5, 100, 7]);
        assert_eq!(effort(five, 8, 1), [5, 16, 50]);
    }
}
