//! Looking at fields and energies that are known: a curl, a barrier, a curvature, a histogram's distance.
//!
//! `cargo run --release -p langevin-eval --example looking`

#![allow(clippy::print_stdout)] // an example talks

use langevin_dynamics::process::Edm;
use langevin_dynamics::{Denoiser, Frame, Mixture};
use langevin_eval::look::{curl, ks, lanczos, path};
use langevin_ops::noise::Noise;
use langevin_ops::shape::{sum_per_sample, to_host};
use langevin_ops::{DType, Device, Result, Tensor, grad};

/// A denoiser that turns by an angle while it shrinks: no energy has such a score.
struct Swirl(Edm, f64);

impl Denoiser for Swirl {
    fn frame(&self) -> Frame<'_> {
        Frame::of(&self.0)
    }

    fn x0(&self, x: &Tensor, _: &[f64]) -> Result<Tensor> {
        let (sin, cos) = self.1.sin_cos();
        x.matmul(&Tensor::new(&[[0.5 * cos, 0.5 * sin], [-0.5 * sin, 0.5 * cos]], &Device::Cpu)?)
    }
}

fn main() -> Result<()> {
    let normal =
        |n: u64, d: usize| Noise::seeds(&(0..n).collect::<Vec<_>>()).normal((n as usize, d), DType::F64, &Device::Cpu);

    let swirl = Swirl(Edm::default(), 30f64.to_radians());
    let (share, _) = curl::share(&curl::curl(&swirl, &normal(4, 2)?, 1., 2, &mut Noise::seeds(&[0, 1, 2, 3]))?.x0);
    println!("turned by 30 degrees: antisymmetric share {share:.4}, sin^2 30 = 0.25");
    assert!((share - 0.25).abs() < 1e-12);

    let mixture = Mixture::isotropic(&[1., 1.], &[vec![-1., 0.], vec![1., 0.]], &[0.1, 0.1])?;
    let process = Edm::default();
    let ends = [[-1., 0.], [1., 0.]].map(|x| Tensor::new(&[x], &Device::Cpu));
    let [a, b] = ends;
    let profile = path::along(&mixture.under(&process), &path::straight(&a?, &b?, 65)?, 0.2, 64, |_, _| ())?;
    println!("barrier between two modes: {:.4}", profile.barrier());
    // E at the middle is 1/2 1^2 / (0.1 + 0.2^2) - ln 2 above that of a mode alone
    assert!((profile.barrier() - (0.5 / 0.14 - 2f64.ln())).abs() < 1e-4);

    // E = 2 (|x| - 3)^2 in space: stiff across the shell, flat along it
    let shell = |x: &Tensor| sum_per_sample(&x.sqr()?)?.sqrt()?.affine(1., -3.)?.sqr()?.affine(2., 0.);
    let x = Tensor::new(&[[3., 0., 0.]], &Device::Cpu)?;
    let spectrum = lanczos::lanczos(&[vec![1., 0.5, 0.2]], 3, |asked| {
        let v = Tensor::from_iter(asked.iter().flatten().copied(), &Device::Cpu)?.reshape((1, 3))?;
        grad::hvp(&x, &v, shell)?.to_vec2()
    })?;
    println!("curvatures of a shell: {:.3?}", spectrum.first().map(|s| &s.values));
    assert!(spectrum.iter().all(|s| s.values.first().is_some_and(|v| v.abs() < 1e-9)));

    let energies = |x: &Tensor| to_host(&mixture.under(&process).energy(x, &[0.1])?);
    let data = mixture.sample(500, &mut Noise::seeds(&(0..500).collect::<Vec<_>>()))?;
    let more = mixture.sample(500, &mut Noise::seeds(&(500..1000).collect::<Vec<_>>()))?;
    let same = ks::ks(&energies(&data)?, &energies(&more)?)?;
    let wider = ks::ks(&energies(&data)?, &energies(&(more * 1.2)?)?)?;
    println!("energies of other draws: D = {:.3}; of wider ones: D = {:.3}", same.statistic, wider.statistic);
    assert!(same.statistic < wider.statistic);
    Ok(())
}
