//! The three ops against their definition in f64, and their bits against the batch and the number of threads.

use super::*;

/// Numbers without structure in [-1, 1].
fn noise(n: usize, seed: u32) -> Vec<f64> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        f64::from(state) / 2_147_483_648. - 1.
    };
    (0..n).map(|_| next()).collect()
}

fn single(x: &[f64]) -> Vec<f32> {
    x.iter().map(|&v| v as f32).collect()
}

/// All sizes from `[batch, channels, outputs, height, width, kernel height, kernel width, stride]`.
fn plan([batch, channels, outputs, height, width, kh, kw, stride]: [usize; 8], pad: [usize; 4]) -> Plan {
    let out = [(height + pad[0] + pad[1] - kh) / stride + 1, (width + pad[2] + pad[3] - kw) / stride + 1];
    Plan { batch, channels, height, width, outputs, kernel: [kh, kw], stride, pad, out }
}

/// T(x, w, g) term by term: calls `f` with the places of x, w and g.
fn terms(plan: &Plan, mut f: impl FnMut(usize, usize, usize)) {
    let ([kh, kw], [rows, columns]) = (plan.kernel, plan.out);
    for n in 0..plan.batch {
        for (o, c) in (0..plan.outputs).flat_map(|o| (0..plan.channels).map(move |c| (o, c))) {
            for (i, j) in (0..kh).flat_map(|i| (0..kw).map(move |j| (i, j))) {
                for (y, x) in (0..rows).flat_map(|y| (0..columns).map(move |x| (y, x))) {
                    let (from_y, from_x) = (y * plan.stride + i, x * plan.stride + j);
                    let inside = |at: usize, pad: usize, size: usize| at >= pad && at < size + pad;
                    if inside(from_y, plan.pad[0], plan.height) && inside(from_x, plan.pad[2], plan.width) {
                        let image = (n * plan.channels + c) * plan.height + from_y - plan.pad[0];
                        let output = ((n * plan.outputs + o) * rows + y) * columns + x;
                        let weight = ((o * plan.channels + c) * kh + i) * kw + j;
                        f(image * plan.width + from_x - plan.pad[2], weight, output);
                    }
                }
            }
        }
    }
}

struct Case {
    plan: Plan,
    x: Vec<f64>,
    w: Vec<f64>,
    g: Vec<f64>,
    add_x: Vec<f64>,
    add_y: Vec<f64>,
    bias: Vec<f64>,
}

impl Case {
    /// x and g are of size `scale`, the weights of size 1 / scale.
    fn new(plan: Plan, scale: f64) -> Self {
        let (x, y) = (plan.channels * plan.height * plan.width, plan.outputs * plan.pixels());
        let of = |n, seed, scale: f64| -> Vec<f64> {
            noise(n, seed).into_iter().map(|v| f64::from((v * scale) as f32)).collect()
        };
        Self {
            plan,
            x: of(plan.batch * x, 1, scale),
            w: of(plan.outputs * plan.terms(), 2, 1. / scale),
            g: of(plan.batch * y, 3, scale),
            add_x: of(plan.batch * x, 4, 1.),
            add_y: of(plan.batch * y, 5, 1.),
            bias: of(plan.batch * plan.outputs, 6, 1.),
        }
    }

    fn check(&self) {
        let Self { plan, x, w, g, add_x, add_y, bias } = self;
        let (mut y, mut gx, mut gw) = (add_y.clone(), add_x.clone(), vec![0.; w.len()]);
        for (i, y) in y.iter_mut().enumerate() {
            *y += bias[i / plan.pixels()];
        }
        terms(plan, |i, k, p| {
            y[p] += x[i] * w[k];
            gx[i] += g[p] * w[k];
            gw[k] += g[p] * x[i];
        });
        let [xs, ws, gs, add_xs, add_ys, biases] = [x, w, g, add_x, add_y, bias].map(|v| single(v));
        let bias = Bias::Sample(&biases);
        close("forward", plan, &forward(plan, &xs, &ws, bias, Some(&add_ys)), &y);
        close("input_grad", plan, &input_grad(plan, &gs, &ws, Some(&add_xs)), &gx);
        close("weight_grad", plan, &weight_grad(plan, &xs, &gs), &gw);
        let plain = forward(plan, &xs, &ws, Bias::Channel(&biases[..plan.outputs]), None);
        for (p, y) in y.iter_mut().enumerate() {
            let i = p / plan.pixels();
            *y += f64::from(biases[i % plan.outputs]) - f64::from(biases[i]) - add_y[p];
        }
        close("forward without add", plan, &plain, &y);
        gx.iter_mut().zip(add_x).for_each(|(gx, add)| *gx -= add);
        close("input_grad without add", plan, &input_grad(plan, &gs, &ws, None), &gx);
    }
}

fn close(op: &str, plan: &Plan, a: &[f32], b: &[f64]) {
    assert_eq!(a.len(), b.len(), "{op} {plan:?}");
    let largest = b.iter().fold(1e-30, |max: f64, v| max.max(v.abs()));
    let error = a
        .iter()
        .zip(b)
        .fold(0., |max: f64, (&a, b)| if a.is_finite() { max.max((f64::from(a) - b).abs()) } else { f64::INFINITY });
    assert!(error <= 1e-5 * largest, "{op}: error {:e} of the largest, {plan:?}", error / largest);
}

/// Every kind of layer, in sizes that leave something over.
fn plans() -> Vec<Plan> {
    let mut plans = vec![];
    for (height, width) in [(1, 1), (5, 3), (7, 7), (13, 9), (4, 4), (8, 8), (20, 17)] {
        for (batch, c, o) in [(1, 1, 5), (2, 3, 17), (5, 16, 32), (3, 33, 20), (2, 24, 1), (1, 48, 3), (2, 64, 64)] {
            plans.push(plan([batch, c, o, height, width, 3, 3, 1], [1; 4]));
            plans.push(plan([batch, c, o, height, width, 1, 1, 1], [0; 4]));
            plans.push(plan([batch, c, o, height, width, 3, 3, 2], [1; 4]));
            if height > 1 {
                plans.push(plan([batch, c, o, height, width, 3, 3, 2], [0, 1, 0, 1]));
            }
        }
        plans.push(plan([2, 18, 19, height, width, 3, 3, 1], [2, 0, 0, 2]));
        plans.push(plan([2, 18, 19, height, width, 3, 3, 1], [3, 5, 4, 3]));
        plans.push(plan([2, 18, 19, height, width, 3, 3, 2], [3, 5, 4, 3]));
        plans.push(plan([2, 18, 19, height, width, 5, 2, 1], [2, 2, 1, 1]));
        plans.push(plan([2, 18, 19, height, width, 5, 5, 3], [2, 3, 2, 4]));
        plans.push(plan([2, 18, 19, height, width, 1, 1, 2], [0; 4]));
        plans.push(plan([2, 18, 19, height, width, 1, 1, 1], [1, 0, 2, 0]));
        plans.push(plan([2, 18, 19, height, width, 2, 2, 2], [1, 0, 0, 1]));
    }
    plans
}

#[test]
fn ops_are_their_definition() {
    plans().into_iter().for_each(|plan| Case::new(plan, 1.).check());
}

#[test]
fn many_channels_and_scales_keep_the_digits() {
    for scale in [1., 1e4, 1e-4] {
        for (c, o, side) in [(512, 20, 8), (24, 512, 8), (40, 40, 32)] {
            Case::new(plan([1, c, o, side, side, 3, 3, 1], [1; 4]), scale).check();
        }
    }
}

#[test]
fn bits_depend_on_neither_batch_nor_threads() {
    for plan in plans() {
        let plan = Plan { batch: 5, ..plan };
        let case = Case::new(plan, 1.);
        let [x, w, g, add_x, add_y] = [&case.x, &case.w, &case.g, &case.add_x, &case.add_y].map(|v| single(v));
        let on = |threads, plan: &Plan, x: &[f32], g: &[f32], add_x: &[f32], add_y: &[f32]| {
            rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
                [
                    forward(plan, x, &w, Bias::None, Some(add_y)),
                    input_grad(plan, g, &w, Some(add_x)),
                    weight_grad(plan, x, g),
                ]
            })
        };
        let all = on(1, &plan, &x, &g, &add_x, &add_y);
        assert_eq!(all, on(2, &plan, &x, &g, &add_x, &add_y), "{plan:?}");
        let part = |x| sample::<f32>(x, 3, 5);
        let one = on(2, &Plan { batch: 1, ..plan }, part(&x), part(&g), part(&add_x), part(&add_y));
        assert_eq!(part(&all[0]), one[0], "{plan:?}");
        assert_eq!(part(&all[1]), one[1], "{plan:?}");
    }
}
