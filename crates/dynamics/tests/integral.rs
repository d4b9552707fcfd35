//! Integrals of exp(-E) over the line and the plane, in closed form.

use candle_core::{Device, Result, Tensor};
use langevin_dynamics::likelihood::log_integral;
use std::f64::consts::TAU;

/// sum_i (x_i - m_i)^2 / (2 v_i).
fn bowl(means: Vec<f64>, variances: Vec<f64>) -> impl Fn(&Tensor) -> Result<Tensor> {
    move |x: &Tensor| {
        let (m, w) = (Tensor::new(means.clone(), &Device::Cpu)?, Tensor::new(variances.clone(), &Device::Cpu)?);
        x.broadcast_sub(&m)?.sqr()?.broadcast_div(&w)?.sum(1)? * 0.5
    }
}

#[test]
fn gaussians_are_integrated_wherever_they_lie() -> Result<()> {
    for (means, variances) in [
        (vec![0.], vec![1.]),
        (vec![70.], vec![0.01]),
        (vec![0.3, -0.2], vec![1., 4.]),
        (vec![-9., 12.], vec![0.01, 0.3]),
    ] {
        let exact: f64 = variances.iter().map(|v: &f64| 0.5 * (TAU * v).ln()).sum();
        let found = log_integral(&bowl(means.clone(), variances), &[means.len()], 1., &Device::Cpu)?.unwrap();
        assert!((found.value - exact).abs() < 1e-9 && found.error < 1e-9, "{means:?}: {found:?} for {exact}");
    }
    Ok(())
}

#[test]
fn two_far_modes_are_both_there() -> Result<()> {
    let two = |x: &Tensor| {
        let square = |at: f64| x.affine(1., -at)?.sqr()?.sum(1)? * 50.;
        (square(3.)?.neg()?.exp()? + square(-3.)?.neg()?.exp()?)?.affine(1., 1e-300)?.log()?.neg()
    };
    let found = log_integral(&two, &[2], 4., &Device::Cpu)?.unwrap();
    assert!((found.value - (2. * TAU / 100.).ln()).abs() < 1e-9, "{found:?}");
    Ok(())
}

#[test]
fn what_has_no_end_has_no_integral() -> Result<()> {
    let flat = |x: &Tensor| x.sum(1)? * 0.;
    assert_eq!(log_integral(&flat, &[2], 1., &Device::Cpu)?, None);
    assert!(log_integral(&flat, &[3], 1., &Device::Cpu).is_err());
    let lost = |x: &Tensor| x.sum(1)? * f64::NAN;
    assert!(log_integral(&lost, &[1], 1., &Device::Cpu).is_err());
    Ok(())
}
