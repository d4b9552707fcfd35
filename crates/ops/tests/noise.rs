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

/// Whatever the batch, the type, and the way they are computed.
#[test]
fn bits_have_the_probability_that_is_asked() {
    let (rows, n) = (8, 25_000);
    let logits: Vec<f64> = (0..n).map(|i| [-40., -2., 0., 0.7, 40.][i % 5]).collect();
    let logits = Tensor::new(logits, CPU).unwrap().broadcast_as((rows, n)).unwrap().contiguous().unwrap();
    let seeds: Vec<u64> = (0..rows as u64).collect();
    let drawn = Noise::seeds(&seeds).bernoulli(&logits).unwrap();
    let bits = to_host(&drawn).unwrap();
    for (k, p) in [0., 1. / (1. + 2f64.exp()), 0.5, 1. / (1. + (-0.7f64).exp()), 1.].into_iter().enumerate() {
        let count = (rows * n / 5) as f64;
        let mean = bits.iter().skip(k).step_by(5).sum::<f64>() / count;
        assert!((mean - p).abs() <= 5. * (p * (1. - p) / count).sqrt(), "{mean} for {p}");
    }
    let single = Noise::seeds(&seeds).bernoulli(&logits.to_dtype(DType::F32).unwrap()).unwrap();
    assert_eq!(bits, to_host(&single).unwrap());
    let alone = Noise::seeds(&[3]).bernoulli(&logits.narrow(0, 3, 1).unwrap()).unwrap();
    assert_eq!(to_host(&alone).unwrap(), bits[3 * n..4 * n]);
    let u = Tensor::new(&[[0.2, 0.8]], CPU).unwrap();
    let replayed = Noise::replay(vec![u]).bernoulli(&Tensor::new(&[[0f64, 0.]], CPU).unwrap()).unwrap();
    assert_eq!(to_host(&replayed).unwrap(), [1., 0.]);
    assert!(Noise::seeds(&[1]).bernoulli(&logits).is_err());
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

/// `torch.Generator().manual_seed(42)`: `torch.randn(n)` twice, then `torch.rand(3)`, of torch 2.13 on a CPU with AVX2. Of
/// each vector the first and the last two numbers, of the last all.
#[test]
fn torchs_generator_is_repeated() {
    type Case = (usize, DType, [f64; 4], [f64; 4], [f64; 3]);
    #[rustfmt::skip]
    let cases: [Case; 6] = [
        (15, DType::F32, [0.33669037, 0.12880941, -1.689799, -0.98895991], [0.95797181, 1.3221351, -0.049903348, 0.52633697], [0.53148186, 0.15872991, 0.654176]),
        (15, DType::F64, [0.33669035, 0.12880941, -1.6897989, -0.98895988], [0.95797179, 1.3221351, -0.049903347, 0.52633694], [0.25185522, 0.23340819, 0.2256651]),
        (16, DType::F32, [1.9269153, 1.4872841, -0.76883888, 0.76244539], [1.6423169, -0.15959747, -0.25157529, 0.85985851], [0.88601369, 0.58320957, 0.33764774]),
        (31, DType::F32, [1.9269153, 1.4872841, 2.1227851, -1.2346531], [-0.35528663, -0.91382301, -1.722295, -0.82776886], [0.13741332, 0.2330659, 0.95783097]),
        (100, DType::F32, [1.9269153, 1.4872841, 0.34986776, 0.61728072], [0.72617722, 0.091151863, 0.44397512, -0.72403395], [0.74005288, 0.92075223, 0.76193494]),
        (100, DType::F64, [0.29955629, 0.24237779, 1.0836356, -0.95916339], [0.84418683, -0.092873187, -1.9129366, 0.2414645], [0.4991587, 0.67623895, 0.85763752]),
    ];
    for (n, dtype, first, second, uniform) in cases {
        // in a batch, with a seed whose high bits the generator leaves out
        let mut noise = Noise::torch(&[7, 42 + (1 << 40)]);
        let close = |t: Tensor, expected: &[f64]| {
            let all = to_host(&t.narrow(0, 1, 1).unwrap()).unwrap();
            let ends = [&all[..2], &all[all.len() - 2..]].concat();
            let found = if expected.len() == 4 { &ends } else { &all };
            assert_eq!(found.len(), expected.len());
            for (a, b) in found.iter().zip(expected) {
                assert!((a - b).abs() < 2e-6, "{n} of {dtype:?}: {found:?} for {expected:?}");
            }
        };
        close(noise.normal((2, n), dtype, CPU).unwrap(), &first);
        close(noise.normal((2, n), dtype, CPU).unwrap(), &second);
        close(noise.uniform_like(&Tensor::zeros((2, 3), dtype, CPU).unwrap()).unwrap(), &uniform);
    }
}

#[test]
fn states_are_drawn_by_their_shares() {
    // one state is certain, one never drawn, and shares are far from what exp can hold
    let logits = [[0.3, -1.2, 2., 0.], [500., -500., 499., 0.], [-900., f64::NEG_INFINITY, -900., -901.]];
    let n = 20_000;
    let all = Tensor::new(&logits, CPU).unwrap().unsqueeze(0).unwrap().repeat((n, 1, 1)).unwrap();
    for dtype in [DType::F64, DType::F32] {
        let drawn = Noise::of_step(5, 0, n).one_hot(&all.to_dtype(dtype).unwrap()).unwrap();
        assert_eq!((drawn.dims(), drawn.dtype()), (&[n, 3, 4][..], dtype));
        let drawn = to_host(&drawn).unwrap();
        assert!(drawn.chunks(4).all(|unit| unit.iter().all(|&x| x == 0. || x == 1.) && unit.iter().sum::<f64>() == 1.));
        for (i, logits) in logits.iter().enumerate() {
            let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = logits.iter().map(|x| (x - top).exp()).sum();
            for (k, x) in logits.iter().enumerate() {
                let (p, share) = ((x - top).exp() / total, drawn.chunks(12).map(|row| row[i * 4 + k]).sum::<f64>());
                let error = (p * (1. - p) / n as f64).sqrt();
                assert!((share / n as f64 - p).abs() <= 5. * error, "unit {i}, state {k}: {share} of {n} for {p}");
            }
        }
    }
    let some = |seeds: &[u64]| {
        let logits = all.narrow(0, 0, seeds.len()).unwrap();
        to_host(&Noise::seeds(seeds).one_hot(&logits).unwrap()).unwrap()
    };
    assert_eq!(some(&[7, 8, 9])[12..24], some(&[8])[..], "a sample's own, in any batch");
    let recorded = Tensor::new(&[[0.999f64, 0., 0.5]], CPU).unwrap();
    let mut replay = Noise::replay(vec![recorded]);
    let drawn = to_host(&replay.one_hot(&all.narrow(0, 0, 1).unwrap()).unwrap()).unwrap();
    assert_eq!(drawn, [0., 0., 0., 1., 1., 0., 0., 0., 0., 0., 1., 0.]);
    assert!(replay.one_hot(&Tensor::zeros((1, 4), DType::F64, CPU).unwrap()).is_err());
}
