//! The densities of the toys against their points.

use candle_core::Result;
use langevin_data::{Options, ToyDensity, open};
use langevin_ops::shape::to_host;
use langevin_ops::stats::{log_sum_exp, mean_and_error};

/// Each integrates to 1, a component to its share; and its points are as likely, and as often of each component, as it says.
#[test]
fn densities_are_those_of_the_points() -> Result<()> {
    for name in ToyDensity::known() {
        let density = ToyDensity::of(&format!("{name}:test"))?;
        let (n, half) = (240, 3.);
        let h = 2. * half / n as f64;
        let at = |i: usize| -half + (i as f64 + 0.5) * h;
        let (mut shares, mut entropy) = (vec![0.; density.components()], 0.);
        for i in 0..n * n {
            let parts = density.log_parts([at(i % n), at(i / n)]);
            shares.iter_mut().zip(&parts).for_each(|(share, part)| *share += part.exp() * h * h);
            let log_p = log_sum_exp(&parts);
            entropy -= if log_p.is_finite() { log_p.exp() * log_p * h * h } else { 0. };
        }
        let share = 1. / density.components() as f64;
        assert!(shares.iter().all(|s| (s - share).abs() < 1e-6), "{name}: {shares:?}");

        let batch = open(name, &Options::default())?.get(&(0..20_000).collect::<Vec<_>>())?;
        let (points, labels) = (to_host(&batch.x)?, batch.labels().map(to_host).transpose()?.unwrap());
        let parts: Vec<Vec<f64>> = points.chunks(2).map(|x| density.log_parts([x[0], x[1]])).collect();
        let surprise: Vec<f64> = parts.iter().map(|parts| -log_sum_exp(parts)).collect();
        let (mean, error) = mean_and_error(&surprise);
        assert!((mean - entropy).abs() < 4. * error + 1e-6, "{name}: {mean} +- {error} for {entropy}");
        let own = |(parts, label): (&Vec<f64>, &f64)| parts[*label as usize] > log_sum_exp(parts) - 1.;
        let owned = parts.iter().zip(&labels).filter(|pair| own(*pair)).count();
        assert!(owned > 18_000, "{name}: {owned} points are mostly of their own component");
    }
    Ok(())
}

#[test]
fn others_are_refused_with_the_names_of_those() {
    for spec in ["toy:pinwheel", "digits", "8-gaussians", "toy:rings:all"] {
        let why = ToyDensity::of(spec).unwrap_err().to_string();
        assert!(why.contains(spec) && why.contains("toy:8-gaussians"), "{why}");
    }
}
