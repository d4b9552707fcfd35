//! The mixture as a model against the oracle: energy, score, dE/dt, Laplacian and samples, under every process.

mod common;

use candle_core::{DType, Device, Result, Tensor};
use langevin_dynamics::likelihood::{Flow, Normaliser};
use langevin_dynamics::process::AnyProcess;
use langevin_dynamics::sampler::{Heun, prior, run};
use langevin_dynamics::{Cond, Denoiser, Grid, Mixture, grid::LogSnr};
use langevin_models::mixture::{EXACT, MixtureConfig, exact};
use langevin_models::{AnyNet, Model, ModelSpec};
use langevin_ops::noise::Noise;
use langevin_ops::shape::to_host;

fn seeds(n: usize) -> Vec<u64> {
    (0..n as u64).collect()
}

fn uneven() -> MixtureConfig {
    let means = vec![vec![1.5, -0.5, 0.], vec![-1., 1., 0.3], vec![0.2, 0.1, -2.]];
    MixtureConfig { means, weights: vec![2., 1., 1.], variances: vec![0.5, 0.05, 1.7] }
}

fn model(net: MixtureConfig, process: AnyProcess, dtype: DType) -> Result<Model> {
    let spec = exact(EXACT[0].0, process).unwrap();
    let spec = ModelSpec { shape: vec![net.means[0].len()], net: AnyNet::from(net), ..spec };
    Model::new(spec, 0, dtype, &Device::Cpu)
}

fn off(ours: &Tensor, theirs: &Tensor) -> Result<f64> {
    let (ours, theirs) = (to_host(ours)?, to_host(theirs)?);
    let largest = theirs.iter().fold(1f64, |largest, v| largest.max(v.abs()));
    Ok(common::worst(ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs())) / largest)
}

#[test]
fn energy_score_and_jet_are_those_of_the_mixture() -> Result<()> {
    let mixture = uneven().mixture()?;
    let x0 = mixture.sample(4, &mut Noise::seeds(&seeds(4)))?;
    let eps = Noise::seeds(&[7, 8, 9, 10]).normal_like(&x0)?;
    for process in AnyProcess::defaults() {
        let p = process.get();
        for (dtype, most) in [(DType::F64, 1e-9), (DType::F32, 2e-4)] {
            let (model, exact) = (model(uneven(), process.clone(), dtype)?, mixture.under(p));
            let ours = model.denoiser(Cond::default())?;
            let energy = ours.noisy_energy().unwrap();
            assert!(energy.normalised());
            let (low, high) = p.span();
            for t in [low, 0.1 * high, 0.5 * high, high].map(|t| if p.discrete().is_some() { t.ceil() } else { t }) {
                let m = p.marginal(t);
                let x = ((&x0 * m.alpha)? + (&eps * m.sigma)?)?.to_dtype(dtype)?;
                let case = format!("{process:?} at {t}, {dtype:?}");
                // where alpha = 0 the model tells of no data, and log p is the prior's in any case
                let found = off(&energy.energy_at(&x, &[t])?, &exact.energy(&x, &[t])?)?;
                assert!(found < most, "energy of {case}: {found:.1e}");
                if m.alpha < 1e-6 {
                    continue;
                }
                let found = off(&ours.x0(&x, &[t])?, &exact.x0(&x, &[t])?)?;
                assert!(found < most, "x0 of {case}: {found:.1e}");
                let v = eps.to_dtype(dtype)?;
                let found = off(&ours.x0_vjp(&x, &[t], &v)?.1, &exact.x0_vjp(&x, &[t], &v)?.1)?;
                assert!(found < most, "Jacobian of {case}: {found:.1e}");
                if dtype == DType::F64 && p.discrete().is_none() {
                    let theirs = exact.noisy_energy().unwrap().jet(&x, &[t])?;
                    let jet = energy.jet(&x, &[t])?;
                    assert!(off(&jet.gradient, &theirs.gradient)? < 1e-7, "gradient of {case}");
                    assert!(off(&jet.dt, &theirs.dt)? < 1e-6, "dE/dt of {case}: {} {}", jet.dt, theirs.dt);
                }
            }
        }
    }
    Ok(())
}

#[test]
fn it_is_sampled_and_weighed_as_the_mixture() -> Result<()> {
    let name = EXACT[0].0;
    let process = AnyProcess::named("edm").map_err(candle_core::Error::Msg)?;
    let spec = exact(name, process.clone()).unwrap();
    let AnyNet::MixtureConfig(config) = &spec.net else { panic!("{spec:?}") };
    let mixture: Mixture = config.mixture()?;
    let model = Model::new(spec.clone(), 0, DType::F64, &Device::Cpu)?;
    assert_eq!(model.parameters(), 0);
    let ours = model.denoiser(Cond::default())?;
    let times = LogSnr::default().times(process.get(), 12)?;
    let draw = |m: &dyn Denoiser| -> Result<Tensor> {
        let mut z = Noise::seeds(&seeds(20));
        let x = prior(process.get(), times[0], &[20, 2], DType::F64, &Device::Cpu, &mut z)?;
        run(m, &Heun::default(), &times, &x, &mut z, |_| Ok(()))
    };
    assert!(off(&draw(&ours)?, &draw(&mixture.under(process.get()))?)? < 1e-8);

    let x = mixture.sample(3, &mut Noise::seeds(&seeds(3)))?;
    let truth = mixture.under(process.get()).log_p(&x, &[0.002])?;
    let flow = Flow { atol: 1e-7, rtol: 1e-7, ..Flow::default() };
    let by_flow = |m: &dyn Denoiser| {
        let found = flow.log_p(m, &x, &[0.002], &mut Noise::seeds(&[]), &mut |_| Ok(()))?;
        Tensor::new(found.log_p, &Device::Cpu)
    };
    assert!(off(&by_flow(&ours)?, &by_flow(&mixture.under(process.get()))?)? < 1e-7);
    assert!(off(&by_flow(&ours)?, &truth)? < 1e-3); // the prior is off by (1/80)^2
    let energy = ours.noisy_energy().unwrap();
    let c = Normaliser::of(energy, &[64, 2], DType::F64, &Device::Cpu, &mut Noise::seeds(&seeds(64)))?;
    assert!(c.value.abs() < 5. * c.error + 1e-6, "{c:?}");
    assert!(off(&Tensor::new(c.log_p(energy, &x, &[0.002])?, &Device::Cpu)?, &truth)? < 5. * c.error + 1e-6);
    Ok(())
}

#[test]
fn what_it_does_not_go_with_is_one_sentence() {
    let spec = |name: &str| exact(EXACT[0].0, AnyProcess::named(name).unwrap()).unwrap();
    assert!(exact("exact:nothing", AnyProcess::named("vp").unwrap()).is_none());
    let bad = MixtureConfig { variances: vec![-1.; 8], ..MixtureConfig::default() };
    for (spec, word) in [
        (ModelSpec { shape: vec![3], ..spec("vp") }, "samples have 3"),
        (ModelSpec { sigma_data: 0.5, ..spec("vp") }, "sigma_data = 1"),
        (ModelSpec { classes: Some(2), ..spec("vp") }, "classes"),
        (ModelSpec { head: langevin_models::Head::Denoiser, normalised: false, ..spec("vp") }, "head"),
        (ModelSpec { net: bad.into(), ..spec("vp") }, "variance"),
    ] {
        let why = Model::new(spec, 0, DType::F32, &Device::Cpu).err().unwrap().to_string();
        assert!(why.contains(word), "{word}: {why}");
    }
}
