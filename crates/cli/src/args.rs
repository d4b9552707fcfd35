//! What the command line accepts, and which file carries it out.

use crate::run::usage;
use anyhow::Result;
use candle_core::Device;
use clap::{Args as Group, CommandFactory, Parser, Subcommand};
use langevin_ops::threads::MOST;
use std::path::PathBuf;

/// Train, sample, score and evaluate energy-based and diffusion models.
///
/// A model trained here is an energy E(x, t) whose score is its negative gradient; plain denoisers are welcome too.
#[derive(Parser)]
#[command(
    name = "langevin",
    version,
    arg_required_else_help = true,
    args_conflicts_with_subcommands = true,
    after_long_help = "\
Examples:
  langevin train digits                     an energy of the digits inside this program, and samples
  langevin train toy:two-moons              the same in two dimensions, with a picture of the energy
  langevin sample runs/digits -n 64         64 new samples, as a PNG grid
  langevin list samplers                    every sampler that `sampler.name=` takes
  langevin train mnist --data DIR train.steps=20000 --dry-run"
)]
pub struct Args {
    /// Show the licences of the program and of the data inside it
    #[arg(long)]
    licences: bool,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    Train(Train),
    Sample(Box<Sample>),
    Inpaint(Box<crate::inverse::inpaint::Inpaint>),
    Impute(crate::inverse::impute::Impute),
    Apply(Apply),
    Info(Info),
    List(List),
    Ema(Ema),
    Export(Export),
    Eval(crate::eval::Eval),
    Detect(crate::detect::Detect),
    Look(crate::look::Look),
    Check(Check),
    Bench(Bench),
    Hub(Hub),
    Completions(Completions),
}

/// Where the work is done
#[derive(Group, Clone, Debug)]
pub struct Machine {
    /// cpu, cuda, cuda:N or metal
    #[arg(long, default_value = "cpu", global = true)]
    pub device: String,
    /// Threads to use [default: all cores]
    #[arg(long, global = true)]
    pub threads: Option<usize>,
}

impl Machine {
    /// Sets the number of threads and opens the device.
    pub fn open(&self) -> Result<Device> {
        if let Some(n) = self.threads.filter(|n| !(1..=MOST).contains(n)) {
            return usage(format!("--threads {n}: give 1 to {MOST}, best as many as there are cores"));
        }
        langevin_ops::threads::set(self.threads)?;
        langevin_ops::grad::init()?;
        let (kind, index) = self.device.split_once(':').unwrap_or((&self.device, "0"));
        let Ok(index) = index.parse() else {
            return usage(format!("--device {}: `{index}` is no number of a device", self.device));
        };
        match kind {
            "cpu" => Ok(Device::Cpu),
            "cuda" if !candle_core::utils::cuda_is_available() => {
                usage("--device cuda: this program was built without CUDA; build it with --features cuda,cudnn")
            }
            "cuda" => Ok(Device::new_cuda(index)?),
            "metal" if !candle_core::utils::metal_is_available() => {
                usage("--device metal: this program was built without Metal; build it with --features metal")
            }
            "metal" => Ok(Device::new_metal(index)?),
            _ => usage(format!("--device {}: use cpu, cuda, cuda:N or metal", self.device)),
        }
    }
}

/// Train a model: a preset, or a configuration file, changed by key=value
#[derive(Parser)]
#[command(after_long_help = "\
Examples:
  langevin train digits
  langevin train digits train.steps=3000 optimiser.name=adam --out runs/longer
  langevin train digits model.head=denoiser process.name=flow model.predict=velocity \\
      loss.level=logit-normal loss.weight=unit-velocity
  langevin train toy:checkerboard
  # for classifier-free guidance
  langevin train digits model.conditional=true train.label_dropout=0.1 --out runs/classes
  langevin train mnist --data ~/mnist        a folder with the IDX files
  # start from a model of the Hub: an energy first learns its score
  langevin train cifar10 model.from=google/ddpm-cifar10-32
  langevin train --resume runs/digits        go on exactly where it stopped
  langevin train --resume runs/digits train.steps=20000 train.sample_every=500
  langevin train --resume runs/cats --data /new/place/of/cats
  langevin train digits --dry-run            show the whole configuration, do nothing")]
pub struct Train {
    /// A preset (see `langevin list presets`), toy:NAME, or a configuration FILE.toml
    #[arg(required_unless_present = "resume")]
    pub preset: Option<String>,
    /// Changes of the configuration, such as train.steps=2000, in any order
    #[arg(value_name = "KEY=VALUE")]
    pub changes: Vec<String>,
    /// Data to train on: NAME[:SPLIT], NAME=DIR, a folder of images, FILE.csv, FILE.npz, toy:NAME; a folder of the preset's data set
    #[arg(long, value_name = "SPEC")]
    pub data: Option<String>,
    /// Folder of the run [default: runs/PRESET, numbered if taken]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Go on with the run in this folder. train.steps may change, and what changes no weights: train.log_every,
    /// train.sample_every, train.checkpoint_every, train.snapshot_every and sampler.KEY; and --data where the same data have
    /// moved
    #[arg(long, value_name = "DIR", conflicts_with = "out")]
    pub resume: Option<PathBuf>,
    /// Go on with other data than the run began with: columns and classes are matched by name, and scaled as before
    #[arg(long)]
    pub new_data: bool,
    /// Seed of everything random in the run (train.seed)
    #[arg(long)]
    pub seed: Option<u64>,
    /// Show the resolved configuration and stop
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub machine: Machine,
}

/// Draw samples from a model
#[derive(Parser)]
#[command(after_long_help = "\
MODEL is a run folder, RUN@STEP for its snapshot at that step, a weights file, a folder of diffusers, or \
OWNER/NAME[@REVISION] of the Hugging Face Hub, or exact:8-gaussians and the like (`langevin list models`). A model of \
diffusers is sampled by its own scheduler, whose sampler.steps, sampler.clip and options can be changed, unless \
sampler.name names a sampler of ours.

A sample depends on its seed alone, not on the other samples. The exceptions are sampler.name=smc, whose samples are a \
population, sampler.norms=batch of pc, and a ScoreSdeVeScheduler with noise=torch: there the samples of a batch share the \
sizes of their steps, as in diffusers; without noise=torch each has its own.

Examples:
  langevin sample runs/digits -n 64 --out digits.png
  langevin sample runs/digits --seeds 7,100-115 sampler.name=ddim sampler.steps=50
  langevin sample runs/digits -n 16 --gif path.gif        the way from noise to digits
  langevin sample runs/moons --gif path.gif --frames 20 --size 360
  langevin sample runs/digits -n 10000 --npz samples.npz --batch 256
  langevin sample runs/digits --from mine.png --strength 0.5 -n 8
  langevin sample runs/digits --from ink.png --invert     ink on paper, for white digits on black
  langevin sample runs/digits --interpolate 3,8 -n 10
  # acceptance, ESS and R-hat by noise level
  langevin sample runs/digits sampler.name=annealed-mcmc sampler.kernel=hmc --report
  langevin sample runs/digits sampler.name=pc sampler.corrector=mala --report=levels.json
  # what is both
  langevin sample --let a=runs/classes,class=3 --let b=runs/classes,class=8 \\
      --compose 'a & b' -n 16
  langevin sample --let a=runs/moons --let b=runs/rings --compose '2*a & !b' sampler.name=smc \\
      --report
  # half of each
  langevin sample --let a=runs/moons --let b=runs/rings --compose 'a | (b & 0.5*a)' \\
      --estimate-ratios
  # away from the data without a class
  langevin sample runs/classes --class 3 --guidance 2 --guidance-interval 0.2,5
  # away from what it was early in training
  langevin sample runs/digits --guidance 2 --guide runs/digits@1000
  langevin sample google/ddpm-cifar10-32 sampler.name=dpmpp-2m sampler.steps=20
  # as diffusers' DDIM
  langevin sample google/ddpm-cifar10-32 --scheduler DDIMScheduler sampler.steps=50
  # the pictures that diffusers draws
  langevin sample google/ddpm-cifar10-32 --seeds 0-3 noise=torch")]
pub struct Sample {
    /// A run folder, RUN@STEP, a weights file, a folder of diffusers, OWNER/NAME of the Hub, or exact:NAME
    #[arg(required_unless_present_any = ["compose", "models"])]
    pub model: Option<String>,
    /// Changes of the sampler, such as sampler.steps=50, in any order
    #[arg(value_name = "KEY=VALUE")]
    pub changes: Vec<String>,
    /// Number of samples, with the seeds 0 to N-1 [default: 64]
    #[arg(short = 'n', value_name = "N", conflicts_with = "seeds")]
    pub number: Option<usize>,
    /// Seeds of the samples, as 0-63 or 1,5,7-9: sample n depends on seed n alone
    #[arg(long)]
    pub seeds: Option<String>,
    #[command(flatten)]
    pub guiding: crate::guide::Guiding,
    /// Samples at a time [default: 64, but all of them where points or rows are one population, as of smc]
    #[arg(long)]
    pub batch: Option<usize>,
    /// Write one picture, a grid of all samples [default: samples.png, when nothing else is asked for]
    #[arg(long, value_name = "FILE.png")]
    pub out: Option<PathBuf>,
    /// Write each sample as DIR/SEED.png
    #[arg(long, value_name = "DIR")]
    pub images: Option<PathBuf>,
    /// Write all samples as arrays: arr_0 u8 [N, H, W, C], arr_1 labels (arr_0 [N, D] for points and tables, in the units of
    /// the table, f32 or, where that lacks the digits of a column, f64)
    #[arg(long, value_name = "FILE.npz")]
    pub npz: Option<PathBuf>,
    /// Write the path from noise to samples as an animation
    #[arg(long, value_name = "FILE.gif")]
    pub gif: Option<PathBuf>,
    /// Frames of --gif at most, one a step [default: 60]
    #[arg(long, value_name = "N", requires = "gif")]
    pub frames: Option<usize>,
    /// Pixels a side of the pictures of points, of --out and --gif; the energy is evaluated at every fourth [default: 720]
    #[arg(long, value_name = "PIXELS")]
    pub size: Option<u32>,
    /// Start from this image with noise added, instead of from noise alone; it is read as the images of a folder are
    #[arg(long, value_name = "IMAGE")]
    pub from: Option<PathBuf>,
    /// How much of the way to noise the image of --from is sent, above 0, at most 1
    #[arg(long, default_value_t = 0.5, requires = "from")]
    pub strength: f64,
    /// Carry the image of --from back along the ODE (encode) instead of adding noise
    #[arg(long, requires = "from")]
    pub encode: bool,
    /// Turn dark and light of the image of --from over: ink on white paper for a model of white on black
    #[arg(long, requires = "from")]
    pub invert: bool,
    /// A model of a composition, by a name of your own; with ,class=CLASS, a name or a number, for a class-conditional one
    #[arg(long = "let", value_name = "NAME=MODEL[,class=CLASS]", requires = "compose")]
    pub models: Vec<String>,
    /// Draw from several models at once: a & b is the product of densities, 2*a a power, !a its inverse, a | b a mixture
    /// (of normalised energies, with ratios as in a | 0.5:b, or with --estimate-ratios), ( ) for the rest; models of other
    /// processes are taken as of that of the first
    #[arg(long, value_name = "EXPRESSION", requires = "models", conflicts_with_all = ["class", "guidance", "guidance_interval", "guide", "gif", "from", "strength", "encode", "invert", "scheduler", "interpolate"])]
    pub compose: Option<String>,
    /// Estimate how much of each part of a mixture there is, by annealed particles [default: 128 of them, in 8 runs]; ratios
    /// such as 0.5:b are then those of densities
    #[arg(long, value_name = "PARTICLES", num_args = 0..=1, require_equals = true, requires = "compose")]
    pub estimate_ratios: Option<Option<usize>>,
    /// What the energy of a composition is divided by [default: 1]
    #[arg(long, value_name = "T", requires = "compose")]
    pub temperature: Option<f64>,
    /// Show what MCMC did at each noise level, for a sampler with MCMC steps; with =FILE.json write it there too
    #[arg(long, value_name = "FILE.json", num_args = 0..=1, require_equals = true)]
    pub report: Option<Option<PathBuf>>,
    /// Another scheduler for a model of diffusers: a class such as DDIMScheduler, with the keys of its own, or a scheduler_config.json
    #[arg(long, value_name = "CLASS|FILE")]
    pub scheduler: Option<String>,
    /// Samples between the noises of two seeds, on the great circle
    #[arg(long, value_name = "A,B", conflicts_with_all = ["seeds", "from"])]
    pub interpolate: Option<String>,
    #[command(flatten)]
    pub machine: Machine,
}

/// Evaluate a model on given tensors: output, x0, eps, score, energy, logp
#[derive(Parser)]
#[command(after_long_help = "\
The input file holds `sample` f32 [B, C, H, W], and `timestep` [B] and `class_labels` [B] where the model needs them. \
For output, and with --energy, they are the network's own inputs, as diffusers passes them; for x0, eps, score, energy \
and logp of a model with a process they are x_t and the process's time t, in the range of the model: of a table \
(value - mean) / deviation of each column, which `langevin info` tells. logp, in nats, is by the energy \
where this is normalised, else along the probability-flow ODE; without `timestep` it is that of the least noisy time.

Examples:
  langevin apply runs/digits --input x.safetensors --output y.safetensors --what x0,score,energy
  langevin apply exact:8-gaussians --input points.safetensors --output y.safetensors --what logp
  langevin apply unet-folder --input io.safetensors --output y.safetensors --what output
  langevin apply unet-folder --input io.safetensors --output y.safetensors --what energy,score \\
      --energy residual")]
pub struct Apply {
    /// A model, or a folder with config.json and weights of a UNet2DModel
    pub model: String,
    /// Tensors to evaluate the model on
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// Where the results go, under the names of --what
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
    /// What to compute: output, x0, eps, score, energy, logp
    #[arg(long, value_delimiter = ',', default_value = "output")]
    pub what: Vec<String>,
    /// Make an energy of a plain network's output: residual, inner-product, squared-norm
    #[arg(long, value_name = "FORM")]
    pub energy: Option<String>,
    #[command(flatten)]
    pub machine: Machine,
}

/// Say what a run or a weights file is
#[derive(Parser)]
pub struct Info {
    /// A run folder, RUN@STEP, a weights file, a folder of diffusers, OWNER/NAME of the Hub, or exact:NAME
    pub model: String,
}

/// List what configurations can name
#[derive(Parser)]
pub struct List {
    /// A kind of thing [default: all of them]
    pub kind: Option<String>,
}

/// Rebuild an average of the weights of any length from the snapshots of a run trained with ema.name=power
#[derive(Parser)]
#[command(after_long_help = "\
Example:
  langevin train digits ema.name=power train.snapshot_every=100 --out runs/power
  langevin ema runs/power --std 0.10 --out digits-ema-0.10.safetensors
  langevin sample digits-ema-0.10.safetensors")]
pub struct Ema {
    /// The run folder
    pub run: PathBuf,
    /// Width of the average relative to the training time, such as 0.1 [Karras24]
    #[arg(long)]
    pub std: f64,
    /// Step that the average ends at [default: that of the last snapshot]
    #[arg(long)]
    pub step: Option<u64>,
    /// Where the weights go [default: ema-STD.safetensors in the run folder]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Write a model as a folder that diffusers opens in Python
#[derive(Parser)]
#[command(after_long_help = "\
A denoiser trained with process.name=table, model.sigma_data=1, model.predict=eps (or v, or x0) and no classes becomes \
a DDPMPipeline; where it does not, the keys that would have to be others are told. What has no scheduler in diffusers, energies among it, \
comes with a short pipeline.py of its own and the noise levels of the run's sampler (heun or euler).

Examples:
  langevin export runs/digits digits-diffusers
  langevin export runs/digits@2000 digits-diffusers sampler.name=heun sampler.steps=32")]
pub struct Export {
    /// A run folder, RUN@STEP, or a weights file
    pub model: String,
    /// The new folder
    pub dir: PathBuf,
    /// Changes of the sampler whose noise levels go along, such as sampler.steps=32
    #[arg(value_name = "KEY=VALUE")]
    pub changes: Vec<String>,
    #[command(flatten)]
    pub machine: Machine,
}

/// Check the values and derivatives of every operation on a device
///
/// Values in f32 are compared with f64, and the first, second and third derivative with finite differences.
#[derive(Parser)]
pub struct Check {
    /// With every operation composed of candle's own, as on devices that have no kernels of ours
    #[arg(long)]
    pub composed: bool,
    #[command(flatten)]
    pub machine: Machine,
}

/// Time a network: forward, train, energy-score or energy-train
#[derive(Parser)]
#[command(after_long_help = "\
Prints NET/CASE batch=B params=P median_ms=M min_ms=m peak_mib=R, the last the peak resident memory of the whole \
process; on a GPU it is n/a.

f32 runs everywhere, f64 everywhere but on Metal. bf16 runs on CUDA and Metal, and is all of it: weights, moments and \
averages too. tf32 runs on CUDA: matrix products of f32 may round their factors to 10 bits of fraction. Convolutions \
by cuDNN may do so under f32 too; NVIDIA_TF32_OVERRIDE=0 in the environment forbids both.

Examples:
  langevin bench --net mnist --case energy-train
  langevin bench --net cifar --device cuda --dtype tf32")]
pub struct Bench {
    /// The network
    #[arg(long, default_value = "mnist", value_parser = ["mnist", "cifar", "rbm"])]
    pub net: String,
    /// The work that is timed; cd1, of rbm alone, is an epoch on 60000 x 784 random bits
    #[arg(long, default_value = "train", value_parser = ["forward", "train", "energy-score", "energy-train", "cd1"])]
    pub case: String,
    /// Samples at a time [default: 64 for mnist, 8 for cifar, 100 for rbm]
    #[arg(long)]
    pub batch: Option<usize>,
    /// Timed runs, after two to warm up
    #[arg(long, default_value_t = 5)]
    pub runs: usize,
    /// Type of numbers
    #[arg(long, default_value = "f32", value_parser = ["f32", "f64", "bf16", "tf32"])]
    pub dtype: String,
    /// Compute the inside of blocks again in the backward pass, as train.recompute
    #[arg(long)]
    pub recompute: bool,
    /// Take energy-train's gradient by differences, as train.second_order = "finite-difference"
    #[arg(long)]
    pub differences: bool,
    #[command(flatten)]
    pub machine: Machine,
}

/// Files of the Hugging Face Hub: list, download, upload
#[derive(Parser)]
#[command(after_long_help = "\
A repository is owner/name, or owner/name@REVISION for a branch, a tag or a commit; datasets/owner/name for a data \
set. Downloads go to the cache that Python's huggingface_hub has too, are gone on with after a cut, and are compared \
with their hash. HF_TOKEN opens private repositories; HF_HUB_OFFLINE=1 uses the cache alone; HF_ENDPOINT, HF_HOME, \
HF_HUB_CACHE and HF_HUB_DOWNLOAD_TIMEOUT mean what they mean there.

Examples:
  langevin hub ls google/ddpm-cifar10-32
  # the whole repository; prints its folder
  langevin hub get google/ddpm-cifar10-32
  langevin hub get google/ddpm-cifar10-32 '*.json' --out ddpm      some files, copied to a folder
  langevin hub push exported me/digits --private                   a folder, as one commit")]
pub struct Hub {
    /// What to do
    #[command(subcommand)]
    pub verb: HubVerb,
}

/// What `langevin hub` does
#[derive(Subcommand)]
pub enum HubVerb {
    /// List the files of a repository and their sizes in bytes
    #[command(after_long_help = "Example:\n  langevin hub ls google/ddpm-cifar10-32@main")]
    Ls {
        /// owner/name[@REVISION]
        repo: String,
    },
    /// Download files, and say where they are
    #[command(after_long_help = "\
Examples:
  langevin hub get google/ddpm-cifar10-32
  langevin hub get google/ddpm-cifar10-32 config.json diffusion_pytorch_model.safetensors
  langevin hub get google/ddpm-cifar10-32 '*.json' --out ddpm")]
    Get {
        /// owner/name[@REVISION]
        repo: String,
        /// Files, or patterns such as 'unet/*' [default: all files]
        #[arg(value_name = "FILE")]
        files: Vec<String>,
        /// Copy them to this folder, besides the cache
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// Upload a folder as one commit, and say where it is; needs a token that may write, in HF_TOKEN
    #[command(after_long_help = "\
Examples:
  langevin hub push exported me/digits
  langevin hub push exported me/digits --private --revision wip")]
    Push {
        /// The folder
        dir: PathBuf,
        /// owner/name; it is created where it does not exist
        repo: String,
        /// Nobody else sees the repository, if it is created
        #[arg(long)]
        private: bool,
        /// The branch, created where it does not exist [default: main]
        #[arg(long, value_name = "R")]
        revision: Option<String>,
    },
}

/// Print a completion script for a shell
#[derive(Parser)]
#[command(
    after_long_help = "Example:\n  langevin completions bash > ~/.local/share/bash-completion/completions/langevin"
)]
pub struct Completions {
    /// The shell
    shell: clap_complete::Shell,
}

impl Args {
    /// Carries out what was asked.
    pub fn run(self) -> Result<()> {
        if self.licences {
            return crate::list::licences();
        }
        match self.verb {
            Some(Verb::Train(args)) => crate::train::run(args),
            Some(Verb::Sample(args)) => crate::sample::run(&args),
            Some(Verb::Inpaint(args)) => crate::inverse::inpaint::run(&args),
            Some(Verb::Impute(args)) => crate::inverse::impute::run(&args),
            Some(Verb::Apply(args)) => crate::apply::run(&args),
            Some(Verb::Info(args)) => crate::info::run(&args),
            Some(Verb::List(args)) => crate::list::run(&args),
            Some(Verb::Ema(args)) => crate::ema::run(&args),
            Some(Verb::Export(args)) => crate::export::run(&args),
            Some(Verb::Eval(args)) => crate::eval::run(&args),
            Some(Verb::Detect(args)) => crate::detect::run(&args),
            Some(Verb::Look(args)) => crate::look::run(&args),
            Some(Verb::Check(args)) => crate::check::run(&args),
            Some(Verb::Bench(args)) => crate::bench::run(&args),
            Some(Verb::Hub(args)) => crate::hub::run(&args),
            Some(Verb::Completions(args)) => {
                let mut script = vec![];
                clap_complete::generate(args.shell, &mut Args::command(), "langevin", &mut script);
                crate::say!("{}", String::from_utf8_lossy(&script).trim_end())
            }
            None => usage("nothing to do; see langevin --help"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Command;

    /// The widest line that is shown as it is written.
    const WIDTH: usize = 100;

    fn check(command: &Command) {
        let text = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        for pair in lines.windows(2) {
            let broken = pair.iter().all(|line| !line.is_empty() && !line.starts_with(' ')) && !pair[0].ends_with(':');
            assert!(!broken, "{}: a paragraph is one line, so that it fits every width: {pair:?}", command.get_name());
        }
        for line in lines.iter().filter(|line| line.starts_with(' ')) {
            assert!(line.chars().count() <= WIDTH, "{}: too wide: {line}", command.get_name());
        }
        command.get_subcommands().for_each(check);
    }

    #[test]
    fn examples_of_the_help_are_shown_as_they_are_written() {
        check(&Args::command());
    }
}
