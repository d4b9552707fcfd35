//! Random numbers that belong to a sample.
//!
//! [`Noise`] holds one stream a sample, so the noise of sample n depends on seed n alone: not on the batch, the number
//! of threads or the device. The streams are ChaCha8, addressed by (seed, stream): nothing needs to be saved for
//! training to go on exactly where it stopped.

mod torch;

use crate::act::sigmoid;
use crate::attend::softmax;
use crate::kernel::act::logistic;
use crate::kernel::{PIECE, Real, pieces, read, wide, written};
use candle_core::{DType, Device, Result, Shape, Tensor, bail};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use rayon::prelude::*;
use std::collections::VecDeque;
use std::mem::MaybeUninit;
use torch::Torch;

/// The one source of randomness of samplers, kernels and losses.
#[derive(Clone, Debug)]
pub struct Noise(Source);

#[derive(Clone, Debug)]
enum Source {
    Counter(Vec<ChaCha8Rng>),
    Torch(Vec<Torch>),
    Replay(VecDeque<Tensor>),
}

/// What is drawn.
#[derive(Clone, Copy)]
enum Draw {
    Normal,
    Uniform,
    Sign,
}

/// A generator for `seed`, on the stream that `stream` names.
pub fn generator(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    rng
}

impl Noise {
    /// One stream a seed: sample n is the same in any batch that holds its seed.
    pub fn seeds(seeds: &[u64]) -> Self {
        Self(Source::Counter(seeds.iter().map(|&seed| generator(seed, 0)).collect()))
    }

    /// The noise of training step `step` for a batch of `n`: `n` streams of the run's `seed`.
    pub fn of_step(seed: u64, step: u64, n: usize) -> Self {
        Self::of_steps(seed, &(0..n as u64).map(|i| (step, i)).collect::<Vec<_>>())
    }

    /// One stream for each (step, i): that which [`Noise::of_step`] of the step has for its sample i, below 2^20.
    pub fn of_steps(seed: u64, streams: &[(u64, u64)]) -> Self {
        let stream = |&(step, i): &(u64, u64)| generator(seed, (step << 20).wrapping_add(i).wrapping_add(1));
        Self(Source::Counter(streams.iter().map(stream).collect()))
    }

    /// As [`Noise::seeds`], with the numbers of PyTorch's CPU generators: of `torch.Generator().manual_seed(seed)` a
    /// sample, as diffusers' pipelines use them with `generator=[...]`.
    pub fn torch(seeds: &[u64]) -> Self {
        Self(Source::Torch(seeds.iter().map(|&seed| Torch::new(seed)).collect()))
    }

    /// Gives these tensors back one by one, whatever is asked for: for trajectories that others have recorded.
    pub fn replay(tensors: Vec<Tensor>) -> Self {
        Self(Source::Replay(tensors.into()))
    }

    fn fill(&mut self, shape: Shape, dtype: DType, device: &Device, draw: Draw) -> Result<Tensor> {
        match &mut self.0 {
            Source::Counter(streams) => {
                let one = |rng: &mut ChaCha8Rng| match draw {
                    Draw::Normal => rng.sample(StandardNormal),
                    Draw::Uniform => rng.random::<f64>(),
                    Draw::Sign => sign(rng.random::<bool>()),
                };
                rows(streams, shape, dtype, device, |rng, row| row.fill_with(|| one(rng)))
            }
            Source::Torch(streams) => rows(streams, shape, dtype, device, |rng, row| match draw {
                Draw::Normal => rng.normal(row, dtype),
                Draw::Uniform => rng.uniform(row, dtype),
                Draw::Sign => {
                    rng.uniform(row, dtype);
                    row.iter_mut().for_each(|u| *u = sign(*u < 0.5));
                }
            }),
            Source::Replay(tensors) => match tensors.pop_front() {
                Some(t) if t.dims() == shape.dims() => t.to_dtype(dtype)?.to_device(device),
                Some(t) => bail!("noise: the next recorded tensor has shape {:?}, asked for {shape:?}", t.dims()),
                None => bail!("noise: more was asked for than was recorded"),
            },
        }
    }

    /// Standard normal numbers, `[B, ...]` with B the number of streams.
    pub fn normal(&mut self, shape: impl Into<Shape>, dtype: DType, device: &Device) -> Result<Tensor> {
        self.fill(shape.into(), dtype, device, Draw::Normal)
    }

    /// Standard normal numbers with the shape, dtype and device of `x`.
    pub fn normal_like(&mut self, x: &Tensor) -> Result<Tensor> {
        self.normal(x.shape(), x.dtype(), x.device())
    }

    /// Numbers uniform on [0, 1) with the shape, dtype and device of `x`.
    pub fn uniform_like(&mut self, x: &Tensor) -> Result<Tensor> {
        self.fill(x.shape().clone(), x.dtype(), x.device(), Draw::Uniform)
    }

    /// Signs, -1 or 1 with equal chance, with the shape, dtype and device of `x`.
    pub fn rademacher_like(&mut self, x: &Tensor) -> Result<Tensor> {
        self.fill(x.shape().clone(), x.dtype(), x.device(), Draw::Sign)
    }

    /// Independent bits, 1 with probability sigmoid(`logits`) and else 0, with the shape, dtype and device of `logits`
    /// `[B, ...]`; each takes 32 random bits of its sample's stream.
    pub fn bernoulli(&mut self, logits: &Tensor) -> Result<Tensor> {
        let Source::Counter(streams) = &mut self.0 else {
            return self.uniform_like(logits)?.lt(&sigmoid(logits)?)?.to_dtype(logits.dtype());
        };
        let dims = logits.dims();
        if dims.first() != Some(&streams.len()) {
            bail!("noise: bits of shape {dims:?} asked of {} streams; the first dimension is the batch", streams.len());
        }
        let dtype = if logits.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        let host = logits.detach().to_dtype(dtype)?.to_device(&Device::Cpu)?;
        let drawn = read!(&[&host], T, |x| bits::<T>(streams, x[0]), dims)?;
        drawn.to_dtype(logits.dtype())?.to_device(logits.device())
    }

    /// Of each of the N independent units one of its q states, drawn with the probabilities softmax(`logits`), `[B, N, q]`: 1 at the
    /// state that is drawn and else 0, in the shape, dtype and device of `logits`. Each unit takes one uniform number.
    pub fn one_hot(&mut self, logits: &Tensor) -> Result<Tensor> {
        let &[batch, units, states] = logits.dims() else {
            bail!("noise: states of units of shape {:?}; give logits [B, N, q]", logits.dims());
        };
        let dtype = if logits.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        let p = softmax(&logits.detach().to_dtype(dtype)?.to_device(&Device::Cpu)?)?;
        let u = self.fill((batch, units).into(), dtype, &Device::Cpu, Draw::Uniform)?;
        let drawn = read!(&[&p, &u], T, |x| picked::<T>(states, x[0], x[1]), logits.shape())?;
        drawn.to_dtype(logits.dtype())?.to_device(logits.device())
    }

    /// One number uniform on [0, 1) a sample.
    pub fn uniform(&mut self, batch: usize) -> Result<Vec<f64>> {
        self.fill((batch,).into(), DType::F64, &Device::Cpu, Draw::Uniform)?.to_vec1()
    }

    /// `f` of the streams `rows` alone: the others stay where they are. Of recorded numbers, which have no streams, `f` of
    /// all.
    pub fn among<R>(&mut self, rows: &[u32], f: impl FnOnce(&mut Self) -> R) -> R {
        let at = |row: &u32| *row as usize;
        let mut some = Self(match &self.0 {
            Source::Counter(all) => Source::Counter(rows.iter().map(|row| all[at(row)].clone()).collect()),
            Source::Torch(all) => Source::Torch(rows.iter().map(|row| all[at(row)].clone()).collect()),
            Source::Replay(_) => return f(self),
        });
        let result = f(&mut some);
        match (&mut self.0, some.0) {
            (Source::Counter(all), Source::Counter(some)) => {
                rows.iter().zip(some).for_each(|(row, stream)| all[at(row)] = stream);
            }
            (Source::Torch(all), Source::Torch(some)) => {
                rows.iter().zip(some).for_each(|(row, stream)| all[at(row)] = stream);
            }
            _ => {}
        }
        result
    }

    /// One standard normal number a sample.
    pub fn gaussian(&mut self, batch: usize) -> Result<Vec<f64>> {
        self.fill((batch,).into(), DType::F64, &Device::Cpu, Draw::Normal)?.to_vec1()
    }
}

/// Fewer numbers than these are drawn on this thread.
const FEW: usize = 1 << 12;

/// Of each stream a row: 1 where u < sigmoid(x), else 0.
fn bits<T: Real>(streams: &mut [ChaCha8Rng], x: &[T]) -> Vec<T> {
    let each = x.len() / streams.len().max(1);
    let fill = |out: &mut [MaybeUninit<T>]| {
        if x.len() < FEW {
            let rows = out.chunks_mut(each).zip(x.chunks(each)).zip(streams);
            rows.for_each(|((row, x), rng)| bit_row(rng, x, row));
        } else {
            let rows = out.par_chunks_mut(each).zip(x.par_chunks(each)).zip(streams);
            rows.for_each(|((row, x), rng)| bit_row(rng, x, row));
        }
    };
    // SAFETY: the rows cover the output, and each is written.
    #[allow(unsafe_code)]
    if each > 0 { unsafe { written(x.len(), fill) } } else { vec![] }
}

fn bit_row<T: Real>(rng: &mut ChaCha8Rng, x: &[T], out: &mut [MaybeUninit<T>]) {
    let mut words = [0u32; 512];
    for (x, out) in x.chunks(words.len()).zip(out.chunks_mut(words.len())) {
        let words = &mut words[..x.len()];
        rng.fill(&mut *words);
        wide(
            #[inline(always)]
            || {
                for ((out, &x), &word) in out.iter_mut().zip(x).zip(&*words) {
                    *out = MaybeUninit::new(if T::unit(word) < logistic(x).0 { T::one() } else { T::zero() });
                }
            },
        );
    }
}

/// For each `u` in [0, 1] one of the `states` by its share `p`, as 1 among 0: the first up to which the shares sum to more than u.
fn picked<T: Real>(states: usize, p: &[T], u: &[T]) -> Vec<T> {
    let mut out = vec![T::zero(); p.len()];
    let whole = states * (PIECE / states.max(1)).max(1);
    pieces(&mut out, whole.max(1), |from, out| {
        let units = out.chunks_mut(states).zip(p[from..].chunks(states)).zip(&u[from / states..]);
        for ((out, p), u) in units {
            let (target, mut sum) = (u.to_f64(), 0.);
            let first = p.iter().position(|p| {
                sum += p.to_f64();
                target < sum
            });
            // shares that are rounded may sum to less than u
            let state = first.or_else(|| p.iter().rposition(|p| *p > T::zero())).unwrap_or(0);
            out[state] = T::one();
        }
    });
    out
}

fn sign(positive: bool) -> f64 {
    if positive { 1. } else { -1. }
}

/// A tensor whose rows along the first dimension are drawn from one stream each.
fn rows<S: Send>(
    streams: &mut [S],
    shape: Shape,
    dtype: DType,
    device: &Device,
    draw: impl Fn(&mut S, &mut [f64]) + Sync,
) -> Result<Tensor> {
    let dims = shape.dims();
    if dims.first() != Some(&streams.len()) {
        bail!("noise: shape {dims:?} asked of {} streams; the first dimension is the batch", streams.len());
    }
    let each = dims[1..].iter().product();
    let mut out = vec![0f64; shape.elem_count()];
    if each > 0 {
        out.par_chunks_mut(each).zip(streams).for_each(|(row, rng)| draw(rng, row));
    }
    Tensor::from_vec(out, shape, &Device::Cpu)?.to_dtype(dtype)?.to_device(device)
}
