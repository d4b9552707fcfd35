//! The laws of every registered process, and the formulas of the papers.

use langevin_dynamics::process::{AnyProcess, Betas, Cosine, Flow, Table, TableOptions, Vp};
use langevin_dynamics::{Marginal, Process};
use serde_json::{Value, json};

/// Every registered process with its defaults, and variants with a shape of their own.
fn all() -> Vec<AnyProcess> {
    let table = |options| AnyProcess::from(Table::new(options).unwrap());
    let mut all = AnyProcess::defaults();
    all.push(table(TableOptions { rescale_betas_zero_snr: true, ..Default::default() }));
    all.push(table(TableOptions { beta_schedule: Betas::Cosine, num_train_timesteps: 100, ..Default::default() }));
    all.push(table(TableOptions { beta_schedule: Betas::ScaledLinear, ..Default::default() }));
    all.push(table(TableOptions { beta_schedule: Betas::Sigmoid, ..Default::default() }));
    let given = vec![0.01, 0.1, 0.3, 0.7, 1.];
    all.push(table(TableOptions { num_train_timesteps: 5, trained_betas: Some(given), ..Default::default() }));
    all.push(Cosine { t_max: 0.995, ..Default::default() }.into());
    all
}

/// Times inside the span, both geometric and even, none on an entry of a table.
fn inside(process: &dyn Process) -> Vec<f64> {
    let (low, high) = process.span();
    let part = |i: i32| (f64::from(i) + 0.4321) / 40.;
    let even = (0..40).map(|i| low + (high - low) * part(i));
    let mut times: Vec<f64> = even.chain((0..40).map(|i| low * (high / low).powf(part(i)))).collect();
    times.retain(|t| process.discrete().is_none() || (t - t.round()).abs() > 1e-3);
    times
}

fn close(a: f64, b: f64, tolerance: f64) -> bool {
    (a - b).abs() <= tolerance * (1e-300 + a.abs().max(b.abs()))
}

#[test]
fn derivatives() {
    for process in all() {
        let p = process.get();
        let (low, high) = p.span();
        for t in inside(p) {
            let h = 1e-4 * (t - low).min(high - t).min(t).min((t - t.round()).abs());
            let (m, up, down) = (p.marginal(t), p.marginal(t + h), p.marginal(t - h));
            for (name, slope, difference) in
                [("alpha", m.dalpha, up.alpha - down.alpha), ("sigma", m.dsigma, up.sigma - down.sigma)]
            {
                // rounding of the difference, and its second order
                let tolerance = 1e-6 * slope.abs() + 4e-16 / h;
                let slope_here = difference / (2. * h);
                assert!((slope_here - slope).abs() <= tolerance, "{p:?}: d{name} at {t}: {slope_here} {slope}");
            }
        }
    }
}

#[test]
fn spans_and_clean_data() {
    for process in all() {
        let p = process.get();
        p.check().unwrap();
        let (low, high) = p.span();
        assert!(0. < low && low < high && high.is_finite(), "{p:?}");
        for t in [0., -1.] {
            let clean = p.marginal(t);
            assert_eq!((clean.alpha, clean.sigma), (1., 0.), "{p:?}");
        }
        for t in [low, high] {
            let Marginal { alpha, sigma, dalpha, dsigma } = p.marginal(t);
            assert!(sigma > 0. && (0. ..=1.).contains(&alpha), "{p:?} at {t}: {alpha} {sigma}");
            assert!(dalpha.is_finite() && dsigma.is_finite() && p.clock(t).is_finite(), "{p:?} at {t}");
            assert!(!p.log_snr(t).is_nan());
        }
        assert!(p.marginal(low).sigma < 0.15, "{p:?}: the data end is noisy");
    }
}

#[test]
fn log_snr_falls_and_is_inverted() {
    for process in all() {
        let p = process.get();
        let (low, high) = p.span();
        let mut before = f64::INFINITY;
        for i in 0..=1000 {
            let log_snr = p.log_snr(low + (high - low) * f64::from(i) / 1000.);
            assert!(log_snr < before, "{p:?}: log SNR does not fall at {i} of 1000");
            before = log_snr;
        }
        for t in inside(p) {
            let back = p.t_at(p.log_snr(t));
            // where log SNR is flat, its own rounding is all that can be asked
            assert!(close(back, t, 1e-9), "{p:?}: {t} came back as {back}");
        }
        assert!(close(p.t_at(1e9), low, 1e-9) && close(p.t_at(-1e9), high, 1e-9), "{p:?}");
    }
}

/// alpha^2 + sigma^2 = 1 for those that say so, to the last digits, and between the entries of a table too.
#[test]
fn variance_preserving() {
    for process in all() {
        if ["vp", "cosine", "table"].contains(&process.name()) {
            for t in inside(process.get()) {
                let m = process.get().marginal(t);
                assert!((m.alpha * m.alpha + m.sigma * m.sigma - 1.).abs() < 1e-13, "{process:?} at {t}");
            }
        }
    }
}

/// f and g^2 of the forward SDE, as the papers write them.
#[test]
fn drift_and_diffusion() {
    use std::f64::consts::FRAC_PI_2;
    let beta = |t: f64| 0.1 + 19.9 * t;
    let integral = |t: f64| 0.1 * t + 9.95 * t * t;
    let growth = 5000f64.ln();
    let mut known = 0;
    for process in AnyProcess::defaults() {
        let p = process.get();
        for t in inside(p) {
            let (f, g2) = match process.name() {
                "vp" => (-0.5 * beta(t), beta(t)),
                "subvp" => (-0.5 * beta(t), beta(t) * (1. - (-2. * integral(t)).exp())),
                "ve" => (0., 2. * growth * (0.01 * (growth * t).exp()).powi(2)),
                "edm" => (0., 2. * t),
                "flow" => (-1. / (1. - t), 2. * t / (1. - t)),
                // beta = -d ln(alpha^2) / dt
                "cosine" => {
                    let rate = FRAC_PI_2 / 1.008;
                    let tan = (rate * (t + 0.008)).tan();
                    (-rate * tan, 2. * rate * tan)
                }
                _ => continue,
            };
            known += 1;
            let m = p.marginal(t);
            assert!(close(m.drift(), f, 1e-9) && close(m.diffusion2(), g2, 1e-9), "{p:?} at {t}: {m:?}");
        }
    }
    assert!(known >= 6 * 80);
}

/// The table against the definition of DDPM, with its own betas multiplied out.
#[test]
fn table_is_ddpm() {
    let table = Table::default();
    let mut abar = 1.;
    for k in 0..1000 {
        abar *= 1. - (1e-4 + (0.02 - 1e-4) * f64::from(k) / 999.);
        let m = table.marginal(f64::from(k + 1));
        assert!(close(m.alpha, abar.sqrt(), 1e-12) && close(m.sigma, (1. - abar).sqrt(), 1e-10), "entry {k}");
    }
    assert_eq!((table.clock(1.), table.clock(1000.), table.discrete()), (0., 999., Some(1000)));
    // its continuous limit is vp with beta from 0.1 to 20
    let vp = Vp::default();
    for k in [100., 500., 900.] {
        assert!((table.log_snr(k) - vp.log_snr(k / 1000.)).abs() < 0.1);
    }
    // between the entries log SNR is a line
    let middle = 0.5 * (table.log_snr(7.) + table.log_snr(8.));
    assert!(close(table.log_snr(7.5), middle, 1e-12));

    let zero = Table::new(TableOptions { rescale_betas_zero_snr: true, ..Default::default() }).unwrap();
    let (first, last) = (table.marginal(1.).alpha, table.marginal(1000.).alpha);
    for t in [1., 2., 500., 999., 1000.] {
        let expected = (table.marginal(t).alpha - last) * first / (first - last);
        assert!((zero.marginal(t).alpha - expected).abs() < 1e-14, "{t}");
    }
    assert_eq!(zero.marginal(1000.).alpha, 0.);
    assert_eq!(zero.marginal(1000.).sigma, 1.);
}

/// abar of diffusers' DDPMScheduler (float32 sums, hence the tolerance).
#[test]
fn tables_of_diffusers() {
    let cosine = TableOptions { beta_schedule: Betas::Cosine, ..Default::default() };
    let zero_snr = TableOptions { rescale_betas_zero_snr: true, ..Default::default() };
    let linear = [0.9998999834, 0.9978064895, 0.0777966529, 2.7024449e-4, 4.1181942e-5, 4.0358304e-5];
    let capped = [0.9999586940, 0.9992788434, 0.4922850430, 0.0236161072, 2.4287663e-6, 2.4287350e-9];
    let rescaled = [0.9998999834, 0.9977931380, 0.0752461996, 1.0303846e-4, 4.2132733e-9, 0.];
    for (options, abar) in [(TableOptions::default(), linear), (cosine, capped), (zero_snr, rescaled)] {
        let table = Table::new(options).unwrap();
        for (k, abar) in [0., 10., 500., 900., 998., 999.].into_iter().zip(abar) {
            let ours = table.marginal(k + 1.).alpha.powi(2);
            assert!((ours - abar).abs() <= 1e-7 + 2e-5 * abar, "{table:?}, entry {k}: {ours} {abar}");
            assert!(close(ours, abar, 2e-4), "{table:?}, entry {k}: {ours} {abar}");
        }
    }
}

#[test]
fn round_trip() {
    for process in all() {
        let p = process.get();
        let text = serde_json::to_string(&process).unwrap();
        let back: AnyProcess = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&back).unwrap(), text);
        for t in inside(p) {
            assert_eq!(back.get().marginal(t), p.marginal(t), "{text}");
        }
        let by_name: AnyProcess = serde_json::from_value(json!(process.name())).unwrap();
        assert_eq!(by_name.name(), process.name());
    }
}

fn error(value: Value) -> String {
    serde_json::from_value::<AnyProcess>(value.clone()).expect_err(&value.to_string()).to_string()
}

#[test]
fn unknown_keys_name_the_valid_ones() {
    for process in AnyProcess::defaults() {
        let mut table = serde_json::to_value(&process).unwrap();
        let keys: Vec<String> = table.as_object().unwrap().keys().filter(|k| *k != "name").cloned().collect();
        table["beta_mim"] = json!(0.1);
        let text = error(table);
        assert!(text.contains("beta_mim") && keys.iter().all(|k| text.contains(k)), "{text}");
    }
    let text = error(json!("vq"));
    assert!(AnyProcess::ALL.iter().all(|(name, about)| text.contains(name) && about.len() > 20), "{text}");
}

/// Every option that makes no process is refused when it is read, by its name.
#[test]
fn bad_options() {
    for (mut table, key) in [
        (json!({"name": "ve", "sigma_min": -1.}), "sigma_min"),
        (json!({"name": "ve", "sigma_min": 60.}), "sigma_max"),
        (json!({"name": "ve", "t_min": 1.}), "t_min"),
        (json!({"name": "edm", "sigma_min": 0.}), "sigma_min"),
        (json!({"name": "edm", "sigma_max": 1e-3}), "sigma_max"),
        (json!({"name": "vp", "beta_max": -1.}), "beta_max"),
        (json!({"name": "vp", "beta_min": -1.}), "beta_min"),
        (json!({"name": "vp", "beta_max": 1e9}), "beta_max"),
        (json!({"name": "subvp", "t_min": -1e-3}), "t_min"),
        (json!({"name": "subvp", "beta_max": 0.}), "beta_max"),
        (json!({"name": "cosine", "s": -0.1}), "s is"),
        (json!({"name": "cosine", "t_max": 1.5}), "t_max"),
        (json!({"name": "flow", "t_max": 1.01}), "t_max"),
        (json!({"name": "flow", "t_min": 2.}), "t_max"),
        (json!({"name": "table", "num_train_timesteps": 0}), "num_train_timesteps"),
        (json!({"name": "table", "num_train_timesteps": 10_000_000}), "num_train_timesteps"),
        (json!({"name": "table", "beta_start": -0.1}), "beta_start"),
        (json!({"name": "table", "beta_end": 1.}), "beta_end"),
        (json!({"name": "table", "beta_end": 0.999}), "beta_end"),
        (json!({"name": "table", "trained_betas": [0.1, 0.2]}), "trained_betas"),
        (json!({"name": "table", "num_train_timesteps": 2, "trained_betas": [1., 0.2]}), "trained_betas[0]"),
        (json!({"name": "table", "beta_schedule": "quadratic"}), "scaled-linear"),
    ] {
        let text = error(table.take());
        assert!(text.contains(key), "{key}: {text}");
    }
    // the wrong type, and numbers that JSON has not and so gives as null
    for (table, key) in [
        (json!({"name": "ve", "sigma_max": "big"}), "sigma_max: invalid type"),
        (json!({"name": "cosine", "s": [1], "t_max": 1.}), "s: invalid type"),
        (json!({"name": "table", "num_train_timesteps": -5}), "num_train_timesteps: invalid value"),
        (json!({"name": "ve", "sigma_min": f64::NAN}), "sigma_min must be a finite number"),
        (json!({"name": "table", "trained_betas": f64::INFINITY}), "trained_betas must be"),
    ] {
        let text = error(table);
        assert!(text.contains(key), "{key}: {text}");
    }
    // from code
    assert!(Vp { beta_max: f64::NAN, ..Default::default() }.check().unwrap_err().to_string().contains("beta_max"));
    assert!(Flow { t_max: f64::NAN, ..Default::default() }.check().unwrap_err().to_string().contains("t_max"));
    let nan = TableOptions { beta_start: f64::NAN, ..Default::default() };
    assert!(Table::new(nan).unwrap_err().to_string().contains("beta_start"));
}
