//! Optimisers: theta <- theta - lr * direction(gradient, moments), with every number of their state in reach.
//!
//! The update rules are PyTorch's, to the last bit of f64 where the order of operations allows it.

mod adam;
mod adamw;
mod sgd;

pub use adam::Adam;
pub use adamw::AdamW;
pub use sgd::Sgd;

use crate::inplace;
use crate::state::moved;
use candle_core::{Result, Tensor, Var, bail};
use langevin_ops::registry;
use std::collections::BTreeMap;

/// What an update is told beside weights and gradients.
#[derive(Clone, Copy, Debug)]
pub struct Update {
    /// Number of this update, from 1.
    pub k: u64,
    /// Learning rate.
    pub lr: f64,
    /// Factor of the gradient: of clipping, and of averaging over accumulated batches.
    pub scale: f64,
}

/// Equal pieces of a weight, its gradient and its moments (in the order of [`Optimiser::slots`]).
pub enum Piece<'a, 'b> {
    /// Single precision.
    F32(&'a mut [f32], &'a [f32], &'a mut [&'b mut [f32]]),
    /// Double precision.
    F64(&'a mut [f64], &'a [f64], &'a mut [&'b mut [f64]]),
}

/// An update rule that works on each number alone.
pub trait Optimiser: Send + Sync + std::fmt::Debug {
    /// Names of the moments that it keeps of each weight, all zero at the start.
    fn slots(&self) -> &'static [&'static str];

    /// The update in place, on the CPU.
    fn fused(&self, at: &Update, piece: Piece);

    /// The same update on any device: the new weight and the new moments.
    fn compose(&self, at: &Update, theta: &Tensor, g: &Tensor, slots: &[Tensor]) -> Result<(Tensor, Vec<Tensor>)>;

    /// Errors, naming the option, if it makes no sense.
    fn check(&self) -> Result<()>;
}

registry! {
    /// Any optimiser, as configurations name it.
    pub enum AnyOptimiser: Optimiser = "optimiser" { AdamW, Adam, Sgd } check Optimiser::check
}

/// `option` must be in [0, 1).
pub(crate) fn fraction(what: &str, value: f64) -> Result<()> {
    if !(0. ..1.).contains(&value) {
        bail!("{what} is {value}; it must be at least 0 and below 1");
    }
    Ok(())
}

/// `option` must be finite and not negative.
/// A parameter whose gradient was always 0 is moved by 0 / eps.
pub(crate) fn positive_eps(eps: f64) -> Result<()> {
    if !(eps as f32 > 0. && eps.is_finite()) {
        bail!("optimiser.eps is {eps}; it must be above 0 in 32 bits, such as 1e-8");
    }
    Ok(())
}

pub(crate) fn not_negative(what: &str, value: f64) -> Result<()> {
    if !(value >= 0. && value.is_finite()) {
        bail!("{what} is {value}; it must be a finite number, 0 or above");
    }
    Ok(())
}

impl Default for AnyOptimiser {
    fn default() -> Self {
        Self::AdamW(AdamW::default())
    }
}

/// An optimiser with the weights that it moves and its state.
pub struct Optim {
    rule: AnyOptimiser,
    vars: Vec<(String, Var)>,
    slots: Vec<Vec<Tensor>>, // of each weight
    k: u64,
}

impl Optim {
    /// With all moments zero. Errors if an option makes no sense.
    pub fn new(rule: AnyOptimiser, vars: &[(String, Var)]) -> Result<Self> {
        rule.get().check()?;
        let zeros = |v: &Var| rule.get().slots().iter().map(|_| v.zeros_like()).collect::<Result<Vec<_>>>();
        let slots = vars.iter().map(|(_, v)| zeros(v)).collect::<Result<_>>()?;
        Ok(Self { rule, vars: vars.to_vec(), slots, k: 0 })
    }

    /// Updates made so far.
    pub fn updates(&self) -> u64 {
        self.k
    }

    /// Moves the weights along `scale` times `grads`, which are in the order of the weights.
    pub fn step(&mut self, grads: &[Tensor], lr: f64, scale: f64) -> Result<()> {
        if grads.len() != self.vars.len() {
            bail!("optimiser: {} gradients for {} weights", grads.len(), self.vars.len());
        }
        self.k += 1;
        let at = Update { k: self.k, lr, scale };
        for (((_, theta), slots), g) in self.vars.iter().zip(&self.slots).zip(grads) {
            one(self.rule.get(), &at, theta, g, slots)?;
        }
        Ok(())
    }

    /// Every moment, named `SLOT/WEIGHT`.
    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        let names = self.rule.get().slots();
        let of = |((name, _), slots): (&(String, Var), &Vec<Tensor>)| {
            names.iter().zip(slots).map(|(slot, t)| (format!("{slot}/{name}"), t.clone())).collect::<Vec<_>>()
        };
        self.vars.iter().zip(&self.slots).flat_map(of).collect()
    }

    /// Takes the moments of [`Optim::tensors`] back, after `k` updates.
    pub fn restore(&mut self, k: u64, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
        for (name, slot) in self.tensors() {
            match tensors.get(&name) {
                Some(t) if t.dims() == slot.dims() => inplace::set(&slot, &moved(t, &slot)?)?,
                Some(t) => bail!("`{name}` has shape {:?} where the optimiser has {:?}", t.dims(), slot.dims()),
                None => bail!("`{name}` of the optimiser is missing"),
            }
        }
        self.k = k;
        Ok(())
    }
}

fn one(rule: &dyn Optimiser, at: &Update, theta: &Tensor, g: &Tensor, slots: &[Tensor]) -> Result<()> {
    if g.dims() != theta.dims() {
        bail!("optimiser: a gradient of shape {:?} for a weight of shape {:?}", g.dims(), theta.dims());
    }
    let g = g.contiguous()?;
    let targets: Vec<&Tensor> = std::iter::once(theta).chain(slots).collect();
    macro_rules! fused {
        ($T:ty, $Piece:path) => {
            if inplace::fits::<$T>(&g) && targets.iter().all(|t| inplace::fits::<$T>(t)) {
                return inplace::read::<$T, _>(&g, |g| {
                    inplace::pass::<$T>(&targets, |from, all| {
                        if let Some((theta, slots)) = all.split_first_mut() {
                            let g = &g[from..from + theta.len()];
                            rule.fused(at, $Piece(theta, g, slots));
                        }
                    })
                })?;
            }
        };
    }
    fused!(f32, Piece::F32);
    fused!(f64, Piece::F64);
    let (new, moments) = rule.compose(at, theta, &g.to_dtype(theta.dtype())?, slots)?;
    inplace::set(theta, &new)?;
    slots.iter().zip(&moments).try_for_each(|(slot, new)| inplace::set(slot, new))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    /// Four updates of three weights by PyTorch 2.15 in f64: lr 0.01, g_k = (k/10, 0.3 k - 0.7, k^2/1000).
    fn cases() -> Vec<(AnyOptimiser, [f64; 3])> {
        let (betas, eps, weight_decay) = ([0.9, 0.99], 1e-6, 0.05);
        let sgd = Sgd { weight_decay, ..Sgd::default() };
        vec![
            (AdamW { betas, eps, weight_decay }.into(), [0.4602682158397219, -1.228842380064775, 1.9599725931562113]),
            (Adam { betas, eps, weight_decay }.into(), [0.4609109366586813, -1.227208860226856, 1.9599388516279246]),
            (sgd.clone().into(), [0.4890057485001563, -1.249507871125578, 1.9957030989826263]),
            (
                Sgd { momentum: 0.9, dampening: 0.1, ..sgd }.into(),
                [0.4808408565222389, -1.2364407320533588, 1.9910882947897597],
            ),
            (
                Sgd { momentum: 0.9, nesterov: true, ..Sgd::default() }.into(),
                [0.47329689999999996, -1.2451006, 1.999273589],
            ),
        ]
    }

    fn gradient(k: u64) -> [f64; 3] {
        let k = k as f64;
        [0.1 * k, -0.7 + 0.3 * k, 1e-3 * k * k]
    }

    #[test]
    fn updates_are_those_of_pytorch() -> Result<()> {
        for (rule, expected) in cases() {
            let theta = Var::new(&[0.5, -1.25, 2.], &Device::Cpu)?;
            let mut optim = Optim::new(rule.clone(), &[("w".into(), theta.clone())])?;
            for k in 1..5 {
                // half of the gradient at scale 2: scaling is part of the update
                let g = gradient(k).map(|g| 0.5 * g);
                optim.step(&[Tensor::new(&g, &Device::Cpu)?], 0.01, 2.)?;
            }
            let got = theta.to_vec1::<f64>()?;
            let near = got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-14); // which a NaN is not
            assert!(near, "{rule:?}: {got:?} for {expected:?}");
        }
        Ok(())
    }

    #[test]
    fn one_pass_and_composition_agree() -> Result<()> {
        let n = 100_000; // several pieces
        for (rule, _) in cases() {
            for dtype in [DType::F32, DType::F64] {
                let at = |k: f64| -> Result<Tensor> {
                    let v: Vec<f64> = (0..n).map(|i| (i as f64 * 0.37 * k).sin()).collect();
                    Tensor::new(v, &Device::Cpu)?.to_dtype(dtype)
                };
                let theta = Var::from_tensor(&at(1.)?)?;
                let mut optim = Optim::new(rule.clone(), &[("w".into(), theta.clone())])?;
                let mut other = theta.detach().copy()?;
                let mut slots = rule.get().slots().iter().map(|_| other.zeros_like()).collect::<Result<Vec<_>>>()?;
                for k in 1..4 {
                    let g = at(k as f64 + 0.5)?;
                    optim.step(std::slice::from_ref(&g), 0.01, 0.7)?;
                    (other, slots) = rule.get().compose(&Update { k, lr: 0.01, scale: 0.7 }, &other, &g, &slots)?;
                }
                let off = langevin_ops::shape::to_host(&(theta.detach() - other)?)?;
                let bound = if dtype == DType::F32 { 1e-6 } else { 1e-14 };
                assert!(off.iter().all(|off| off.abs() < bound), "{rule:?} {dtype:?}: {off:?}"); // which a NaN is not
            }
        }
        Ok(())
    }

    #[test]
    fn absurd_options_and_shapes_are_refused() -> Result<()> {
        for json in [
            r#"{"name": "adam", "betas": [1.0, 0.9]}"#,
            r#"{"name": "adamw", "eps": -1}"#,
            r#"{"name": "sgd", "nesterov": true}"#,
            r#"{"name": "sgd", "momentun": 0.9}"#,
            r#""rmsprop""#,
        ] {
            assert!(serde_json::from_str::<AnyOptimiser>(json).is_err(), "{json}");
        }
        let theta = Var::new(&[1f64, 2.], &Device::Cpu)?;
        let mut optim = Optim::new(AnyOptimiser::default(), &[("w".into(), theta)])?;
        assert!(optim.step(&[Tensor::new(&[1f64], &Device::Cpu)?], 0.1, 1.).is_err());
        assert!(optim.step(&[], 0.1, 1.).is_err());
        Ok(())
    }
}
