//! A model and a loss of one's own, trained by the toolkit's trainer: averages, checkpoints, resumption and a log come with it.
//!
//! The model is an unnormalised density of the plane. It is learnt by noise-contrastive estimation: E log p(x) - log p_n(x) is
//! to tell data from noise y ~ p_n = N(m, v), so that the constant of log p is learnt too. \[Gutmann10\] The loss remembers the
//! mean m and the variance v of the data it has seen. The run is killed on its way and gone on with: it ends with the same bits
//! as one that was not.
//!
//! `cargo run --release -p langevin --example own_loss`

#![allow(clippy::print_stdout)] // an example talks

use langevin::data::Batch;
use langevin::dynamics::Mixture;
use langevin::dynamics::process::Edm;
use langevin::ops::act::softplus;
use langevin::ops::linear::linear;
use langevin::ops::noise::Noise;
use langevin::ops::registry::Named;
use langevin::ops::shape::{sum_per_sample, to_host};
use langevin::train::ema::WarmUp;
use langevin::train::optim::Adam;
use langevin::train::{
    Context, Objective, Part, Series, TrainOptions, Trainable, Trainer, Training, Values, last_checkpoint, objective,
};
use langevin::{DType, Device, Result, Tensor, Var, bail};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// log p(x) = w3 . softplus(W2 softplus(W1 x + b1) + b2) - |x|^2 / 2 - c, c a parameter.
struct Density {
    spec: Spec,
    vars: Vec<(String, Var)>,
}

/// What a [`Density`] is made of.
#[derive(Serialize)]
struct Spec {
    width: usize,
}

impl Density {
    fn new(width: usize) -> Result<Self> {
        let mut noise = Noise::seeds(&[0]);
        let mut var = |name: &str, out: usize, into: usize| {
            let w = noise.normal((1, out, into), DType::F32, &Device::Cpu)?.squeeze(0)?;
            Ok((name.to_string(), Var::from_tensor(&(w / (into as f64).sqrt())?)?))
        };
        let mut vars = [("w1", width, 2), ("w2", width, width), ("w3", 1, width)]
            .into_iter()
            .map(|(name, out, into)| var(name, out, into))
            .collect::<Result<Vec<_>>>()?;
        for (name, size) in [("b1", width), ("b2", width), ("c", 1)] {
            vars.push((name.into(), Var::zeros(size, DType::F32, &Device::Cpu)?));
        }
        vars.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(Self { spec: Spec { width }, vars })
    }

    /// `[B, 2] -> [B]`.
    fn log_p(&self, x: &Tensor) -> Result<Tensor> {
        let [b1, b2, c, w1, w2, w3] = [0, 1, 2, 3, 4, 5].map(|i| self.vars[i].1.as_tensor());
        let h = softplus(&linear(x, w1, Some(b1))?)?;
        let h = softplus(&linear(&h, w2, Some(b2))?)?;
        let h = sum_per_sample(&linear(&h, w3, None)?)?;
        (h - (sum_per_sample(&x.sqr()?)? * 0.5)?)?.broadcast_sub(c)
    }
}

impl Trainable for Density {
    type Spec = Spec;

    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn vars(&self) -> &[(String, Var)] {
        &self.vars
    }

    fn dtype(&self) -> DType {
        DType::F32
    }

    fn device(&self) -> &Device {
        &Device::Cpu
    }
}

/// Noise-contrastive estimation.
#[derive(Clone, Debug, Serialize)]
struct Nce {
    /// Deviation of the noise, in that of the data.
    spread: f64,
}

impl Named for Nce {
    const NAME: &'static str = "nce";
    const ABOUT: &'static str = "tells data from noise by their log-densities [Gutmann10]";
}

impl Objective<Density> for Nce {
    fn description(&self) -> Result<Value> {
        objective::describe(self)
    }

    fn check(&self, _: &Spec, _: &TrainOptions) -> Result<()> {
        if !(self.spread > 0. && self.spread.is_finite()) {
            bail!("loss.spread is {}; it must be a finite number above 0", self.spread);
        }
        Ok(())
    }

    fn start(&self, _: &Density) -> Result<Box<dyn Training<Density>>> {
        Ok(Box::new(Contrast { options: self.clone(), seen: [0.; 4] }))
    }
}

/// The loss under way.
struct Contrast {
    options: Nce,
    /// Of all samples so far: their number, the sums of either coordinate, the sum of squares.
    seen: [f64; 4],
}

impl Training<Density> for Contrast {
    fn part(&mut self, model: &Density, batch: &Batch, at: &Context) -> Result<Part> {
        let n = batch.x.dim(0)?;
        for x in to_host(&batch.x)?.chunks(2) {
            let more = [1., x[0], x[1], x[0] * x[0] + x[1] * x[1]];
            self.seen.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        }
        let [count, a, b, squares] = self.seen;
        let (m, v) = ([a / count, b / count], squares / count - (a * a + b * b) / count.powi(2));
        let v = 0.5 * v * self.options.spread.powi(2);
        let centre = Tensor::new(&[m.map(|m| m as f32)], &Device::Cpu)?;
        let noise = at.noise(n).normal_like(&batch.x)?.affine(v.sqrt(), 0.)?.broadcast_add(&centre)?;
        let log_noise = |x: &Tensor| -> Result<Tensor> {
            let squares = sum_per_sample(&x.broadcast_sub(&centre)?.sqr()?)?;
            squares.affine(-0.5 / v, -(2. * std::f64::consts::PI * v).ln())
        };
        let gap = |x: &Tensor| model.log_p(x)? - log_noise(x)?;
        let mut right = 0.;
        let mut part = at.mean(|| {
            let (data, noise) = (gap(&batch.x)?, gap(&noise)?);
            let share = |right: Tensor| Ok::<_, langevin::Error>(to_host(&right)?.iter().sum::<f64>() / n as f64);
            right = 0.5 * (share(data.gt(0.)?)? + share(noise.lt(0.)?)?);
            softplus(&data.neg()?)? + softplus(&noise)?
        })?;
        part.series.push(Series::mean("accuracy", right));
        Ok(part)
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        Ok(vec![("seen".into(), Tensor::new(&self.seen, &Device::Cpu)?)])
    }

    fn restore(&mut self, _: &Density, state: &BTreeMap<String, Tensor>) -> Result<()> {
        match state.get("seen").map(|seen| seen.to_vec1::<f64>()).transpose()?.as_deref() {
            Some(&[n, a, b, squares]) => self.seen = [n, a, b, squares],
            _ => bail!("does not say which data the loss has seen"),
        }
        Ok(())
    }
}

const STEPS: u64 = 2000;

fn trainer() -> Result<Trainer<Density>> {
    let options = TrainOptions { steps: STEPS, batch: 256, lr: 1e-2, warmup: 20, ..TrainOptions::default() };
    Trainer::new(Density::new(32)?, Nce { spread: 1.2 }, Adam::default().into(), WarmUp::default().into(), options)
}

/// Trains to the end, with a checkpoint every 100 steps in `dir` and a line of the log every 250; goes on from what is there.
fn train(dir: &Path) -> Result<Trainer<Density>> {
    let mut trainer = trainer()?;
    trainer.resume(dir)?;
    while trainer.step_number() < STEPS {
        let n = trainer.step_number();
        let x = data()?.sample(256, &mut Noise::of_step(7, n, 256))?.to_dtype(DType::F32)?;
        let report = trainer.step(&[Batch::new(x, None)])?;
        if report.step.is_multiple_of(100) {
            trainer.save_state(dir)?;
        }
        if report.step.is_multiple_of(250) {
            print!("step {}  loss {:.4}", report.step, report.loss);
            for Series { name, values } in &report.series {
                if let Values::Mean(value) = values {
                    print!("  {name} {value:.3}");
                }
            }
            println!();
        }
    }
    Ok(trainer)
}

fn data() -> Result<Mixture> {
    Mixture::isotropic(&[0.4, 0.6], &[vec![-1., 0.], vec![0.8, 0.5]], &[0.1, 0.2])
}

/// Another process that trains in `dir` is killed, SIGKILL on Unix, as soon as there is the state of a step from `from` on.
fn killed(dir: &Path, from: u64) -> Result<()> {
    let mut child = Command::new(std::env::current_exe()?).arg(dir).spawn()?;
    let begun = Instant::now();
    while last_checkpoint(dir).is_none_or(|step| step < from) {
        if begun.elapsed() > Duration::from_secs(600) {
            bail!("no state of step {from} came");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill()?;
    child.wait()?;
    Ok(())
}

/// Every number of the run's last state.
fn state(dir: &Path) -> Result<Vec<u8>> {
    Ok(std::fs::read(dir.join(format!("step-{STEPS}.safetensors")))?)
}

fn main() -> Result<()> {
    if let Some(dir) = std::env::args().nth(1) {
        return train(&PathBuf::from(dir)).map(drop);
    }
    let dir = std::env::temp_dir().join(format!("own-loss-{}", std::process::id()));
    let (whole, cut) = (dir.join("whole"), dir.join("cut"));
    let trainer = train(&whole)?;

    killed(&cut, 300)?;
    killed(&cut, 900)?;
    println!("killed twice, the last state is that of step {:?}", last_checkpoint(&cut));
    train(&cut)?;
    assert!(state(&whole)? == state(&cut)?, "the run that was killed ends elsewhere");
    std::fs::remove_dir_all(&dir)?;

    // log p itself is known for these data, its constant too
    let (x, process) = (data()?.sample(1000, &mut Noise::of_step(8, 0, 1000))?, Edm::default());
    let exact = to_host(&data()?.under(&process).log_p(&x, &[0.002])?)?;
    let learnt = trainer.with_averaged(|model| to_host(&model.log_p(&x.to_dtype(DType::F32)?)?))?;
    let off = learnt.iter().zip(&exact).map(|(a, b)| (a - b).abs()).sum::<f64>() / 1000.;
    println!("log p is off by {off:.3} nats in the mean");
    assert!(off < 0.15);
    Ok(())
}
