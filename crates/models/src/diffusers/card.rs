//! The model card of an exported folder: what the model is, how it was trained, how it is used.

use crate::model::{Head, Model};

/// The use of a folder with a `DDPMPipeline`, as Python.
const DDPM_PIPELINE: &str =
    "from diffusers import DDPMPipeline\n\npipe = DDPMPipeline.from_pretrained(\"THIS_FOLDER\")";

/// The use of a folder with a `pipeline.py`.
const OWN_PIPELINE: &str = "from diffusers import DiffusionPipeline\n\npipe = DiffusionPipeline.from_pretrained(\n    \
     \"THIS_FOLDER\", custom_pipeline=\"THIS_FOLDER\", trust_remote_code=True\n)";

/// How a model came to be.
#[derive(Clone, Debug)]
pub struct Trained {
    /// The name of its data.
    pub data: String,
    /// The steps that were taken, if that is known.
    pub steps: Option<String>,
    /// Samples a step.
    pub samples: usize,
    /// The model that training started from, if any.
    pub from: Option<String>,
    /// The whole configuration, as TOML.
    pub config: String,
}

impl Trained {
    /// On what, and how long.
    fn summary(&self) -> String {
        let steps = self.steps.as_ref().map_or(String::new(), |steps| format!(" for {steps} steps"));
        let from = self.from.as_ref().map_or(String::new(), |from| format!(", starting from `{from}`"));
        format!("\nTrained on `{}`{steps} of {} samples{from}.\n", self.data, self.samples)
    }

    /// The configuration, folded away.
    fn details(&self) -> String {
        format!("\n<details><summary>The whole run</summary>\n\n```toml\n{}```\n\n</details>\n", self.config)
    }
}

/// The card of `model`, which lacks so many keys of what a `DDPMPipeline` draws from.
pub(super) fn card(model: &Model, lacks: &[&str], trained: Option<&Trained>) -> String {
    let spec = &model.spec;
    let what = match spec.head {
        Head::Energy => "an energy: the score is the negative gradient of a scalar made of the network's output",
        Head::Denoiser => "a denoiser",
    };
    let (why, use_it) = if lacks.is_empty() { ("", DDPM_PIPELINE) } else { (why_not_theirs(lacks), OWN_PIPELINE) };
    let left = if spec.normalised {
        "\ndiffusers says that it does not use the weights `log_normaliser`: they are what the energy's values need and \
         samples do not.\n"
    } else {
        ""
    };
    let labels = spec.classes.map_or(String::new(), |n| format!(", class_labels={:?}", [0, 1, 2, 3].map(|i| i % n)));
    format!(
        "---\nlibrary_name: diffusers\ntags: [unconditional-image-generation, langevin]\n---\n\n# A model trained with \
         Langevin\n\nThis is {what}. The network has {} parameters, samples are of shape {:?}; process `{}`, prediction \
         `{}`.\n{}{why}{left}\n```python\n{use_it}\nimages = pipe(batch_size=4{labels}).images\n```\n\n`langevin sample THIS_FOLDER` \
         draws from it too.\n{}",
        model.parameters(),
        spec.shape,
        spec.process.name(),
        spec.predict.name(),
        trained.map_or(String::new(), Trained::summary),
        trained.map_or(String::new(), Trained::details),
    )
}

/// Why no pipeline of diffusers draws from the model.
fn why_not_theirs(lacks: &[&str]) -> &'static str {
    if lacks == ["model.conditional=false"] {
        "\nThe pipeline of diffusers that means the same process tells its network no class, so samples come from \
         `pipeline.py`, which is in this folder: read it before you trust it.\n"
    } else {
        "\nNo scheduler of diffusers means the same process and prediction, so samples come from `pipeline.py`, which is in \
         this folder: read it before you trust it. Any other scheduler with this network paints garbage.\n"
    }
}
