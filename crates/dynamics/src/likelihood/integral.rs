//! log Z = ln of the integral of exp(-E) over states of one or two numbers, by the trapezoid rule, checked by halving its steps.
//!
//! Of a smooth integrand that vanishes with all its derivatives at the edges the rule converges faster than any power of the step.

use crate::density::Energy;
use candle_core::{DType, Device, Result, Tensor, bail};
use langevin_ops::shape::to_host;
use langevin_ops::stats::log_sum_exp;

/// ln of an integral, in nats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Integral {
    /// ln of it.
    pub value: f64,
    /// How much it changed when the steps of the grid were halved the last time.
    pub error: f64,
}

/// What lies this many nats below the top is left out.
const FAINT: f64 = 45.;
/// Points a side of the grid that looks for where the density is.
const SEARCH: usize = 129;
/// Doublings of the reach after which there is no end to the density.
const DOUBLINGS: usize = 12;
/// An error that ends the halving.
const FINE: f64 = 1e-10;
/// One that is too large to be told.
const COARSE: f64 = 1e-3;
/// States whose energies are asked at once.
const AT_ONCE: usize = 1 << 14;

/// ln of the integral of exp(-E) over states of `shape`, which has one or two numbers, in f64. The search for the density begins
/// on `[-reach, reach]` and widens.
///
/// `None` if the density has no end, or structure that is too fine for the finest grid. Errors if there are other numbers of a state,
/// or if an energy is not a number.
pub fn log_integral(energy: &dyn Energy, shape: &[usize], reach: f64, device: &Device) -> Result<Option<Integral>> {
    let d: usize = shape.iter().product();
    if !(1..=2).contains(&d) {
        bail!("integral: states of shape {shape:?} have {d} numbers; give states of one or two");
    }
    let over = |ends: &[[f64; 2]], n: usize| -> Result<Vec<f64>> {
        let points = grid(ends, n);
        let mut logs = Vec::with_capacity(points.len() / d);
        for some in points.chunks(AT_ONCE * d) {
            let dims = [&[some.len() / d], shape].concat();
            let x = Tensor::from_slice(some, dims, &Device::Cpu)?.to_dtype(DType::F64)?.to_device(device)?;
            logs.extend(to_host(&energy.energy(&x)?.detach())?.into_iter().map(|energy| -energy));
        }
        match logs.iter().find(|log| log.is_nan()) {
            Some(_) => bail!("integral: an energy is not a number"),
            None => Ok(logs),
        }
    };
    let mut reach = reach;
    for _ in 0..=DOUBLINGS {
        let ends = vec![[-reach, reach]; d];
        match around(&over(&ends, SEARCH)?, d) {
            Some(found) => {
                let step = 2. * reach / (SEARCH - 1) as f64;
                let ends = found.map(|at| at.map(|i| -reach + i as f64 * step));
                return halved(&ends[..d], |n| over(&ends[..d], n));
            }
            None => reach *= 2.,
        }
    }
    Ok(None)
}

/// The trapezoid rule between `ends` with ever smaller steps.
fn halved(ends: &[[f64; 2]], over: impl Fn(usize) -> Result<Vec<f64>>) -> Result<Option<Integral>> {
    let volume: f64 = ends.iter().map(|[low, high]| high - low).product();
    let most = if ends.len() == 1 { 17 } else { 10 };
    let mut found = Integral { value: f64::NEG_INFINITY, error: f64::INFINITY };
    for k in 5..=most {
        let n = 1usize << k;
        let cell = volume.ln() - ends.len() as f64 * (n as f64).ln();
        let value = log_sum_exp(&over(n + 1)?) + cell;
        found = Integral { value, error: (value - found.value).abs() };
        if found.error < FINE {
            break;
        }
    }
    Ok(Some(found).filter(|found| found.error < COARSE))
}

/// `n` points a side between `ends`, row-major, the last number of a state fastest.
fn grid(ends: &[[f64; 2]], n: usize) -> Vec<f64> {
    let at = |[low, high]: [f64; 2], i: usize| low + (high - low) * i as f64 / (n - 1) as f64;
    match ends {
        [one] => (0..n).map(|i| at(*one, i)).collect(),
        [one, two, ..] => (0..n * n).flat_map(|i| [at(*one, i / n), at(*two, i % n)]).collect(),
        [] => vec![],
    }
}

/// Of a search, from where to where in each direction there is something, with a step more at both ends; `None` if it goes on over
/// an edge. One direction's is repeated.
fn around(logs: &[f64], d: usize) -> Option<[[usize; 2]; 2]> {
    let top = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut ends = [[SEARCH, 0]; 2];
    for (i, _) in logs.iter().enumerate().filter(|(_, log)| **log > top - FAINT) {
        let at = if d == 1 { [i, i] } else { [i / SEARCH, i % SEARCH] };
        for ([first, last], at) in ends.iter_mut().zip(at) {
            (*first, *last) = ((*first).min(at), (*last).max(at));
        }
    }
    let inside = top.is_finite() && ends.iter().all(|[first, last]| *first > 0 && *last + 1 < SEARCH);
    inside.then(|| ends.map(|[first, last]| [first - 1, last + 1]))
}
