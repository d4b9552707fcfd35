//! `langevin export`: a model as a folder that diffusers opens.
//!
//! A denoiser under a table of betas, told no class, is a `DDPMPipeline`. Everything else has no pipeline there that means
//! the same: it comes with a short one of its own, and the levels of noise of the run's sampler.

use crate::args::Export;
use crate::changes::Changes;
use crate::open::{EXPORTED, Opened, RUN, STEP, open};
use crate::run::{Drawing, usage};
use anyhow::{Context, Result, bail};
use langevin_dynamics::{Cond, Denoiser};
use langevin_models::{Form, Head, atomic, checkpoint, export};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

const PIPELINE: &str = include_str!("../assets/pipeline.py");

/// Carries out `langevin export`.
pub fn run(args: &Export) -> Result<()> {
    let opened = open(&args.model, &args.machine.open()?)?;
    if opened.scheduler.is_some() {
        return usage(format!("{} is a model of diffusers already: {}", args.model, opened.what));
    }
    let network = export::network(&opened.model.spec)?;
    let dir = &args.dir;
    if dir.exists() && fs::read_dir(dir).map_or(true, |mut entries| entries.next().is_some()) {
        return usage(format!("{} is there already; name a new folder", dir.display()));
    }
    if dir.file_name().is_none() {
        return usage(format!("{} is not the name of a folder", dir.display()));
    }
    atomic::make_folder(dir, |beside| write(&opened, &args.changes, &network, beside))?;
    crate::say!("{}", dir.display())
}

fn write(opened: &Opened, changes: &[String], network: &Value, dir: &Path) -> Result<()> {
    let model = &opened.model;
    fs::create_dir_all(dir.join("unet")).with_context(|| format!("cannot make {}", dir.display()))?;
    save(&dir.join("unet/config.json"), &pretty(network)?)?;
    let weights = checkpoint::weights(model);
    let mut notes = opened.notes.clone();
    if let Some(run) = &opened.run {
        notes.insert(RUN.into(), run.to_toml()?);
    }
    checkpoint::save(&dir.join(EXPORTED), &model.spec, &weights, &notes)?;
    let mut index = json!({ "unet": ["diffusers", "UNet2DModel"] });
    let mut scheduler = export::scheduler(&model.spec);
    match &mut scheduler {
        Ok(config) => {
            if !changes.is_empty() {
                return usage(
                    "sampler.KEY=value: this model has a scheduler of diffusers, whose steps are chosen there",
                );
            }
            config["clip_sample"] = json!(opened.run.as_ref().is_some_and(|run| run.sampler.clip));
            fs::create_dir_all(dir.join("scheduler"))?;
            save(&dir.join("scheduler/scheduler_config.json"), &pretty(config)?)?;
            index["_class_name"] = json!("DDPMPipeline");
            index["scheduler"] = json!(["diffusers", "DDPMScheduler"]);
        }
        Err(lacks) => {
            index["_class_name"] = json!(["pipeline", "LangevinPipeline"]);
            let changes = Changes::typed(changes)?;
            if let Some(change) = changes.first(|key| key == "noise") {
                return usage(format!("`{change}`: the noise of an exported model is that of its user; leave it out"));
            }
            let drawing = Drawing::of(opened.run.as_ref()).changed(&changes)?;
            index["levels"] = levels(opened, &drawing)?;
            index["clip"] = json!(drawing.sampler.clip);
            index["from_zero"] = json!(model.spec.from_zero);
            index["form"] = if model.spec.head == Head::Energy { json!(model.spec.form) } else { Value::Null };
            let sampler = serde_json::to_value(&drawing.sampler.sampler)?;
            match drawing.sampler.sampler.name() {
                "heun" => {
                    index["second_order"] = json!(true);
                    index["angle_above"] = sampler["angle_above"].clone();
                }
                "euler" => index["second_order"] = json!(false),
                other => {
                    return usage(format!(
                        "sampler.name = {other}: the exported pipeline takes the steps of heun or euler; choose one, \
                         such as sampler.name=heun sampler.steps=18"
                    ));
                }
            }
            save(&dir.join("pipeline.py"), PIPELINE)?;
            crate::talk!(
                "no DDPMPipeline means the same, so that samples come from a pipeline.py beside the network; a model trained \
                 with {} as well becomes one",
                lacks.join(", ")
            );
        }
    }
    save(&dir.join("model_index.json"), &pretty(&index)?)?;
    save(&dir.join("README.md"), &card(opened, &scheduler.err().unwrap_or_default())?)
}

/// The levels of noise that the sampler visits, with what the network is told at each.
fn levels(opened: &Opened, drawing: &Drawing) -> Result<Value> {
    let denoiser = opened.model.denoiser(Cond::default())?;
    let process = denoiser.process();
    let times = drawing.sampler.grid.get().times(process, drawing.sampler.steps)?;
    let spec = &opened.model.spec;
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

/// The model card; it `lacks` so many keys of what a `DDPMPipeline` draws from.
fn card(opened: &Opened, lacks: &[&str]) -> Result<String> {
    let plain = lacks.is_empty();
    let spec = &opened.model.spec;
    let what = match spec.head {
        Head::Energy => "an energy: the score is the negative gradient of a scalar made of the network's output",
        Head::Denoiser => "a denoiser",
    };
    let (mut data, mut run) = (String::new(), String::new());
    if let Some(of) = &opened.run {
        let of = &of.clone().without_folders();
        let steps = opened.notes.get(STEP).map_or(String::new(), |step| format!(" for {step} steps"));
        let from = of.model.from.as_ref().map_or(String::new(), |from| format!(", starting from `{from}`"));
        data = format!(
            "\nTrained on `{}`{steps} of {} samples{from}.\n",
            of.data.spec,
            of.train.batch * of.train.accumulate
        );
        run = format!("\n<details><summary>The whole run</summary>\n\n```toml\n{}```\n\n</details>\n", of.to_toml()?);
    }
    let use_it = if plain {
        "from diffusers import DDPMPipeline\n\npipe = DDPMPipeline.from_pretrained(\"THIS_FOLDER\")".to_string()
    } else {
        "from diffusers import DiffusionPipeline\n\npipe = DiffusionPipeline.from_pretrained(\n    \"THIS_FOLDER\", \
         custom_pipeline=\"THIS_FOLDER\", trust_remote_code=True\n)"
            .to_string()
    };
    let why = if plain {
        ""
    } else if lacks == ["model.conditional=false"] {
        "\nThe pipeline of diffusers that means the same process tells its network no class, so samples come from \
         `pipeline.py`, which is in this folder: read it before you trust it.\n"
    } else {
        "\nNo scheduler of diffusers means the same process and prediction, so samples come from `pipeline.py`, which is in \
         this folder: read it before you trust it. Any other scheduler with this network paints garbage.\n"
    };
    let left = if spec.normalised {
        "\ndiffusers says that it does not use the weights `log_normaliser`: they are what the energy's values need and \
         samples do not.\n"
    } else {
        ""
    };
    let labels = spec.classes.map_or(String::new(), |n| format!(", class_labels={:?}", [0, 1, 2, 3].map(|i| i % n)));
    Ok(format!(
        "---\nlibrary_name: diffusers\ntags: [unconditional-image-generation, langevin]\n---\n\n# A model trained with \
         Langevin\n\nThis is {what}. The network has {} parameters, samples are of shape {:?}; process `{}`, prediction \
         `{}`.\n{data}{why}{left}\n```python\n{use_it}\nimages = pipe(batch_size=4{labels}).images\n```\n\n`langevin sample THIS_FOLDER` \
         draws from it too.\n{run}",
        opened.model.parameters(),
        spec.shape,
        spec.process.name(),
        spec.predict.name(),
    ))
}

fn pretty(value: &Value) -> Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

fn save(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
