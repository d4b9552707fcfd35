//! First-order gradients keep no graph: a chain of many blocks holds no more than its forward pass and a little.
//!
//! One test alone in its process, so that what the allocator counts is what it allocated.

#![allow(unsafe_code)]

use langevin_ops::conv::{Geometry, conv2d};
use langevin_ops::norm::group_norm_silu;
use langevin_ops::{DType, Device, Result, Tensor, Var, grad};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: passes everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(NOW.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: as promised by the caller.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const BLOCKS: usize = 12;

#[test]
fn first_order_keeps_no_graph() {
    let cpu = &Device::Cpu;
    let x = Tensor::ones((32, 16, 16, 16), DType::F32, cpu).unwrap();
    let image = x.elem_count() * 4;
    let w = Var::from_tensor(&(Tensor::ones((16, 16, 3, 3), DType::F32, cpu).unwrap() * 1e-2).unwrap()).unwrap();
    let (gamma, beta) = (Var::ones(16, DType::F32, cpu).unwrap(), Var::zeros(16, DType::F32, cpu).unwrap());
    let net = |x: &Tensor| -> Result<Tensor> {
        let mut h = x.clone();
        for _ in 0..BLOCKS {
            h = conv2d(&h, &w, Some(&beta), Geometry::same(3))?;
            h = group_norm_silu(&h, &gamma, &beta, 4, 1e-5)?;
        }
        h.sum_all()
    };
    let vars = [w.clone(), gamma.clone(), beta.clone()];
    let peak = |f: &dyn Fn()| {
        (0..3).for_each(|_| f()); // threads and their scratch memory
        let before = NOW.load(Relaxed);
        PEAK.store(before, Relaxed);
        f();
        (PEAK.load(Relaxed).saturating_sub(before) / image, NOW.load(Relaxed).saturating_sub(before) / image)
    };
    let (sampling, kept) = peak(&|| drop(net(&x).unwrap()));
    assert!(sampling <= 2 * BLOCKS + 4 && kept <= 1, "forward: {sampling} images, kept {kept}");
    let (training, kept) = peak(&|| drop(grad::value_and_grad(&vars, || net(&x)).unwrap()));
    assert!(training <= 2 * BLOCKS + 8 && kept <= 1, "first order: {training} images, kept {kept}");
    let (score, kept) = peak(&|| drop(grad::gradient(&x, net).unwrap()));
    assert!(score <= 2 * BLOCKS + 8 && kept <= 1, "score: {score} images, kept {kept}");
    let (second, kept) = peak(&|| {
        let loss = || grad::gradient(&x, net)?.1.sqr()?.sum_all();
        drop(grad::value_and_grad(&vars, loss).unwrap());
    });
    assert!(second > training && kept <= 1, "second order: {second} images, kept {kept}");
}
