//! A model as a folder that diffusers opens: its network, and what draws samples from it.
//!
//! A denoiser under a table of betas, told no class, is a `DDPMPipeline`. Everything else has no pipeline there that means
//! the same: it comes with a short one of its own, `pipeline.py`, and the noise levels that a sampler visits.

use super::card::{Trained, card};
use super::describe;
use crate::atomic;
use crate::checkpoint;
use crate::energy::Form;
use crate::model::{Head, Model};
use candle_core::{Error, Result, bail};
use langevin_dynamics::grid::AnyGrid;
use langevin_dynamics::sampler::AnySampler;
use langevin_dynamics::{Cond, Denoiser};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Where the weights lie in an exported folder: a file that is a model of ours, too.
pub const WEIGHTS: &str = "unet/diffusion_pytorch_model.safetensors";

const PIPELINE: &str = include_str!("../../assets/pipeline.py");

/// How samples are drawn from the model.
#[derive(Clone, Debug)]
pub struct Drawing {
    /// The rule of its steps.
    pub sampler: AnySampler,
    /// The spacing of its times.
    pub grid: AnyGrid,
    /// The number of its steps.
    pub steps: usize,
    /// Whether x0 is clipped to [-1, 1].
    pub clip: bool,
}

/// What a folder for diffusers says of a model.
pub struct Export<'a> {
    model: &'a Model,
    network: Value,
    scheduler: std::result::Result<Value, Vec<&'static str>>,
}

impl<'a> Export<'a> {
    /// Errors, naming the option, if no `UNet2DModel` computes what the model's network does.
    pub fn of(model: &'a Model) -> Result<Self> {
        let network = describe::network(&model.spec)?;
        Ok(Self { model, network, scheduler: describe::scheduler(&model.spec) })
    }

    /// Every key of a run that would have to be another for a pipeline of diffusers to draw the model's samples, with the
    /// value that it would have. None if a `DDPMPipeline` does: it chooses its own steps.
    pub fn lacks(&self) -> &[&'static str] {
        self.scheduler.as_ref().err().map_or(&[], Vec::as_slice)
    }

    /// Errors, naming the key, if the folder's pipeline has not the steps of `sampler`.
    pub fn suits(&self, sampler: &AnySampler) -> Result<()> {
        match self.scheduler {
            Ok(_) => Ok(()),
            Err(_) => angle_above(sampler).map(|_| ()),
        }
    }

    /// Writes the folder `dir`, whole or not at all, where nothing or an empty folder is. `notes` stay with the weights;
    /// the model card tells how the model was `trained`, if that is known.
    ///
    /// Errors in one sentence if a file cannot be written, or if the folder's pipeline cannot draw so.
    pub fn write(
        &self,
        dir: &Path,
        drawing: &Drawing,
        trained: Option<&Trained>,
        notes: &BTreeMap<String, String>,
    ) -> Result<()> {
        atomic::make_folder(dir, |dir| {
            fs::create_dir_all(dir.join("unet")).map_err(|e| cannot_make(dir, &e))?;
            save(&dir.join("unet/config.json"), &pretty(&self.network)?)?;
            checkpoint::save(&dir.join(WEIGHTS), &self.model.spec, &checkpoint::weights(self.model), notes)?;
            let mut index = json!({ "unet": ["diffusers", "UNet2DModel"] });
            match &self.scheduler {
                Ok(scheduler) => {
                    let mut scheduler = scheduler.clone();
                    scheduler["clip_sample"] = json!(drawing.clip);
                    fs::create_dir_all(dir.join("scheduler")).map_err(|e| cannot_make(dir, &e))?;
                    save(&dir.join("scheduler/scheduler_config.json"), &pretty(&scheduler)?)?;
                    index["_class_name"] = json!("DDPMPipeline");
                    index["scheduler"] = json!(["diffusers", "DDPMScheduler"]);
                }
                Err(_) => {
                    self.index_steps(&mut index, drawing)?;
                    save(&dir.join("pipeline.py"), PIPELINE)?;
                }
            }
            save(&dir.join("model_index.json"), &pretty(&index)?)?;
            save(&dir.join("README.md"), &card(self.model, self.lacks(), trained))
        })
    }

    /// What `pipeline.py` reads of its `index`.
    fn index_steps(&self, index: &mut Value, drawing: &Drawing) -> Result<()> {
        let (spec, angle_above) = (&self.model.spec, angle_above(&drawing.sampler)?);
        index["_class_name"] = json!(["pipeline", "LangevinPipeline"]);
        index["levels"] = self.levels(drawing)?;
        index["clip"] = json!(drawing.clip);
        index["from_zero"] = json!(spec.from_zero);
        index["form"] = if spec.head == Head::Energy { json!(spec.form) } else { Value::Null };
        index["second_order"] = json!(angle_above.is_some());
        if let Some(angle_above) = angle_above {
            index["angle_above"] = json!(angle_above);
        }
        Ok(())
    }

    /// The noise levels at which the model is asked, with what the network is told at each.
    fn levels(&self, drawing: &Drawing) -> Result<Value> {
        let denoiser = self.model.denoiser(Cond::default())?;
        let process = denoiser.process();
        let times = drawing.grid.get().times(process, drawing.steps)?;
        let spec = &self.model.spec;
        let level = |&t: &f64| {
            let (m, c) = (process.marginal(t), denoiser.coefficients(t));
            let mut level = json!({
                "alpha": m.alpha, "sigma": m.sigma,
                "c_skip": c.c_skip, "c_out": c.c_out, "c_in": c.c_in, "c_noise": c.c_noise,
            });
            if spec.head == Head::Energy && spec.form == Form::NoiseNorm {
                level["ratio"] = json!((4. * c.c_noise).exp() / spec.sigma_data); // as the form has it
            }
            level
        };
        let levels: Vec<Value> = times[..times.len() - 1].iter().map(level).collect();
        if levels.iter().any(|level| level.as_object().is_some_and(|level| level.values().any(Value::is_null))) {
            bail!("a level of noise of this sampler is not a finite number; export with another grid or fewer steps");
        }
        Ok(Value::Array(levels))
    }
}

/// sigma/alpha from which `pipeline.py` takes Heun's step in the angle; `None` for Euler's steps.
///
/// Errors, naming the key, for any other sampler.
fn angle_above(sampler: &AnySampler) -> Result<Option<f64>> {
    match sampler {
        AnySampler::Euler(_) => Ok(None),
        AnySampler::Heun(heun) => Ok(Some(heun.angle_above)),
        other => bail!(
            "sampler.name = {}: the exported pipeline takes the steps of heun or euler; choose one, such as \
             sampler.name=heun sampler.steps=18",
            other.name()
        ),
    }
}

fn pretty(value: &Value) -> Result<String> {
    Ok(serde_json::to_string_pretty(value).map_err(Error::wrap)? + "\n")
}

fn cannot_make(dir: &Path, e: &std::io::Error) -> Error {
    Error::Msg(format!("cannot make {}: {e}", dir.display()))
}

fn save(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|e| Error::Msg(format!("cannot write {}: {e}", path.display())))
}
