//! Gradients of a measurement's misfit go through both kinds of model, against finite differences.

use candle_core::{DType, Device, Result, Tensor};
use langevin_dynamics::inverse::{AnyTask, Deblur, Dps, Measured, Method};
use langevin_dynamics::{Cond, Denoiser};
use langevin_models::unet::UNetConfig;
use langevin_models::{Head, Model, ModelSpec};
use langevin_ops::grad;
use langevin_ops::noise::Noise;
use langevin_ops::shape::{sum_per_sample, to_host};

fn model(head: Head) -> Result<Model> {
    let net = UNetConfig { channels: vec![4, 8], attention: vec![1], groups: Some(2), ..UNetConfig::default() };
    let spec = ModelSpec::energy([1, 8, 8]).head(head).net(net);
    Model::new(spec, 3, DType::F64, &Device::Cpu)
}

#[test]
fn the_misfit_has_a_gradient_through_energies_and_denoisers() -> Result<()> {
    let mut z = Noise::seeds(&[0, 1]);
    let x = z.normal((2, 1, 8, 8), DType::F64, &Device::Cpu)?;
    for head in [Head::Energy, Head::Denoiser] {
        let model = model(head)?;
        let denoiser = model.denoiser(Cond::default())?;
        let blur = AnyTask::from(Deblur::default()).get().operator(&[1, 8, 8])?;
        let seen = Measured::of(blur, &x.tanh()?, 0.1, &mut z)?;
        let misfit = |x: &Tensor| sum_per_sample(&seen.residual(1., &denoiser.x0(x, &[0.7])?)?.sqr()?)?.sqrt();
        let (_, gradient) = grad::gradient(&x, misfit)?;
        let along = z.normal_like(&x)?;
        let h = 1e-5;
        let ends = [h, -h].map(|h| misfit(&(&x + (&along * h)?)?).and_then(|v| to_host(&v)));
        let [up, down] = ends.map(|end| end.unwrap());
        let expected: Vec<f64> = up.iter().zip(&down).map(|(up, down)| (up - down) / (2. * h)).collect();
        let found = to_host(&sum_per_sample(&(gradient * along)?)?)?;
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-6 * expected.abs().max(0.01), "{head:?}: {found} {expected}");
        }
        let start = (z.normal_like(&x)? * 5.)?;
        let drawn = Dps { scale: 0.5 }.draw(&denoiser, &seen, &[5., 1., 0.3, 0.], &start, &mut z, &mut |_| Ok(()))?;
        assert!(drawn.dims() == x.dims() && to_host(&drawn)?.iter().all(|v| v.is_finite()) && !drawn.track_op());
    }
    Ok(())
}
