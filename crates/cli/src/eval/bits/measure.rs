//! The points that the likelihood is taken of, the three ways to it, and the table of what they found.

use super::{Bits, Effort};
use crate::classes;
use crate::density::{self, Constants, DRAWS, Points, Populations};
use crate::guide;
use crate::open::Opened;
use crate::run::usage;
use crate::scoring;
use anyhow::{Result, bail};
use candle_core::{DType, Tensor};
use langevin_data::{Columns, Dataset, Kind, Loader, LoaderOptions};
use langevin_dynamics::Marginal;
use langevin_dynamics::likelihood::Divergence;
use langevin_eval::bits::{Likelihoods, Unit};
use langevin_models::Model;
use langevin_ops::noise::Noise;
use serde_json::{Value, json};
use std::sync::Arc;

/// From so many nats between runs of ais the error of their mean is not to be relied on.
const APART: f64 = 1.;
/// Of the noise of points: no class or run of ais has this number.
const NOISE: u64 = 1 << 40;

/// What is measured, and on what.
pub struct Task<'a> {
    args: &'a Bits,
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
    pub method: String,
    likelihoods: Likelihoods,
    /// How, in words.
    how: String,
    /// How, in figures.
    figures: Value,
}

impl<'a> Task<'a> {
    /// The points that `args` name, as the model takes them.
    pub fn of(args: &'a Bits, opened: &'a Opened) -> Result<Self> {
        let model = &opened.model;
        let spec = &model.spec;
        let what = format!("--data {}", args.data);
        let (data, (x, places, known)) = scoring::open_some(opened, &args.data, "--data", |data| {
            let n = args.number.min(data.len());
            if n < 2 {
                return usage(format!("{what}: it has {n} samples, and a standard error takes 2"));
            }
            let (x, places) = take(data, n, args)?;
            if data.kind() == Kind::Table
                && let Some(i) = scoring::outside(&x)?.iter().position(|outside| *outside)
            {
                return usage(format!(
                    "{what}: row {} has another value in a column that was constant in what the model learnt ({}), and so no \
                     density; leave such rows out",
                    places[i] + 1,
                    constant(data.as_ref()).join(", ")
                ));
            }
            let known = match (spec.classes, &args.class) {
                (Some(_), None) => classes::labels(opened, data.as_ref(), &places, &what)?,
                _ => None,
            };
            Ok((x, places, known))
        })?;
        let n = places.len();
        let t = args.t_min.unwrap_or(spec.process.get().span().0);
        let (low, high) = spec.process.get().span();
        if !(t >= low && t < high) {
            return usage(format!("--t-min {t}: the process {} goes from {low} to {high}", spec.process.name()));
        }
        if data.kind() == Kind::Image && opened.run.is_some() && !opened.dequantised() {
            crate::talk!(
                "warning: the model was trained on images without noise within their grey levels, whose density it cannot \
                 tell; train with data.dequantise=true for figures that mean something"
            );
        }
        let columns = data.columns().map(|c| c.std.iter().filter(|std| **std != 0.).map(|std| std.ln()).sum());
        let constant = constant(data.as_ref());
        let labels = match (spec.classes, &args.class) {
            (None, None) => None,
            (_, Some(class)) => guide::told(opened, Some(class))?.map(|label| vec![label; n]),
            (Some(_), None) if known.is_none() => {
                return usage(format!("{what}: it has no labels that the model knows; give --class"));
            }
            (Some(_), None) => known,
        };
        let x = spec.ranged(&x.to_dtype(model.dtype())?)?;
        let marginal = spec.process.get().marginal(t);
        let x = match args.noised {
            true => noised(&x, &marginal, args.seed)?,
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
        Ok(Self { args, model, d: spec.shape.iter().product(), points, places, unit, data: of, columns, constant })
    }

    /// What `method` finds.
    pub fn measure(&self, method: &str) -> Result<Found> {
        let (likelihoods, how, figures) = match method {
            "ode" => self.by_flow()?,
            "energy" => self.by_energy()?,
            _ => self.by_annealing()?,
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
        let (args, flow, n) = (self.args, self.args.flow(self.d), self.points.len());
        let seeds: Vec<u64> = (0..n as u64).map(|i| args.seed.wrapping_shl(32).wrapping_add(i)).collect();
        let found = density::flow(self.model, &flow, &self.points, &seeds, args.batch)?;
        let evaluations = found.evaluations.iter().sum::<usize>() as f64 / n as f64;
        let (divergence, own) = match flow.divergence {
            Divergence::Exact | Divergence::ByDimension => ("exact divergence".into(), 0.),
            Divergence::Hutchinson { probes, .. } => {
                let own = found.error.map_or(f64::NAN, |e| e.iter().map(|e| e * e).sum::<f64>().sqrt() / n as f64);
                let probe = args.probe.as_deref().unwrap_or("rademacher");
                (format!("hutchinson, {probes} {probe} probes"), own)
            }
        };
        let how =
            format!("{divergence}, rtol {:e}, atol {:e}, {evaluations:.1} evaluations a sample", args.rtol, args.atol);
        let figures =
            json!({ "divergence": flow.divergence, "rtol": args.rtol, "atol": args.atol, "evaluations": evaluations });
        Ok((Likelihoods { log_p: found.log_p, own, shared: 0. }, how, figures))
    }

    fn by_energy(&self) -> Result<(Likelihoods, String, Value)> {
        let classes = self.points.classes();
        let found = density::normalisers(self.model, &classes, DRAWS, self.args.seed)?;
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
        let (args, classes) = (self.args, self.points.classes());
        let effort = args.effort(self.points.len(), classes.len());
        let Effort { levels, particles, runs } = effort;
        let chosen = match (args.levels, args.particles, args.runs) {
            (Some(_), Some(_), Some(_)) => String::new(),
            _ => format!(" for {} points", self.points.len()),
        };
        let populations = Populations { annealing: args.annealing(&effort)?, particles, runs, seed: args.seed };
        let found = populations.log_z(self.model, &classes, self.points.t[0])?;
        let constants: Constants =
            classes.into_iter().zip(&found).map(|(class, (log_z, _))| (class, (-log_z.value, log_z.error))).collect();
        let values: Vec<_> = found.iter().map(|(z, _)| format!("{:.4} +- {:.4}", z.value, z.error)).collect();
        let spread = found.iter().map(|(z, _)| z.spread).fold(0., f64::max);
        if spread > APART {
            crate::talk!(
                "ais: log Z differs by {spread:.1} nats from run to run, so that a few runs carry it and its error is larger \
                 than it says; raise --levels or --particles"
            );
        }
        let each = || found.iter().flat_map(|(_, levels)| levels).map(|level| level.particles);
        let ess = each().map(|level| level.ess).fold(1., f64::min);
        let resampled = each().filter(|level| level.resampled).count() as f64 / (found.len() * runs) as f64;
        let accepted: Vec<f64> = each().map(|level| level.acceptance).filter(|part| part.is_finite()).collect();
        let accepted = accepted.iter().sum::<f64>() / accepted.len() as f64;
        let moved = match args.moves {
            0 => String::new(),
            n => format!("; at each level {n} of {}, {:.0} % accepted", args.kernel, 100. * accepted),
        };
        let how = format!(
            "log Z {} nats, spread {spread:.4}; {runs} runs of {particles} particles, {levels} levels{chosen}; effective \
             particles at least {:.0} %, drawn again {resampled:.1} times a run{moved}",
            values.join(", "),
            100. * ess
        );
        let figures = json!({
            "log_z": found.iter().map(|(log_z, _)| log_z).collect::<Vec<_>>(),
            "runs": runs, "particles": particles, "levels": levels,
            "moves": args.moves, "kernel": args.kernel,
            "by_level": found.iter().map(|(_, all)| &all[..=levels]).collect::<Vec<_>>(),
        });
        Ok((self.of_constants(&constants)?, how, figures))
    }

    fn of_constants(&self, constants: &Constants) -> Result<Likelihoods> {
        let minus_energy = density::minus_energy(self.model, &self.points, self.args.batch)?;
        let rounding = minus_energy.iter().fold(0f64, |top, e| top.max(e.abs())) * f64::from(f32::EPSILON);
        if self.model.dtype() == DType::F32 && rounding * self.unit.nat(self.d) > 1e-3 {
            crate::talk!("energies here are so large that f32 rounds them by {rounding:.2} nats; --dtype f64 does not");
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

    /// Prints the line of one method; before the first the head of the table.
    pub fn line(&self, first: bool, Found { method, likelihoods, .. }: &Found) -> Result<()> {
        if first {
            crate::say!("{:<14} {:>10} {:>10} {:>10}", "method", self.unit.name(), "+- data", "+- method")?;
        }
        let figure = likelihoods.figure(self.unit, self.d);
        let own = if figure.own.is_nan() { "-".into() } else { format!("{:.4}", figure.own) };
        crate::say!("{method:<14} {:>10.4} {:>10.4} {own:>10}", figure.mean, figure.error)
    }

    /// Prints how the methods differ, and what their figures mean.
    pub fn tell(&self, found: &[Found]) -> Result<()> {
        for (a, b, mean, error) in self.differences(found) {
            crate::say!("{:<14} {mean:>+10.4} {error:>10.4}", format!("{a} - {b}"))?;
        }
        let process = self.model.spec.process.get();
        let (t, end) = (self.points.t[0], process.span().1);
        let (m, prior) = (process.marginal(t), process.marginal(end));
        let n = self.points.len();
        crate::say!("\n{:<14} {n} of {}, seed {}, {:?}", "points", self.args.data, self.args.seed, self.model.dtype())?;
        crate::say!("{:<14} {}", "data", self.data)?;
        if let Some(columns) = self.columns {
            crate::say!("{:<14} {columns:+.4} nats give the figures of the columns' own units", "columns")?;
        }
        if !self.constant.is_empty() {
            crate::say!(
                "{:<14} {}: the model spreads each over its least noise, and the figures count that too; train without them for \
                 figures of the others",
                "constant",
                self.constant.join(", ")
            )?;
        }
        let noise = if self.args.noised { "points have the noise of it" } else { "points as they are" };
        crate::say!("{:<14} {t}, where alpha is {:.5} and sigma {:.5}; {noise}", "t", m.alpha, m.sigma)?;
        crate::say!("{:<14} N(0, {:.5}^2) at t = {end}, where alpha is {:.5}", "prior", prior.sigma, prior.alpha)?;
        for Found { method, how, .. } in found {
            crate::say!("{method:<14} {how}")?;
        }
        Ok(())
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
            "model": self.args.model, "data": self.args.data, "n": self.points.len(), "seed": self.args.seed,
            "unit": self.unit, "dimensions": self.d, "t": self.points.t[0], "noised": self.args.noised,
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
fn take(data: &Arc<dyn Dataset>, n: usize, args: &Bits) -> Result<(Tensor, Vec<usize>)> {
    let batch = n.min(512);
    let dequantise = data.kind() == Kind::Image;
    let loader = Loader::new(data.clone(), LoaderOptions { batch, seed: args.seed, flip: false, dequantise })?;
    let numbers = || 0..n.div_ceil(batch) as u64;
    let batches = numbers().map(|i| loader.batch(i)).collect::<candle_core::Result<Vec<_>>>()?;
    let mut places = numbers().map(|i| loader.places(i)).collect::<candle_core::Result<Vec<_>>>()?.concat();
    places.truncate(n);
    let x = Tensor::cat(&batches.iter().map(|batch| &batch.x).collect::<Vec<_>>(), 0)?.narrow(0, 0, n)?;
    Ok((x, places))
}
