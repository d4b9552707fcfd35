//! A folder of diffusers as a model: its network under the process of its scheduler.

use super::network::{self, Network};
use super::scheduler::Scheduler;
use super::weights;
use crate::model::{Model, ModelSpec, plain};
use candle_core::{DType, Device, Error, Result, bail};
use serde_json::Value;
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

/// The first of `files` that is in the folder of the pipeline of `path`, a folder or a weights file.
fn beside(path: &Path, files: &[&str]) -> Option<PathBuf> {
    let folder = if path.is_dir() { path } else { path.parent()? };
    // of a pipeline's own network, its pipeline's
    let above = folder.file_name().filter(|name| *name == "unet").and(folder.parent());
    let places = [Some(folder), above].into_iter().flatten();
    places.flat_map(|at| files.iter().map(|file| at.join(file))).find(|file| file.is_file())
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
    let its = || beside(path, &["scheduler/scheduler_config.json", "scheduler_config.json"]);
    let Some(file) = given.map(Path::to_path_buf).or_else(its) else {
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

/// Errors if the pipeline in `path` has an autoencoder: its network then paints codes and no pictures, as that of a latent
/// diffusion does.
fn refuse_latent(path: &Path) -> Result<()> {
    let Some(file) = beside(path, &["model_index.json"]) else { return Ok(()) };
    let named = |e: String| Error::Msg(format!("`{}`: {e}", file.display()));
    let text = fs::read_to_string(&file).map_err(|e| named(e.to_string()))?;
    let index: Value = serde_json::from_str(&text).map_err(|e| named(format!("this is not JSON: {e}")))?;
    // a part is the pair of its library and its class, of nulls where it is left out
    let has = |part: &&&str| index.pointer(&format!("/{part}/1")).is_some_and(Value::is_string);
    match ["vae", "vqvae"].iter().find(has) {
        Some(part) => Err(named(format!(
            "it has a {part}, so that its network paints codes and no pictures; latent diffusion is not supported, but \
             langevin apply evaluates the network alone"
        ))),
        None => Ok(()),
    }
}

/// The pipeline in `path`: a folder with `unet/` and `scheduler/`, or with both at its root; or the weights file of its
/// network, beside its `config.json`. Its scheduler is the `chosen` one, as [`scheduler`] says. Weights are converted to `dtype`.
///
/// Errors in one sentence that names the file, and the key or tensor that is wrong.
pub fn open(path: &Path, chosen: Option<&str>, dtype: DType, device: &Device) -> Result<Pipeline> {
    refuse_latent(path)?;
    let Some(scheduler) = scheduler(path, chosen)? else {
        bail!(
            "`{}` has no scheduler/scheduler_config.json, which would say what process its network denoises; \
             give one with langevin sample --scheduler, or evaluate the network alone with langevin apply",
            path.display()
        );
    };
    let Network { config, net, vars, note } = network::open(path, dtype, device)?;
    let within = |e: Error| Error::Msg(format!("`{}`: {}", path.display(), plain(&e)));
    let Some([height, width]) = config.size else {
        bail!("`{}`: its network has no `sample_size`, which is needed to draw samples", path.display());
    };
    config.unet.fits(height, width).map_err(|e| Error::Msg(format!("`sample_size`: {e}"))).map_err(within)?;
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
        from_zero: scheduler.from_zero(),
        ..ModelSpec::denoiser([config.inputs, height, width])
            .net(config.unet)
            .classes(config.classes)
            .process(scheduler.process.clone())
            .predict(scheduler.predict.clone())
            .sigma_data(scheduler.sigma_data)
    };
    let model = Model::of_network(spec, Box::new(net), vars, dtype, device).map_err(within)?;
    Ok(Pipeline { model, scheduler, note })
}

/// Of the files of a repository those that make the pipeline, or the network, in it.
pub fn wanted(files: &[String]) -> Vec<&str> {
    let of = |folder: &str| -> Vec<&str> {
        let here: Vec<&str> = files.iter().filter_map(|file| file.strip_prefix(folder)).collect();
        let weights = |ending: &str, plain: bool| -> Vec<&str> {
            let is = |name: &&&str| {
                let rest = name.strip_suffix(ending).and_then(|name| name.strip_prefix(weights::NAME));
                rest.is_some_and(|rest| !plain || rest.is_empty() || rest.contains("-of-"))
            };
            here.iter().filter(is).copied().collect()
        };
        let kinds = [(".safetensors", true), (".bin", true), (".safetensors", false), (".bin", false)];
        kinds.iter().map(|&(ending, plain)| weights(ending, plain)).find(|found| !found.is_empty()).unwrap_or_default()
    };
    let folder = if files.iter().any(|file| file == "unet/config.json") { "unet/" } else { "" };
    let weights = of(folder);
    let json = |file: &&String| {
        let name = file.rsplit('/').next().unwrap_or_default();
        file.ends_with(".json") && ["", "unet/", "scheduler/"].iter().any(|at| format!("{at}{name}") == **file)
    };
    if !files.iter().any(|file| *file == format!("{folder}config.json")) {
        return vec![];
    }
    let is_weights = |file: &String| file.strip_prefix(folder).is_some_and(|name| weights.contains(&name));
    files.iter().filter(|file| json(file) || is_weights(file)).map(String::as_str).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_repository_only_what_makes_the_pipeline_is_wanted() {
        let of = |files: &[&str]| {
            let files: Vec<String> = files.iter().map(|file| file.to_string()).collect();
            wanted(&files).join(" ")
        };
        let weights = ["unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.fp16.safetensors"];
        let folder =
            ["README.md", "model_index.json", "scheduler/scheduler_config.json", "unet/config.json", "vae/config.json"];
        let plain = "unet/diffusion_pytorch_model.safetensors";
        let json = "model_index.json scheduler/scheduler_config.json unet/config.json";
        assert_eq!(of(&[&folder[..], &weights, &[plain]].concat()), format!("{json} {plain}"));
        assert_eq!(of(&[&folder[..], &weights].concat()), format!("{json} {}", weights[0]));
        let root = ["config.json", "diffusion_pytorch_model.safetensors.index.json", "scheduler_config.json"];
        let shards = [1, 2].map(|i| format!("diffusion_pytorch_model-0000{i}-of-00002.safetensors"));
        assert_eq!(
            of(&[&root[..], &[&shards[0], &shards[1], "samples/1.png"]].concat()),
            format!("{} {}", root.join(" "), shards.join(" "))
        );
        assert_eq!(of(&["README.md", "data.csv"]), "");
    }
}
