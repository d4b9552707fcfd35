//! Products of bits: exact where sums are, the same bits whatever the batch and the threads, and right for any other numbers.

use langevin_ops::linear::{linear, linear_of_bits};
use langevin_ops::noise::Noise;
use langevin_ops::shape::to_host;
use langevin_ops::{DType, Device, Result, Tensor, check, grad};

const CPU: &Device = &Device::Cpu;

fn normal(dims: (usize, usize), dtype: DType) -> Result<Tensor> {
    Noise::of_step(1, 0, dims.0).normal(dims, dtype, CPU)
}

/// Even chances of 0 and 1.
fn coins(dims: (usize, usize), dtype: DType) -> Result<Tensor> {
    Noise::of_step(2, 0, dims.0).bernoulli(&Tensor::zeros(dims, dtype, CPU)?)
}

/// Whole numbers from -8 to 8, whose sums are exact in any order.
fn whole(dims: (usize, usize), dtype: DType) -> Result<Tensor> {
    (normal(dims, dtype)? * 3.)?.round()?.clamp(-8., 8.)
}

fn bits(x: &Tensor) -> Result<Vec<u64>> {
    Ok(to_host(x)?.into_iter().map(f64::to_bits).collect())
}

/// The same numbers with their columns one after the other in memory.
fn turned(x: &Tensor) -> Result<Tensor> {
    x.t()?.contiguous()?.t()
}

/// The same numbers with gaps between them.
fn apart(x: &Tensor) -> Result<Tensor> {
    Tensor::stack(&[x, x], 2)?.narrow(2, 0, 1)?.squeeze(2)
}

fn on_threads<R: Send>(n: usize, f: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap().install(f)
}

/// x w^T + bias term by term.
fn summed(x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Vec<f64>> {
    let ((rows, inputs), outputs) = (x.dims2()?, w.dim(0)?);
    let (x, w) = (to_host(x)?, to_host(w)?);
    let bias = bias.map_or(Ok(vec![0.; outputs]), to_host)?;
    let sum = |r: usize, o: usize| bias[o] + (0..inputs).map(|i| x[r * inputs + i] * w[o * inputs + i]).sum::<f64>();
    Ok((0..rows * outputs).map(|at| sum(at / outputs, at % outputs)).collect())
}

/// Words and groups that are full or not, rows that are few and many, panels of columns that are full or not.
const SIZES: [(usize, usize, usize); 19] = [
    (1, 1, 1),
    (1, 60, 16),
    (2, 5, 3),
    (3, 59, 17),
    (4, 60, 8),
    (5, 61, 9),
    (6, 120, 64),
    (7, 119, 65),
    (9, 121, 200),
    (7, 3, 31),
    (9, 127, 16),
    (31, 128, 15),
    (32, 130, 33),
    (33, 200, 1),
    (70, 61, 40),
    (100, 784, 50),
    (1030, 66, 5),
    (8, 1, 20),
    (6, 4, 100),
];

#[test]
fn sums_of_whole_numbers_are_exact_in_any_layout() -> Result<()> {
    for dtype in [DType::F32, DType::F64] {
        for (rows, inputs, outputs) in SIZES {
            let (x, w) = (coins((rows, inputs), dtype)?, whole((outputs, inputs), dtype)?);
            let bias = whole((1, outputs), dtype)?.squeeze(0)?;
            for bias in [None, Some(&bias)] {
                let expected = summed(&x, &w, bias)?;
                for x in [x.clone(), turned(&x)?, apart(&x)?] {
                    for w in [w.clone(), turned(&w)?, apart(&w)?] {
                        let y = linear_of_bits(&x, &w, bias)?;
                        assert_eq!((y.dims(), y.dtype()), (&[rows, outputs][..], dtype));
                        assert_eq!(to_host(&y)?, expected, "{dtype:?} {rows} x {inputs} x {outputs}");
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn sums_are_rounded_no_worse_than_those_of_the_ordinary_product() -> Result<()> {
    let (x, w) = (coins((100, 784), DType::F32)?, normal((500, 784), DType::F32)?);
    let expected = summed(&x, &w, None)?;
    let off = |y: Tensor| -> Result<f64> {
        let squares = to_host(&y)?.iter().zip(&expected).map(|(y, e)| (y - e).powi(2)).sum::<f64>();
        Ok((squares / expected.len() as f64).sqrt())
    };
    let (own, ordinary) = (off(linear_of_bits(&x, &w, None)?)?, off(linear(&x, &w, None)?)?);
    assert!(own > 0. && own < 2. * ordinary, "{own} beside {ordinary}");
    Ok(())
}

#[test]
fn rows_have_the_same_bits_in_any_batch_and_on_any_threads() -> Result<()> {
    for dtype in [DType::F32, DType::F64] {
        let (w, bias) = (normal((70, 333), dtype)?, normal((1, 70), dtype)?.squeeze(0)?);
        // every third row is not of bits
        let (some, others) = (coins((90, 333), dtype)?, normal((90, 333), dtype)?);
        let rows: Vec<Tensor> = (0..90)
            .map(|r| if r % 3 == 1 { others.narrow(0, r, 1) } else { some.narrow(0, r, 1) })
            .collect::<Result<_>>()?;
        let x = Tensor::cat(&rows, 0)?;
        let of = |x: &Tensor| bits(&linear_of_bits(x, &w, Some(&bias)).unwrap()).unwrap();
        let all = on_threads(1, || of(&x));
        for threads in [2, 5] {
            assert!(all == on_threads(threads, || of(&x)), "{dtype:?}: {threads} threads");
        }
        for (from, count) in [(0, 1), (1, 1), (2, 2), (0, 3), (5, 4), (30, 37), (0, 89)] {
            let part = of(&x.narrow(0, from, count)?);
            assert!(part == all[from * 70..(from + count) * 70], "{dtype:?}: {count} rows from {from}");
            assert!(part == of(&turned(&x.narrow(0, from, count)?)?), "{dtype:?}: {count} turned rows from {from}");
        }
        let ordinary = bits(&linear(&x, &w, Some(&bias))?)?;
        (1..90).step_by(3).for_each(|r| assert!(all[r * 70..(r + 1) * 70] == ordinary[r * 70..(r + 1) * 70], "{r}"));
    }
    Ok(())
}

#[test]
fn other_numbers_have_the_ordinary_product() -> Result<()> {
    let w = normal((20, 65), DType::F64)?;
    for odd in [0.5, -1., 2., 1e-300, 1. + f64::EPSILON, f64::INFINITY, f64::NAN] {
        for place in [0, 59, 60, 64] {
            let at = Tensor::from_iter((0..65).map(|i| if i == place { odd } else { 1. }), CPU)?.unsqueeze(0)?;
            let (own, ordinary) = (linear_of_bits(&at, &w, None)?, linear(&at, &w, None)?);
            assert_eq!(bits(&own)?, bits(&ordinary)?, "{odd} at {place}");
        }
    }
    let minus = (coins((5, 65), DType::F64)? * -0.)?; // -0 is 0
    assert!(to_host(&linear_of_bits(&minus, &w, None)?)?.iter().all(|y| *y == 0.));
    Ok(())
}

#[test]
fn composed_of_other_operations_it_is_the_same() -> Result<()> {
    let (x, w) = (coins((9, 70), DType::F64)?, whole((11, 70), DType::F64)?);
    let bias = whole((1, 11), DType::F64)?.squeeze(0)?;
    let composed = check::by_composition(|| linear_of_bits(&x, &w, Some(&bias)))?;
    assert_eq!(to_host(&composed)?, to_host(&linear_of_bits(&x, &w, Some(&bias))?)?);
    Ok(())
}

/// Of <x w^T, x w^T> / 2 of whole numbers: x w^T w and its like.
#[test]
fn it_is_differentiated_as_any_product() -> Result<()> {
    let (x, w) = (coins((6, 70), DType::F64)?, whole((11, 70), DType::F64)?);
    let half = |y: Tensor| y.sqr()?.sum_all()? * 0.5;
    let y = linear(&x, &w, None)?;
    let (_, by_x) = grad::gradient(&x, |x| half(linear_of_bits(x, &w, None)?))?;
    let (_, by_w) = grad::gradient(&w, |w| half(linear_of_bits(&x, w, None)?))?;
    assert_eq!(to_host(&by_x)?, to_host(&y.matmul(&w)?)?);
    assert_eq!(to_host(&by_w)?, to_host(&y.t()?.matmul(&x)?)?);
    let bias = whole((1, 11), DType::F64)?.squeeze(0)?;
    let (_, by_bias) = grad::gradient(&bias, |bias| half(linear_of_bits(&x, &w, Some(bias))?))?;
    assert_eq!(to_host(&by_bias)?, to_host(&y.broadcast_add(&bias)?.sum(0)?)?);
    let twice = grad::hvp(&w, &w, |w| half(linear_of_bits(&x, w, None)?))?;
    assert_eq!(to_host(&twice)?, to_host(&by_w)?); // a quadratic form's Hessian times w is its gradient
    Ok(())
}

#[test]
fn nothing_times_something_is_nothing() -> Result<()> {
    for (rows, inputs, outputs) in [(0, 5, 3), (4, 5, 0)] {
        let bias = normal((1, outputs), DType::F32)?.squeeze(0)?;
        for bias in [None, Some(&bias)] {
            let y = linear_of_bits(&coins((rows, inputs), DType::F32)?, &normal((outputs, inputs), DType::F32)?, bias)?;
            assert_eq!(y.dims(), [rows, outputs]);
        }
    }
    Ok(())
}

#[test]
fn shapes_that_do_not_fit_are_named() -> Result<()> {
    let (x, w) = (coins((4, 5), DType::F32)?, normal((3, 6), DType::F32)?);
    let error = linear_of_bits(&x, &w, None).unwrap_err().to_string();
    assert!(error.contains("[3, 6]") && error.contains("[4, 5]"), "{error}");
    Ok(())
}
