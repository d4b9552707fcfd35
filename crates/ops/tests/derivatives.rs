//! Every registered case: values in f32 against f64, first, second and third derivatives against finite differences.

use langevin_ops::{DType, Device, Tensor, check};

fn all_pass(run: impl Fn(&check::Case) -> langevin_ops::Result<check::Outcome>) {
    let cases = check::cases().unwrap();
    assert!(cases.len() > 50);
    let mut failed = Vec::new();
    for case in &cases {
        match run(case) {
            Ok(outcome) if outcome.passed() => {}
            Ok(outcome) => failed.push(format!("{}: {:?}", case.name, outcome.errors)),
            Err(e) => failed.push(format!("{}: {e}", case.name)),
        }
    }
    assert!(failed.is_empty(), "{} of {} cases:\n{}", failed.len(), cases.len(), failed.join("\n"));
}

#[test]
fn kernels_pass_all_derivatives() {
    all_pass(|case| case.run(&Device::Cpu));
}

#[test]
fn compositions_pass_all_derivatives() {
    all_pass(|case| check::by_composition(|| case.run(&Device::Cpu)));
}

/// Largest difference over the largest value.
fn error(a: &Tensor, b: &Tensor) -> f64 {
    let largest = |t: &Tensor| t.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f64>().unwrap();
    largest(&(a - b).unwrap()) / largest(b).max(f64::MIN_POSITIVE)
}

#[test]
fn kernels_and_compositions_agree() {
    for case in check::cases().unwrap() {
        for scale in [1., 1e4, 1e-4] {
            let value = || case.value(scale, DType::F64, &Device::Cpu).unwrap();
            let e = error(&value(), &check::by_composition(value));
            assert!(e < 1e-10, "{} at {scale}: {e:e}", case.name);
        }
    }
}
