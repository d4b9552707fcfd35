//! The density of a model three ways, on a mixture whose density is known: along the probability-flow ODE, by its energy
//! with the one constant that this lacks, and by annealed importance sampling.
//!
//! `cargo run --release -p langevin-dynamics --example likelihood`

#![allow(clippy::print_stdout)] // an example talks

use langevin_dynamics::likelihood::{Annealing, Flow, LogZ, Normaliser};
use langevin_dynamics::process::Vp;
use langevin_dynamics::{Mixture, NoisyEnergy};
use langevin_ops::noise::Noise;
use langevin_ops::stats::mean_and_error;
use langevin_ops::{DType, Device, Result};

fn main() -> Result<()> {
    let data = Mixture::isotropic(&[0.3, 0.7], &[vec![-2., 0.], vec![1., 0.5]], &[0.05, 0.1])?;
    let process = Vp::default();
    let (model, t, shape) = (data.under(&process), 1e-3, [200, 2]);
    let seeds: Vec<u64> = (0..200).collect();
    let x = data.sample(200, &mut Noise::seeds(&seeds))?;

    let flow = Flow::default().log_p(&model, &x, &[t], &mut Noise::seeds(&seeds), &mut |_| Ok(()))?;

    let c = Normaliser::of(&model, &shape, DType::F64, &Device::Cpu, &mut Noise::seeds(&seeds))?;
    let energy = c.log_p(&model, &x, &[t])?;

    let run = |run| {
        let to = (&shape[..], DType::F64, &Device::Cpu);
        Annealing::default().run(&model, t, to, &mut Noise::of_step(1, run, 200), &mut || Ok(()))
    };
    let log_z = (0..4).map(|k| run(k).map(|population| population.log_z)).collect::<Result<Vec<_>>>()?;
    let log_z = LogZ::of(&log_z);
    let minus_energy = model.energy_at(&x, &[t])?.neg()?.to_vec1::<f64>()?;
    let annealed: Vec<f64> = minus_energy.iter().map(|e| e - log_z.value).collect();

    let truth = mean_and_error(&model.log_p(&x, &[t])?.to_vec1::<f64>()?).0;
    let evaluations = flow.evaluations.iter().sum::<usize>() as f64 / 200.;
    for (name, log_p, error) in
        [("flow", &flow.log_p, 1e-3), ("energy", &energy, c.error), ("annealing", &annealed, log_z.error)]
    {
        let mean = mean_and_error(log_p).0;
        println!("{name:<10} mean log p {mean:.4}, and in truth {truth:.4}");
        assert!((mean - truth).abs() < 5. * error + 1e-3);
    }
    println!("the flow asked the model {evaluations:.0} times a sample; log Z is 0 and was found {:.4}", log_z.value);
    Ok(())
}
