//! A network of one's own, trained as an energy: a `Potential` (or a plain `Net`) has every process, loss and sampler.
//!
//! `cargo run --release -p langevin-train --example own_network`

#![allow(clippy::print_stdout)] // an example talks

use candle_core::{DType, Device, Result, Tensor, Var};
use langevin_dynamics::predict::Edm as EdmPrediction;
use langevin_dynamics::process::Edm;
use langevin_dynamics::sampler::{Heun, prior, run};
use langevin_dynamics::{Cond, Preconditioned};
use langevin_models::{GradNet, Potential};
use langevin_ops::act::softplus;
use langevin_ops::noise::Noise;
use langevin_ops::shape::{combine, scale, sum_per_sample};
use langevin_ops::{grad, linear::linear};

/// h(x, c) = w3 . softplus(W2 softplus(W1 [x, c])): a scalar, so its gradient is a network with an energy.
struct Bowl(Vec<Var>);

impl Bowl {
    fn new(width: usize, noise: &mut Noise) -> Result<Self> {
        let shapes = [(width, 2), (width, width), (1, width)];
        let weight = |(out, into): (usize, usize)| {
            let w = noise.normal((1, out, into), DType::F32, &Device::Cpu)?.squeeze(0)?;
            Var::from_tensor(&(w / (into as f64).sqrt())?)
        };
        Ok(Self(shapes.map(weight).into_iter().collect::<Result<_>>()?))
    }
}

impl Potential for Bowl {
    fn h(&self, x: &Tensor, c_noise: &Tensor, _: &Cond) -> Result<Tensor> {
        let x = Tensor::cat(&[x, &c_noise.unsqueeze(1)?], 1)?; // [B, 2]
        let h = softplus(&linear(&x, &self.0[0], None)?)?;
        let h = softplus(&linear(&h, &self.0[1], None)?)?;
        sum_per_sample(&linear(&h, &self.0[2], None)?)
    }
}

fn main() -> Result<()> {
    let potential = Bowl::new(64, &mut Noise::seeds(&[0]))?;
    let vars = potential.0.clone();
    let (net, process) = (GradNet::new(potential), Edm::default());
    let denoiser = Preconditioned::new(&net, &process, &EdmPrediction {}, 1., Cond::default())?;

    // data: half of the samples near -1, half near 1
    let (batch, mut first, mut last) = (256, 0., 0.);
    for step in 0..300 {
        let mut noise = Noise::of_step(1, step, batch);
        let sign = noise.rademacher_like(&Tensor::zeros((batch, 1), DType::F32, &Device::Cpu)?)?;
        let x0 = (sign + (noise.normal((batch, 1), DType::F32, &Device::Cpu)? * 0.2)?)?;
        let sigma: Vec<f64> = noise.gaussian(batch)?.iter().map(|z| (-0.5 + z).exp()).collect();
        let (loss, grads) = grad::value_and_grad(&vars, || denoising_loss(&denoiser, &x0, &sigma, &mut noise))?;
        for (var, grad) in vars.iter().zip(&grads) {
            var.set(&(var.as_tensor() - (grad * 0.05)?)?)?; // plain gradient descent
        }
        last = loss.to_scalar::<f32>()?;
        first = if step == 0 { last } else { first };
    }

    let seeds: Vec<u64> = (0..1000).collect();
    let mut noise = Noise::seeds(&seeds);
    let times: Vec<f64> = (0..20).map(|i| 80. * (0.002f64 / 80.).powf(i as f64 / 19.)).chain([0.]).collect();
    let start = prior(&process, times[0], &[seeds.len(), 1], DType::F32, &Device::Cpu, &mut noise)?;
    let x = run(&denoiser, &Heun::default(), &times, &start, &mut noise, |_| Ok(()))?;
    let right = x.gt(0.)?.to_dtype(DType::F32)?.mean_all()?.to_scalar::<f32>()?;
    println!("loss {first:.3} -> {last:.3}; {:.0}% of the samples lie right of 0", 100. * right);
    assert!(last < first && (right - 0.5).abs() < 0.25);
    Ok(())
}

/// The denoising loss of EDM: |F - (x0 - c_skip x) / c_out|^2. [Karras22]
fn denoising_loss(d: &Preconditioned, x0: &Tensor, sigma: &[f64], noise: &mut Noise) -> Result<Tensor> {
    let x = (x0 + scale(&noise.normal_like(x0)?, sigma)?)?;
    let c: Vec<_> = sigma.iter().map(|&s| d.coefficients(s)).collect();
    let (skip, out): (Vec<_>, Vec<_>) = c.iter().map(|c| (-c.c_skip / c.c_out, 1. / c.c_out)).unzip();
    let target = combine(&skip, &x, &out, x0)?;
    (d.output(&x, sigma)? - target)?.sqr()?.mean_all()
}
