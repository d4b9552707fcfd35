//! Network energies: log Z by a grid, in closed form and by annealed importance sampling; what confines them.

use candle_core::{DType, Device, Result, Tensor};
use langevin_dynamics::Density;
use langevin_models::{Ais, DensityModel, DensitySpec, MlpEnergyConfig};
use langevin_ops::noise::Noise;
use langevin_ops::shape::to_host;
use std::f64::consts::TAU;

const CPU: &Device = &Device::Cpu;

/// An energy of normal weights, of this size.
fn network(shape: &[usize], widths: &[usize], confine: f64, size: f64) -> Result<DensityModel> {
    let family = MlpEnergyConfig { widths: widths.to_vec(), confine, ..MlpEnergyConfig::default() };
    let fresh = DensityModel::new(DensitySpec::new(shape, family), 0, DType::F32, CPU)?;
    let normal = |(seed, (name, t)): (usize, (String, Tensor))| {
        let row = Noise::seeds(&[9 + seed as u64]).normal((1, t.elem_count()), DType::F64, CPU)?;
        Ok((name, (row * size)?.reshape(t.shape())?))
    };
    let weights: Vec<_> = fresh.weights().into_iter().enumerate().map(normal).collect::<Result<_>>()?;
    DensityModel::of(fresh.spec.clone(), weights, DType::F64, CPU)
}

fn ais() -> Ais {
    Ais { rungs: 300, particles: 200, ..Ais::default() }
}

/// Without hidden layers E = w.x + b + |x|^2 / (2 s^2), a Gaussian: log Z = D ln(s sqrt(2 pi)) + s^2 |w|^2 / 2 - b.
#[test]
fn log_z_of_a_linear_network_is_that_in_closed_form() -> Result<()> {
    for (shape, confine) in [(&[1][..], 0.7), (&[2], 2.), (&[1, 2, 1], 1.3)] {
        let model = network(shape, &[], confine, 1.)?;
        let of = |name: &str| to_host(&model.weights().iter().find(|(own, _)| own == name).expect(name).1);
        let (w, b) = (of("0.weight")?, of("0.bias")?[0]);
        let square: f64 = w.iter().map(|w| w * w).sum();
        let exact = w.len() as f64 * (confine * TAU.sqrt()).ln() + confine.powi(2) * square / 2. - b;
        let found = model.body().log_z_exact()?.expect("of at most two numbers");
        assert!((found - exact).abs() < 1e-8, "{shape:?}: {found} for {exact}");
        let drawn = ais().suited(&model).log_z(&model, None, 1, &mut |_, _| Ok(()))?;
        assert!(
            (drawn.value - exact).abs() < 4. * drawn.error && drawn.error < 0.2,
            "{shape:?}: {drawn:?} for {exact}"
        );
    }
    Ok(())
}

#[test]
fn annealed_importance_sampling_agrees_with_the_grid() -> Result<()> {
    let model = network(&[2], &[12, 8], 1.5, 0.8)?;
    let exact = model.body().log_z_exact()?.expect("of two numbers");
    let found = ais().suited(&model).log_z(&model, Some(&[0.3, 0.1]), 3, &mut |_, _| Ok(()))?;
    assert!((found.value - exact).abs() < 4. * found.error && found.error < 0.1, "{found:?} for {exact}");
    assert!(network(&[3], &[4], 1., 1.)?.body().log_z_exact()?.is_none(), "of three numbers none is known");
    Ok(())
}

#[test]
fn the_score_is_minus_the_slope_of_the_energy() -> Result<()> {
    for confine in [0., 1.5] {
        let model = network(&[3], &[7, 5], confine, 1.)?;
        let x = Noise::of_step(1, 0, 4).normal((4, 3), DType::F64, CPU)?;
        let found = model.evaluate(&x)?;
        let score = to_host(found.score()?)?;
        for i in 0..12 {
            let at = |step: f64| -> Result<f64> {
                let mut v = to_host(&x)?;
                v[i] += step;
                Ok(model.evaluate(&Tensor::from_vec(v, (4, 3), CPU)?)?.energy()?[i / 3])
            };
            let slope = (at(1e-5)? - at(-1e-5)?) / 2e-5;
            assert!((slope + score[i]).abs() < 1e-8, "{slope} for {}", -score[i]);
        }
    }
    Ok(())
}

#[test]
fn without_a_gaussian_there_is_no_ladder_and_no_log_z() -> Result<()> {
    let model = network(&[2], &[4], 0., 1.)?;
    assert!(model.body().log_z_exact()?.is_none());
    let why = model.ladder(None, 5).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(why.contains("`confine` is 0"), "{why}");
    let x = model.body().begin(3, &mut Noise::seeds(&[1, 2, 3]))?;
    assert_eq!((x.dims(), x.dtype()), (&[3, 2][..], DType::F64));
    Ok(())
}

#[test]
fn options_that_make_no_sense_are_refused_by_name() {
    for (json, name) in [
        (r#"{"family": "mlp", "shape": [2], "widths": [8, 0]}"#, "`widths`"),
        (r#"{"family": "mlp", "shape": [2], "widths": [100000]}"#, "`widths`"),
        (r#"{"family": "mlp", "shape": [2], "confine": -1}"#, "`confine`"),
        (r#"{"family": "mlp", "shape": [2], "confine": 1e-30}"#, "`confine`"),
    ] {
        let spec: DensitySpec = serde_json::from_str(json).unwrap();
        let why = spec.validate().unwrap_err().to_string();
        assert!(why.contains(name), "{json}: {why}");
    }
    for json in
        [r#"{"family": "mlp", "shape": [2], "activation": "relu"}"#, r#"{"family": "mlp", "shape": [2], "hidden": 4}"#]
    {
        assert!(serde_json::from_str::<DensitySpec>(json).is_err(), "{json}");
    }
    let model = DensityModel::new(DensitySpec::new([2], MlpEnergyConfig::default()), 0, DType::F32, CPU).unwrap();
    assert!(model.evaluate(&Tensor::zeros((4, 3), DType::F32, CPU).unwrap()).is_err());
}
