//! A `UNet2DModel` of diffusers as it lies on disk: `config.json` and weights.

use super::config::{self, Config};
use super::weights;
use crate::checkpoint::refuse_unused;
use crate::model::plain;
use crate::params::Params;
use crate::unet::UNet;
use candle_core::{DType, Device, Error, Result, Var, bail};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A network with its weights.
pub struct Network {
    /// What it is made of.
    pub config: Config,
    /// The network.
    pub net: UNet,
    /// Its parameters, sorted by name.
    pub vars: Vec<(String, Var)>,
    /// What the user should know of how it was read: that its weights are a variant, for one.
    pub note: Option<String>,
}

/// The files that a network lies in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// `config.json`.
    pub config: PathBuf,
    /// The weights.
    pub weights: weights::Weights,
    /// Whether weights that are not finite are taken as they are, instead of being an error.
    pub any_number: bool,
}

impl Files {
    /// The files of the network in `path`: a folder, or one whose network is in its folder `unet`, or a weights file with
    /// `config.json` beside it.
    ///
    /// Errors in one sentence that says what is missing.
    pub fn find(path: &Path) -> Result<Self> {
        let (config, weights) = if path.is_dir() {
            let inside = path.join("unet");
            let dir = if inside.join("config.json").exists() { inside } else { path.to_path_buf() };
            (dir.join("config.json"), weights::find(&dir))
        } else {
            (path.with_file_name("config.json"), Ok(weights::Weights { file: path.to_path_buf(), variant: None }))
        };
        if !path.exists() {
            bail!("`{}` does not exist", path.display());
        }
        if !config.is_file() {
            bail!("`{}` is missing, which says what network the weights belong to", config.display());
        }
        Ok(Self { config, weights: weights?, any_number: false })
    }

    /// The network, its weights converted to `dtype`.
    ///
    /// Errors in one sentence that names the file and the key or tensor that is wrong.
    pub fn load(&self, dtype: DType, device: &Device) -> Result<Network> {
        let (text, file) = (read_text(&self.config)?, self.weights.file.display());
        let within = |name: String| move |e: Error| Error::Msg(format!("`{name}`: {}", plain(&e)));
        let config = Config::from_json(&text).map_err(within(self.config.display().to_string()))?;
        let build = |params: &Params, dtype, device: &Device| {
            UNet::new(&config.unet, config.inputs, config.outputs, config.classes, params.builder(dtype, device))
        };
        // what does not fit together is found before weights are read
        let counted = Params::counting();
        build(&counted, dtype, &Device::Cpu)
            .map_err(|e| Error::Msg(format!("`{}`: {}", self.config.display(), config::their_names(&plain(&e)))))?;
        let tensors = weights::read(&self.weights.file, self.any_number)?;
        let tensors = weights::prepare(tensors, &counted.names(), dtype, self.any_number)
            .map_err(|e| Error::Msg(format!("`{file}` {}", plain(&e))))?;
        let params = Params::loaded(tensors);
        let net = build(&params, dtype, device).map_err(within(file.to_string()))?;
        refuse_unused(&format!("`{file}`"), &params)?;
        let note =
            self.weights.variant.as_ref().map(|variant| {
                format!("`{file}` is the {variant} variant of the weights; there is no plain file of them")
            });
        Ok(Network { config, net, vars: params.vars(), note })
    }
}

/// The network in `path`, as [`Files::find`] finds it, its weights converted to `dtype`.
pub fn open(path: &Path, dtype: DType, device: &Device) -> Result<Network> {
    Files::find(path)?.load(dtype, device)
}

/// The network described by the file `config`, with the weights of the file `weights`, converted to `dtype`.
pub fn load(config: &Path, weights: &Path, dtype: DType, device: &Device) -> Result<Network> {
    let weights = weights::Weights { file: weights.to_path_buf(), variant: None };
    Files { config: config.to_path_buf(), weights, any_number: false }.load(dtype, device)
}

/// Whether `folder` holds a network of diffusers, at its root or in `unet`.
pub fn is_network(folder: &Path) -> bool {
    ["config.json", "unet/config.json"].iter().any(|file| folder.join(file).is_file())
}

/// The text of a small file.
pub(super) fn read_text(path: &Path) -> Result<String> {
    const MOST: u64 = 64 << 20;
    let cannot = |e| Error::Msg(format!("cannot read `{}`: {e}", path.display()));
    let mut text = String::new();
    fs::File::open(path).and_then(|file| file.take(MOST + 1).read_to_string(&mut text)).map_err(cannot)?;
    if text.len() as u64 > MOST {
        bail!("`{}` has more than {MOST} bytes, which no configuration needs", path.display());
    }
    Ok(text)
}
