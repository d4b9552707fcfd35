//! What a research user does, by the public interface alone: open, draw, score, train on data of one's own, go on, and be told why not.

use langevin::data::{Batch, Dataset, Kind};
use langevin::error::{Stopped, Usage};
use langevin::run::{AnyRun, GoOn, Made, New, Show};
use langevin::sample::Source;
use langevin::watch::{self, Advance, Watch, Work};
use langevin::{Config, DType, DensityConfig, Device, Result, Run, Tensor};
use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

const CPU: Device = Device::Cpu;

fn values(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

/// The mistake that an error is.
fn usage(e: &anyhow::Error) -> &Usage {
    e.downcast_ref().unwrap_or_else(|| panic!("not a mistake of who asks: {e:#}"))
}

#[test]
fn samples_depend_on_their_seeds_alone() -> anyhow::Result<()> {
    let model = langevin::open("exact:8-gaussians")?;
    let draw = |seeds: &[u64], batch: usize| -> anyhow::Result<Vec<f32>> {
        let sampling = model.sample().seeds(seeds.iter().copied()).sampler("heun").set("sampler.steps=12").batch(batch);
        Ok(values(&sampling.draw()?.x))
    };
    let all = draw(&[3, 1, 4, 1, 5], 5)?;
    assert_eq!(all, draw(&[3, 1, 4, 1, 5], 2)?, "in batches of another size");
    assert_eq!(all[2..4], all[6..8], "of one seed twice");
    assert_eq!(draw(&[4], 1)?, all[4..6]);
    // they lie on the circle of the modes
    let samples = model.sample().seeds(0..200).draw()?;
    let radius = values(&samples.x).chunks(2).map(|p| f64::from(p[0].hypot(p[1]))).sum::<f64>() / 200.;
    assert!((radius - 1.4).abs() < 0.05, "{radius}");
    assert_eq!((samples.labels, samples.report.is_none(), samples.notes.len()), (None, true, 0));
    Ok(())
}

#[test]
fn chains_report_and_what_is_approximate_is_noted() -> anyhow::Result<()> {
    let model = langevin::open("exact:gaussian-2d")?;
    let sampling = model.sample().seeds(0..8).sampler("smc").set("sampler.steps=10").batch(4);
    let samples = sampling.draw()?;
    assert!(samples.report.is_some());
    assert!(samples.notes.iter().any(|note| note.contains("population")), "{:?}", samples.notes);
    Ok(())
}

#[test]
fn densities_have_their_closed_forms() -> anyhow::Result<()> {
    let (mean, variance, t) = ([0.7, 0.], 0.5, 0.3);
    let model = langevin::open("exact:gaussian-2d")?;
    let x = Tensor::new(&[[0.1f32, 0.4], [1.5, -0.3]], &CPU)?;
    let wide = variance + t * t; // edm adds noise of deviation t
    let (score, energy) = (model.score(&x, &[t], None)?, model.energy(&x, &[t], None)?);
    for (i, (x, score)) in values(&x).chunks(2).zip(values(&score).chunks(2)).enumerate() {
        let off = [f64::from(x[0]) - mean[0], f64::from(x[1]) - mean[1]];
        for (off, score) in off.iter().zip(score) {
            assert!((f64::from(*score) + off / wide).abs() < 1e-5);
        }
        let exact = (off[0].powi(2) + off[1].powi(2)) / (2. * wide) + (std::f64::consts::TAU * wide).ln();
        assert!((f64::from(values(&energy)[i]) - exact).abs() < 1e-4);
    }
    let (found, notes) = watch::noted(|| model.log_p(&x, None));
    for (x, log_p) in values(&x).chunks(2).zip(found?) {
        let off = (f64::from(x[0]) - mean[0]).powi(2) + (f64::from(x[1]) - mean[1]).powi(2);
        let exact = -off / (2. * variance) - (std::f64::consts::TAU * variance).ln();
        assert!((log_p - exact).abs() < 1e-3, "{log_p} for {exact}");
    }
    assert!(notes.iter().any(|note| note.starts_with("logp: by the energy")), "{notes:?}");
    Ok(())
}

#[test]
fn mistakes_name_their_option_as_data() -> anyhow::Result<()> {
    let model = langevin::open("exact:gaussian-2d")?;
    let refused = |sampling: langevin::sample::Sampling| {
        let e = sampling.draw().err().unwrap_or_else(|| panic!("not refused"));
        (usage(&e).option.clone().unwrap_or_default(), e.to_string())
    };
    let cases = [
        (model.sample().class("3"), "class", "without classes"),
        (model.sample().guidance(2.), "guidance", "model.conditional=true"),
        (model.sample().set("sampler.steps=0"), "sampler.steps", "1 to 100000"),
        (model.sample().sampler("consistency"), "sampler.name", "consistency models"),
        (model.sample().between("1,2,3"), "interpolate", "two seeds"),
        (model.sample().from_image("no.png", 0.5, (false, false)), "from", "not one of images"),
        (model.sample().batch(0), "batch", "at least 1"),
    ];
    for (sampling, option, why) in cases {
        let (found, text) = refused(sampling);
        assert_eq!(found, option, "{text}");
        assert!(text.contains(why) && !text.starts_with("--"), "{text}");
    }
    let e = langevin::open("no/such/model/here").err().unwrap();
    assert!(usage(&e).why.contains("no run folder"), "{e}");
    let e = Config::named("digits", &["train.stepps=3"]).err().unwrap();
    assert!(format!("{e:#}").contains("stepps"), "{e:#}");
    Ok(())
}

/// Two points, as often as is asked: data of one's own.
struct Two(usize);

impl Dataset for Two {
    fn len(&self) -> usize {
        self.0
    }

    fn shape(&self) -> &[usize] {
        &[2]
    }

    fn classes(&self) -> Option<usize> {
        None
    }

    fn kind(&self) -> Kind {
        Kind::Points
    }

    fn get(&self, idx: &[usize]) -> Result<Batch> {
        let points: Vec<f32> = idx.iter().flat_map(|i| if i % 2 == 0 { [0.5, 0.5] } else { [-0.5, -0.5] }).collect();
        Ok(Batch::new(Tensor::from_vec(points, (idx.len(), 2), &CPU)?, None))
    }
}

fn config(steps: u64) -> Config {
    let changes = [
        format!("train.steps={steps}"),
        "train.batch=16".into(),
        "train.checkpoint_every=5".into(),
        "train.log_every=5".into(),
        "model.net.width=8".into(),
        "model.net.layers=1".into(),
        "sampler.steps=3".into(),
        "data.spec=two points".into(),
    ];
    Config::named("toy", &changes).unwrap()
}

/// Counts what it is shown.
#[derive(Default)]
struct Counts {
    steps: u64,
    lines: usize,
}

impl Show for Counts {
    fn step(
        &mut self,
        report: &langevin::train::StepReport,
        _: std::time::Duration,
        line: Option<&langevin::run::Line>,
    ) {
        self.steps = report.step;
        self.lines += usize::from(line.is_some());
    }
}

fn weights(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

#[test]
fn a_run_on_data_of_ones_own_goes_on_as_if_it_had_not_stopped() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let (whole, cut) = (dir.path().join("whole"), dir.path().join("cut"));
    let data = || Arc::new(Two(64));
    let mut counts = Counts::default();
    let made = Run::on(config(10), data(), &whole, &CPU)?.train(&mut counts)?.unwrap();
    assert_eq!((counts.steps, counts.lines), (10, 2));
    // stopped after some steps, with its state saved
    let watch = Rc::new(Stops { after: 7, asked: Cell::new(0) });
    let stopped = watch::with(watch, || Run::on(config(10), data(), &cut, &CPU)?.train(&mut ()));
    assert!(stopped.err().is_some_and(|e| e.is::<Stopped>() && e.to_string().contains("of 10")));
    let other = Config { ema: langevin::train::AnyEma::named("constant").unwrap(), ..config(10) };
    let e = Run::on(other, data(), &cut, &CPU).err().unwrap();
    assert!(usage(&e).option.as_deref().is_some_and(|key| key.starts_with("ema.")), "{e:#}");
    let mut run = Run::on(config(10), data(), &cut, &CPU)?;
    assert!((1..10).contains(&run.step_number()), "{}", run.step_number());
    let again = run.train(&mut ())?.unwrap();
    drop(run); // which lets go of the folder
    assert_eq!(weights(&made.model).len(), weights(&again.model).len());
    let numbers = |made: &Made| -> anyhow::Result<Vec<f32>> {
        let opened = langevin::open(made.model.to_str().unwrap())?;
        Ok(values(&opened.sample().seeds(0..4).draw()?.x))
    };
    assert_eq!(numbers(&made)?, numbers(&again)?);
    assert!(Run::on(config(10), data(), &cut, &CPU)?.train(&mut ())?.is_none(), "it is finished");
    let e = Run::on(config(10), Arc::new(Two(62)), &cut, &CPU).err().unwrap();
    assert!(e.to_string().contains("other data"), "{e}");
    Ok(())
}

/// A wish to stop that comes while samples are drawn saves the state, too.
#[test]
fn a_run_that_is_stopped_inside_a_picture_goes_on_from_there() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let out = dir.path().join("run");
    let mut config = config(10);
    (config.train.sample_every, config.train.checkpoint_every, config.sampler.steps) = (4, 100, 50);
    let watch = Rc::new(Stops { after: 20, asked: Cell::new(0) }); // four steps, and some of those to the picture
    let stopped = watch::with(watch, || Run::on(config.clone(), Arc::new(Two(64)), &out, &CPU)?.train(&mut ()));
    let e = stopped.err().unwrap();
    assert!(e.is::<Stopped>() && e.to_string().contains("at step 4 of 10"), "{e}");
    assert_eq!(Run::on(config, Arc::new(Two(64)), &out, &CPU)?.step_number(), 4);
    Ok(())
}

/// Wants work to stop when it has been asked so often.
struct Stops {
    after: usize,
    asked: Cell<usize>,
}

impl Watch for Stops {
    fn stops(&self) -> bool {
        self.asked.set(self.asked.get() + 1);
        self.asked.get() > self.after
    }
}

/// Keeps what it is told.
#[derive(Default)]
struct Keeps {
    lines: RefCell<Vec<String>>,
    works: RefCell<Vec<String>>,
}

struct Nothing;

impl Advance for Nothing {}

impl Watch for Keeps {
    fn line(&self, text: &str) -> anyhow::Result<()> {
        self.lines.borrow_mut().push(text.into());
        Ok(())
    }

    fn begin(&self, work: &Work) -> Box<dyn Advance> {
        self.works.borrow_mut().push(format!("{} {}{}", work.all, work.unit, work.name));
        Box::new(Nothing)
    }
}

#[test]
fn a_watch_is_told_how_work_goes() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let keeps = Rc::new(Keeps::default());
    let out = dir.path().join("run");
    watch::with(keeps.clone(), || -> anyhow::Result<()> {
        let asked = New {
            preset: "toy:rings".into(),
            changes: ["train.steps=2", "train.batch=4", "model.net.width=4", "sampler.steps=2"]
                .map(String::from)
                .into(),
            out: Some(out.clone()),
            ..New::default()
        };
        let mut run = asked.begin(&CPU)?;
        assert!(matches!(run, AnyRun::Denoising(_)));
        run.train(&mut ())?;
        drop(run);
        let more = GoOn { dir: out.clone(), changes: vec!["train.steps=3".into()], ..GoOn::default() };
        more.begin(&CPU)?.train(&mut ())?;
        Ok(())
    })?;
    let lines = keeps.lines.borrow();
    assert!(lines.iter().any(|line| line.starts_with("model: ")) && lines.contains(&"resumed at step 2".into()));
    assert!(keeps.works.borrow().iter().any(|work| work == "2 steps"), "{:?}", keeps.works.borrow());
    Ok(())
}

/// Bits of which the second is the first.
struct Copies;

impl Dataset for Copies {
    fn len(&self) -> usize {
        40
    }

    fn shape(&self) -> &[usize] {
        &[2]
    }

    fn classes(&self) -> Option<usize> {
        None
    }

    fn kind(&self) -> Kind {
        Kind::Table
    }

    fn get(&self, idx: &[usize]) -> Result<Batch> {
        let bits: Vec<f32> = idx.iter().flat_map(|i| [(i % 2) as f32; 2]).collect();
        Ok(Batch::new(Tensor::from_vec(bits, (idx.len(), 2), &CPU)?, None))
    }
}

#[test]
fn a_density_of_a_family_learns_what_goes_together() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let text = "[data]\nspec = \"copies\"\n[model]\nfamily = \"rbm\"\nhidden = 3\n[train]\nsteps = 1500\nbatch = 40\nlr = 0.5\n\
                warmup = 0\nsample_every = 0\n[loss]\nname = \"contrastive-divergence\"\npersistent = 40\n[optimiser]\nname = \"sgd\"\n\
                [sampler]\nname = \"mcmc\"\nsteps = 200\n";
    let config = DensityConfig::of(Config::table(text)?, &[] as &[&str])?;
    let made = Run::density_on(config, Arc::new(Copies), &dir.path().join("run"), &CPU)?.train(&mut ())?.unwrap();
    let opened = langevin::open::open_any(made.model.to_str().unwrap(), &CPU)?;
    let langevin::open::AnyOpened::Density(density) = opened else { panic!("a density of a family") };
    let samples = density.sample((0..400).collect(), &[], None)?.samples()?;
    let same = values(&samples.x).chunks(2).filter(|row| row[0] == row[1]).count();
    assert!(same > 360, "{same} of 400 rows are of two like bits");
    let ones = values(&samples.x).chunks(2).filter(|row| row[0] == 1.).count();
    assert!((140..260).contains(&ones), "{ones} of 400 are ones");
    // a state of the data has less energy than another
    let states = Tensor::new(&[[0f32, 0.], [1., 1.], [0., 1.], [1., 0.]], &CPU)?;
    let energies = density.energy(&states)?;
    assert!(energies[0].max(energies[1]) + 1. < energies[2].min(energies[3]), "{energies:?}");
    assert_eq!(density.model.dtype(), DType::F32);
    Ok(())
}
