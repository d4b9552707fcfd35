//! A folder of diffusers as a model: its network under the process of its scheduler.

use crate::diffusers;
use crate::energy::Form;
use crate::model::{Head, Model, ModelSpec, plain};
use candle_core::{DType, Device, Error, Result, bail};
use langevin_dynamics::diffusers::Scheduler;
use std::fs;
use std::path::{Path, PathBuf};

/// A model with the scheduler that samples from it in Python.
pub struct Pipeline {
    /// The network under the scheduler's process and prediction.
    pub model: Model,
    /// Its steps, and what else it does.
    pub scheduler: Scheduler,
    /// What the user should know of how it was read.
    pub note: Option<String>,
}

/// Where the scheduler of a folder is described, if it is.
fn scheduler_file(folder: &Path) -> Option<PathBuf> {
    ["scheduler/scheduler_config.json", "scheduler_config.json"]
        .iter()
        .map(|file| folder.join(file))
        .find(|file| file.is_file())
}

/// The scheduler of the pipeline in `folder`, if it has one.
///
/// Errors in one sentence that names the file and the key that is wrong.
pub fn scheduler(folder: &Path) -> Result<Option<Scheduler>> {
    let Some(file) = scheduler_file(folder) else { return Ok(None) };
    let named = |e: String| Error::Msg(format!("`{}`: {e}", file.display()));
    let text = fs::read_to_string(&file).map_err(|e| named(e.to_string()))?;
    Scheduler::from_json(&text).map(Some).map_err(|e| named(plain(&e)))
}

/// The pipeline in `folder`: `unet/` and `scheduler/`, or both at its root. Weights are converted to `dtype`.
///
/// Errors in one sentence that names the file, and the key or tensor that is wrong.
pub fn open(folder: &Path, dtype: DType, device: &Device) -> Result<Pipeline> {
    let Some(scheduler) = scheduler(folder)? else {
        bail!(
            "`{}` has no scheduler/scheduler_config.json, which would say what process its network denoises; \
             langevin apply evaluates the network alone",
            folder.display()
        );
    };
    let diffusers::Network { config, net, vars, note } = diffusers::open(folder, dtype, device)?;
    let Some([height, width]) = config.size else {
        bail!("`{}`: its network has no `sample_size`, which is needed to draw samples", folder.display());
    };
    if config.inputs != config.outputs {
        bail!(
            "`{}`: `in_channels` is {} and `out_channels` {}; networks that predict their variance too, or are given a \
             picture, are not supported",
            folder.display(),
            config.inputs,
            config.outputs
        );
    }
    let spec = ModelSpec {
        shape: vec![config.inputs, height, width],
        classes: config.classes,
        head: Head::Denoiser,
        form: Form::Residual,
        net: config.unet.into(),
        process: scheduler.process.clone(),
        predict: scheduler.predict.clone(),
        sigma_data: scheduler.sigma_data,
        from_zero: scheduler.from_zero(),
    };
    let model = Model::of_network(spec, Box::new(net), vars, dtype, device)?;
    Ok(Pipeline { model, scheduler, note })
}
