//! Guidance: a model of one class goes away from the model of all classes, p_class^w p_all^(1-w) at every noise level.
//!
//! `cargo run --release -p langevin-dynamics --example guidance`

#![allow(clippy::print_stdout)] // an example talks

use langevin_dynamics::grid::{AnyGrid, Karras};
use langevin_dynamics::process::Edm;
use langevin_dynamics::sampler::{Heun, prior, run};
use langevin_dynamics::{Denoiser, Guidance, Mixture, Sum};
use langevin_ops::noise::Noise;
use langevin_ops::shape::to_host;
use langevin_ops::{DType, Device, Result};

fn main() -> Result<()> {
    // two classes that overlap, N(1, 1) and N(-1, 1): their denoisers are known exactly
    let class = Mixture::isotropic(&[1.], &[vec![1.]], &[1.])?;
    let all = Mixture::isotropic(&[1., 1.], &[vec![1.], vec![-1.]], &[1., 1.])?;
    let process = Edm::default();
    let (model, guide) = (class.under(&process), all.under(&process));
    let times = AnyGrid::from(Karras::default()).get().times(&process, 30)?;
    let seeds: Vec<u64> = (0..2000).collect();
    let mut right = vec![];
    for scale in [1., 2., 4.] {
        let guided = Sum::guided(&model, &guide, Guidance { scale, interval: None })?;
        let mut noise = Noise::seeds(&seeds);
        let start = prior(&process, times[0], &[seeds.len(), 1], DType::F64, &Device::Cpu, &mut noise)?;
        let x = run(&guided, &Heun::default(), &times, &start, &mut noise, |_| Ok(()))?;
        // both have an energy, so what is guided has one too: w E_class + (1 - w) E_all
        let energy = guided.noisy_energy().map(|energy| energy.energy_at(&x, &[0.1])).transpose()?;
        let energy = energy.map(|e| e.mean_all()?.to_scalar::<f64>()).transpose()?.unwrap_or(f64::NAN);
        let x = to_host(&x)?;
        let n = x.len() as f64;
        let (mean, share) = (x.iter().sum::<f64>() / n, x.iter().filter(|&&x| x > 0.).count() as f64 / n);
        println!("w = {scale}: mean {mean:.2}, {:.1}% on the class's side, mean energy {energy:.2}", 100. * share);
        right.push(share);
    }
    // of N(1, 1) 84% lies above 0; guidance leaves the side that the other class has too
    assert!((right[0] - 0.841).abs() < 0.03 && right[0] < right[1] && right[1] < right[2]);
    Ok(())
}
