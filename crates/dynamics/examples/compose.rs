//! The product of two densities, less a third, drawn by a corrected reverse process and by weighed particles.
//!
//! `cargo run --release -p langevin-dynamics --example compose`

#![allow(clippy::print_stdout)] // an example talks

use langevin_dynamics::mcmc::Hmc;
use langevin_dynamics::process::Edm;
use langevin_dynamics::sampler::{AnySampler, Pc, Smc, prior, run};
use langevin_dynamics::{Composed, Denoiser, Expression, Grid, Mixture, grid::Karras};
use langevin_ops::noise::Noise;
use langevin_ops::{DType, Device, Result};

fn main() -> Result<()> {
    let process = Edm::default();
    let normal = |mean: f64, variance: f64| Mixture::isotropic(&[1.], &[vec![mean, 0.]], &[variance]);
    let (a, b, c) = (normal(0., 1.)?, normal(2., 1.)?, normal(-1., 4.)?);
    let (a, b, c) = (a.under(&process), b.under(&process), c.under(&process));
    let expression = Expression::parse("2*a & b & !c")?;
    let model = Composed::new(&expression, &[("a", &a), ("b", &b), ("c", &c)], 1.)?;

    let corrected = Pc { corrector: Some(Hmc::default().into()), corrector_steps: 4, ..Pc::default() };
    // precisions add up: 2 + 1 - 1/4, and so do means times precisions: 0 + 2 + 1/4
    let (precision, mean) = (2.75, 2.25 / 2.75);
    for mut sampler in [AnySampler::from(corrected), Smc::default().into()] {
        let times = Karras::default().times(&process, 60)?;
        let seeds: Vec<u64> = (0..4000).collect();
        let mut noise = Noise::seeds(&seeds);
        let x = prior(&process, times[0], &[seeds.len(), 2], DType::F64, &Device::Cpu, &mut noise)?;
        let x = (x / model.prior_precision().sqrt())?;
        let x = run(&model, sampler.get_mut(), &times, &x, &mut noise, |_| Ok(()))?.narrow(1, 0, 1)?;
        let found = x.mean_all()?.to_scalar::<f64>()?;
        let variance = (x - found)?.sqr()?.mean_all()?.to_scalar::<f64>()?;
        println!("{}: mean {found:.3} of {mean:.3}, variance {variance:.3} of {:.3}", sampler.name(), 1. / precision);
        // within 5 standard errors of half as many draws as there are: particles are worth fewer than their number
        let worth = 0.5 * seeds.len() as f64;
        assert!((found - mean).abs() < 5. / (precision * worth).sqrt());
        assert!((variance * precision - 1.).abs() < 5. * (2. / worth).sqrt());
    }
    Ok(())
}
