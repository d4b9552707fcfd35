//! A mixture of round Gaussians as a network without parameters: a model whose energy is -log p_t exactly.
//!
//! p_0 = sum_k w_k N(mu_k, v_k I). Under the parametrisation edm with sigma_data 1, x' = c_in x = y / s with y = x/alpha,
//! rho = sigma/alpha and s^2 = 1 + rho^2, the potential h = rho ln sum_k w_k N(y; mu_k, v_k + rho^2) / N(y; 0, 1 + rho^2)
//! makes E = -log p_t under every process: what it has beyond N(0, s^2) is that Gaussian's normaliser alone.

use crate::energy::GradNet;
use crate::model::{Head, ModelSpec};
use crate::net::NetConfig;
use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;
use langevin_dynamics::predict::AnyParametrisation;
use langevin_dynamics::process::AnyProcess;
use langevin_dynamics::{Cond, Mixture, Net, Potential};
use langevin_ops::linear::linear;
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};
use std::f64::consts::TAU;

/// The mixture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MixtureConfig {
    /// Mean of each component, D numbers.
    pub means: Vec<Vec<f64>>,
    /// Weight of each; they are made to sum to 1.
    pub weights: Vec<f64>,
    /// Variance of each, along every axis.
    pub variances: Vec<f64>,
}

/// A standard normal in the plane.
impl Default for MixtureConfig {
    fn default() -> Self {
        Self { means: vec![vec![0.; 2]], weights: vec![1.], variances: vec![1.] }
    }
}

impl Named for MixtureConfig {
    const NAME: &'static str = "mixture";
    const ABOUT: &'static str =
        "a mixture of Gaussians without parameters, whose energy is exact: a model to check others by";
}

impl MixtureConfig {
    /// The oracle of the same density.
    pub fn mixture(&self) -> Result<Mixture> {
        Mixture::isotropic(&self.weights, &self.means, &self.variances)
    }
}

impl NetConfig for MixtureConfig {
    fn build(&self, shape: &[usize], _: usize, _: Option<usize>, vb: VarBuilder) -> Result<Box<dyn Net>> {
        let (mixture, d) = (self.mixture()?, shape.iter().product::<usize>());
        if mixture.dim() != d {
            bail!("`means` have {} numbers each, and samples have {d}", mixture.dim());
        }
        let row = |v: Vec<f64>| Tensor::from_vec(v, (1, self.weights.len()), vb.device())?.to_dtype(vb.dtype());
        let means = self.means.concat();
        let squares = self.means.iter().map(|mean| mean.iter().map(|m| m * m).sum());
        Ok(Box::new(GradNet::new(LogRatio {
            means: Tensor::from_vec(means, (self.weights.len(), d), vb.device())?.to_dtype(vb.dtype())?,
            squares: row(squares.collect())?,
            log_weights: row(mixture.weights().iter().map(|w| w.ln().max(-1e30)).collect())?,
            excess: row(self.variances.iter().map(|v| v - 1.).collect())?,
        })))
    }

    fn suits(&self, spec: &ModelSpec) -> Result<()> {
        if !matches!(spec.predict, AnyParametrisation::Edm(_)) || spec.sigma_data != 1. || spec.head != Head::Energy {
            bail!("net mixture goes with head = \"energy\", predict = \"edm\" and sigma_data = 1; set them so");
        }
        if spec.classes.is_some() {
            bail!("net mixture has no classes; leave `classes` out");
        }
        Ok(())
    }
}

/// h, with the numbers of the K components.
struct LogRatio {
    means: Tensor,       // [K, D]
    squares: Tensor,     // [1, K], |mu|^2
    log_weights: Tensor, // [1, K]
    excess: Tensor,      // [1, K], v - 1
}

impl Potential for LogRatio {
    /// ln N(y; mu, w) / N(y; 0, s^2) with w = v + rho^2 is |x'|^2 (v - 1) / 2w + s x'.mu / w - |mu|^2 / 2w - D/2 ln(w / s^2):
    /// no large numbers that cancel, at any noise.
    fn h(&self, x: &Tensor, c_noise: &Tensor, cond: &Cond) -> Result<Tensor> {
        cond.conditions.only(&[])?;
        let (batch, d) = (x.dim(0)?, self.means.dim(1)?);
        let x = x.reshape((batch, d))?;
        let rho = (c_noise * 4.)?.exp()?.reshape((batch, 1))?; // c_noise of edm is ln(sigma/alpha) / 4
        let s2 = rho.sqr()?.affine(1., 1.)?; // [B, 1]
        let w = s2.broadcast_add(&self.excess)?; // [B, K]
        let own = x.sqr()?.sum_keepdim(1)?.broadcast_mul(&self.excess)?;
        let cross = linear(&x, &self.means, None)?.broadcast_mul(&s2.sqrt()?)?;
        let terms = ((own * 0.5)? + cross)?.broadcast_sub(&(&self.squares * 0.5)?)?.div(&w)?;
        let width = (w.broadcast_div(&s2)?.log()? * (0.5 * d as f64))?;
        let logs = (terms - width)?.broadcast_add(&self.log_weights)?;
        let top = logs.max_keepdim(1)?.detach();
        let sum = (logs.broadcast_sub(&top)?.exp()?.sum_keepdim(1)?.log()? + top)?;
        (sum * rho)?.reshape(batch)
    }

    fn normalised(&self) -> bool {
        true
    }
}

/// The exact models that have a name, and a line about each.
pub const EXACT: &[(&str, &str)] = &[
    ("exact:8-gaussians", "the density of toy:8-gaussians itself, eight Gaussians of width 0.15 on a circle (2-D)"),
    ("exact:gaussian-2d", "a Gaussian of variance 0.5 around (0.7, 0), to compose with the other (2-D)"),
    ("exact:gaussian-12d", "a Gaussian of variance 0.36 in 12 dimensions, its mean from -0.55 to 0.55"),
];

/// What the exact model of that name is, under `process`; `None` if there is none.
pub fn exact(name: &str, process: AnyProcess) -> Option<ModelSpec> {
    let net = match name {
        "exact:8-gaussians" => {
            let mode = |k: u32| TAU * f64::from(k) / 8.;
            let means = (0..8).map(|k| vec![1.4 * mode(k).cos(), 1.4 * mode(k).sin()]).collect();
            MixtureConfig { means, weights: vec![1.; 8], variances: vec![0.15 * 0.15; 8] }
        }
        "exact:gaussian-2d" => MixtureConfig { means: vec![vec![0.7, 0.]], weights: vec![1.], variances: vec![0.5] },
        "exact:gaussian-12d" => {
            let mean = (0..12).map(|i| 0.1 * f64::from(i) - 0.55).collect();
            MixtureConfig { means: vec![mean], weights: vec![1.], variances: vec![0.36] }
        }
        _ => return None,
    };
    Some(ModelSpec {
        normalised: true,
        ..ModelSpec::energy([net.means.first().map_or(0, Vec::len)]).net(net).process(process).sigma_data(1.)
    })
}
