//! The tape: values that know how they were computed, and their gradients, of any order.
//!
//! Every op of this crate is written once, on [`Value`]s: its value, and its gradients in terms of other such ops. So the
//! gradient of a gradient needs nothing more, and costs only kernels. A network that computes with values is *one* node
//! of candle's graph ([`Value::of`] goes in, [`Value::tensor`] out), and within it
//! - nothing is computed that no wanted gradient needs: no weight's in an energy's score, no graph while sampling;
//! - what is cheap to compute again (norms, activations, up-sampling) is not kept for the backward pass;
//! - memory is given back as the backward pass proceeds;
//! - what is marked as a [`part`] is computed again instead of kept, where [`recompute`] asks for it.
//!
//! ```
//! # use langevin_ops::{act, grad, tape::Value, Tensor, Device};
//! # fn main() -> langevin_ops::Result<()> {
//! let x = Tensor::new(&[0f64, 1.], &Device::Cpu)?;
//! let f = |x: &Tensor| {
//!     let x = Value::of(x);
//!     act::silu(&x)?.mul(&x)?.tensor() // x silu(x), one node of candle's graph
//! };
//! assert_eq!(grad::gradient(&x, f)?.1.to_vec1::<f64>()?[0], 0.);
//! # Ok(()) }
//! ```

pub use crate::bridge::{Operand, run, unrecorded};
pub use crate::recompute::{part, recompute};

use candle_core::{DType, Result, Shape, Tensor, TensorId};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// A tensor, and how it was computed if that matters. Cloning is cheap.
#[derive(Clone)]
pub struct Value {
    /// Without candle's graph. `None` if it is cheap to compute again.
    data: Option<Tensor>,
    shape: Shape,
    dtype: DType,
    node: Option<Arc<Node>>,
    /// Whether gradients are to flow through it.
    tracked: bool,
}

impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "Value({:?}, {:?}, tracked: {})", self.shape, self.dtype, self.tracked)
    }
}

/// How a value came to be. Inputs have smaller numbers.
struct Node {
    id: u64,
    kind: Kind,
}

enum Kind {
    /// Where gradients are asked for by the key's id: a tracked tensor of candle's, or a mark on another value.
    Leaf { key: Tensor, of: Option<Value> },
    Op {
        op: Box<dyn Op>,
        inputs: Vec<Value>,
        /// Kept only if the op asks for it.
        output: OnceLock<Tensor>,
    },
}

impl Node {
    fn inputs(&self) -> &[Value] {
        match &self.kind {
            Kind::Leaf { of, .. } => of.as_slice(),
            Kind::Op { inputs, .. } => inputs,
        }
    }

    fn key(&self) -> Option<&Tensor> {
        match &self.kind {
            Kind::Leaf { key, .. } => Some(key),
            Kind::Op { .. } => None,
        }
    }
}

/// An op on the tape.
pub(crate) trait Op: Send + Sync {
    /// The value. Neither the inputs nor the output have a graph of candle's.
    fn forward(&self, inputs: &[&Tensor]) -> Result<Tensor>;

    /// The gradient of <output, g> with respect to each input that is wanted.
    fn backward(&self, at: &Backward) -> Result<Vec<Option<Value>>>;

    /// Whether the value is rather computed again than kept for a backward pass.
    fn cheap(&self) -> bool {
        false
    }

    /// Whether `backward` reads the output.
    fn needs_output(&self) -> bool {
        false
    }
}

/// What a backward step is given. If it will be differentiated itself, the values are tracked.
pub(crate) struct Backward<'a> {
    pub inputs: &'a [Value],
    output: Option<Value>,
    pub g: &'a Value,
    pub wants: &'a [bool],
    /// What the inputs' gradients are so far.
    so_far: RefCell<Vec<Option<Value>>>,
}

impl Backward<'_> {
    /// `f` for input `i`, if its gradient is wanted.
    pub fn wanted(&self, i: usize, f: impl FnOnce() -> Result<Value>) -> Result<Option<Value>> {
        self.wants[i].then(f).transpose()
    }

    /// The gradient that input `i` has from elsewhere, for ops that add it to theirs in the same pass over memory: whoever
    /// takes it returns the sum.
    pub fn so_far(&self, i: usize) -> Option<Value> {
        self.so_far.borrow_mut()[i].take()
    }

    /// The output, for ops that need it.
    pub fn output(&self) -> Result<&Value> {
        match &self.output {
            Some(y) => Ok(y),
            None => candle_core::bail!("tape: the output was not kept"),
        }
    }

    /// Whether what is computed will be differentiated again.
    pub fn again(&self) -> bool {
        self.g.tracked || self.inputs.iter().any(|x| x.tracked)
    }
}

static NEXT: AtomicU64 = AtomicU64::new(0);

/// A number above those of all nodes so far.
pub(crate) fn now() -> u64 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Value {
    /// A value without a history.
    pub(crate) fn constant(t: Tensor) -> Self {
        debug_assert!(!t.track_op());
        Self { shape: t.shape().clone(), dtype: t.dtype(), data: Some(t), node: None, tracked: false }
    }

    pub(crate) fn leaf(t: &Tensor) -> Self {
        let node = Some(Arc::new(Node { id: now(), kind: Kind::Leaf { key: t.clone(), of: None } }));
        Self { node, tracked: true, ..Self::constant(t.detach()) }
    }

    /// The same value with a mark on it: the gradient there is that of the key given.
    pub(crate) fn marked(&self) -> Result<(Self, Tensor)> {
        let key = Tensor::zeros((), DType::U8, &candle_core::Device::Cpu)?; // for its id alone
        let node = Node { id: now(), kind: Kind::Leaf { key: key.clone(), of: Some(self.clone()) } };
        let data = Some(self.data()?);
        Ok((Self { data, node: Some(Arc::new(node)), tracked: true, ..self.clone() }, key))
    }

    /// Sizes of the dimensions.
    pub fn dims(&self) -> &[usize] {
        self.shape.dims()
    }

    /// The shape.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Whether gradients flow through it.
    pub(crate) fn tracked(&self) -> bool {
        self.tracked
    }

    /// The numbers alone: a tensor without a graph.
    pub fn data(&self) -> Result<Tensor> {
        match (&self.data, self.node.as_deref()) {
            (Some(t), _) => Ok(t.clone()),
            (None, Some(Node { kind: Kind::Op { op, inputs, .. }, .. })) => {
                let inputs = inputs.iter().map(Value::data).collect::<Result<Vec<_>>>()?;
                op.forward(&inputs.iter().collect::<Vec<_>>())
            }
            _ => candle_core::bail!("tape: a value without data"),
        }
    }

    /// The same numbers, through which no gradient flows.
    pub fn detach(&self) -> Self {
        let node = if self.data.is_some() { None } else { self.node.clone() };
        Self { data: self.data.clone(), shape: self.shape.clone(), dtype: self.dtype, node, tracked: false }
    }

    /// Where it came from, without its numbers.
    pub(crate) fn history(self) -> Self {
        Self { data: None, ..self }
    }

    /// As another node's input: without what is cheap to compute again.
    fn kept(&self) -> Self {
        match self.node.as_deref() {
            Some(Node { kind: Kind::Op { op, .. }, .. }) if op.cheap() => Self { data: None, ..self.clone() },
            _ => self.clone(),
        }
    }
}

/// The value of `op`, recorded if an input is tracked.
pub(crate) fn apply(op: impl Op + 'static, inputs: &[&Value]) -> Result<Value> {
    let data = inputs.iter().map(|v| v.data()).collect::<Result<Vec<_>>>()?;
    let y = op.forward(&data.iter().collect::<Vec<_>>())?;
    record(op, inputs, y)
}

/// `y` as the value of `op`, recorded if an input is tracked.
pub(crate) fn record(op: impl Op + 'static, inputs: &[&Value], y: Tensor) -> Result<Value> {
    let y = Value::constant(y);
    if !inputs.iter().any(|x| x.tracked) {
        return Ok(y);
    }
    let output = OnceLock::new();
    if op.needs_output() {
        let _ = output.set(y.data()?);
    }
    let inputs = inputs.iter().map(|x| x.kept()).collect();
    let node = Arc::new(Node { id: now(), kind: Kind::Op { op: Box::new(op), inputs, output } });
    Ok(Value { node: Some(node), tracked: true, ..y })
}

impl Drop for Node {
    /// Long chains are taken apart here, not by recursion.
    fn drop(&mut self) {
        let mut open = take_inputs(self);
        while let Some(value) = open.pop() {
            if let Some(mut node) = value.node.and_then(Arc::into_inner) {
                open.append(&mut take_inputs(&mut node));
            }
        }
    }
}

fn take_inputs(node: &mut Node) -> Vec<Value> {
    match &mut node.kind {
        Kind::Leaf { of, .. } => of.take().into_iter().collect(),
        Kind::Op { inputs, .. } => std::mem::take(inputs),
    }
}

/// All nodes behind `y` through which gradients flow, in the order of their making; those behind marks if asked for.
fn nodes(y: &Value, behind_marks: bool) -> Vec<Arc<Node>> {
    let (mut seen, mut found, mut open) = (HashSet::new(), vec![], vec![y.node.clone()]);
    while let Some(node) = open.pop() {
        let Some(node) = node.filter(|node| seen.insert(node.id)) else { continue };
        if behind_marks || node.key().is_none() {
            open.extend(node.inputs().iter().filter(|x| x.tracked).map(|x| x.node.clone()));
        }
        found.push(node);
    }
    found.sort_by_key(|node| node.id);
    found
}

/// Whether `y` depends on a marked value.
pub(crate) fn marked(y: &Value) -> bool {
    nodes(y, false).iter().any(|node| matches!(node.kind, Kind::Leaf { of: Some(_), .. }))
}

/// The tensors of candle's that `y` depends on other than by marks, each once, in the order of their first use.
pub(crate) fn leaves(y: &Value) -> Vec<Tensor> {
    let mut seen = HashSet::new();
    let leaf = |node: Arc<Node>| match &node.kind {
        Kind::Leaf { key, of: None } if seen.insert(key.id()) => Some(key.clone()),
        _ => None,
    };
    nodes(y, false).into_iter().filter_map(leaf).collect()
}

/// The gradient of <y, g> with respect to each leaf that `wanted` names, tracked if `keep`.
///
/// Unless `keep`, the history of `y` is taken apart on the way, as far as nobody else holds it.
pub(crate) fn backward(y: Value, g: Value, wanted: impl Fn(&Tensor) -> bool, keep: bool) -> Result<Gradients> {
    let mut needs = HashMap::new();
    for node in nodes(&y, true) {
        let need = node.key().is_some_and(&wanted) || node.inputs().iter().any(|x| needed(&needs, x));
        needs.insert(node.id, need);
    }
    let mut found = Gradients::new();
    let mut open = BTreeMap::new();
    if let Some(node) = y.node.filter(|node| needs.get(&node.id) == Some(&true)) {
        open.insert(node.id, (node, g));
    }
    drop(y.data);
    while let Some((_, (node, g))) = open.pop_last() {
        if let Some(key) = node.key().filter(|key| wanted(key)) {
            let sum = match found.get(&key.id()) {
                Some(before) => before.add(&g)?,
                None => g,
            };
            found.insert(key.id(), sum);
            continue;
        }
        let inputs = node.inputs();
        let wants: Vec<bool> = inputs.iter().map(|x| needed(&needs, x)).collect();
        let mut take = |(x, want): (&Value, &bool)| {
            let node = x.node.as_ref().filter(|_| *want && !keep)?;
            open.remove(&node.id).map(|(_, g)| g)
        };
        let so_far = RefCell::new(inputs.iter().zip(&wants).map(&mut take).collect());
        let (grads, so_far) = step(&node, &g, &wants, so_far, keep)?;
        drop(g);
        // the inputs themselves go before their gradients are added up, if this was the last to hold them
        let targets: Vec<_> = inputs.iter().map(|x| x.node.clone()).collect();
        drop(node);
        for ((target, want), grads) in targets.into_iter().zip(wants).zip(grads.into_iter().zip(so_far)) {
            let (Some(node), true) = (target, want) else { continue };
            for grad in [grads.1, grads.0].into_iter().flatten() {
                let sum = match open.remove(&node.id) {
                    Some((_, before)) => before.add(&grad)?,
                    None => grad,
                };
                open.insert(node.id, (node.clone(), sum));
            }
        }
    }
    Ok(found)
}

/// Gradients by leaf.
pub(crate) type Gradients = HashMap<TensorId, Value>;

fn needed(needs: &HashMap<u64, bool>, x: &Value) -> bool {
    x.tracked && x.node.as_ref().is_some_and(|node| needs.get(&node.id) == Some(&true))
}

type Steps = Vec<Option<Value>>;

/// The gradients of a node's inputs, and of `so_far` what is not in them yet.
fn step(node: &Arc<Node>, g: &Value, wants: &[bool], so_far: RefCell<Steps>, keep: bool) -> Result<(Steps, Steps)> {
    let Kind::Op { op, inputs, output } = &node.kind else { return Ok((vec![Some(g.clone())], so_far.into_inner())) };
    let output = output.get().map(|t| {
        let y = Value::constant(t.clone());
        if keep { Value { node: Some(node.clone()), tracked: true, ..y } } else { y }
    });
    if keep {
        let at = Backward { inputs, output, g, wants, so_far };
        return Ok((op.backward(&at)?, at.so_far.into_inner()));
    }
    let inputs: Vec<Value> = inputs.iter().map(Value::detach).collect();
    let at = Backward { inputs: &inputs, output, g: &g.detach(), wants, so_far };
    Ok((op.backward(&at)?, at.so_far.into_inner()))
}
