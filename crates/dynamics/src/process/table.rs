//! The discrete DDPM: abar_k = prod_(j <= k) (1 - beta_j), k = 0, ..., T - 1; x = sqrt(abar) x_0 + sqrt(1 - abar) eps.
//! \[Ho20, eq. 4\]
//!
//! Time t = k + 1 is entry k, and networks are told k = t - 1, so t = 0 is clean data. Between entries log SNR is a
//! straight line and the variance is kept at 1; on the way to an alpha of 0, alpha is the straight line instead.
//! Below t = 1, sigma^2 = t sigma_1^2.

use super::{Marginal, Process};
use candle_core::{Result, bail};
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};
use std::f64::consts::FRAC_PI_2;

/// How the betas are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Betas {
    /// Evenly spaced. \[Ho20\]
    #[default]
    Linear,
    /// The squares of evenly spaced numbers (latent diffusion).
    #[serde(alias = "scaled_linear")]
    ScaledLinear,
    /// From the cosine alpha, at most 0.999; `beta_start` and `beta_end` play no part. \[Nichol21\]
    #[serde(alias = "squaredcos_cap_v2")]
    Cosine,
    /// Evenly spaced under a sigmoid, from -6 to 6.
    Sigmoid,
    /// From abar = e^(-12 t), at most 0.999 (diffusers).
    Exp,
    /// From abar = sqrt(SNR / (1 + SNR)), SNR that of a Laplace distribution of noise levels, at most 0.999 (diffusers).
    Laplace,
}

/// The options of a [`Table`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TableOptions {
    /// T, the number of entries.
    pub num_train_timesteps: usize,
    /// How the betas are made.
    pub beta_schedule: Betas,
    /// beta_0.
    pub beta_start: f64,
    /// beta_(T-1).
    pub beta_end: f64,
    /// The betas themselves, T of them, in place of a schedule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trained_betas: Option<Vec<f64>>,
    /// Shifts and scales sqrt(abar) so that it ends at 0. \[Lin23, Alg. 1\]
    pub rescale_betas_zero_snr: bool,
    /// With `rescale_betas_zero_snr`, abar of the last entry in place of 0 (at most a quarter of the one before): solvers
    /// in sigma/alpha need a number there, and diffusers gives theirs 2^-24.
    #[serde(skip_serializing_if = "is_zero")]
    pub last_alpha_bar: f64,
    /// Rounds abar and what it is made of to single precision, as PyTorch's tables are: near the data, where 1 - abar is
    /// small, the networks of diffusers were trained on levels that differ in the fourth digit.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub single_precision: bool,
}

fn is_zero(v: &f64) -> bool {
    *v == 0.
}

impl Default for TableOptions {
    fn default() -> Self {
        Self {
            num_train_timesteps: 1000,
            beta_schedule: Betas::Linear,
            beta_start: 1e-4,
            beta_end: 0.02,
            trained_betas: None,
            rescale_betas_zero_snr: false,
            last_alpha_bar: 0.,
            single_precision: false,
        }
    }
}

/// A table of noise levels, as DDPM trains it, made usable at any t in (0, T].
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "TableOptions", into = "TableOptions")]
pub struct Table {
    options: TableOptions,
    log_snr: Vec<f64>, // [T], entry k at t = k + 1
}

impl Table {
    /// Errors, naming the option, if the options make no falling signal-to-noise ratio.
    pub fn new(options: TableOptions) -> Result<Self> {
        let steps = options.num_train_timesteps;
        if !(2..=1_000_000).contains(&steps) {
            bail!("num_train_timesteps is {steps}; it must be from 2 to 1000000");
        }
        for (name, beta) in [("beta_start", options.beta_start), ("beta_end", options.beta_end)] {
            if beta.is_nan() || beta <= 0. || beta >= 1. {
                bail!("{name} is {beta}; it must lie between 0 and 1");
            }
        }
        if !(0. ..1.).contains(&options.last_alpha_bar) {
            bail!("last_alpha_bar is {}; it must be from 0 to 1, 0 for an end without signal", options.last_alpha_bar);
        }
        if let Some(betas) = &options.trained_betas {
            if betas.len() != steps {
                bail!("trained_betas has {} numbers, but num_train_timesteps is {steps}; give as many", betas.len());
            }
            let good = |(k, &beta): (usize, &f64)| beta > 0. && (beta < 1. || beta == 1. && k + 1 == steps);
            if let Some(k) = betas.iter().enumerate().position(|beta| !good(beta)) {
                bail!("trained_betas[{k}] is {}; betas lie between 0 and 1, and only the last may be 1", betas[k]);
            }
        }
        let table = Self::unchecked(options);
        // an alpha too small for a number is as good as none
        let lost = |l: f64| l.is_nan() || l.is_finite() && l < -700.;
        if table.log_snr.contains(&f64::INFINITY) {
            bail!("the first betas are too small to be told from 0; make beta_start larger");
        }
        if table.log_snr.iter().any(|&l| lost(l)) || table.log_snr.windows(2).any(|pair| pair[0] <= pair[1]) {
            bail!("the betas lose all signal before the last entry; make beta_end or num_train_timesteps smaller");
        }
        Ok(table)
    }

    /// The options that it was made from.
    pub fn options(&self) -> &TableOptions {
        &self.options
    }

    fn unchecked(options: TableOptions) -> Self {
        let mut log_abar = if options.single_precision { log_abar_in_single(&options) } else { log_abar(&options) };
        if options.rescale_betas_zero_snr {
            let before = log_abar[log_abar.len() - 2];
            if let Some(end) = log_abar.last_mut() {
                *end = options.last_alpha_bar.ln().min(before - 4f64.ln());
            }
        }
        let log_snr = log_abar.into_iter().map(|l| l - (-l.exp_m1()).ln()).collect();
        Self { options, log_snr }
    }
}

/// ln abar of valid options, `[T]`.
fn log_abar(options: &TableOptions) -> Vec<f64> {
    let mut sum = 0.;
    let of = |beta: f64| {
        sum += (-beta).ln_1p();
        sum
    };
    let log_abar: Vec<f64> = betas(options).into_iter().map(of).collect();
    if !options.rescale_betas_zero_snr {
        return log_abar;
    }
    let root: Vec<f64> = log_abar.iter().map(|l| (0.5 * l).exp()).collect();
    let (first, last) = (root[0], root[root.len() - 1]);
    let scale = first / (first - last);
    root.iter().map(|root| 2. * ((root - last) * scale).ln()).collect()
}

/// The same, rounded as PyTorch does.
fn log_abar_in_single(options: &TableOptions) -> Vec<f64> {
    let running = |alphas: &[f32]| -> Vec<f32> {
        let mut product = 1f64;
        let of = |alpha: &f32| {
            product *= f64::from(*alpha);
            product as f32
        };
        alphas.iter().map(of).collect()
    };
    let alphas: Vec<f32> = betas(options).into_iter().map(|beta| 1. - beta as f32).collect();
    let mut abar = running(&alphas);
    if options.rescale_betas_zero_snr {
        let root: Vec<f32> = abar.iter().map(|abar| abar.sqrt()).collect();
        let (first, last) = (root[0], root[root.len() - 1]);
        let scale = first / (first - last);
        let abar_again: Vec<f32> = root.iter().map(|root| ((root - last) * scale).powi(2)).collect();
        let beta = |k: usize| 1. - abar_again[k] / if k == 0 { 1. } else { abar_again[k - 1] };
        abar = running(&(0..abar.len()).map(|k| 1. - beta(k)).collect::<Vec<f32>>());
    }
    abar.into_iter().map(|abar| f64::from(abar).ln()).collect()
}

/// The betas of valid options, `[T]`.
fn betas(options: &TableOptions) -> Vec<f64> {
    let (steps, from, to) = (options.num_train_timesteps, options.beta_start, options.beta_end);
    let line = |from: f64, to: f64, k: usize| from + (to - from) * k as f64 / (steps - 1) as f64;
    let cosine = |t: f64| ((t + 0.008) / 1.008 * FRAC_PI_2).cos().powi(2);
    let laplace = |t: f64| {
        let log_snr = 0.5 * (t - 0.5).signum() * (1. - 2. * (0.5 - t).abs() + 1e-6).ln();
        (1. / (1. + (-log_snr).exp())).sqrt()
    };
    let falling = |abar: &dyn Fn(f64) -> f64, k: usize| {
        (1. - abar((k + 1) as f64 / steps as f64) / abar(k as f64 / steps as f64)).min(0.999)
    };
    let beta = |k| match options.beta_schedule {
        Betas::Linear => line(from, to, k),
        Betas::ScaledLinear => line(from.sqrt(), to.sqrt(), k).powi(2),
        Betas::Cosine => falling(&cosine, k),
        Betas::Exp => falling(&|t| (-12. * t).exp(), k),
        Betas::Laplace => falling(&laplace, k),
        Betas::Sigmoid => from + (to - from) / (1. + (-line(-6., 6., k)).exp()),
    };
    options.trained_betas.clone().unwrap_or_else(|| (0..steps).map(beta).collect())
}

impl Default for Table {
    fn default() -> Self {
        Self::unchecked(TableOptions::default())
    }
}

impl TryFrom<TableOptions> for Table {
    type Error = candle_core::Error;
    fn try_from(options: TableOptions) -> Result<Self> {
        Self::new(options)
    }
}

impl From<Table> for TableOptions {
    fn from(table: Table) -> Self {
        table.options
    }
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let TableOptions { num_train_timesteps, beta_schedule, beta_start, beta_end, .. } = &self.options;
        let mut out = f.debug_struct("Table");
        out.field("num_train_timesteps", num_train_timesteps).field("beta_schedule", beta_schedule);
        out.field("beta_start", beta_start).field("beta_end", beta_end).finish_non_exhaustive()
    }
}

impl Named for Table {
    const NAME: &'static str = "table";
    const ABOUT: &'static str =
        "the discrete DDPM, T betas: linear, scaled-linear, cosine, sigmoid or given; also with zero end SNR [Ho20]";
}

/// alpha and sigma of variance 1 at this log SNR, with their derivatives where its own is `slope`.
fn preserving(log_snr: f64, slope: f64) -> Marginal {
    let alpha = (1. + (-log_snr).exp()).powf(-0.5);
    let sigma = (1. + log_snr.exp()).powf(-0.5);
    Marginal { alpha, sigma, dalpha: 0.5 * slope * alpha * sigma * sigma, dsigma: -0.5 * slope * sigma * alpha * alpha }
}

impl Process for Table {
    fn marginal(&self, t: f64) -> Marginal {
        if t <= 0. {
            return Marginal::CLEAN;
        }
        if t < 1. {
            let first = preserving(self.log_snr[0], 0.).sigma;
            let (sigma, dsigma) = (t.sqrt() * first, 0.5 * first / t.sqrt());
            let alpha = (1. - sigma * sigma).sqrt();
            return Marginal { alpha, sigma, dalpha: -sigma * dsigma / alpha, dsigma };
        }
        // the interval (k, k + 1] of entries that t lies in: an entry takes the slope on its side of the data
        let k = (t.ceil() as usize).clamp(2, self.log_snr.len()) - 2;
        let (here, next) = (self.log_snr[k], self.log_snr[k + 1]);
        let part = (t - 1. - k as f64).min(1.);
        if next == f64::NEG_INFINITY {
            let dalpha = -preserving(here, 0.).alpha;
            let alpha = -dalpha * (1. - part);
            let sigma = (1. - alpha * alpha).sqrt();
            return Marginal { alpha, sigma, dalpha, dsigma: -alpha * dalpha / sigma };
        }
        preserving(here + part * (next - here), next - here)
    }

    fn span(&self) -> (f64, f64) {
        (1., self.log_snr.len() as f64)
    }

    fn clock(&self, t: f64) -> f64 {
        t - 1.
    }

    fn discrete(&self) -> Option<usize> {
        Some(self.log_snr.len())
    }
}
