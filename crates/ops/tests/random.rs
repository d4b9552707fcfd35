//! Random sizes and layouts, under an allocator that ends (or begins) every allocation at a page that may not be
//! touched and fills it with NaN; and random programs on the tape against finite differences.

#![cfg(target_os = "linux")]
#![allow(unsafe_code)]

use langevin_ops::conv::{Geometry, conv2d, conv2d_add, conv2d_input_grad, conv2d_weight_grad};
use langevin_ops::norm::{group_norm, group_norm_silu};
use langevin_ops::shape::to_host;
use langevin_ops::tape::{self, Value, part, recompute};
use langevin_ops::{DType, Device, Result, Tensor, act, attend, check, grad, linear, resample};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

static GUARD: AtomicU8 = AtomicU8::new(0); // 0 off, 1 behind, 2 before
const PAGE: usize = 4096;
const LOW: usize = 0x2000_0000_0000; // guarded allocations are recognised by their address
const HIGH: usize = 0x4000_0000_0000;
static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(LOW);

struct Fence;

// SAFETY: memory of the system's or of fresh pages.
unsafe impl GlobalAlloc for Fence {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let mode = GUARD.load(Relaxed);
        if mode == 0 || layout.size() < 64 || layout.align() > 64 {
            return unsafe { System.alloc(layout) };
        }
        let size = layout.size().next_multiple_of(layout.align());
        let pages = size.div_ceil(PAGE) * PAGE;
        let want = NEXT.fetch_add(pages + 2 * PAGE, Relaxed);
        let at = unsafe {
            libc::mmap(
                want as *mut _,
                pages + 2 * PAGE,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
                -1,
                0,
            )
        };
        if at as usize != want {
            return unsafe { System.alloc(layout) };
        }
        let body = want + PAGE;
        unsafe {
            libc::mprotect(body as *mut _, pages, libc::PROT_READ | libc::PROT_WRITE);
            std::ptr::write_bytes(body as *mut u8, 0xff, pages);
        }
        if mode == 1 { (body + pages - size) as *mut u8 } else { body as *mut u8 }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        if (at as usize) < LOW || at as usize >= HIGH {
            return unsafe { System.dealloc(at, layout) };
        }
        let size = layout.size().next_multiple_of(layout.align());
        let pages = size.div_ceil(PAGE) * PAGE;
        let body = at as usize / PAGE * PAGE;
        unsafe { libc::munmap((body - PAGE) as *mut _, pages + 2 * PAGE) };
    }
}

#[global_allocator]
static ALLOCATOR: Fence = Fence;

const CPU: &Device = &Device::Cpu;

#[derive(Clone)]
struct Random(u64);
impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 20
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
    fn number(&mut self) -> f64 {
        (self.next() % (1 << 20)) as f64 / (1 << 19) as f64 - 1.
    }
    /// In f32, exact in f64; laid out in one of several ways.
    fn tensor(&mut self, dims: &[usize]) -> Tensor {
        let plain = |r: &mut Self, dims: &[usize]| {
            let n = dims.iter().product();
            Tensor::from_vec((0..n).map(|_| r.number() as f32).collect::<Vec<_>>(), dims, CPU).unwrap()
        };
        let last = dims.len() - 1;
        match self.below(5) {
            0 => {
                let t: Vec<usize> = dims.iter().rev().copied().collect();
                plain(self, &t).permute((0..dims.len()).rev().collect::<Vec<_>>()).unwrap()
            }
            1 => {
                let mut d = dims.to_vec();
                d[last] += 3;
                plain(self, &d).narrow(last, 2, dims[last]).unwrap()
            }
            2 => {
                let mut d = dims.to_vec();
                d[0] = 1;
                plain(self, &d).broadcast_as(dims).unwrap()
            }
            _ => plain(self, dims),
        }
    }
}

fn compare(what: &str, ours: &[Tensor], exact: &[Tensor]) {
    for (i, (a, b)) in ours.iter().zip(exact).enumerate() {
        assert_eq!(a.dims(), b.dims(), "{what} {i}");
        let (a, b) = (to_host(a).unwrap(), to_host(b).unwrap());
        let largest = b.iter().fold(1e-20f64, |m, v| m.max(v.abs()));
        for (j, (a, b)) in a.iter().zip(&b).enumerate() {
            assert!(
                a.is_finite() && (a - b).abs() <= 1e-4 * largest + 3e-7, // sums of few terms may cancel
                "{what}, result {i} at {j}: {a} for {b} (largest {largest})"
            );
        }
    }
}

/// f in f32 by kernels against f64 composed; and f64 by kernels.
fn against_f64(what: &str, inputs: &[Tensor], f: impl Fn(&[Tensor]) -> Result<Vec<Tensor>>) {
    let wide: Vec<Tensor> = inputs.iter().map(|x| x.to_dtype(DType::F64).unwrap()).collect();
    let exact = check::by_composition(|| f(&wide)).unwrap_or_else(|e| panic!("{what}: {e}"));
    compare(&format!("f32 {what}"), &f(inputs).unwrap(), &exact);
    compare(&format!("f64 {what}"), &f(&wide).unwrap(), &exact);
}

fn convolutions(seed: u64, count: usize) {
    let mut r = Random(seed);
    for _ in 0..count {
        let sizes = [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 17, 18, 31, 33];
        let channels = [1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 24, 31, 32, 33, 48, 49, 64, 80];
        let (kh, kw) = if r.below(2) == 0 { (3, 3) } else { (1 + r.below(6), 1 + r.below(6)) };
        let (kh, kw) = if r.below(5) == 0 { (1, 1) } else { (kh, kw) };
        let stride = r.of(&[1, 1, 1, 2, 2, 3, 5, 7]);
        let pad = if r.below(3) == 0 { [0; 4] } else { [0; 4].map(|_| r.below(5)) };
        let (h, w) = (r.of(&sizes), r.of(&sizes));
        if h + pad[0] + pad[1] < kh || w + pad[2] + pad[3] < kw {
            continue;
        }
        let (b, c, o) = (r.of(&[1, 1, 2, 3, 5]), r.of(&channels), r.of(&channels));
        let geometry = Geometry { stride, pad };
        let out = [(h + pad[0] + pad[1] - kh) / stride + 1, (w + pad[2] + pad[3] - kw) / stride + 1];
        let bias = if r.below(2) == 0 { vec![o] } else { vec![b, o] };
        let inputs =
            [r.tensor(&[b, c, h, w]), r.tensor(&[o, c, kh, kw]), r.tensor(&bias), r.tensor(&[b, o, out[0], out[1]])];
        let what = format!("conv {b}x{c}->{o} of {h}x{w}, kernel {kh}x{kw}, {geometry:?}");
        against_f64(&what, &inputs, |t| {
            Ok(vec![
                conv2d(&t[0], &t[1], None, geometry)?,
                conv2d_add(&t[0], &t[1], Some(&t[2]), &t[3], geometry)?,
                conv2d_input_grad(&t[3], &t[1], (h, w), geometry)?,
                conv2d_weight_grad(&t[0], &t[3], (kh, kw), geometry)?,
            ])
        });
    }
}

/// Sizes that need several groups, parts and panels.
fn large(seed: u64) {
    let mut r = Random(seed);
    for (b, c, o, h, w, k, geometry) in [
        (6, 40, 72, 30, 26, 3, Geometry::same(3)),
        (2, 7, 33, 70, 66, 3, Geometry { stride: 1, pad: [0, 2, 2, 0] }),
        (3, 200, 136, 5, 6, 3, Geometry::same(3)),
        (9, 3, 40, 40, 37, 3, Geometry::same(3)),
        (5, 40, 3, 40, 37, 3, Geometry::same(3)),
        (9, 70, 50, 33, 31, 1, Geometry::same(1)),
        (5, 20, 36, 47, 45, 4, Geometry { stride: 2, pad: [1; 4] }),
        (5, 20, 36, 47, 45, 3, Geometry { stride: 2, pad: [0, 1, 0, 1] }),
        (2, 18, 20, 40, 300, 5, Geometry { stride: 3, pad: [2; 4] }),
        (2, 18, 20, 12, 40, 2, Geometry { stride: 5, pad: [0; 4] }),
    ] {
        let Geometry { stride, pad } = geometry;
        let out = [(h + pad[0] + pad[1] - k) / stride + 1, (w + pad[2] + pad[3] - k) / stride + 1];
        let inputs =
            [r.tensor(&[b, c, h, w]), r.tensor(&[o, c, k, k]), r.tensor(&[o]), r.tensor(&[b, o, out[0], out[1]])];
        against_f64(&format!("large {b}x{c}->{o} of {h}x{w}, {k}, {geometry:?}"), &inputs, |t| {
            Ok(vec![
                conv2d_add(&t[0], &t[1], Some(&t[2]), &t[3], geometry)?,
                conv2d_input_grad(&t[3], &t[1], (h, w), geometry)?,
                conv2d_weight_grad(&t[0], &t[3], (k, k), geometry)?,
            ])
        });
    }
}

/// First and second derivatives in f32 against f64, with inputs of sizes 1e4 and 1e-4.
#[test]
fn derivatives_at_scales() {
    let mut r = Random(77);
    for scale in [1e4, 1., 1e-4] {
        let mut plain = |dims: &[usize], scale: f64| {
            let n = dims.iter().product();
            Tensor::from_vec((0..n).map(|_| (r.number() * scale) as f32).collect::<Vec<_>>(), dims, CPU).unwrap()
        };
        for (c, k, stride) in [(8, 3, 1), (3, 3, 1), (8, 3, 2), (16, 1, 1)] {
            let geometry = Geometry { stride, pad: [k / 2; 4] };
            let inputs = [plain(&[2, c, 8, 8], scale), plain(&[12, c, k, k], 1.), plain(&[2, c, 8, 8], 1.)];
            let f = |x: &Tensor, w: &Tensor| conv2d(x, w, None, geometry)?.sqr()?.sum_all();
            against_f64(&format!("conv {c} {k} {stride} at {scale}"), &inputs, |t| {
                Ok(vec![
                    grad::gradient(&t[0], |x| f(x, &t[1]))?.1,
                    grad::gradient(&t[1], |w| f(&t[0], w))?.1,
                    grad::hvp(&t[0], &t[2], |x| f(x, &t[1]))?,
                ])
            });
        }
        let inputs = [plain(&[2, 8, 8, 8], scale), plain(&[8], 1.), plain(&[8], 1.), plain(&[2, 8, 8, 8], 1.)];
        for silu in [false, true] {
            against_f64(&format!("norm {silu} at {scale}"), &inputs, |t| {
                let f = |x: &Tensor, g: &Tensor| {
                    if silu { group_norm_silu(x, g, &t[2], 2, 1e-5) } else { group_norm(x, g, &t[2], 2, 1e-5) }
                };
                let square = |x: &Tensor, g: &Tensor| (f(x, g)? * &t[3])?.sum_all();
                Ok(vec![
                    f(&t[0], &t[1])?,
                    grad::gradient(&t[0], |x| square(x, &t[1]))?.1,
                    grad::gradient(&t[1], |g| square(&t[0], g))?.1,
                    grad::hvp(&t[0], &t[3], |x| square(x, &t[1]))?,
                ])
            });
        }
        let inputs = [plain(&[3, 50], scale), plain(&[3, 50], 1.)];
        against_f64(&format!("activations at {scale}"), &inputs, |t| {
            let mut all = vec![];
            for f in [act::silu, act::sigmoid, act::softplus, act::gelu] {
                all.extend([f(&t[0])?, grad::vjp(&t[0], &t[1], f)?]);
            }
            Ok(all)
        });
    }
}

fn others(seed: u64, count: usize) {
    let mut r = Random(seed);
    for _ in 0..count {
        let (b, groups, each) = (1 + r.below(3), 1 + r.below(4), 1 + r.below(5));
        let (h, w) = (r.of(&[1, 2, 3, 5, 16, 17, 33]), r.of(&[1, 2, 3, 7, 16, 31]));
        let c = groups * each;
        if each * h * w == 1 {
            continue;
        }
        let inputs = [r.tensor(&[b, c, h, w]), r.tensor(&[c]), r.tensor(&[c]), r.tensor(&[b, c, h, w])];
        for silu in [false, true] {
            against_f64(&format!("norm {b} {c} {h} {w} by {groups} {silu}"), &inputs, |t| {
                let f = |x: &Tensor| {
                    if silu {
                        group_norm_silu(x, &t[1], &t[2], groups, 1e-2)
                    } else {
                        group_norm(x, &t[1], &t[2], groups, 1e-2)
                    }
                };
                Ok(vec![f(&t[0])?, grad::vjp(&t[0], &t[3], f)?, grad::hvp(&t[0], &t[3], |x| f(x)?.sqr()?.sum_all())?])
            });
        }
        let (n, m, d, e) = (r.of(&[1, 3, 16, 65, 130]), r.of(&[1, 2, 17, 64]), r.of(&[1, 4, 9]), r.of(&[1, 3, 8]));
        let heads = 1 + r.below(2);
        let inputs = [
            r.tensor(&[b, heads, n, d]),
            r.tensor(&[b, heads, m, d]),
            r.tensor(&[b, heads, m, e]),
            r.tensor(&[b, heads, n, e]),
            r.tensor(&[b, heads, d, n]),
            r.tensor(&[b, heads, e, n]),
        ];
        against_f64(&format!("attention {b} {heads} {n} {m} {d} {e}"), &inputs, |t| {
            Ok(vec![
                attend::attention(&t[0], &t[1], &t[2], 0.7)?,
                grad::vjp(&t[0], &t[3], |q| attend::attention(q, &t[1], &t[2], 0.7))?,
                grad::vjp(&t[1], &t[3], |k| attend::attention(&t[0], k, &t[2], 0.7))?,
                grad::vjp(&t[2], &t[3], |v| attend::attention(&t[0], &t[1], v, 0.7))?,
                attend::attention_of_channels(&t[4], &t[4], &t[5], 0.7)?,
            ])
        });
        let inputs = [r.tensor(&[b, c, 2 * h, 2 * w]), r.tensor(&[b, c, h, w]), r.tensor(&[5, w]), r.tensor(&[5])];
        against_f64(&format!("resample, linear {b} {c} {h} {w}"), &inputs, |t| {
            Ok(vec![
                resample::downsample_mean(&t[0])?,
                resample::upsample_nearest(&t[1])?,
                grad::vjp(&t[0], &t[1], resample::downsample_mean)?,
                grad::vjp(&t[1], &t[0], resample::upsample_nearest)?,
                linear::linear(&t[1], &t[2], Some(&t[3]))?,
                act::silu(&t[0])?,
                act::gelu(&t[0])?,
                act::softplus(&t[1])?,
                attend::softmax(&t[1])?,
                Value::cat(&[&Value::of(&t[1]), &Value::of(&t[1])], 1)?.tensor()?,
                Value::of(&t[1]).sum_per_sample()?.tensor()?,
            ])
        });
    }
}

#[test]
fn kernels_stay_inside_their_memory() {
    let rounds = 20 * more() as usize;
    for (mode, seed) in [(1, 11), (2, 12)] {
        for threads in [1, 3] {
            // new threads, so that their scratch memory is guarded
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            GUARD.store(mode, Relaxed);
            let some = vec![0f32; 100];
            assert!((LOW..HIGH).contains(&(some.as_ptr() as usize)));
            pool.install(|| {
                large(seed * 3 + threads as u64);
                convolutions(seed * 7 + threads as u64, rounds);
                others(seed * 5 + threads as u64, rounds / 6);
            });
            GUARD.store(0, Relaxed);
        }
    }
}

/// A random program of ops, on the tape and off it, of x `[1, 2, 2, 2]`, w `[2, 2, 3, 3]`, m `[2, 2]`, v `[2]`.
fn program(seed: u64, on: bool) -> impl Fn(&[Tensor]) -> Result<Tensor> + Send + Sync + 'static {
    move |t| recompute(on, || run(&mut Random(seed), t))
}

fn run(r: &mut Random, t: &[Tensor]) -> Result<Tensor> {
    let mut pool: Vec<Tensor> = vec![t[0].clone()];
    for _ in 0..2 + r.below(3) {
        let x = r.below(pool.len());
        let x = pool[x].clone();
        let y = match r.below(6) {
            0 => (x.sqr()? * 0.5)?,
            1 => (&pool[r.below(pool.len())] * &x)?,
            2 => (x.tanh()? + t[3].reshape((1, 2, 1, 1))?.broadcast_as((1, 2, 2, 2))?)?,
            3 => conv2d(&x, &t[1], Some(&t[3]), Geometry::same(3))?,
            _ => tape::run(&x, |x| network(r, x, t))?,
        };
        // hold it in check
        pool.push((y.tanh()? + 0.1)?);
    }
    let mut sum = pool.pop().unwrap();
    if r.below(2) == 0 {
        let other = &pool[r.below(pool.len())];
        sum = (sum + other)?;
    }
    // every argument matters, to any order
    for x in &t[1..] {
        sum = sum.broadcast_add(&(x.tanh()?.sum_all()? * 0.1)?)?;
    }
    sum + (t[0].tanh()? * 0.1)?
}

fn network(r: &mut Random, x: &Value, t: &[Tensor]) -> Result<Value> {
    let mut pool = vec![x.clone()];
    let outer = Value::of(&t[3]);
    for _ in 0..1 + r.below(4) {
        let x = pool[r.below(pool.len())].clone();
        let z = pool[r.below(pool.len())].clone();
        let y = if r.below(3) == 0 {
            // a value of the outer tape that is no input: the variable, or something computed
            let own = pool[r.below(pool.len())].clone();
            let captured = match r.below(3) {
                0 => outer.reshape((1, 2, 1, 1))?.broadcast((1, 2, 2, 2))?,
                1 => act::silu(&own)?,
                _ => own,
            };
            let (seed, t) = (r.next(), t.to_vec());
            let scaled = act::sigmoid(&outer)?;
            part(&[&x, &z, &scaled], move |v| {
                let s = v[2].reshape((1, 2, 1, 1))?.broadcast((1, 2, 2, 2))?;
                let c = captured.clone();
                let before = ONLY_TAPE.replace(true);
                let y = layer(&mut Random(seed), &v[0], &v[1], &t);
                ONLY_TAPE.set(before);
                let y = y?;
                act::silu(&y.mul(&s)?.add(&c.mul(&v[0])?)?)?.add(&act::sigmoid(&v[1].mul(&v[0])?)?)
            })?
        } else {
            layer(r, &x, &z, t)?
        };
        pool.push(y);
    }
    let last = pool.pop().unwrap();
    if r.below(2) == 0 { last.add(&pool[r.below(pool.len())]) } else { Ok(last) }
}

thread_local! {
    /// Inside parts, which must not pass through candle where they are recomputed.
    static ONLY_TAPE: Cell<bool> = const { Cell::new(false) };
}

fn layer(r: &mut Random, x: &Value, z: &Value, t: &[Tensor]) -> Result<Value> {
    let w = Value::of(&t[1]);
    let v = Value::of(&t[3]);
    match r.below(11) {
        0 => act::silu(x)?.mul(z),
        1 => conv2d(x, &w, Some(&v), Geometry::same(3)),
        2 => conv2d_add(x, &w, None, z, Geometry::same(3)),
        3 => group_norm_silu(x, &v, &v.affine(0.5, 0.1)?, 1 + r.below(2), 0.1),
        4 => group_norm(&act::gelu(x)?, &v, &v, 1, 0.1),
        5 => resample::downsample_mean(&group_norm_silu(&resample::upsample_nearest(x)?, &v, &v, 1, 0.1)?),
        6 => linear::linear(x, &Value::of(&t[2]), Some(&v)),
        7 => attend::attention_of_channels(x, z, &x.mul(z)?, 0.8),
        8 => Value::cat(&[&x.narrow(1, 1, 1)?, &z.narrow(1, 0, 1)?], 1)?.transpose(2, 3),
        9 if !ONLY_TAPE.get() => Ok(Value::of(&(x.clone().tensor()? * 0.7)?.sqr()?)), // through candle
        _ => attend::softmax(&x.sub(&z.affine(0.3, 0.2)?)?),
    }
}

/// How many times as many as usual: for a night's work.
fn more() -> u64 {
    std::env::var("LANGEVIN_TEST_MORE").ok().and_then(|v| v.parse().ok()).unwrap_or(1)
}

fn programs(seeds: std::ops::Range<u64>, order: usize, on: bool) {
    let mut failed = vec![];
    let seeds = seeds.start..seeds.start + (seeds.end - seeds.start) * more();
    for seed in seeds {
        let mut r = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let inputs: Vec<Tensor> = [vec![1, 2, 2, 2], vec![2, 2, 3, 3], vec![2, 2], vec![2]]
            .iter()
            .map(|d| {
                (Tensor::from_vec((0..d.iter().product()).map(|_| r.number()).collect::<Vec<_>>(), d.as_slice(), CPU)
                    .unwrap()
                    * 0.7)
                    .unwrap()
            })
            .collect();
        match check::order(&program(r.next() | 1, on), &inputs, order, CPU, DType::F64) {
            Ok(e) if e < 1e-6 => {}
            Ok(e) => failed.push(format!("{seed}: {e:e}")),
            Err(e) => failed.push(format!("{seed}: {e}")),
        }
    }
    assert!(failed.is_empty(), "order {order}, recompute {on}:\n{}", failed.join("\n"));
}

#[test]
fn random_programs_first_order() {
    programs(0..60, 1, false);
}

#[test]
fn random_programs_second_order() {
    programs(1000..1020, 2, false);
}

#[test]
fn random_programs_third_order() {
    programs(2000..2004, 3, false);
}

/// With recomputation.
#[test]
fn random_programs_recomputed_first_order() {
    programs(0..60, 1, true);
}

#[test]
fn random_programs_recomputed_second_order() {
    programs(1000..1020, 2, true);
}

#[test]
fn random_programs_recomputed_third_order() {
    programs(2000..2004, 3, true);
}
