//! Convolution and its two gradients at the layers of two U-Nets: milliseconds, and GFLOP/s as of a direct product.
//!
//! `cargo bench -p langevin-ops --bench conv [-- words that a line must contain]`

#![allow(clippy::print_stdout)]

use langevin_ops::conv::{Geometry, conv2d, conv2d_input_grad, conv2d_weight_grad};
use langevin_ops::{Device, Tensor};
use std::time::{Duration, Instant};

fn tensor(dims: [usize; 4]) -> Tensor {
    let values: Vec<f32> = (0..dims.iter().product()).map(|i: usize| ((i * 7919 % 2003) as f32) / 1001. - 1.).collect();
    Tensor::from_vec(values, &dims, &Device::Cpu).unwrap()
}

/// The least milliseconds of many runs.
fn least(f: impl Fn() -> Tensor) -> f64 {
    (0..2).for_each(|_| drop(f()));
    let (begin, mut times) = (Instant::now(), vec![]);
    while times.len() < 5 || (times.len() < 60 && begin.elapsed() < Duration::from_millis(200)) {
        let start = Instant::now();
        let y = f();
        times.push(start.elapsed().as_secs_f64() * 1e3);
        drop(y);
    }
    times.into_iter().fold(f64::MAX, f64::min)
}

fn layer(words: &[String], batch: usize, [c, o, side]: [usize; 3], stride: usize, kernel: usize, pad: [usize; 4]) {
    let name = format!("{batch} {c} {o} {side} {stride} {kernel}");
    if !words.is_empty() && !words.contains(&name) {
        return;
    }
    let geometry = Geometry { stride, pad };
    let (x, w) = (tensor([batch, c, side, side]), tensor([o, c, kernel, kernel]));
    let bias = tensor([1, 1, 1, o]).flatten_all().unwrap();
    let g = conv2d(&x, &w, Some(&bias), geometry).unwrap();
    let times = [
        least(|| conv2d(&x, &w, Some(&bias), geometry).unwrap()),
        least(|| conv2d_input_grad(&g, &w, (side, side), geometry).unwrap()),
        least(|| conv2d_weight_grad(&x, &g, (kernel, kernel), geometry).unwrap()),
    ];
    let flops = 2. * (g.elem_count() * c * kernel * kernel) as f64;
    let [a, b, d] = times.map(|ms| format!("{ms:.3}"));
    let [p, q, r] = times.map(|ms| format!("{:.0}", flops / ms / 1e6));
    println!("{name} {a} {b} {d} {p} {q} {r}");
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let same = [1; 4];
    for layer_of in [
        [1, 32, 28],
        [32, 32, 28],
        [32, 64, 14],
        [64, 64, 14],
        [64, 64, 7],
        [128, 64, 7],
        [128, 64, 14],
        [96, 64, 14],
        [96, 32, 28],
        [64, 32, 28],
        [64, 64, 28],
        [32, 1, 28],
    ] {
        layer(&words, 64, layer_of, 1, 3, same);
    }
    for layer_of in [[32, 32, 28], [64, 64, 14]] {
        layer(&words, 64, layer_of, 2, 3, same);
    }
    for layer_of in [[128, 64, 14], [96, 32, 28], [64, 32, 28], [32, 64, 14]] {
        layer(&words, 64, layer_of, 1, 1, [0; 4]);
    }
    for layer_of in [
        [3, 128, 32],
        [128, 128, 32],
        [256, 128, 32],
        [384, 128, 32],
        [256, 256, 32],
        [128, 256, 16],
        [256, 256, 16],
        [512, 256, 16],
        [384, 256, 16],
        [256, 256, 8],
        [512, 256, 8],
        [256, 256, 4],
        [512, 256, 4],
        [128, 3, 32],
    ] {
        layer(&words, 8, layer_of, 1, 3, same);
    }
    for layer_of in [[128, 128, 32], [256, 256, 16], [256, 256, 8]] {
        layer(&words, 8, layer_of, 2, 3, [0, 1, 0, 1]);
    }
    for layer_of in [[512, 256, 16], [384, 256, 16], [384, 128, 32], [256, 128, 32], [128, 256, 16]] {
        layer(&words, 8, layer_of, 1, 1, [0; 4]);
    }
}
