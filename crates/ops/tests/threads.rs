//! Gradients on many threads. In child processes, since the number of threads is chosen once, and what fails may never end.

#![allow(clippy::print_stdout)] // children tell their parents

use langevin_ops::conv::{Geometry, conv2d};
use langevin_ops::{DType, Device, Tensor, Var, act, attend, check, grad, norm, tape, threads};
use std::process::Command;

const CPU: &Device = &Device::Cpu;

/// Runs the test `name` of this file alone in a process, with REVIEW set.
fn child(name: &str) -> (bool, String) {
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads", "1", "--ignored"])
        .output()
        .unwrap();
    (
        out.status.success(),
        format!("{:?}\n{}\n{}", out.status, String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr)),
    )
}

/// As the program does: on a thread of its own that is one of two that compute.
fn program<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    let all = || {
        threads::set(Some(2)).unwrap();
        f()
    };
    threads::main(all).unwrap()
}

fn long_chain() {
    let w = Var::new(1f64, CPU).unwrap();
    let (_, g) = grad::value_and_grad(std::slice::from_ref(&w), || {
        let mut y = w.as_tensor().clone();
        for _ in 0..60_000 {
            y = (y + 1e-6)?;
        }
        Ok(y)
    })
    .unwrap();
    assert_eq!(g[0].to_scalar::<f64>().unwrap(), 1.);
}

#[test]
#[ignore = "a child of the tests below"]
fn child_long_chain_adopted() {
    program(long_chain);
}

#[test]
#[ignore = "a child of the tests below"]
fn child_long_chain_plain() {
    long_chain();
}

/// Backward passes recurse over candle's graph.
#[test]
fn a_long_chain_on_an_adopted_thread() {
    let (plain, said) = child("child_long_chain_plain");
    assert!(plain, "without adoption: {said}");
    let (adopted, said) = child("child_long_chain_adopted");
    assert!(adopted, "adopted: {said}");
}

/// Whether the backward pass under `by_composition` is one: silu's in f32 differs in its last bits from the kernel's.
#[test]
fn by_composition_reaches_the_backward_pass() {
    let n = 4096;
    let x = Tensor::from_vec((0..n).map(|i| (i as f32 * 0.37).sin() * 9.).collect::<Vec<_>>(), n, CPU).unwrap();
    let g = Tensor::ones(n, DType::F32, CPU).unwrap();
    let kernel = grad::vjp(&x, &g, act::silu).unwrap().to_vec1::<f32>().unwrap();
    let composed = check::by_composition(|| grad::vjp(&x, &g, act::silu)).unwrap().to_vec1::<f32>().unwrap();
    assert_ne!(kernel, composed, "bit for bit the kernel's: the composition's backward pass was not run");
}

fn scaled(scale: f64, vars: &[Var], emb: &Tensor) -> langevin_ops::Result<Vec<f64>> {
    let (_, g) = grad::value_and_grad(vars, || (emb * scale)?.sum_all())?;
    g.iter().map(|g| Ok(g.to_vec1::<f64>()?[0])).collect()
}

/// Whether a gradient is wrong and no error says so.
fn wrong(scale: f64, vars: &[Var], emb: &Tensor, one: &[f64]) -> bool {
    scaled(scale, vars, emb).is_ok_and(|g| g.iter().zip(one).any(|(g, one)| (g - scale * one).abs() > 1e-9))
}

#[test]
#[ignore = "a child of the tests below"]
fn child_shared_root() {
    program(shared_root);
}

/// The program's own thread and another one take gradients through one node computed before.
fn shared_root() {
    let vars: Vec<Var> = (0..9).map(|i| Var::new(&[1. + f64::from(i), 2.], CPU).unwrap()).collect();
    // a value of nine variables, more than an op of candle's has arguments
    let mut sum = tape::Value::of(&vars[0]);
    for v in &vars[1..] {
        sum = act::silu(&sum.add(&tape::Value::of(v)).unwrap()).unwrap();
    }
    let emb = sum.tensor().unwrap();
    let one = scaled(1., &vars, &emb).unwrap();
    let (vars2, emb2, one2) = (vars.clone(), emb.clone(), one.clone());
    let other = std::thread::spawn(move || (0..5_000).filter(|_| wrong(3., &vars2, &emb2, &one2)).count());
    let mine = (0..5_000).filter(|_| wrong(1., &vars, &emb, &one)).count();
    let theirs = other.join().unwrap();
    assert_eq!((mine, theirs), (0, 0), "wrong gradients, without an error, of 5000");
}

/// Two threads take gradients through one value at the same time.
#[test]
fn two_threads_through_one_value() {
    let (ok, said) = child("child_shared_root");
    assert!(ok, "{said}");
}

#[test]
#[ignore = "a child of the tests below"]
fn child_many_threads() {
    let n: usize = std::env::var("LANGEVIN_TEST").unwrap().parse().unwrap();
    let all = || {
        threads::set(Some(n)).unwrap();
        grad::init().unwrap();
        let others: Vec<_> = (0..4).map(|_| std::thread::spawn(train)).collect();
        train();
        // and while this thread only waits
        others.into_iter().for_each(|t| t.join().unwrap());
        rayon::scope(|s| (0..8).for_each(|_| s.spawn(|_| train())));
    };
    threads::main(all).unwrap();
}

fn train() {
    let x = Tensor::ones((4, 16, 16, 16), DType::F32, CPU).unwrap();
    let w = Var::ones((16, 16, 3, 3), DType::F32, CPU).unwrap();
    for _ in 0..20 {
        let loss = || {
            let energy =
                |x: &Tensor| act::silu(&(conv2d(x, w.as_tensor(), None, Geometry::same(3))? * 1e-2)?)?.sum_all();
            grad::gradient(&x, energy)?.1.sqr()?.sum_all()
        };
        grad::value_and_grad(std::slice::from_ref(&w), loss).unwrap();
    }
}

/// The child ends well within so many seconds.
fn ends(name: &str, n: &str, seconds: u64) {
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--test-threads", "1", "--ignored"])
        .env("LANGEVIN_TEST", n)
        .spawn()
        .unwrap();
    let start = std::time::Instant::now();
    loop {
        if let Some(status) = process.try_wait().unwrap() {
            return assert!(status.success(), "{name} {n}");
        }
        if start.elapsed().as_secs() > seconds {
            process.kill().unwrap();
            process.wait().unwrap();
            panic!("{name} {n}: no end");
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn any_number_of_threads() {
    for n in ["1", "2", "7"] {
        ends("child_many_threads", n, 120);
    }
}

/// A function differentiated by differences that itself takes a first-order gradient: its backward pass runs on the
/// thread that it waits for.
#[test]
fn differences_of_a_function_that_takes_gradients_end() {
    ends("child_nested_differences", "", 20);
}

#[test]
#[ignore = "a child of the tests below"]
fn child_nested_differences() {
    let w = Var::new(&[0.5f64, 0.7, 0.9], CPU).unwrap();
    let inner = w.as_tensor().clone();
    let x = Tensor::new(&[[0.3f64, -0.2, 0.5], [1., 0.4, 0.2]], CPU).unwrap();
    let loss = || {
        let w = inner.clone();
        grad::gradient_by_differences(&x, move |x| {
            // a step size from a gradient: a number, not differentiated
            let at = Var::from_tensor(&x.detach())?;
            let (_, g) = grad::value_and_grad(std::slice::from_ref(&at), || at.sqr()?.sum_all())?;
            (x.sqr()?.broadcast_mul(&w)? * g[0].detach())?.sum(1)
        })?
        .sqr()?
        .sum_all()
    };
    let _ = grad::value_and_grad(std::slice::from_ref(&w), loss);
}

/// Gradients taken by the jobs of a parallel iterator.
fn in_parallel() {
    use rayon::prelude::*;
    let x = Tensor::ones((2, 16, 16, 16), DType::F32, CPU).unwrap();
    let w = Tensor::ones((16, 16, 3, 3), DType::F32, CPU).unwrap();
    (0..16).into_par_iter().for_each(|_| {
        grad::gradient(&x, |x| conv2d(x, &w, None, Geometry::same(3))?.sqr()?.sum_all()).unwrap();
    });
}

#[test]
#[ignore = "a child of the tests below"]
fn child_in_parallel() {
    match std::env::var("LANGEVIN_TEST").unwrap().as_str() {
        "plain" => in_parallel(),
        "own" => program(in_parallel),
        _ => program(|| std::thread::spawn(in_parallel).join().unwrap()),
    }
}

/// The pool's threads wait for the backward thread, whose kernels need the pool.
#[test]
fn gradients_inside_a_parallel_iterator_end() {
    for from in ["plain", "own", "another"] {
        ends("child_in_parallel", from, 60);
    }
}

#[test]
#[ignore = "a child of the tests below"]
fn child_bits() {
    if std::env::var("LANGEVIN_TEST").unwrap() == "set" { threads::main(bits).unwrap() } else { bits() }
}

fn bits() {
    if let Ok(n) = std::env::var("LANGEVIN_TEST_THREADS") {
        threads::set(n.parse().ok()).unwrap();
    }
    let of = |dims: &[usize], k: f64| {
        let n = dims.iter().product();
        Tensor::from_vec((0..n).map(|i: usize| ((k * i as f64).sin() * 0.3) as f32).collect::<Vec<_>>(), dims, CPU)
            .unwrap()
    };
    let x = of(&[8, 3, 16, 16], 0.37);
    let vars: Vec<Var> = [
        (vec![32, 3, 3, 3], 0.11),
        (vec![32], 0.9),
        (vec![32], 1.9),
        (vec![32, 32, 3, 3], 0.13),
        (vec![32, 32, 1, 1], 0.7),
    ]
    .iter()
    .map(|(d, k)| Var::from_tensor(&of(d, *k)).unwrap())
    .collect();
    let loss = || {
        let (_, g) = grad::gradient(&x, |x| {
            tape::run(x, |x| {
                let v = |i: usize| tape::Value::of(&vars[i]);
                let h = conv2d(x, &v(0), Some(&v(1)), Geometry::same(3))?;
                let h = norm::group_norm_silu(&h, &v(1), &v(2), 8, 1e-5)?;
                let h = conv2d(&h, &v(3), None, Geometry { stride: 2, pad: [1; 4] })?;
                let h = conv2d(&h, &v(4), None, Geometry::same(1))?;
                let q = h.reshape((8, 2, 16, 64))?;
                attend::attention_of_channels(&q, &q, &q, 0.3)?.mul(&q)?.sum_per_sample()
            })
        })?;
        g.sqr()?.sum_all()
    };
    let (_, grads) = grad::value_and_grad(&vars, loss).unwrap();
    let mut hash = 0u64;
    for g in grads {
        for v in g.flatten_all().unwrap().to_vec1::<f32>().unwrap() {
            hash = hash.wrapping_mul(0x100_0000_01b3) ^ u64::from(v.to_bits());
        }
    }
    println!("bits {hash:x}");
}

#[test]
fn bits_of_a_training_step() {
    let mut seen = vec![];
    for threads in ["1", "2", "2", "5"] {
        for set in ["set", "no", "set"] {
            let out = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "child_bits", "--nocapture", "--test-threads", "1", "--ignored"])
                .env("LANGEVIN_TEST", set)
                .env("LANGEVIN_TEST_THREADS", threads)
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            seen.push(text.split("bits ").nth(1).unwrap_or(&text).split_whitespace().next().unwrap_or("").to_owned());
        }
    }
    assert!(seen.iter().all(|s| s == &seen[0]), "{seen:?}");
}

#[test]
#[ignore = "a child of the tests below"]
fn child_memory() {
    if std::env::var("LANGEVIN_TEST").unwrap() == "set" { program(memory) } else { memory() }
}

fn memory() {
    let x = Var::ones(1 << 20, DType::F32, CPU).unwrap(); // 4 MiB
    grad::value_and_grad(std::slice::from_ref(&x), || {
        let mut y = x.as_tensor().clone();
        for _ in 0..50 {
            y = y.tanh()?;
        }
        y.sum_all()
    })
    .unwrap();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find(|l| l.starts_with("VmHWM")).unwrap();
    println!("peak {} kb", peak.split_whitespace().nth(1).unwrap());
}

/// A first-order pass over candle's own operations on the adopted thread keeps the graph of the gradients.
#[test]
fn first_order_on_an_adopted_thread_keeps_no_graph() {
    let peak = |n: &str| {
        let out = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_memory", "--nocapture", "--test-threads", "1", "--ignored"])
            .env("LANGEVIN_TEST", n)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        text.split("peak ").nth(1).unwrap().split_whitespace().next().unwrap().parse::<u64>().unwrap() >> 10
    };
    let (worker, adopted) = (peak("no"), peak("set"));
    assert!(adopted <= worker * 12 / 10, "worker {worker} MiB, adopted {adopted} MiB");
}

#[test]
#[ignore = "a child of the tests below"]
fn child_differences_adopted() {
    program(differences);
}

fn differences() {
    let w = Var::new(&[0.5f64, 0.7, 0.9], CPU).unwrap();
    let x = Tensor::new(&[[0.3f64, -0.2, 0.5], [1., 0.4, 0.2]], CPU).unwrap();
    let at = |exact: bool| {
        let loss = || {
            let v = w.as_tensor().clone();
            let f = move |x: &Tensor| act::silu(&x.broadcast_mul(&v)?)?.sum(1);
            let s = if exact { grad::gradient(&x, f)?.1 } else { grad::gradient_by_differences(&x, f)? };
            s.sqr()?.sum_all()
        };
        grad::value_and_grad(std::slice::from_ref(&w), loss).unwrap().1[0].to_vec1::<f64>().unwrap()
    };
    for (a, b) in at(true).iter().zip(at(false)) {
        assert!((a - b).abs() < 1e-3 * a.abs(), "{a} {b}");
    }
}

#[test]
fn differences_on_an_adopted_thread() {
    let (ok, said) = child("child_differences_adopted");
    assert!(ok, "{said}");
}
