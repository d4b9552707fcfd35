//! Between the tape and candle: tensors become values, and a value one node of candle's graph.

use crate::context::Context;
use crate::grad;
use crate::tape::{self, Value};
use candle_core::backend::BackendStorage;
use candle_core::bail;
use candle_core::{CpuStorage, CudaStorage, CustomOp3, Layout, MetalStorage, Result, Shape, Storage, Tensor, TensorId};
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What the ops take: tensors, or values inside a network.
pub trait Operand: Clone + sealed::Sealed {
    /// On the tape.
    fn value(&self) -> Value;
    /// From the tape.
    fn from_value(v: Value) -> Result<Self>;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Tensor {}
    impl Sealed for super::Value {}
}

impl Operand for Tensor {
    fn value(&self) -> Value {
        Value::of(self)
    }
    fn from_value(v: Value) -> Result<Self> {
        v.tensor()
    }
}

impl Operand for Value {
    fn value(&self) -> Value {
        self.clone()
    }
    fn from_value(v: Value) -> Result<Self> {
        Ok(v)
    }
}

thread_local! {
    static DIRECT: RefCell<Option<Direct>> = const { RefCell::new(None) };
    /// The gradients of the pass now running on their way to candle's arguments, by the value they are of.
    static FOUND: RefCell<HashMap<(u64, TensorId), Tensor>> = RefCell::default();
}

/// Gradients of variables that go to their owner without passing through candle's sums.
pub(crate) type Direct = HashMap<TensorId, Tensor>;

/// Runs `f` with every tensor a constant to the tape: no history, no gradients but those taken inside.
pub fn unrecorded<R>(f: impl FnOnce() -> R) -> R {
    Context { unrecorded: true, ..Context::now() }.run(f)
}

/// A network's pass over `x`: one node of candle's graph where gradients are being taken (in the scopes of [`grad`]),
/// and elsewhere without a history, so that nothing is kept.
pub fn run(x: &Tensor, f: impl FnOnce(&Value) -> Result<Value>) -> Result<Tensor> {
    if grad::recording() { f(&Value::of(x))?.tensor() } else { unrecorded(|| f(&Value::of(x))?.data()) }
}

/// Runs one backward pass of candle's on this thread; gives also the variables' gradients that the tape found.
pub(crate) fn collect<R>(f: impl FnOnce() -> R) -> (R, Direct) {
    struct Restore(Option<Direct>, HashMap<(u64, TensorId), Tensor>);
    impl Drop for Restore {
        fn drop(&mut self) {
            DIRECT.set(self.0.take());
            FOUND.set(std::mem::take(&mut self.1));
        }
    }
    let _restore = Restore(DIRECT.replace(Some(Direct::new())), FOUND.take());
    let result = f();
    (result, DIRECT.take().unwrap_or_default())
}

impl Value {
    /// A tensor on the tape. If candle tracks it, gradients flow back into it.
    pub fn of(t: &Tensor) -> Self {
        if t.track_op() && !Context::now().unrecorded { Self::leaf(t) } else { Self::constant(t.detach()) }
    }

    /// A tensor of candle's that depends on every tensor this was computed from: one node of its graph.
    pub fn tensor(self) -> Result<Tensor> {
        if !self.tracked() {
            return self.data();
        }
        let y = self.data()?;
        let y = if y.layout().start_offset() == 0 { y.contiguous()? } else { y.force_contiguous()? };
        let zero = Tensor::zeros(1, y.dtype(), y.device())?;
        let mut arguments = tape::leaves(&self);
        if arguments.is_empty() || tape::marked(&self) {
            bail!("a part of a network that may be computed again passes through a tensor; let it compute with values");
        }
        let root = Root { id: tape::now(), y: Mutex::new(Some(self.history())) };
        let root = Arc::new(root);
        let tied = |y: Tensor, out, arity| Tied { root: root.clone(), y: Mutex::new(Some(y)), out, arity };
        // an op of candle's has three arguments: the rest are tied to it by a token in place of three of them
        while arguments.len() > 3 {
            let three = arguments.split_off(arguments.len() - 3);
            arguments.push(apply(&three, tied(zero.clone(), false, 3))?);
        }
        let arity = arguments.len();
        apply(&arguments, tied(y, true, arity))
    }
}

/// Gradients of one pass as tensors of candle's. Those that will be differentiated are one node of its graph, cut apart
/// there: as a node each, the pass through all that they have in common would be made once for each of them.
fn tensors(grads: tape::Gradients) -> Result<Vec<(TensorId, Tensor)>> {
    let (mut again, once): (Vec<_>, Vec<_>) = grads.into_iter().partition(|(_, g)| g.tracked());
    let alike = again.windows(2).all(|pair| pair[0].1.dtype() == pair[1].1.dtype());
    if again.len() < 2 || !alike {
        return again.into_iter().chain(once).map(|(id, g)| Ok((id, g.tensor()?))).collect();
    }
    again.sort_by_key(|(_, g)| g.shape().elem_count());
    let flat: Vec<Value> = again.iter().map(|(_, g)| g.reshape(g.shape().elem_count())).collect::<Result<_>>()?;
    let all = Value::cat(&flat.iter().collect::<Vec<_>>(), 0)?.tensor()?;
    let mut found: Vec<_> = once.into_iter().map(|(id, g)| Ok((id, g.tensor()?))).collect::<Result<_>>()?;
    let mut start = 0;
    for (id, g) in again {
        let numbers = g.shape().elem_count();
        found.push((id, all.narrow(0, start, numbers)?.reshape(g.shape())?));
        start += numbers;
    }
    Ok(found)
}

/// An op of candle's with `arguments`, the first repeated where there are fewer than three.
fn apply(arguments: &[Tensor], op: Tied) -> Result<Tensor> {
    let at = |i: usize| arguments.get(i).unwrap_or(&arguments[0]);
    at(0).apply_op3(at(1), at(2), op)
}

/// What the nodes of one value share.
struct Root {
    id: u64,
    y: Mutex<Option<Value>>,
}

/// The node of a value (`out`), or a token that ties more tensors to it.
struct Tied {
    root: Arc<Root>,
    /// The value, until candle has it.
    y: Mutex<Option<Tensor>>,
    out: bool,
    arity: usize,
}

impl Tied {
    fn value(&self) -> Result<Tensor> {
        match self.y.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(y) => Ok(y),
            None => bail!("tape: a value handed over twice"),
        }
    }

    fn backward(&self, g: &Tensor) -> Result<()> {
        let mode = grad::mode();
        let mut held = self.root.y.lock().unwrap_or_else(PoisonError::into_inner);
        // what was built inside the scope of this backward pass has no other use
        let y = if !mode.keep_graph && self.root.id >= mode.since { held.take() } else { held.clone() };
        drop(held);
        let Some(y) = y else {
            bail!("a gradient was taken a second time through a graph that the first has used up; compute it again")
        };
        let wanted = |t: &Tensor| !t.is_variable() || mode.only.is_none_or(|leaf| leaf == t.id());
        let g = if mode.keep_graph { Value::of(g) } else { Value::of(&g.detach()) };
        let grads = tape::backward(y, g, wanted, mode.keep_graph)?;
        for (id, g) in tensors(grads)? {
            FOUND.with_borrow_mut(|found| found.insert((self.root.id, id), g));
        }
        Ok(())
    }

    /// The gradient for one of candle's arguments, if candle is to have one.
    fn take(&self, t: &Tensor) -> Result<Option<Tensor>> {
        let found = FOUND.with_borrow_mut(|found| found.remove(&(self.root.id, t.id())));
        match found {
            Some(g) if t.is_variable() => DIRECT.with_borrow_mut(|direct| match direct {
                None => Ok(Some(g)),
                Some(direct) => {
                    let sum = match direct.remove(&t.id()) {
                        Some(before) => (before + g)?,
                        None => g,
                    };
                    direct.insert(t.id(), sum);
                    Ok(None)
                }
            }),
            Some(g) => Ok(Some(g)),
            // candle needs a gradient of all that is no leaf; a token's says only that it is its turn
            None if !t.is_variable() && t.track_op() => Ok(Some(t.zeros_like()?)),
            None => Ok(None),
        }
    }
}

impl CustomOp3 for Tied {
    fn name(&self) -> &'static str {
        "tape"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let y = self.value()?;
        let (storage, layout) = y.storage_and_layout();
        match &*storage {
            Storage::Cpu(s) => Ok((s.try_clone(layout)?, y.shape().clone())),
            _ => bail!("tape: arguments on the CPU, and a value elsewhere"),
        }
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let y = self.value()?;
        let (storage, layout) = y.storage_and_layout();
        match &*storage {
            Storage::Cuda(s) => Ok((s.try_clone(layout)?, y.shape().clone())),
            _ => bail!("tape: arguments on a CUDA device, and a value elsewhere"),
        }
    }

    fn metal_fwd(
        &self,
        _: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
    ) -> Result<(MetalStorage, Shape)> {
        let y = self.value()?;
        let (storage, layout) = y.storage_and_layout();
        match &*storage {
            Storage::Metal(s) => Ok((s.try_clone(layout)?, y.shape().clone())),
            _ => bail!("tape: arguments on a Metal device, and a value elsewhere"),
        }
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        _: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        if self.out {
            self.backward(g)?;
        }
        let of = |i: usize, t: &Tensor| if i < self.arity { self.take(t) } else { Ok(None) };
        Ok((of(0, a)?, of(1, b)?, of(2, c)?))
    }
}
