//! Noise belongs to the seed of its sample, is standard normal, and says when a recording runs out.

use langevin_ops::noise::Noise;
use langevin_ops::shape::to_host;
use langevin_ops::{DType, Device, Tensor};

const CPU: &Device = &Device::Cpu;

#[test]
fn a_samples_noise_depends_on_its_seed_alone() {
    let mut all = Noise::seeds(&[3, 1, 4, 1, 5]);
    let mut one = Noise::seeds(&[4]);
    for _ in 0..3 {
        let batch = all.normal((5, 7), DType::F64, CPU).unwrap();
        let alone = one.normal((1, 7), DType::F64, CPU).unwrap();
        let row = |i: usize| to_host(&batch.narrow(0, i, 1).unwrap()).unwrap();
        assert_eq!(row(2), to_host(&alone).unwrap());
        assert_eq!(row(1), row(3), "the same seed twice");
        assert_ne!(row(0), row(1));
    }
}

#[test]
fn steps_and_samples_have_streams_of_their_own() {
    let draw = |seed, step| to_host(&Noise::of_step(seed, step, 2).normal((2, 4), DType::F64, CPU).unwrap()).unwrap();
    let [a, b, c] = [draw(0, 0), draw(0, 1), draw(1, 0)];
    assert_eq!(a, draw(0, 0));
    for (x, y) in [(&a[..4], &a[4..]), (&a[..4], &b[..4]), (&a[..4], &c[..4]), (&a[4..], &b[..4])] {
        assert_ne!(x, y);
    }
}

#[test]
fn moments_are_those_of_the_distributions() {
    let (n, x) = (200_000., Tensor::zeros((8, 25_000), DType::F64, CPU).unwrap());
    let mut noise = Noise::seeds(&[0, 1, 2, 3, 4, 5, 6, 7]);
    let moment = |v: &[f64], k: i32| v.iter().map(|v| v.powi(k)).sum::<f64>() / n;
    // five standard errors, var(x^k) = E x^2k - (E x^k)^2
    let z = to_host(&noise.normal_like(&x).unwrap()).unwrap();
    for (k, expected, variance) in [(1, 0., 1.), (2, 1., 2.), (3, 0., 15.), (4, 3., 96.)] {
        assert!((moment(&z, k) - expected).abs() < 5. * (variance / n).sqrt(), "moment {k}");
    }
    let u = to_host(&noise.uniform_like(&x).unwrap()).unwrap();
    assert!(u.iter().all(|u| (0. ..1.).contains(u)));
    assert!((moment(&u, 1) - 0.5).abs() < 5. / (12. * n).sqrt());
    let signs = to_host(&noise.rademacher_like(&x).unwrap()).unwrap();
    assert!(signs.iter().all(|s| s.abs() == 1.));
    assert!(moment(&signs, 1).abs() < 5. / (n).sqrt());
    // neighbours are not correlated
    let product = z.windows(2).map(|p| p[0] * p[1]).sum::<f64>() / n;
    assert!(product.abs() < 5. / (n).sqrt());
}

#[test]
fn a_recording_is_given_back_and_checked() {
    let recorded = Tensor::new(&[[1f32, 2.]], CPU).unwrap();
    let mut noise = Noise::replay(vec![recorded.clone(), recorded.clone()]);
    assert_eq!(to_host(&noise.normal((1, 2), DType::F64, CPU).unwrap()).unwrap(), [1., 2.]);
    let wrong = noise.normal((1, 3), DType::F32, CPU).unwrap_err().to_string();
    assert!(wrong.contains("[1, 2]") && wrong.contains("[1, 3]"), "{wrong}");
    assert!(noise.normal((1, 2), DType::F32, CPU).unwrap_err().to_string().contains("more was asked for"));
}

#[test]
fn a_batch_that_is_not_the_seeds_is_an_error() {
    let e = Noise::seeds(&[1, 2]).normal((3, 2), DType::F32, CPU).unwrap_err().to_string();
    assert!(e.contains("[3, 2]") && e.contains("2 streams"), "{e}");
}
