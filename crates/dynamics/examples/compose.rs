//! The product of two densities, less a third, drawn by a corrected reverse process and by weighed particles; then half of
//! it mixed with half of another, once its normaliser is estimated.
//!
//! `cargo run --release -p langevin-dynamics --example compose`

#![allow(clippy::print_stdout)] // an example talks

use langevin_dynamics::likelihood::{Annealing, Constants};
use langevin_dynamics::mcmc::Hmc;
use langevin_dynamics::process::{Edm, Vp};
use langevin_dynamics::sampler::{AnySampler, Pc, Smc, prior, run};
use langevin_dynamics::{Denoiser, Expression, Grid, Mixture, Sum, grid::Karras};
use langevin_ops::noise::Noise;
use langevin_ops::{DType, Device, Result, Tensor};

fn main() -> Result<()> {
    let (process, other) = (Edm::default(), Vp::default());
    let normal = |mean: f64, variance: f64| Mixture::isotropic(&[1.], &[vec![mean, 0.]], &[variance]);
    let (a, b, c) = (normal(0., 1.)?, normal(2., 1.)?, normal(-1., 4.)?);
    let (a, b, c) = (a.under(&process), b.under(&process), c.under(&other)); // taken as of the first one's process
    let expression = Expression::parse("2*a & b & !c")?;
    let product = Sum::composed(&expression, &[("a", &a), ("b", &b), ("c", &c)], 1.)?;

    let corrected = Pc { corrector: Some(Hmc::default().into()), corrector_steps: 4, ..Pc::default() };
    // precisions add up: 2 + 1 - 1/4, and so do means times precisions: 0 + 2 + 1/4
    let (precision, mean): (f64, f64) = (2.75, 2.25 / 2.75);
    for sampler in [AnySampler::from(corrected), Smc::default().into()] {
        let x = draw(&product, &sampler)?;
        let n = x.elem_count() as f64;
        let found = x.mean_all()?.to_scalar::<f64>()?;
        let variance = (x - found)?.sqr()?.mean_all()?.to_scalar::<f64>()?;
        println!("{}: mean {found:.3} of {mean:.3}, variance {variance:.3} of {:.3}", sampler.name(), 1. / precision);
        // within 5 standard errors of half as many draws as there are: particles are worth fewer than their number
        let worth = 0.5 * n;
        assert!((found - mean).abs() < 5. / (precision * worth).sqrt());
        assert!((variance * precision - 1.).abs() < 5. * (2. / worth).sqrt());
    }

    // a mixture asks how much of each part there is, and the product does not know its normaliser
    let noises = (0..8).map(|run| Noise::of_step(0, run, 128));
    let to = (&[128, 2][..], DType::F64, &Device::Cpu);
    let log_z = Constants::estimate(&product, &Annealing::default(), to, noises, &mut || Ok(()))?;
    println!("log Z of the product: {:.3} +- {:.3}", log_z.least_noisy().value, log_z.least_noisy().error);
    let product = Sum::normalised(&product, log_z)?;
    let far = normal(-4., 0.5)?;
    let far = far.under(&process);
    let mixture = Sum::composed(&Expression::parse("p | far")?, &[("p", &product), ("far", &far)], 1.)?;
    let x = draw(&mixture, &Smc::default().into())?;
    let share = x.lt(-2.)?.to_dtype(DType::F64)?.mean_all()?.to_scalar::<f64>()?;
    println!("share of the other: {share:.3} of 0.5");
    assert!((share - 0.5).abs() < 0.1);
    Ok(())
}

/// The first coordinate of 4000 draws.
fn draw(model: &Sum, sampler: &AnySampler) -> Result<Tensor> {
    let times = Karras::default().times(model.process(), 60)?;
    let seeds: Vec<u64> = (0..4000).collect();
    let mut noise = Noise::seeds(&seeds);
    let x = prior(model.process(), times[0], &[seeds.len(), 2], DType::F64, &Device::Cpu, &mut noise)?;
    let x = (x / model.prior_precision().sqrt())?;
    run(model, sampler.get(), &times, &x, &mut noise, |_| Ok(()))?.narrow(1, 0, 1)
}
