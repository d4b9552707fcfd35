//! ROC curves against scikit-learn's, and their intervals against how often they hold the truth.
#![allow(clippy::print_stdout)]

mod common;

use candle_core::{DType, Device};
use langevin_eval::{Interval, Roc};
use langevin_ops::noise::Noise;

#[test]
fn reference_metrics_roc() {
    for case in common::cases("metrics/roc") {
        let (positive, negative) = (case.tensor("positive"), case.tensor("negative"));
        let roc = Roc::new(&positive, &negative).unwrap();
        let minus = |scores: &[f64]| scores.iter().map(|s| -s).collect::<Vec<_>>();
        let negatives = Roc::new(&minus(&negative), &minus(&positive)).unwrap();
        let at = roc.threshold_at(0.95);
        let mut pairs = vec![
            (roc.auroc(), case.number("auroc")),
            (roc.average_precision(), case.number("average_precision")),
            (negatives.average_precision(), case.number("average_precision_of_negatives")),
            (roc.fpr_at(0.95), case.number("fpr_at_95_tpr")),
            (at.threshold, case.number("threshold_at_95_tpr")),
        ];
        let curve = roc.curve();
        for (name, of) in [("fpr", 0), ("tpr", 1), ("thresholds", 2)] {
            let theirs = case.tensor(name);
            assert_eq!(curve.len(), theirs.len(), "{}: points of the curve", case.name);
            pairs.extend(curve.iter().map(|p| [p.fpr, p.tpr, p.threshold][of]).zip(theirs));
        }
        // both thresholds of the first point are infinite
        let error = common::greatest(pairs.iter().map(|(a, b)| if a == b { 0. } else { (a - b).abs() }));
        println!("metrics/roc/{}: error {error:.1e}, {} numbers", case.name, pairs.len());
        assert!(error <= 1e-6, "{}: {error:.1e}", case.name);
    }
}

/// `n` scores N(shift, 1) and `n` scores N(0, 1).
fn shifted(n: usize, shift: f64, seed: u64) -> (Vec<f64>, Vec<f64>) {
    let z = Noise::seeds(&[seed]).normal((1, 2 * n), DType::F64, &Device::Cpu).unwrap();
    let z: Vec<f64> = z.flatten_all().unwrap().to_vec1().unwrap();
    (z[..n].iter().map(|z| z + shift).collect(), z[n..].to_vec())
}

#[test]
fn the_error_is_that_of_delongs_components() {
    let (mut positive, mut negative) = shifted(60, 0.8, 1);
    // with ties
    positive.iter_mut().chain(&mut negative).for_each(|s| *s = (*s * 4.).round() / 4.);
    let kernel = |p: f64, n: f64| f64::from(u8::from(p > n)) + 0.5 * f64::from(u8::from(p == n));
    let over = |a: &[f64], of: &dyn Fn(f64) -> f64| -> (f64, f64) {
        let values: Vec<f64> = a.iter().map(|&v| of(v)).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        (mean, values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (values.len() as f64 - 1.))
    };
    let mean = |v: &[f64], of: &dyn Fn(f64) -> f64| over(v, of).0;
    let (auroc, s10) = over(&positive, &|p| mean(&negative, &|n| kernel(p, n)));
    let (_, s01) = over(&negative, &|n| mean(&positive, &|p| kernel(p, n)));
    let roc = Roc::new(&positive, &negative).unwrap();
    assert!((roc.auroc() - auroc).abs() < 1e-12);
    assert!((roc.auroc_error() - ((s10 + s01) / 60.).sqrt()).abs() < 1e-12);
}

#[test]
fn intervals_hold_the_truth_95_times_of_100() {
    // N(1, 1) against N(0, 1): AUROC Phi(1 / sqrt 2); FPR at TPR 0.95 is Phi(1.644854 - 1)
    // and AUPR the integral of phi(c - 1) Q(c - 1) / (Q(c - 1) + Q(c)) over thresholds c, with as many of each
    let (auroc, fpr, aupr) = (0.760_249_938_906_524, 0.740_489_6, 0.752995997);
    let runs = 1000;
    let mut held = [0; 3];
    for seed in 0..runs {
        let (positive, negative) = shifted(150, 1., seed);
        let roc = Roc::new(&positive, &negative).unwrap();
        let mut noise = Noise::seeds(&[seed]);
        let intervals = [
            roc.auroc_interval(),
            roc.fpr_interval(0.95, 200, &mut noise).unwrap(),
            roc.average_precision_interval(200, &mut noise).unwrap(),
        ];
        for (held, (interval, truth)) in held.iter_mut().zip(intervals.iter().zip([auroc, fpr, aupr])) {
            *held += u32::from(interval.low <= truth && truth <= interval.high);
        }
    }
    let share = held.map(|held| f64::from(held) / runs as f64);
    let five = 5. * (0.95 * 0.05 / runs as f64).sqrt(); // 0.034, so that intervals that always hold it fail too
    println!("coverage: AUROC {}, FPR95 {}, AUPR {}", share[0], share[1], share[2]);
    assert!(share.iter().all(|share| (share - 0.95).abs() < five), "{share:?}");
}

#[test]
fn bootstrap_and_delong_agree() {
    let (positive, negative) = shifted(800, 1., 3);
    let roc = Roc::new(&positive, &negative).unwrap();
    let (a, b) = (roc.auroc_interval(), roc.bootstrap(Roc::auroc, 2000, &mut Noise::seeds(&[1])).unwrap());
    // a percentile of 2000 resamples has a standard error of 2.4 of the statistic's times 0.02
    let error = roc.auroc_error();
    assert!((a.low - b.low).abs() < 0.3 * error && (a.high - b.high).abs() < 0.3 * error, "{a:?} {b:?}");
    // the lowest scores are positive, and most resamples lack the highest, which is not
    let low = Roc::new(&[0., 1.], &[2., 3., 4.]).unwrap();
    let interval = low.bootstrap(Roc::average_precision, 50, &mut Noise::seeds(&[1])).unwrap();
    assert!(interval.low > 0.2 && interval.high < 0.8, "{interval:?}");
    assert_eq!(b, roc.bootstrap(Roc::auroc, 2000, &mut Noise::seeds(&[1])).unwrap());
}

#[test]
fn sets_that_do_not_overlap_are_not_taken_for_certain() {
    let roc = Roc::new(&[2., 3., f64::INFINITY], &[0., 1.]).unwrap();
    let interval = roc.auroc_interval();
    assert_eq!((roc.auroc(), interval.high), (1., 1.));
    assert!((interval.low - 0.025f64.sqrt()).abs() < 1e-12);
    let reversed = Roc::new(&[0., 1.], &[2., 3., f64::INFINITY]).unwrap().auroc_interval();
    assert!(reversed.low == 0. && (reversed.high - 1. + 0.025f64.sqrt()).abs() < 1e-12);
    // 300 against 300 in thirds, which no sum of parts adds up to 1
    let (high, low): (Vec<f64>, Vec<f64>) =
        ((1..=300).map(f64::from).collect(), (1..=300).map(|v| -f64::from(v)).collect());
    let roc = Roc::new(&high, &low).unwrap();
    assert!(roc.auroc() == 1. && (roc.auroc_interval().low - 0.025f64.powf(1. / 300.)).abs() < 1e-12);
    let fpr = roc.fpr_interval(0.95, 50, &mut Noise::seeds(&[1])).unwrap();
    assert!(fpr.low == 0. && (fpr.high - 1. + 0.025f64.powf(1. / 300.)).abs() < 1e-12);
    let aupr = |roc: &Roc| roc.average_precision_interval(50, &mut Noise::seeds(&[1])).unwrap();
    assert_eq!(
        roc.bootstrap(Roc::average_precision, 50, &mut Noise::seeds(&[1])).unwrap(),
        Interval { low: 1., high: 1. }
    );
    // a share b of negative scores above all others would pass so by 0.025^(1/300)^300, and has 1 - b ln(1 + 1/b)
    let b = 1. - 0.025f64.powf(1. / 300.);
    let (found, passes) = (aupr(&roc), 1. - b * (1. / b).ln_1p());
    assert!(found.high == 1. && found.low < passes && passes - found.low < 0.1 * b, "{found:?} {passes}");
    // more negative samples than positive ones leave less
    let many: Vec<f64> = (1..=3000).map(|v| -f64::from(v)).collect();
    let fewer = aupr(&Roc::new(&high, &many).unwrap());
    assert!(fewer.low > 0.5 && fewer.low < found.low, "{fewer:?} {found:?}");
    // all negative ones first: the precision of nothing, or of chance if the positive ones are alike
    let last = Roc::new(&low, &high).unwrap();
    let (found, precision) = (aupr(&last), last.average_precision());
    assert!((found.low - 1. + 2f64.ln()).abs() < 1e-12 && (found.high - (1. + b) / 2.).abs() < 1e-12, "{found:?}");
    assert!(found.low < precision && precision < found.high, "{precision} {found:?}");
    let alike = Roc::new(&[0.; 300], &high).unwrap();
    assert!((alike.average_precision() - 0.5).abs() < 1e-12 && aupr(&alike) == found, "{:?}", aupr(&alike));
    // one sample says nothing of how scores spread
    for (positive, negative) in [(&[1.][..], &[0., 2., 3.][..]), (&[0., 2., 3.], &[1.]), (&[3.], &[0., 1.])] {
        let roc = Roc::new(positive, negative).unwrap();
        let interval = roc.auroc_interval();
        assert!(roc.auroc_error().is_nan() && (interval.low, interval.high) == (0., 1.), "{interval:?}");
        assert_eq!(aupr(&roc), interval);
    }
    for (positive, negative) in [(&[][..], &[1.][..]), (&[1.], &[]), (&[f64::NAN], &[1.])] {
        assert!(Roc::new(positive, negative).is_err());
    }
}
