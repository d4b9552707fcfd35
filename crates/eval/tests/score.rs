//! Scores of samples against closed forms on Gaussians, and the known failure of the energy with what mends it.

use candle_core::{DType, Device, Result, Tensor};
use langevin_dynamics::process::{AnyProcess, Edm, Vp};
use langevin_dynamics::{Denoiser, Frame, Mixture};
use langevin_eval::score::{Energy, Gaussian, Likelihood, Of, Reconstruction, ScoreNorms, Typicality, mean_z, times};
use langevin_eval::{AnyDetector, Detector, HeldOut, Roc};
use langevin_ops::noise::Noise;
use langevin_ops::shape::{scale, to_host};

/// N(0, variance I) in `d` dimensions.
fn round(d: usize, variance: f64) -> Mixture {
    Mixture::isotropic(&[1.], &[vec![0.; d]], &[variance]).unwrap()
}

/// `n` draws of N(0, std^2 I), `[n, d]`.
fn draws(n: usize, d: usize, std: f64, seed: u64) -> Tensor {
    let z = Noise::seeds(&[seed]).normal((1, n * d), DType::F64, &Device::Cpu).unwrap();
    z.reshape((n, d)).unwrap().affine(std, 0.).unwrap()
}

fn streams(n: usize) -> Noise {
    Noise::seeds(&(0..n as u64).collect::<Vec<_>>())
}

fn squares(x: &Tensor) -> Vec<f64> {
    to_host(&x.sqr().unwrap().sum(1).unwrap()).unwrap()
}

#[test]
fn energies_and_norms_of_a_gaussian_are_those_of_its_formula() -> Result<()> {
    let (mixture, processes) = (round(3, 0.7), [AnyProcess::from(Edm::default()), Vp::default().into()]);
    let x = draws(5, 3, 1., 1);
    for process in &processes {
        let process = process.get();
        let m = mixture.under(process);
        let levels = vec![0.3, 2.];
        let energy = Energy { levels: levels.clone(), draws: 0 }.features(&m, &x, &mut streams(5))?;
        let norms = ScoreNorms { levels: levels.clone(), ridge: 0. }.features(&m, &x, &mut streams(5))?;
        for (i, square) in squares(&x).into_iter().enumerate() {
            for (j, &t) in times(process, &levels)?.iter().enumerate() {
                let at = process.marginal(t);
                assert!((at.sigma / at.alpha / levels[j] - 1.).abs() < 1e-9);
                let variance = at.alpha * at.alpha * 0.7 + at.sigma * at.sigma;
                let square = at.alpha * at.alpha * square;
                let e = square / (2. * variance) + 1.5 * (2. * std::f64::consts::PI * variance).ln();
                assert!((energy[i][j] - e).abs() < 1e-10);
                assert!((norms[i][j] - (at.sigma * square.sqrt() / variance).ln()).abs() < 1e-10);
            }
        }
        // averaged over noise: E|alpha x + sigma eps|^2 = alpha^2 |x|^2 + 3 sigma^2
        let n = 4000;
        let same = x.narrow(0, 0, 1)?.broadcast_as((n, 3))?.contiguous()?;
        let t = times(process, &[0.5])?[0];
        let noisy = Energy { levels: vec![0.5], draws: 2 }.features(&m, &same, &mut streams(n))?;
        let at = process.marginal(t);
        let variance = at.alpha * at.alpha * 0.7 + at.sigma * at.sigma;
        let square = at.alpha * at.alpha * squares(&x)[0] + 3. * at.sigma * at.sigma;
        let e = square / (2. * variance) + 1.5 * (2. * std::f64::consts::PI * variance).ln();
        let mean = noisy.iter().map(|row| row[0]).sum::<f64>() / n as f64;
        let std = (noisy.iter().map(|row| (row[0] - mean).powi(2)).sum::<f64>() / n as f64).sqrt();
        assert!((mean - e).abs() < 5. * std / (n as f64).sqrt(), "{mean} {e} {std}");
    }
    Ok(())
}

#[test]
fn what_is_lost_by_reconstruction_is_known() -> Result<()> {
    // one step takes x_t to v/(v + s^2) x_t, the ODE to sqrt of that; lost: (1 - k)^2 |x|^2 / D + k^2 s^2
    let (process, v, s) = (Edm::default(), 0.5f64, 0.8f64);
    let (mixture, n) = (round(4, v), 3000);
    let x = draws(1, 4, 1., 2);
    let same = x.broadcast_as((n, 4))?.contiguous()?;
    for (steps, k) in [(1, v / (v + s * s)), (40, (v / (v + s * s)).sqrt())] {
        let detector = Reconstruction { levels: vec![s], draws: 1, steps };
        let rows = detector.features(&mixture.under(&process), &same, &mut streams(n))?;
        let mean = rows.iter().map(|row| row[0]).sum::<f64>() / n as f64;
        let std = (rows.iter().map(|row| (row[0] - mean).powi(2)).sum::<f64>() / n as f64).sqrt();
        let expected = (1. - k).powi(2) * squares(&x)[0] / 4. + k * k * s * s;
        assert!((mean - expected).abs() < 5. * std / (n as f64).sqrt() + 2e-3, "{steps}: {mean} {expected}");
    }
    Ok(())
}

/// The ROC of `detector`, fitted to draws of the model, for N(0, std^2 I) against more of its draws.
fn tells(detector: &dyn Detector, d: usize, std: f64) -> Result<Roc> {
    let (mixture, process, n) = (round(d, 1.), Edm::default(), 1500);
    let m = mixture.under(&process);
    let rule = detector.fit(&detector.features(&m, &draws(n, d, 1., 1), &mut streams(n))?)?;
    let of = |x: &Tensor| -> Result<Vec<f64>> {
        Ok(detector.features(&m, x, &mut streams(n))?.iter().map(|row| rule(row)).collect())
    };
    Roc::new(&of(&draws(n, d, std, 2))?, &of(&draws(n, d, 1., 3))?)
}

#[test]
fn energies_tell_wider_gaussians_as_well_as_can_be() -> Result<()> {
    // in the plane |x|^2 is exponential: P(s^2 a > b) = s^2 / (1 + s^2) for two of them
    let s = 2f64;
    for detector in
        [&Energy { levels: vec![0.1], draws: 0 } as &dyn Detector, &Energy { levels: vec![0.1, 1.], draws: 0 }]
    {
        let roc = tells(detector, 2, s)?;
        let (auroc, truth) = (roc.auroc(), s * s / (1. + s * s));
        assert!((auroc - truth).abs() < 5. * roc.auroc_error(), "{auroc} {truth}");
    }
    Ok(())
}

#[test]
fn energies_pass_what_is_too_smooth_and_the_others_do_not() -> Result<()> {
    // N(0, I/4) in 50 dimensions lies inside the data, where the density is higher than at any of them [Nalisnick18]
    let auroc = |detector: &dyn Detector| Ok::<_, candle_core::Error>(tells(detector, 50, 0.5)?.auroc());
    assert!(auroc(&Energy::default())? < 0.001);
    let levels = vec![0.2, 1.];
    let of = |of| Typicality { of, levels: levels.clone(), ridge: 1e-3 };
    assert!(auroc(&of(Of::Energy))? > 0.999);
    assert!(auroc(&of(Of::ScoreNorms))? > 0.999);
    assert!(auroc(&ScoreNorms { levels: vec![1.], ridge: 0. })? > 0.999);
    Ok(())
}

#[test]
fn rules_are_those_of_their_formulas() -> Result<()> {
    let rows = [[1., 10.], [3., 20.], [2., 60.]].map(|row| row.to_vec());
    // means 2 and 30, deviations 1 and sqrt(700)
    let z = mean_z(&rows)?;
    assert!((z(&[4., 30.]) - 1.).abs() < 1e-12 && (z(&[2., 30. + 700f64.sqrt()]) - 0.5).abs() < 1e-12);
    // C = [[1, 5], [5, 700]], with 1% more on the diagonal
    let (a, b, c) = (1.01, 5., 707.);
    let gaussian = Gaussian::fit(&rows, 0.01)?;
    let (u, v) = (1.5, -20.);
    let expected = 0.5 * (c * u * u - 2. * b * u * v + a * v * v) / (a * c - b * b);
    assert!((gaussian.energy(&[2. + u, 30. + v]) - expected).abs() < 1e-10);
    assert!(gaussian.energy(&[f64::NAN, 1.]).is_nan());
    assert!(Gaussian::fit(&rows[..1], 0.).is_err() && mean_z(&[]).is_err());
    // three samples of three numbers lie in a plane, which a ridge would hide
    let three = [[1., 2., 5.], [2., 7., 3.], [4., 1., 1.], [3., 3., 3.]].map(|row| row.to_vec());
    let why = Gaussian::fit(&three[..3], 1e-3).err().unwrap().to_string();
    assert!(why.contains("3 samples") && why.contains("3 numbers") && why.contains("at least 4"), "{why}");
    assert!(Gaussian::fit(&three, 1e-3).is_ok());
    let why = ScoreNorms::default().fit(&three[..3]).err().unwrap().to_string();
    assert!(why.contains("at least 4") && why.contains("fewer levels"), "{why}");
    let flat = [[1., 2.], [1., 3.], [1., 4.]].map(|row| row.to_vec());
    assert!(Gaussian::fit(&flat, 1e-3).err().unwrap().to_string().contains("ridge"));
    assert!(mean_z(&[vec![1.], vec![f64::INFINITY]]).is_err());
    Ok(())
}

#[test]
fn likelihoods_by_the_ode_are_those_of_the_formula() -> Result<()> {
    /// N(0, v I), in operations that can be differentiated.
    struct Round(Edm, f64);
    impl Denoiser for Round {
        fn frame(&self) -> Frame<'_> {
            Frame::of(&self.0)
        }
        fn x0(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
            scale(x, &t.iter().map(|t| self.1 / (self.1 + t * t)).collect::<Vec<_>>())
        }
    }
    let (v, level, x) = (0.6, 0.3, draws(4, 3, 1., 3));
    // the prior N(0, 80^2 I) stands for N(0, (80^2 + v) I): some 1e-4 of log p
    for probes in [0, 1] {
        let detector = Likelihood { levels: vec![level], tolerance: 1e-6, probes };
        let rows = detector.features(&Round(Edm::default(), v), &x, &mut streams(4))?;
        for (row, square) in rows.iter().zip(squares(&x)) {
            let variance = v + level * level;
            let expected = square / (2. * variance) + 1.5 * (2. * std::f64::consts::PI * variance).ln();
            assert!((row[0] - expected).abs() < 1e-3, "{row:?} {expected}");
        }
    }
    Ok(())
}

#[test]
fn p_values_count_the_held_out() -> Result<()> {
    let held_out = HeldOut::new(vec![3., 1., 2., 2.])?;
    let p = [0., 1., 1.5, 2., 2.5, 3., 4., f64::INFINITY].map(|score| held_out.p_value(score));
    assert_eq!(p, [1., 1., 0.8, 0.8, 0.4, 0.4, 0.2, 0.2]);
    assert!(HeldOut::new(vec![]).is_err() && HeldOut::new(vec![f64::NAN]).is_err());
    // scores from one distribution: p <= alpha as often as floor(alpha (n + 1)) / (n + 1) says, over held-out sets too
    let (runs, alpha) = (2000, 0.1);
    let z = to_host(&draws(runs, 30, 1., 9))?;
    let low = z.chunks(30).filter(|z| HeldOut::new(z[1..].to_vec()).unwrap().p_value(z[0]) <= alpha).count();
    let share = low as f64 / runs as f64;
    assert!((share - alpha).abs() < 5. * (alpha * (1. - alpha) / runs as f64).sqrt(), "{share}");
    Ok(())
}

#[test]
fn wrong_options_are_named() {
    let wrong = |text: &str| serde_json::from_str::<AnyDetector>(text).unwrap_err().to_string();
    assert!(wrong(r#"{"name": "energy", "levels": []}"#).contains("levels"));
    assert!(wrong(r#"{"name": "score-norms", "levels": [0.1, -1]}"#).contains("-1"));
    assert!(wrong(r#"{"name": "score-norms", "ridge": -1}"#).contains("ridge"));
    assert!(wrong(r#"{"name": "reconstruction", "steps": 0}"#).contains("steps"));
    assert!(wrong(r#""likelihoood""#).contains("score-norms"));
    let process = Edm::default();
    let error = times(&process, &[500.]).unwrap_err().to_string();
    assert!(error.contains("500") && error.contains("8.00e1"), "{error}");

    struct Plain(Edm);
    impl Denoiser for Plain {
        fn frame(&self) -> Frame<'_> {
            Frame::of(&self.0)
        }
        fn x0(&self, x: &Tensor, _: &[f64]) -> Result<Tensor> {
            x.zeros_like()
        }
    }
    let x = draws(2, 3, 1., 0);
    let error = Energy::default().features(&Plain(process), &x, &mut streams(2)).unwrap_err().to_string();
    assert!(error.contains("score-norms"), "{error}");
    assert!(ScoreNorms::default().features(&Plain(Edm::default()), &x, &mut streams(2)).is_ok());
}
