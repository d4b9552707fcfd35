//! The lab's figures of densities whose distance from the data is known.

use anyhow::Result;
use candle_core::{DType, Tensor};
use langevin::data::ToyDensity;
use langevin::lab::Truth;
use langevin::ops::shape::to_host;
use langevin::ops::stats::log_sum_exp;

#[test]
fn the_data_are_at_no_distance_from_themselves() -> Result<()> {
    for spec in ToyDensity::known() {
        let (density, truth) = (ToyDensity::of(spec)?, Truth::of(spec)?);
        let own = |x: &Tensor| -> Result<Vec<f64>> {
            Ok(to_host(x)?.chunks(2).map(|x| log_sum_exp(&density.log_parts([x[0], x[1]])) + 3.).collect())
        };
        let found = truth.figures(own)?;
        let modes = density.components();
        assert!(found.kl.abs() < 1e-6 && (found.log_z - 3.).abs() < 1e-6, "{spec}: {found:?}");
        assert!(found.kl_change < 1e-4 && found.worst_share < 1e-6 && found.found == modes, "{spec}: {found:?}");
        assert!((truth.shares.iter().sum::<f64>() - 0.99).abs() < 5e-3, "{spec}");
    }
    Ok(())
}

/// A normal for eight: KL is the entropy of one less that of the other, in closed form.
#[test]
fn the_divergence_of_a_normal_is_that_in_closed_form() -> Result<()> {
    let truth = Truth::of("toy:8-gaussians")?;
    let v = 1.2;
    let normal =
        |x: &Tensor| -> Result<Vec<f64>> { Ok(to_host(&(x.to_dtype(DType::F64)?.sqr()?.sum(1)? * (-0.5 / v))?)?) };
    let found = truth.figures(normal)?;
    let square = 1.4f64.powi(2) + 2. * 0.15f64.powi(2);
    let cross = (std::f64::consts::TAU * v).ln() + square / (2. * v);
    assert!((found.kl - (cross - truth.entropy)).abs() < 1e-6, "{found:?}");
    assert!(found.found < 8 && found.worst_share > 0.05, "{found:?}");
    // half of the modes
    let half = |x: &Tensor| -> Result<Vec<f64>> {
        let density = ToyDensity::of("toy:8-gaussians")?;
        let log = |x: &[f64]| log_sum_exp(&density.log_parts([x[0], x[1]])[..4]).max(-700.);
        Ok(to_host(x)?.chunks(2).map(log).collect())
    };
    let found = truth.figures(half)?;
    assert!(found.found == 4 && (found.worst_share - truth.shares[0]).abs() < 1e-3, "{found:?}");
    Ok(())
}
