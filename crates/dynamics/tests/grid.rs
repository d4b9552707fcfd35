//! The laws of every registered grid on every process, and the spacings of diffusers.

mod common;

use langevin_dynamics::Process;
use langevin_dynamics::grid::{AnyGrid, Beta, Grid, Karras, Leading, Linspace, LogSnr, Trailing, Uniform};
use langevin_dynamics::process::{AnyProcess, Edm, Flow, Table, TableOptions, Vp};
use serde_json::json;

fn processes() -> Vec<AnyProcess> {
    let mut all = AnyProcess::defaults();
    let zero_snr = TableOptions { rescale_betas_zero_snr: true, ..Default::default() };
    all.push(Table::new(zero_snr).unwrap().into());
    all.push(Edm { sigma_min: 1e-4, sigma_max: 5000. }.into());
    all
}

#[test]
fn laws() {
    for process in processes() {
        let p = process.get();
        let (low, high) = p.span();
        for grid in AnyGrid::defaults() {
            for steps in [1, 2, 3, 18, 250, 1000] {
                let times = grid.get().times(p, steps).unwrap();
                let what = format!("{grid:?} of {p:?} in {steps}");
                assert_eq!(times.len(), steps + 1, "{what}");
                assert!(times.windows(2).all(|pair| pair[0] > pair[1]), "{what}: {times:?}");
                assert_eq!(times[steps], 0., "{what}");
                // a whole stride of a table, and what the division into whole strides left over
                let stride = if grid.name() == "leading" { (high - low) / steps as f64 + steps as f64 } else { 0. };
                assert!(times[0] <= high && times[0] >= high - stride, "{what}: starts at {}", times[0]);
                assert!(times[steps - 1] >= low.min(high / steps as f64), "{what}: {}", times[steps - 1]);
                if steps == 1 {
                    assert_eq!(times[0], high, "{what}");
                }
                let finite = |t: &f64| t.is_finite() && p.marginal(*t).sigma > 0.;
                assert!(times[..steps].iter().all(finite), "{what}: {times:?}");
            }
            assert!(grid.get().times(p, 0).unwrap_err().to_string().contains("at least 1"));
        }
    }
}

/// Even in what each says, ends included.
#[test]
fn even() {
    let even = |values: Vec<f64>, what: &str| {
        let strides: Vec<f64> = values.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let spread = common::worst(strides.iter().map(|s| (s - strides[0]).abs()));
        assert!(spread < 1e-7 * strides[0].abs(), "{what}: {values:?}");
    };
    let vp = Vp::default();
    for process in AnyProcess::defaults() {
        let p = process.get();
        let inner = |grid: &dyn Grid| grid.times(p, 12).unwrap()[1..12].to_vec();
        even(inner(&LogSnr {}).iter().map(|&t| p.log_snr(t)).collect(), "log-snr");
        let root = |t: &f64| (-0.5 * p.log_snr(*t)).exp().powf(1. / 7.);
        even(inner(&Karras::default()).iter().map(root).collect(), "karras");
        even(inner(&Uniform {}), "uniform");
        for grid in [&LogSnr {} as &dyn Grid, &Karras::default(), &Uniform {}] {
            let last = inner(grid)[10];
            assert!((last / p.span().0 - 1.).abs() < 1e-6, "{grid:?} of {p:?} ends at {last}");
        }
    }
    // where there is no pure noise, the first interval is like the others
    even(LogSnr {}.times(&vp, 12).unwrap()[..12].iter().map(|&t| vp.log_snr(t)).collect(), "log-snr");
    even(Trailing {}.times(&vp, 12).unwrap(), "trailing");
    // figure of the paper: 18 steps from 80 to 0.002 [Karras22, table 1]
    let sigma = |i: f64| (80f64.powf(1. / 7.) + i / 17. * (0.002f64.powf(1. / 7.) - 80f64.powf(1. / 7.))).powi(7);
    let edm = Karras::default().times(&Edm::default(), 18).unwrap();
    assert!((0..18).all(|i| (edm[i] / sigma(i as f64) - 1.).abs() < 1e-9));
}

/// Entries k = t - 1 as `set_timesteps` of diffusers' DDIM and DDPM schedulers gives them for T = 1000.
#[test]
fn spacings_of_diffusers() {
    let table = Table::default();
    let entries = |grid: &dyn Grid, steps| -> Vec<f64> {
        let times = grid.times(&table, steps).unwrap();
        times[..steps].iter().map(|t| t - 1.).collect()
    };
    assert_eq!(entries(&Leading::default(), 4), [750., 500., 250., 0.]);
    assert_eq!(entries(&Leading { offset: 1 }, 4), [751., 501., 251., 1.]);
    assert_eq!(entries(&Leading::default(), 7), [852., 710., 568., 426., 284., 142., 0.]); // 1000 // 7 = 142
    assert_eq!(entries(&Trailing {}, 4), [999., 749., 499., 249.]);
    assert_eq!(entries(&Trailing {}, 3), [999., 666., 332.]);
    assert_eq!(entries(&Linspace {}, 4), [999., 666., 333., 0.]);
    assert_eq!(entries(&Linspace {}, 3), [999., 500., 0.]); // 499.5 to even
    for grid in [&Leading::default() as &dyn Grid, &Trailing {}, &Linspace {}] {
        assert_eq!(entries(grid, 1000), (0..1000).rev().map(f64::from).collect::<Vec<_>>());
        let text = grid.times(&table, 1001).unwrap_err().to_string();
        assert!(text.contains("1001 steps are too many"), "{text}");
    }
    assert!(Uniform {}.times(&table, 5000).is_ok());
}

/// A process that goes to pure noise starts there, and the second time is not pure noise.
#[test]
fn pure_noise() {
    let flow = Flow::default();
    for grid in AnyGrid::defaults() {
        let times = grid.get().times(&flow, 20).unwrap();
        let alpha = flow.marginal(times[1]).alpha;
        assert!(alpha > 1e-4, "{grid:?}: {alpha}");
    }
}

/// Quantiles of the arcsine distribution, a = b = 1/2, are sin^2(pi p / 2); and no parameters make it panic.
#[test]
fn quantiles() {
    let edm = Edm { sigma_min: 1e-9, sigma_max: 1. };
    let times = Beta { a: 0.5, b: 0.5 }.times(&edm, 11).unwrap();
    for (i, t) in times[..11].iter().enumerate() {
        let exact = (0.5 * std::f64::consts::PI * (1. - i as f64 / 10.)).sin().powi(2);
        assert!((t - exact).abs() < 2e-9, "{i}: {t} {exact}");
    }
    for a in [0.1, 0.3, 0.6, 1., 2., 10.] {
        for b in [0.1, 0.3, 0.6, 1., 2., 10.] {
            for steps in [2, 3, 7, 50, 1000] {
                let times = Beta { a, b }.times(&Edm::default(), steps);
                assert!(times.is_ok() || steps > 3 || a.min(b) < 0.6, "{a} {b} {steps}: {times:?}");
            }
        }
    }
}

#[test]
fn options() {
    for (table, key) in [
        (json!({"name": "karras", "rho": 0.}), "rho"),
        (json!({"name": "karras", "rho": -7.}), "rho"),
        (json!({"name": "karras", "roh": 7.}), "rho"),
        (json!({"name": "leading", "offset": -1}), "-1"),
        (json!({"name": "uniform", "rho": 7}), "rho"),
        (json!("quadratic"), "trailing"),
    ] {
        let text = serde_json::from_value::<AnyGrid>(table).unwrap_err().to_string();
        assert!(text.contains(key), "{key}: {text}");
    }
    assert!(Karras { rho: f64::NAN }.times(&Vp::default(), 5).unwrap_err().to_string().contains("rho"));
    for grid in AnyGrid::defaults() {
        let text = serde_json::to_string(&grid).unwrap();
        let back: AnyGrid = serde_json::from_str(&text).unwrap();
        assert_eq!(format!("{back:?}"), format!("{grid:?}"));
    }
}
