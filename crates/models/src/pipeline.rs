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

/// Where the scheduler that goes with `path`, a folder or a weights file, is described, if it is.
fn scheduler_file(path: &Path) -> Option<PathBuf> {
    let folder = if path.is_dir() { path } else { path.parent()? };
    // of a pipeline's own network, its pipeline's
    let above = folder.file_name().filter(|name| *name == "unet").and(folder.parent());
    let places = ["scheduler/scheduler_config.json", "scheduler_config.json"];
    [Some(folder), above]
        .into_iter()
        .flatten()
        .flat_map(|at| places.map(|file| at.join(file)))
        .find(|file| file.is_file())
}

/// The scheduler of the pipeline in `path`, as [`open`] takes it, if it has one; with `chosen` the one in that file, or the
/// class of that name with the keys of the pipeline's own, as diffusers' `CLASS.from_config(pipe.scheduler.config)`.
///
/// Errors in one sentence that names the file and the key that is wrong.
pub fn scheduler(path: &Path, chosen: Option<&str>) -> Result<Option<Scheduler>> {
    let given = chosen.map(Path::new).filter(|file| file.is_file());
    if let Some(file) = chosen.filter(|chosen| given.is_none() && chosen.ends_with(".json")) {
        bail!("there is no scheduler `{file}`: no such file");
    }
    let Some(file) = given.map(Path::to_path_buf).or_else(|| scheduler_file(path)) else {
        return chosen.map(|class| Scheduler::from_json_as("{}", class)).transpose();
    };
    let named = |e: String| Error::Msg(format!("`{}`: {e}", file.display()));
    let text = fs::read_to_string(&file).map_err(|e| named(e.to_string()))?;
    let scheduler = match chosen {
        Some(class) if given.is_none() => Scheduler::from_json_as(&text, class),
        _ => Scheduler::from_json(&text),
    };
    scheduler.map(Some).map_err(|e| named(plain(&e)))
}

/// The pipeline in `path`: a folder with `unet/` and `scheduler/`, or with both at its root; or the weights file of its
/// network, beside its `config.json`. Its scheduler is the `chosen` one, as [`scheduler`] says. Weights are converted to `dtype`.
///
/// Errors in one sentence that names the file, and the key or tensor that is wrong.
pub fn open(path: &Path, chosen: Option<&str>, dtype: DType, device: &Device) -> Result<Pipeline> {
    let Some(scheduler) = scheduler(path, chosen)? else {
        bail!(
            "`{}` has no scheduler/scheduler_config.json, which would say what process its network denoises; \
             give one with langevin sample --scheduler, or evaluate the network alone with langevin apply",
            path.display()
        );
    };
    let diffusers::Network { config, net, vars, note } = diffusers::open(path, dtype, device)?;
    let Some([height, width]) = config.size else {
        bail!("`{}`: its network has no `sample_size`, which is needed to draw samples", path.display());
    };
    if config.inputs != config.outputs {
        bail!(
            "`{}`: `in_channels` is {} and `out_channels` {}; networks that predict their variance too, or are given a \
             picture, are not supported",
            path.display(),
            config.inputs,
            config.outputs
        );
    }
    let spec = ModelSpec {
        shape: vec![config.inputs, height, width],
        classes: config.classes,
        null_class: false,
        head: Head::Denoiser,
        form: Form::Residual,
        net: config.unet.into(),
        process: scheduler.process.clone(),
        predict: scheduler.predict.clone(),
        sigma_data: scheduler.sigma_data,
        normalised: false,
        from_zero: scheduler.from_zero(),
    };
    let model = Model::of_network(spec, Box::new(net), vars, dtype, device)?;
    Ok(Pipeline { model, scheduler, note })
}
