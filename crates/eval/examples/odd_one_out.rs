//! What does not belong to a ring of eight Gaussians, by every quick score and on the exact model.
//!
//! `cargo run --release -p langevin-eval --example odd_one_out`

#![allow(clippy::print_stdout)] // an example talks

use langevin_dynamics::Mixture;
use langevin_dynamics::process::Edm;
use langevin_eval::{AnyDetector, Roc};
use langevin_ops::noise::Noise;
use langevin_ops::{DType, Device, Result, Tensor};
use std::f64::consts::TAU;

fn main() -> Result<()> {
    let centre = |i: u32| vec![1.4 * (TAU * f64::from(i) / 8.).cos(), 1.4 * (TAU * f64::from(i) / 8.).sin()];
    let centres: Vec<_> = (0..8).map(centre).collect();
    let ring = Mixture::isotropic(&[1.; 8], &centres, &[0.15f64.powi(2); 8])?;
    let process = Edm::default();
    let model = ring.under(&process);
    let noise = |from: u64| Noise::seeds(&(from..from + 1000).collect::<Vec<_>>());
    let blob = noise(0).normal((1000, 2), DType::F64, &Device::Cpu)?; // over the ring, and beside it

    for mut detector in AnyDetector::defaults().into_iter().filter(|detector| !detector.get().slow()) {
        let name = detector.name();
        *detector.get_mut().levels() = vec![0.05, 0.2];
        let detector = detector.get();
        let read = |x: &Tensor| detector.features(&model, x, &mut noise(9000));
        let rule = detector.fit(&read(&ring.sample(1000, &mut noise(1000))?)?)?;
        let scores = |x: &Tensor| -> Result<Vec<f64>> { Ok(read(x)?.iter().map(|row| rule(row)).collect()) };
        let roc = Roc::new(&scores(&blob)?, &scores(&ring.sample(1000, &mut noise(2000))?)?)?;
        let interval = roc.auroc_interval();
        println!("{name:<15} AUROC {:.3} [{:.3}, {:.3}]", roc.auroc(), interval.low, interval.high);
        // about four in five of the blob lie outside the clusters
        assert!(name != "energy" || roc.auroc() > 0.85);
    }
    Ok(())
}
