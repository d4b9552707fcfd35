//! `grad`: second order right inside `value_and_grad`, detached outside, on any thread, and its errors.

use langevin_ops::conv::{Geometry, conv2d};
use langevin_ops::norm::group_norm_silu;
use langevin_ops::{DType, Device, Result, Tensor, Var, act, grad};

const CPU: &Device = &Device::Cpu;

fn tensor(values: &[f64]) -> Tensor {
    Tensor::new(values, CPU).unwrap()
}

fn close(a: &Tensor, b: &[f64]) {
    let a = a.flatten_all().unwrap().to_vec1::<f64>().unwrap();
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        assert!((a - b).abs() <= 1e-9 * b.abs().max(1.), "{a} for {b}");
    }
}

/// The score loss of the energy E = w x^4: |dE/dx|^2 = 16 w^2 x^6, whose derivative by w is 32 w x^6.
fn score_loss(w: &Var, x: &Tensor) -> Result<Tensor> {
    let (_, score) = grad::gradient(x, |x| x.powf(4.)?.broadcast_mul(w)?.sum_all())?;
    score.sqr()?.sum_all()
}

#[test]
fn a_gradient_inside_value_and_grad_is_differentiated_through() {
    let (w, x) = (Var::new(0.7f64, CPU).unwrap(), tensor(&[1., 2., -0.5]));
    let (value, grads) = grad::value_and_grad(std::slice::from_ref(&w), || score_loss(&w, &x)).unwrap();
    let sixth: f64 = [1f64, 2., -0.5].iter().map(|x| x.powi(6)).sum();
    close(&value, &[16. * 0.49 * sixth]);
    close(&grads[0], &[32. * 0.7 * sixth]);
    assert!(!grads[0].track_op() && !value.track_op());
}

#[test]
fn a_gradient_outside_is_detached() {
    let w = Var::new(0.7f64, CPU).unwrap();
    let (e, g) = grad::gradient(&tensor(&[1., 2.]), |x| x.sqr()?.broadcast_mul(&w)?.sum_all()).unwrap();
    assert!(!e.track_op() && !g.track_op());
    close(&g, &[1.4, 2.8]);
}

#[test]
fn second_order_is_right_on_every_thread_and_after_first_order() {
    let threads: Vec<_> = (0..8)
        .map(|i| {
            std::thread::spawn(move || {
                let w = Var::new(1. + f64::from(i), CPU).unwrap();
                let x = tensor(&[1., 1.5]);
                for _ in 0..20 {
                    let (_, first) = grad::value_and_grad(std::slice::from_ref(&w), || w.sqr()).unwrap();
                    close(&first[0], &[2. * (1. + f64::from(i))]);
                    let (_, second) = grad::value_and_grad(std::slice::from_ref(&w), || score_loss(&w, &x)).unwrap();
                    close(&second[0], &[32. * (1. + f64::from(i)) * (1. + 1.5f64.powi(6))]);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
}

#[test]
fn an_error_inside_leaves_the_next_gradient_right() {
    let w = Var::new(0.7f64, CPU).unwrap();
    let failed = grad::value_and_grad(std::slice::from_ref(&w), || langevin_ops::bail!("no value today"));
    assert!(failed.is_err_and(|e| e.to_string().contains("no value today")));
    let (_, g) = grad::gradient(&tensor(&[1.]), |x| x.broadcast_mul(&w)?.sum_all()).unwrap();
    assert!(!g.track_op(), "the scope of the failed call is still open");
}

#[test]
fn hessians_and_third_derivatives() {
    let x = tensor(&[0.5, -1., 2.]);
    let v = tensor(&[1., 2., 3.]);
    let f = |x: &Tensor| x.powf(4.)?.sum_all();
    close(&grad::hvp(&x, &v, f).unwrap(), &[12. * 0.25, 24., 12. * 4. * 3.]);
    // the gradient of v^T H v, a gradient of a gradient of a gradient: 24 x v^2
    let (vhv, third) = grad::gradient(&x, |x| (grad::hvp(x, &v, f)? * &v)?.sum_all()).unwrap();
    close(&vhv, &[3. + 48. + 12. * 4. * 9.]);
    close(&third, &[12., -96., 24. * 2. * 9.]);
}

#[test]
fn divergence_of_a_linear_field_is_exact_for_each_sample() {
    let x = Tensor::new(&[[1f64, 2.], [3., 4.]], CPU).unwrap();
    let v = Tensor::new(&[[1f64, -1.], [-1., -1.]], CPU).unwrap();
    let d = grad::divergence(&x, &v, |x| x.broadcast_mul(&tensor(&[3., 5.]))).unwrap();
    close(&d, &[8., 8.]);
}

#[test]
fn the_gradient_at_a_weight_is_not_skipped() {
    let x = Tensor::ones((1, 1, 3, 3), DType::F64, CPU).unwrap();
    let w = Var::ones((1, 1, 3, 3), DType::F64, CPU).unwrap();
    let (_, g) = grad::gradient(w.as_tensor(), |w| conv2d(&x, w, None, Geometry::same(3))?.sum_all()).unwrap();
    close(&g, &[4., 6., 4., 6., 9., 6., 4., 6., 4.]);
}

fn message<T: std::fmt::Debug>(result: Result<T>) -> String {
    result.expect_err("an error").to_string()
}

#[test]
fn misuse_is_said_in_a_sentence() {
    let (w, x) = (Var::new(&[1f64, 2.], CPU).unwrap(), tensor(&[1., 2.]));
    let vars = std::slice::from_ref(&w);
    assert!(message(grad::value_and_grad(vars, || Ok(w.as_tensor().clone()))).contains("reduce it to one number"));
    assert!(message(grad::value_and_grad(vars, || x.sum_all())).contains("depends on none of the 1 variables"));
    assert!(message(grad::gradient(&x, |_| w.sum_all())).contains("does not depend on the input"));
    let computed = (w.as_tensor() * 2.).unwrap();
    assert!(message(grad::gradient(&computed, |x| x.sum_all())).contains("computed from variables"));
}

#[test]
fn an_unused_variable_has_gradient_zero() {
    let (a, b) = (Var::new(2f64, CPU).unwrap(), Var::new(&[1f64, 1.], CPU).unwrap());
    let (_, grads) = grad::value_and_grad(&[a.clone(), b], || a.sqr()).unwrap();
    close(&grads[0], &[4.]);
    close(&grads[1], &[0., 0.]);
}

/// An energy with the ops of a network: its parameter gradients by double backward against differences.
#[test]
fn a_small_network_trained_on_its_score() {
    let values = |n: usize, k: f64| (0..n).map(|i| (k * (i as f64 + 1.)).sin()).collect::<Vec<_>>();
    let tensor = |dims: &[usize], k| Tensor::from_vec(values(dims.iter().product(), k), dims, CPU).unwrap();
    let vars: Vec<Var> = [(vec![4, 1, 3, 3], 0.9), (vec![4], 0.3), (vec![4], 1.3), (vec![4], 2.1)]
        .iter()
        .map(|(dims, k)| Var::from_tensor(&tensor(dims, *k)).unwrap())
        .collect();
    let x = tensor(&[2, 1, 4, 4], 1.7);
    let loss = || {
        let (_, score) = grad::gradient(&x, |x| {
            let h = conv2d(x, &vars[0], Some(&vars[1]), Geometry::same(3))?;
            act::silu(&group_norm_silu(&h, &vars[2], &vars[3], 2, 1e-5)?)?.sqr()?.sum_all()
        })?;
        score.sqr()?.sum_all()
    };
    let (_, grads) = grad::value_and_grad(&vars, loss).unwrap();
    for (var, g) in vars.iter().zip(&grads) {
        let (start, step) = (var.as_tensor().copy().unwrap(), 1e-5);
        let direction = tensor(var.dims(), 0.77);
        let at = |h: f64| {
            var.set(&(&start + (&direction * h).unwrap()).unwrap()).unwrap();
            loss().unwrap().to_scalar::<f64>().unwrap()
        };
        let numeric = (at(step) - at(-step)) / (2. * step);
        var.set(&start).unwrap();
        let exact = (g * &direction).unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap();
        assert!((exact - numeric).abs() < 1e-5 * numeric.abs().max(1e-3), "{exact} for {numeric}");
    }
}
