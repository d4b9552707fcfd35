//! Gradients, and gradients of gradients, that cannot be silently wrong.
//!
//! candle detaches the gradients that `backward()` returns, unless the environment variable
//! `CANDLE_GRAD_DO_NOT_DETACH` was set when the *thread* first ran it; nothing on a tensor shows which it was.
//! So `backward()` runs here alone, on one of two threads that were probed when they started: one that detaches,
//! one that keeps the graph. A gradient taken inside a [`value_and_grad`] or another [`gradient`] keeps its graph,
//! since it will be differentiated again; any other is detached.
//!
//! ```
//! # use langevin_ops::{grad, Tensor, Device};
//! # fn main() -> langevin_ops::Result<()> {
//! let x = Tensor::new(&[1f64, 2.], &Device::Cpu)?;
//! let (energy, gradient) = grad::gradient(&x, |x| x.powf(3.)?.sum_all())?; // E = sum x^3
//! assert_eq!(gradient.to_vec1::<f64>()?, [3., 12.]);
//! let hv = grad::hvp(&x, &x.ones_like()?, |x| x.powf(3.)?.sum_all())?; // its Hessian times ones: 6x
//! assert_eq!(hv.to_vec1::<f64>()?, [6., 12.]);
//! # Ok(()) }
//! ```

mod differences;

use crate::bridge::{Direct, collect};
use crate::context::{Context, wait};
use crate::tape;
use candle_core::backprop::GradStore;
use candle_core::{Device, Result, Tensor, TensorId, Var, bail};
use std::cell::Cell;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};

pub use crate::context::carry;
pub use differences::{by_differences, differences, gradient_by_differences};

const KEEP: &str = "CANDLE_GRAD_DO_NOT_DETACH";
/// `backward` recurses over the graph: 2 MB overflow at 5 to 10 thousand chained nodes.
pub(crate) const STACK: usize = 256 << 20;

/// What the backward pass now running on this thread is for; the ops' `bwd` ask it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mode {
    /// The gradient will be differentiated again: build its graph.
    pub keep_graph: bool,
    /// Only the gradient of this leaf is wanted: leave out those of weights.
    pub only: Option<TensorId>,
    /// What the tape made from then on belongs to this pass alone, and may be used up by it.
    pub since: u64,
}

/// What candle's backward does on a thread, for as long as that lives.
#[derive(Clone, Copy, PartialEq)]
enum Thread {
    /// It has not been made to run here.
    Unknown,
    /// It drops the graphs of gradients: this is the thread for passes of first order.
    Drops,
    /// It keeps them: this is the thread for passes of second order.
    Keeps,
    /// It keeps them, and this is the program's own thread ([`adopt_thread`]).
    Adopted,
}

thread_local! {
    static MODE: Cell<Mode> = const { Cell::new(Mode { keep_graph: false, only: None, since: u64::MAX }) };
    static THREAD: Cell<Thread> = const { Cell::new(Thread::Unknown) };
}

/// The mode of the backward pass now running on this thread.
pub(crate) fn mode() -> Mode {
    MODE.get()
}

/// Whether what is computed now will be differentiated: inside the closure of [`value_and_grad`] or [`gradient`].
///
/// Elsewhere, results computed from weights are better detached: they hold the whole graph of their computation.
pub fn recording() -> bool {
    Context::now().scopes > 0
}

/// Starts the threads of the backward passes. Programs call it first: it sets an environment variable for an instant,
/// which is unsound beside C code that reads the environment on another thread. Otherwise the first gradient does it.
pub fn init() -> Result<()> {
    workers().map(|_| ())
}

/// Runs `f`, whose result will be differentiated.
fn scope<R>(f: impl FnOnce() -> R) -> R {
    let now = Context::now();
    Context { scopes: now.scopes + 1, unrecorded: false, ..now }.run(f)
}

/// The gradients that candle found, and those of variables that the tape handed over directly.
struct Grads {
    store: GradStore,
    direct: Direct,
}

impl Grads {
    fn remove(&mut self, leaf: &Tensor) -> Result<Option<Tensor>> {
        match (self.store.remove(leaf), self.direct.remove(&leaf.id())) {
            (Some(a), Some(b)) => (a + b).map(Some),
            (a, b) => Ok(a.or(b)),
        }
    }
}

struct Job {
    y: Tensor,
    mode: Mode,
    context: Context,
    reply: Sender<Result<Grads>>,
}

struct Workers {
    drops: Sender<Job>,
    keeps: Sender<Job>,
}

/// Runs on each worker before anything else, so that candle reads the variable now; true if this thread keeps graphs.
fn probe() -> Result<bool> {
    let v = Var::new(1f64, &Device::Cpu)?;
    let grads = v.affine(1., 0.)?.sqr()?.backward()?;
    match grads.get(&v) {
        Some(g) => Ok(g.track_op()),
        None => bail!("the probe of candle's backward returned no gradient"),
    }
}

/// candle's backward on this thread.
fn backward_here(y: &Tensor, mode: Mode) -> Result<Grads> {
    struct Restore(Mode);
    impl Drop for Restore {
        fn drop(&mut self) {
            MODE.set(self.0);
        }
    }
    let _restore = Restore(MODE.replace(mode));
    let (result, direct) = collect(|| y.backward());
    Ok(Grads { store: result?, direct })
}

fn serve(jobs: &Receiver<Job>) {
    for Job { y, mode, context, reply } in jobs.iter() {
        let result = context.run(|| guarded(&y, mode));
        drop(y);
        let _ = reply.send(result); // the caller is waiting; if it is gone, so is the need
    }
}

fn start(keep: bool) -> std::result::Result<Sender<Job>, String> {
    let (send, jobs) = channel();
    let (ready, told) = channel();
    // SAFETY: changing the environment is unsound only beside a foreign `getenv` on another thread. This happens once,
    // for the instant that the worker takes to start, and std's own reads are locked against it.
    #[allow(unsafe_code)]
    unsafe {
        if keep { std::env::set_var(KEEP, "1") } else { std::env::remove_var(KEEP) }
    }
    std::thread::Builder::new()
        .name(if keep { "backward, graph kept" } else { "backward" }.into())
        .stack_size(STACK)
        .spawn(move || {
            THREAD.set(if keep { Thread::Keeps } else { Thread::Drops });
            let _ = ready.send(probe());
            serve(&jobs);
        })
        .map_err(|e| format!("could not start a thread for the backward pass: {e}"))?;
    match told.recv() {
        Ok(Ok(kept)) if kept == keep => Ok(send),
        Ok(Ok(kept)) => Err(format!(
            "candle's backward {} the graph of gradients although {KEEP} is {}; second-order gradients would be wrong. \
             Build with the candle-core version of this project's Cargo.lock.",
            if kept { "keeps" } else { "drops" },
            if keep { "set" } else { "unset" }
        )),
        Ok(Err(e)) => Err(e.to_string()),
        Err(_) => Err("the thread for the backward pass died while starting".into()),
    }
}

fn workers() -> Result<&'static Workers> {
    static WORKERS: OnceLock<std::result::Result<Workers, String>> = OnceLock::new();
    let started = WORKERS.get_or_init(|| {
        let before = std::env::var_os(KEEP);
        let both = start(false).and_then(|drops| start(true).map(|keeps| Workers { drops, keeps }));
        restore(before);
        both
    });
    started.as_ref().map_err(|why| candle_core::Error::Msg(why.clone()))
}

fn guarded(y: &Tensor, mode: Mode) -> Result<Grads> {
    catch_unwind(AssertUnwindSafe(|| backward_here(y, mode))).unwrap_or_else(|panic| {
        let why = panic.downcast_ref::<String>().cloned().or(panic.downcast_ref::<&str>().map(|s| s.to_string()));
        Err(candle_core::Error::Msg(format!("candle's backward panicked: {}", why.unwrap_or_default())))
    })
}

/// Lets backward passes of this thread run on it from now on, if it has not run any: kernels wait for each other less
/// than across threads. Sets an environment variable for an instant, as [`init`] does.
pub(crate) fn adopt_thread() {
    let before = std::env::var_os(KEEP);
    // SAFETY: as in `start`.
    #[allow(unsafe_code)]
    unsafe {
        std::env::set_var(KEEP, "1");
    }
    if matches!(probe(), Ok(true)) {
        THREAD.set(Thread::Adopted);
    }
    restore(before);
}

fn restore(before: Option<std::ffi::OsString>) {
    // SAFETY: as in `start`.
    #[allow(unsafe_code)]
    unsafe {
        match before {
            Some(value) => std::env::set_var(KEEP, value),
            None => std::env::remove_var(KEEP),
        }
    }
}

/// Bytes of candle's graph whose gradients an adopted thread may keep graphs of, in a pass that needs none.
const FEW: usize = 64 << 20;

fn backward(y: Tensor, mode: Mode) -> Result<Grads> {
    let here = match THREAD.get() {
        Thread::Unknown => false,
        Thread::Drops => !mode.keep_graph,
        Thread::Keeps => true, // if it waited for the other thread, that could be waiting for this one
        Thread::Adopted => mode.keep_graph || bytes(&y) < FEW,
    };
    if here {
        return guarded(&y, mode);
    }
    let workers = workers()?;
    let (reply, result) = channel();
    let to = if mode.keep_graph { &workers.keeps } else { &workers.drops };
    let gone = || candle_core::Error::Msg("the thread for the backward pass has died".into());
    to.send(Job { y, mode, context: Context::now(), reply }).map_err(|_| gone())?;
    if rayon::current_thread_index().is_none() {
        return result.recv().map_err(|_| gone())?;
    }
    // the pass may need this thread of the pool
    wait(|| match result.try_recv() {
        Err(TryRecvError::Empty) => None,
        Err(TryRecvError::Disconnected) => Some(Err(gone())),
        Ok(grads) => Some(grads),
    })
}

/// Of what lies between `y` and the variables in candle's graph.
fn bytes(y: &Tensor) -> usize {
    let inner = y.sorted_nodes().into_iter().filter(|t| !t.is_variable());
    inner.map(|t| t.elem_count() * t.dtype().size_in_bytes()).sum()
}

/// The value of `f` and its gradient with respect to each of `vars`, for an optimiser: detached, in the order of `vars`,
/// zero for a variable that `f` does not use. Gradients taken inside `f` are differentiated through.
///
/// Errors if `f` is not one number, or depends on none of `vars`.
pub fn value_and_grad(vars: &[Var], f: impl FnOnce() -> Result<Tensor>) -> Result<(Tensor, Vec<Tensor>)> {
    let since = tape::now();
    let y = scope(f)?;
    if y.elem_count() != 1 {
        bail!("value_and_grad: the function returned a tensor of shape {:?}; reduce it to one number", y.dims());
    }
    let value = y.detach();
    let mut store = backward(y, Mode { keep_graph: false, only: None, since })?;
    let mut found: HashMap<TensorId, Tensor> = HashMap::new(); // a variable may be listed twice
    for v in vars {
        if let Some(g) = store.remove(v)? {
            found.insert(v.id(), g.detach());
        }
    }
    let grads = vars.iter().map(|v| found.get(&v.id()).map_or_else(|| v.zeros_like(), |g| Ok(g.clone())));
    let grads = grads.collect::<Result<Vec<_>>>()?;
    if found.is_empty() {
        bail!(
            "value_and_grad: the value depends on none of the {} variables (was it computed outside the closure, or detached?)",
            vars.len()
        );
    }
    Ok((value, grads))
}

/// The value of `f` at `x` (summed to one number if it is not) and the gradient of that sum with respect to `x`.
///
/// Inside [`value_and_grad`] or another [`gradient`] both keep their graph; else they are detached. Weights get no
/// gradient in this pass. Errors if the value does not depend on `x`, or if `x` was computed from variables
/// (its own history would be lost): pass the variable itself, or detach `x`.
pub fn gradient(x: &Tensor, f: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<(Tensor, Tensor)> {
    let leaf = if x.is_variable() {
        x.clone()
    } else if x.track_op() {
        bail!("gradient: the input was itself computed from variables; detach it, or take the gradient at the variable")
    } else {
        Var::from_tensor(x)?.into_inner()
    };
    let (keep_graph, since) = (recording(), tape::now());
    let y = scope(|| f(&leaf))?;
    let total = if y.elem_count() == 1 { y.clone() } else { y.sum_all()? };
    let y = if keep_graph { y } else { y.detach() };
    let mut store = backward(total, Mode { keep_graph, only: Some(leaf.id()), since })?;
    let Some(g) = store.remove(&leaf)? else {
        bail!(
            "gradient: the value does not depend on the input, or only through an operation that candle does not \
             differentiate (LayerNorm, RmsNorm, softmax_last_dim, rope: use those of langevin-ops)"
        );
    };
    Ok((y, if keep_graph { g } else { g.detach() }))
}

/// Vector-Jacobian product v^T df/dx at `x`; `v` has the shape of `f(x)`. Scopes as in [`gradient`].
pub fn vjp(x: &Tensor, v: &Tensor, f: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    Ok(gradient(x, |x| (f(x)? * v)?.sum_all())?.1)
}

/// Hessian-vector product of the scalar (or summed) `f` at `x`. Scopes as in [`gradient`].
pub fn hvp(x: &Tensor, v: &Tensor, f: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    Ok(gradient(x, |x| {
        let (_, g) = gradient(x, f)?;
        (g * v)?.sum_all()
    })?
    .1)
}

/// Hutchinson's estimate of the divergence of the field `f` at `x`, one a sample: v^T (df/dx) v -> `[B]`.
///
/// `v` has zero mean and unit covariance (Rademacher or normal), and the shape of `x`. [Hutchinson 1989]
pub fn divergence(x: &Tensor, v: &Tensor, f: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    crate::shape::sum_per_sample(&(vjp(x, v, f)? * v)?)
}
