//! `langevin sample --compose`: samples of several models at once, `2*a & b & !c`.

use crate::args::Sample;
use crate::guide::Guiding;
use crate::open::{self, Opened};
use crate::output;
use crate::progress::Progress;
use crate::run::{Drawing, Usage, usage};
use crate::sample::{arrays, each, levels, seeds};
use anyhow::{Result, bail};
use candle_core::{Device, Tensor};
use langevin_data::{Columns, Kind};
use langevin_dynamics::sampler::{Report, follow};
use langevin_dynamics::wrap::{Clamped, Clip};
use langevin_dynamics::{Composed, Cond, Denoiser, Expression, NoisyEnergy, Preconditioned};
use langevin_models::ModelSpec;
use langevin_ops::shape::to_host;
use std::path::Path;

/// What draws unless sampler.name says otherwise: no reverse process leads through compositions, but corrected it does.
const SAMPLER: [&str; 5] = [
    "sampler.name=pc",
    "sampler.corrector.name=hmc",
    "sampler.corrector.leapfrogs=2",
    "sampler.corrector_steps=4",
    "sampler.steps=40",
];

/// A model under the name that the composition calls it by.
struct Part {
    name: String,
    opened: Opened,
    label: Option<u32>,
}

impl Part {
    /// From NAME=MODEL\[,class=K\].
    fn open(text: &str, device: &Device) -> Result<Self> {
        let Some((name, model)) = text.split_once('=').map(|(name, model)| (name.trim(), model.trim())) else {
            return usage(format!("--let {text}: give NAME=MODEL, such as a=runs/digits,class=3"));
        };
        if Expression::parse(name).ok() != Some(Expression::Model(name.into())) {
            return usage(format!("--let {text}: `{name}` is no name; take letters, digits and _"));
        }
        let (model, class) = match model.rsplit_once(",class=") {
            None => (model, None),
            Some((model, class)) => (model, Some(class.trim().to_string())),
        };
        let opened = open::open(model, device)?;
        if let (Some(n), None) = (opened.model.spec.classes, &class) {
            return usage(format!(
                "--let {text}: this model has classes; add one of them, ,class=0 to ,class={}",
                n - 1
            ));
        }
        let label = Guiding { class, ..Guiding::default() }.labels(&opened.model, &[0]);
        let label =
            label.map_err(|why| Usage(format!("--let {text}: {why}")))?.and_then(|labels| labels.first().copied());
        Ok(Self { name: name.into(), opened, label })
    }

    fn spec(&self) -> &ModelSpec {
        &self.opened.model.spec
    }

    /// The model for `n` samples.
    fn denoiser(&self, n: usize) -> Result<Preconditioned<'_>> {
        let model = &self.opened.model;
        let labels = self.label.map(|label| Tensor::full(label, n, model.device())).transpose()?;
        Ok(model.denoiser(Cond { labels, dropout: None })?)
    }
}

/// Errors unless both parts see the columns of a table in the same coordinates: only there is a product one of densities.
fn same_columns(first: &Part, other: &Part) -> Result<()> {
    let (a, b) = (&first.name, &other.name);
    let (own, theirs) = match (first.opened.columns()?, other.opened.columns()?) {
        (None, None) => return Ok(()),
        (Some(own), Some(theirs)) => (own, theirs),
        (own, _) => {
            let (table, none) = if own.is_some() { (a, b) } else { (b, a) };
            return usage(format!(
                "--compose: `{table}` has the columns of a table, scaled, and `{none}` has none; give models of one table"
            ));
        }
    };
    if own.names != theirs.names {
        return usage(format!(
            "--compose: the columns of `{a}` are {}, those of `{b}` {}; give models of one table",
            own.names.join(", "),
            theirs.names.join(", ")
        ));
    }
    let moments = |columns: &Columns| columns.mean.iter().copied().zip(columns.std.iter().copied()).collect::<Vec<_>>();
    let (of_own, of_theirs) = (moments(&own), moments(&theirs));
    let differs = of_own.iter().zip(&of_theirs).zip(&own.names).find(|((own, theirs), _)| own != theirs);
    match differs {
        Some((((mean, std), (other_mean, other_std)), name)) => usage(format!(
            "--compose: column {name} was scaled by {mean} +- {std} for `{a}` and by {other_mean} +- {other_std} for `{b}`, \
             so that their densities are of different coordinates; give models that were trained on one table"
        )),
        None => Ok(()),
    }
}

/// A composition of opened models.
struct Composition {
    parts: Vec<Part>,
    expression: Expression,
    temperature: f64,
}

impl Composition {
    fn of(args: &Sample, text: &str, device: &Device) -> Result<Self> {
        let expression = Expression::parse(text).map_err(|e| Usage(e.to_string()))?;
        let parts = args.models.iter().map(|text| Part::open(text, device)).collect::<Result<Vec<_>>>()?;
        let Some(first) = parts.first() else {
            return usage("--compose: name its models with --let, such as --let a=runs/digits,class=3");
        };
        for (i, part) in parts.iter().enumerate() {
            let Part { name, .. } = part;
            if parts.iter().take(i).any(|other| other.name == *name) {
                return usage(format!("--let {name}: there are two models of this name"));
            }
            if part.spec().shape != first.spec().shape || part.spec().from_zero != first.spec().from_zero {
                return usage(format!(
                    "--compose: samples of `{}` have shape {:?}, those of `{name}` {:?}{}; all must be alike",
                    first.name,
                    first.spec().shape,
                    part.spec().shape,
                    if part.spec().from_zero == first.spec().from_zero { "" } else { " in another range" },
                ));
            }
            same_columns(first, part)?;
        }
        let this = Self { expression, parts, temperature: args.temperature.unwrap_or(1.) };
        match this.with(1, |_| Ok(())) {
            Err(e) if !e.is::<Usage>() => usage(format!("{e:#}")),
            other => other.map(|()| this),
        }
    }

    /// `f` of the composed model, for `n` samples.
    fn with<R>(&self, n: usize, f: impl FnOnce(&Composed) -> Result<R>) -> Result<R> {
        let models = self.parts.iter().map(|part| part.denoiser(n)).collect::<Result<Vec<_>>>()?;
        let named = self.parts.iter().zip(&models).map(|(part, model)| (part.name.as_str(), model as &dyn Denoiser));
        f(&Composed::new(&self.expression, &named.collect::<Vec<_>>(), self.temperature)?)
    }

    fn first(&self) -> Result<&Part> {
        self.parts.first().map_or_else(|| bail!("compose: there are no models"), Ok)
    }

    /// Samples `[N, ...]` on the CPU, and what MCMC did.
    fn draw(&self, drawing: &Drawing, all: &[u64], batch: usize) -> Result<(Tensor, Option<Report>)> {
        let first = self.first()?;
        let (model, spec) = (&first.opened.model, first.spec());
        let process = spec.process.get();
        let times = drawing.sampler.grid.get().times(process, drawing.sampler.steps)?;
        let steps: Vec<(f64, f64)> = times.windows(2).map(|pair| (pair[0], pair[1])).collect();
        let sigma = process.marginal(times[0]).sigma;
        let (mut parts, mut report) = (vec![], None::<Report>);
        let mut progress = Progress::new((all.len().div_ceil(batch) * steps.len()) as u64, "steps");
        for some in all.chunks(batch) {
            let (mut noise, mut sampler) = (drawing.noise.of(some), drawing.sampler.sampler.clone());
            let mut shape = vec![some.len()];
            shape.extend_from_slice(&spec.shape);
            let x = self.with(some.len(), |composed| {
                let clamped;
                let m: &dyn Denoiser = if drawing.sampler.clip {
                    clamped = Clamped::new(composed, Clip::default())?;
                    &clamped
                } else {
                    composed
                };
                let x = noise.normal(shape, model.dtype(), model.device())?;
                let x = x.affine(sigma / composed.prior_precision().sqrt(), 0.)?;
                let watch = |_: langevin_dynamics::sampler::At| {
                    progress.step();
                    Ok(())
                };
                Ok(follow(m, sampler.get_mut(), &steps, &x, &mut noise, watch)?)
            })?;
            parts.push(x.to_device(&Device::Cpu)?);
            if let Some(own) = sampler.get().report() {
                report.get_or_insert_default().append(own.clone());
            }
        }
        progress.done();
        let x = Tensor::cat(&parts, 0)?;
        let bad = to_host(&x)?.iter().filter(|v| !v.is_finite()).count();
        if bad > 0 {
            bail!(
                "{bad} of the {} numbers drawn are not finite: \"{}\" may be no density (a negated part must be wider than \
                 the rest), or the steps are too large; try a smaller weight of what is negated, or more sampler.steps",
                x.elem_count(),
                self.expression
            );
        }
        Ok((spec.unranged(&x)?, report))
    }

    /// Points over the composed energy, or over plain ground where there is none.
    fn landscape(&self, x: &Tensor) -> Result<image::RgbImage> {
        let first = self.first()?;
        let (model, process) = (&first.opened.model, first.spec().process.get());
        let t = process.t_at(-2. * (0.15 * first.spec().sigma_data).ln());
        let energy = |x: &Tensor| -> Result<Tensor> {
            let x = x.to_dtype(model.dtype())?.to_device(model.device())?;
            self.with(x.dim(0)?, |composed| Ok(composed.energy_at(&x, &[t])?.to_device(&Device::Cpu)?))
        };
        let known = self.with(1, |composed| Ok(composed.noisy_energy().is_some()))?;
        let energy: Option<&output::Energy> = if known { Some(&energy) } else { None };
        output::landscape(energy, x, output::View::around(x)?)
    }

    /// The samples as one file to look at.
    fn show(&self, kind: Kind, x: &Tensor, path: &Path, notes: &[(&str, String)]) -> Result<()> {
        match kind {
            Kind::Image => output::save_png(path, &output::grid(x, None)?, notes),
            Kind::Points if path.extension().is_none_or(|e| e != "csv") => {
                output::save_png(path, &self.landscape(x)?, notes)
            }
            _ => output::save_samples(path, self.first()?.opened.columns()?.as_ref(), x),
        }
    }
}

/// Carries out `langevin sample --compose TEXT`; what can be written was asked before.
pub fn run(args: &Sample, text: &str, device: &Device) -> Result<()> {
    let mut changes: Vec<String> = SAMPLER.map(String::from).into();
    match &args.model {
        Some(model) if !model.contains('=') => {
            return usage(format!("{model}: the models of a composition are named by --let, such as --let a={model}"));
        }
        first => changes.extend(first.iter().chain(&args.changes).cloned()),
    }
    let drawing = Drawing::of(None, &changes)?;
    let sampler = drawing.sampler.sampler.get();
    if sampler.wants_consistency() {
        return usage("--compose: consistency functions cannot be composed; leave sampler.name out, or use smc");
    }
    crate::sample::reports(args, &drawing.sampler.sampler)?;
    let all = seeds(args)?;
    let composition = Composition::of(args, text, device)?;
    let kind = composition.first()?.opened.kind();
    crate::sample::suits(args, kind)?;
    let has_energy = composition.with(1, |composed| Ok(composed.noisy_energy().is_some()))?;
    if sampler.wants_energy() && !has_energy {
        return usage(format!(
            "sampler.name={}: it weighs samples by their energy, and not every model here has one; leave it out",
            drawing.sampler.sampler.name()
        ));
    }
    if args.batch < all.len() && sampler.population() {
        crate::talk!("each {} samples are a population of their own; --batch {} makes one", args.batch, all.len());
    }
    let (x, report) = composition.draw(&drawing, &all, args.batch)?;
    let notes = [
        ("langevin.compose", composition.expression.to_string()),
        ("langevin.models", args.models.join(" ")),
        ("langevin.sampler", toml::to_string(&drawing)?),
    ];
    let default = if kind == Kind::Table { "samples.csv" } else { "samples.png" };
    let out = args.out.clone().or((args.images.is_none() && args.npz.is_none()).then(|| default.into()));
    if let Some(path) = out {
        composition.show(kind, &x, &path, &notes)?;
        crate::say!("{}", path.display())?;
    }
    if let Some(folder) = &args.images {
        each(&x, &all, folder)?;
        crate::say!("{}", folder.display())?;
    }
    if let Some(path) = &args.npz {
        output::save(path, &arrays(kind, &x, None)?)?;
        crate::say!("{}", path.display())?;
    }
    match (&args.report, &report) {
        (Some(file), Some(report)) => levels(report, file.as_deref()),
        _ => Ok(()),
    }
}
