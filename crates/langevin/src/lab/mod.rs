//! The lab: every way to learn a density of the plane, with the same means, against the density itself.
//!
//! Each method has the same number of energies, or the same time, and the same network energy where it knows no noise levels; its
//! learning rate is one that suits its kind. What
//! comes of it is measured by one numerical integral ([`Truth`]), whatever the method says of itself.

mod counted;
mod methods;
mod page;
mod train;
mod truth;

pub use methods::Method;
pub use truth::{Figures, HALF, Truth};

use crate::error::{Stopped, Usage, usage};
use crate::watch;
use anyhow::Result;
use candle_core::Device;
use langevin_data::{Loader, LoaderOptions};
use langevin_ops::shape::to_host;
use serde::Serialize;
use std::sync::Arc;

/// What each method may use.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Budget {
    /// States whose energy is computed, with whatever gradients of it, over the whole training.
    Evaluations(u64),
    /// Seconds of training.
    Seconds(f64),
}

impl Budget {
    /// In words: "20 s each".
    pub fn words(self) -> String {
        match self {
            Self::Evaluations(n) => format!("{n} energies each"),
            Self::Seconds(s) => format!("{s} s each"),
        }
    }
}

/// What is compared, and how.
#[derive(Clone, Debug, Serialize)]
pub struct Lab {
    /// The data, a toy whose density is known.
    pub data: String,
    /// What each method may use.
    pub budget: Budget,
    /// The names of the methods; all if there are none.
    pub methods: Vec<String>,
    /// Of all that is random.
    pub seed: u64,
}

/// What came of a method.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Its name.
    pub method: &'static str,
    /// What it is called in full.
    pub title: &'static str,
    /// How it is set here.
    pub about: &'static str,
    /// Its highest learning rate.
    pub rate: f64,
    /// Updates of the weights.
    pub steps: u64,
    /// States whose energy was computed.
    pub evaluations: u64,
    /// Seconds of training.
    pub seconds: f64,
    /// log Z as the method says it, if it does.
    pub claimed_log_z: Option<f64>,
    /// How far the density is from that of the data; `None` if it came to none.
    pub figures: Option<Figures>,
    /// Why it came to none.
    pub failed: Option<String>,
}

impl Row {
    /// How far log Z is from what the method says, in nats, if it says anything.
    pub fn log_z_error(&self) -> Option<f64> {
        Some(self.claimed_log_z? - self.figures.as_ref()?.log_z)
    }
}

/// All that came of it.
pub struct Page {
    lab: Lab,
    truth: Truth,
    rows: Vec<Row>,
}

impl Lab {
    /// Carries it out; `told` is told of each method when it is done.
    ///
    /// Errors if the density of the data is not known, or if there is no such method; with [`Stopped`] if the
    /// [`Watch`](watch::Watch) wants it to stop.
    pub fn run(self, device: &Device, told: &mut dyn FnMut(&Row) -> Result<()>) -> Result<Page> {
        let methods = self.chosen()?;
        match self.budget {
            Budget::Evaluations(0) => return usage(Usage::of("evaluations", "give at least 1").value(0)),
            Budget::Seconds(s) if !(s > 0. && s <= 86400.) => {
                return usage(Usage::of("seconds", "give more than 0 and at most 86400").value(s));
            }
            _ => {}
        }
        let truth = Truth::of(&self.data).map_err(|why| Usage::of("DATA", why))?;
        let data = langevin_data::open(&self.data, &langevin_data::Options::default())?;
        let options = LoaderOptions { batch: train::BATCH, seed: self.seed, flip: false, dequantise: false };
        let loader = Loader::new(Arc::from(data), options)?;
        let mut rows = vec![];
        for method in &methods {
            let row = self.row(method, &truth, &loader, device);
            if watch::stops() {
                return Err(Stopped(format!("stopped in the method {}", method.name)).into());
            }
            told(&row)?;
            rows.push(row);
        }
        Ok(Page { lab: self, truth, rows })
    }

    fn chosen(&self) -> Result<Vec<Method>> {
        let mut all = methods::all();
        if let Some(bad) = self.methods.iter().find(|name| !all.iter().any(|method| method.name == *name)) {
            let names: Vec<_> = all.iter().map(|method| method.name).collect();
            return usage(Usage::of("methods", format!("use {}", names.join(", "))).value(bad));
        }
        all.retain(|method| self.methods.is_empty() || self.methods.iter().any(|name| name == method.name));
        Ok(all)
    }

    /// What comes of `method`, though it be nothing.
    fn row(&self, method: &Method, truth: &Truth, loader: &Loader, device: &Device) -> Row {
        let mut row = Row {
            method: method.name,
            title: method.title,
            about: method.about,
            rate: method.rate,
            steps: 0,
            evaluations: 0,
            seconds: 0.,
            claimed_log_z: None,
            figures: None,
            failed: None,
        };
        let mut carried_out = || -> Result<Figures> {
            let trained = train::trained(method, (self.budget, self.seed), loader, device)?;
            (row.steps, row.evaluations, row.seconds) = (trained.steps, trained.evaluations, trained.seconds);
            row.claimed_log_z = trained.claimed_log_z;
            truth.figures(|x| Ok(to_host(&(trained.energy)(&x.to_device(device)?)?.neg()?)?))
        };
        match carried_out() {
            Ok(figures) => row.figures = Some(figures),
            Err(why) => row.failed = Some(crate::error::without_backtrace(&why.to_string())),
        }
        row
    }
}
