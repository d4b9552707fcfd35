//! The exact targets of the MCMC cases, built from what a case says of itself.

use candle_core::{Device, Result, Tensor};
use langevin_dynamics::{Density, Differentiable, Energy};
use langevin_ops::shape::sum_per_sample;
use serde_json::Value;

/// A density with exact moments, p ~ exp(-E).
pub enum Target {
    /// E = (x - mean) P (x - mean) / 2.
    Gaussian { mean: Tensor, precision: Tensor },
    /// E = a (x1 - mu)^2 + b (x2 - x1^2)^2.
    Banana { a: f64, b: f64, mu: f64 },
    /// E = -ln sum_k exp(-|x - c_k|^2 / 2 s^2), centres `[1, K, 2]` on a circle.
    Ring { centres: Tensor, s: f64 },
}

impl Target {
    /// As the `parameters` of a case say; `None` for another kind.
    pub fn of(parameters: &Value) -> Option<Self> {
        let get = |name: &str| parameters[name].as_f64();
        if let (Some(radius), Some(s), Some(modes)) = (get("R"), get("s"), parameters["modes"].as_u64()) {
            return Some(Self::ring(radius, s, modes as usize));
        }
        if let (Some(a), Some(b), Some(mu)) = (get("a"), get("b"), get("mu")) {
            return Some(Self::Banana { a, b, mu });
        }
        let row = |v: &Value| v.as_array()?.iter().map(Value::as_f64).collect::<Option<Vec<f64>>>();
        let mean = row(&parameters["mean"])?;
        let cov: Vec<Vec<f64>> = parameters["cov"].as_array()?.iter().map(row).collect::<Option<_>>()?;
        let det = cov[0][0] * cov[1][1] - cov[0][1] * cov[1][0];
        let precision = [[cov[1][1] / det, -cov[0][1] / det], [-cov[1][0] / det, cov[0][0] / det]];
        let mean = Tensor::new(&[[mean[0], mean[1]]], &Device::Cpu).ok()?;
        Some(Self::Gaussian { mean, precision: Tensor::new(&precision, &Device::Cpu).ok()? })
    }

    /// `modes` round modes of standard deviation `s` on a circle.
    pub fn ring(radius: f64, s: f64, modes: usize) -> Self {
        let angle = |k: usize| 2. * std::f64::consts::PI * k as f64 / modes as f64;
        let centres = (0..modes).flat_map(|k| [radius * angle(k).cos(), radius * angle(k).sin()]);
        let centres = Tensor::from_iter(centres, &Device::Cpu).and_then(|c| c.reshape((1, modes, 2)));
        Self::Ring { centres: centres.unwrap(), s }
    }
}

impl Energy for Target {
    fn energy(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Gaussian { mean, precision } => {
                let x = x.broadcast_sub(mean)?;
                sum_per_sample(&(x.matmul(precision)? * &x)?)? * 0.5
            }
            Self::Banana { a, b, mu } => {
                let (x1, x2) = (x.narrow(1, 0, 1)?, x.narrow(1, 1, 1)?);
                let bend = (x2 - x1.sqr()?)?.sqr()?;
                sum_per_sample(&(((x1 - *mu)?.sqr()? * *a)? + (bend * *b)?)?)
            }
            Self::Ring { centres, s } => {
                let far = x.unsqueeze(1)?.broadcast_sub(centres)?.sqr()?.sum(2)?; // [B, K]
                (far * (-0.5 / (s * s)))?.log_sum_exp(1)?.neg()
            }
        }
    }
}

impl Differentiable for Target {}

impl Density for Target {
    fn as_differentiable(&self) -> Option<&dyn Differentiable> {
        Some(self)
    }
}
