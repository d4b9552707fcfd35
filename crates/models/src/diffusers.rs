//! diffusers' `UNet2DModel` as it lies on disk: `config.json` and weights.
//!
//! Keys that old files lack have the defaults of the class's signature; what we do not have is an error that names the
//! key.

use crate::checkpoint::refuse_unused;
use crate::model::plain;
use crate::params::Params;
use crate::tensors;
use crate::unet::{UNet, UNetConfig};
use candle_core::{DType, Device, Error, Result, Var, bail};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::fs;
use std::path::Path;

/// A `config.json` in our terms.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The network.
    pub unet: UNetConfig,
    /// Channels of its input.
    pub inputs: usize,
    /// Channels of its output.
    pub outputs: usize,
    /// Number of classes that it is told, if any.
    pub classes: Option<usize>,
    /// Height and width that it was trained for, if it says so.
    pub size: Option<[usize; 2]>,
}

/// A network with its weights.
pub struct Network {
    /// What it is made of.
    pub config: Config,
    /// The network.
    pub net: UNet,
    /// Its parameters, sorted by name.
    pub vars: Vec<(String, Var)>,
}

/// The network in `dir`: `config.json` and `diffusion_pytorch_model.safetensors`, there or in its folder `unet`.
pub fn open(dir: &Path, dtype: DType, device: &Device) -> Result<Network> {
    let inside = dir.join("unet");
    let dir = if inside.join("config.json").exists() { &inside } else { dir };
    load(&dir.join("config.json"), &dir.join("diffusion_pytorch_model.safetensors"), dtype, device)
}

/// The network described by the file `config`, with the weights of the file `weights`, converted to `dtype`.
pub fn load(config: &Path, weights: &Path, dtype: DType, device: &Device) -> Result<Network> {
    let text = fs::read_to_string(config);
    let text = text.map_err(|e| Error::Msg(format!("cannot read `{}`: {e}", config.display())))?;
    let parsed = Config::from_json(&text).map_err(|e| Error::Msg(format!("`{}`: {}", config.display(), plain(&e))));
    let config = parsed?;
    let tensors = tensors::load(weights)?.tensors;
    let tensors = tensors.into_iter().map(|(name, t)| (present_name(&name), t)).collect();
    let params = Params::loaded(tensors);
    let vb = params.builder(dtype, device);
    let net = UNet::new(&config.unet, config.inputs, config.outputs, config.classes, vb)
        .map_err(|e| Error::Msg(format!("`{}`: {}", weights.display(), plain(&e))))?;
    refuse_unused(&weights.display().to_string(), &params)?;
    Ok(Network { config, net, vars: params.vars() })
}

/// Attention had other names before diffusers 0.18.
fn present_name(name: &str) -> String {
    if !name.contains(".attentions.") {
        return name.to_string();
    }
    [(".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."), (".proj_attn.", ".to_out.0.")]
        .iter()
        .fold(name.to_string(), |name, (old, new)| name.replace(old, new))
}

struct Fields(Map<String, Value>);

impl Fields {
    /// The value of `key`, or the default of the class if it is missing.
    fn get<T: DeserializeOwned>(&self, key: &str, default: T) -> Result<T> {
        let Some(value) = self.0.get(key) else { return Ok(default) };
        serde_json::from_value(value.clone()).map_err(|e| Error::Msg(format!("`{key}`: {e}")))
    }

    /// An error unless `key` is missing or one of `known`.
    fn only(&self, key: &str, known: &[Value]) -> Result<()> {
        match self.0.get(key) {
            Some(value) if !known.contains(value) => {
                let known: Vec<_> = known.iter().map(Value::to_string).collect();
                bail!("`{key}` is {}, which is not supported; {} is", short(value), known.join(" or "))
            }
            _ => Ok(()),
        }
    }
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() > 80 { text.chars().take(80).chain("...".chars()).collect() } else { text }
}

/// What a level is, from the name of its block.
struct Kind {
    attention: bool,
    residual_resampling: bool,
}

/// The kind of each level, finest first. `word` is "Down" or "Up".
fn kinds(key: &str, blocks: &[String], word: &str, residual: bool) -> Result<Vec<Kind>> {
    let sampler = if word == "Down" { "Downsample" } else { "Upsample" };
    let kind = |block: &String| {
        let name = block.strip_prefix("UNetRes").unwrap_or(block);
        let (attention, residual_resampling) = if name == format!("{word}Block2D") {
            (false, false)
        } else if name == format!("Attn{word}Block2D") {
            (true, residual)
        } else if name == format!("Resnet{sampler}Block2D") {
            (false, true)
        } else {
            bail!(
                "`{key}` has \"{block}\", which is not supported; {word}Block2D, Attn{word}Block2D and \
                 Resnet{sampler}Block2D are"
            )
        };
        Ok(Kind { attention, residual_resampling })
    };
    blocks.iter().map(kind).collect()
}

fn with_attention(kinds: &[Kind]) -> Vec<usize> {
    kinds.iter().enumerate().filter(|(_, kind)| kind.attention).map(|(level, _)| level).collect()
}

impl Config {
    /// From the text of a `config.json`.
    pub fn from_json(text: &str) -> Result<Self> {
        let fields = match serde_json::from_str::<Value>(text) {
            Ok(Value::Object(fields)) => Fields(fields),
            Ok(_) => bail!("this is not a configuration: it is not a JSON object"),
            Err(e) => bail!("this is not JSON: {e}"),
        };
        let f = &fields;
        let null = Value::Null;
        f.only("_class_name", &["UNet2DModel".into()])?;
        f.only("time_embedding_type", &["positional".into()])?;
        f.only("mid_block_type", &["UNetMidBlock2D".into(), null.clone()])?;
        f.only("act_fn", &["silu".into(), "swish".into()])?;
        f.only("resnet_time_scale_shift", &["default".into(), "scale_shift".into()])?;
        f.only("class_embed_type", std::slice::from_ref(&null))?;
        f.only("downsample_type", &["conv".into(), "resnet".into(), null.clone()])?;
        f.only("upsample_type", &["conv".into(), "resnet".into(), null.clone()])?;

        let names = |list: [&str; 4]| list.map(String::from).to_vec();
        let (attn_down, attn_up) = ("AttnDownBlock2D", "AttnUpBlock2D");
        let down: Vec<String> = f.get("down_block_types", names(["DownBlock2D", attn_down, attn_down, attn_down]))?;
        let up: Vec<String> = f.get("up_block_types", names([attn_up, attn_up, attn_up, "UpBlock2D"]))?;
        let channels: Vec<usize> = f.get("block_out_channels", vec![224, 448, 672, 896])?;
        if down.len() != channels.len() || up.len() != channels.len() {
            bail!(
                "`down_block_types`, `up_block_types` and `block_out_channels` have {}, {} and {} entries; they need as many",
                down.len(),
                up.len(),
                channels.len()
            );
        }
        let is_resnet = |key: &str| f.get(key, None::<String>).map(|kind| kind.as_deref() == Some("resnet"));
        let down = kinds("down_block_types", &down, "Down", is_resnet("downsample_type")?)?;
        let mut up = kinds("up_block_types", &up, "Up", is_resnet("upsample_type")?)?;
        up.reverse();
        // the coarsest level has no way down, and the finest none up
        let mut resampled = down.iter().rev().skip(1).chain(up.iter().skip(1)).map(|kind| kind.residual_resampling);
        let residual_resampling = resampled.next().unwrap_or(false);
        if resampled.any(|residual| residual != residual_resampling) {
            bail!(
                "`down_block_types`, `up_block_types`, `downsample_type` and `upsample_type` join some levels by \
                 convolutions and others by residual blocks, which is not supported"
            );
        }
        let (attention, up_attention) = (with_attention(&down), with_attention(&up));
        let unet = UNetConfig {
            channels,
            layers: f.get("layers_per_block", 2)?,
            up_attention: (up_attention != attention).then_some(up_attention),
            attention,
            middle: f.get("mid_block_type", Some("UNetMidBlock2D".to_string()))?.is_some(),
            middle_attention: f.get("add_attention", true)?,
            head_dim: f.get("attention_head_dim", Some(8))?,
            groups: f.get("norm_num_groups", Some(32))?,
            middle_groups: f.get("attn_norm_num_groups", None)?,
            eps: f.get("norm_eps", 1e-5)?,
            dropout: f.get("dropout", 0.)?,
            scale_shift: f.get("resnet_time_scale_shift", "default".to_string())? == "scale_shift",
            residual_resampling,
            downsample_padding: f.get("downsample_padding", 1)?,
            middle_scale: f.get("mid_block_scale_factor", 1.)?,
            center_input: f.get("center_input_sample", false)?,
            cos_first: f.get("flip_sin_to_cos", true)?,
            freq_shift: f.get("freq_shift", 0.)?,
            embedding: f.get("time_embedding_dim", None)?,
        };
        unet.validate().map_err(|e| Error::Msg(their_names(&plain(&e))))?;
        let config = Self {
            unet,
            inputs: f.get("in_channels", 3)?,
            outputs: f.get("out_channels", 3)?,
            classes: f.get("num_class_embeds", None)?,
            size: f.size()?,
        };
        if config.inputs == 0 || config.inputs > 16384 || config.outputs == 0 || config.outputs > 16384 {
            bail!("`in_channels` is {} and `out_channels` {}; give 1 to 16384", config.inputs, config.outputs);
        }
        if config.classes.is_some_and(|n| n == 0 || n > 1_000_000) {
            bail!("`num_class_embeds` is {}; give 1 to 1000000, or null", config.classes.unwrap_or(0));
        }
        Ok(config)
    }
}

impl Fields {
    fn size(&self) -> Result<Option<[usize; 2]>> {
        Ok(match self.0.get("sample_size") {
            Some(Value::Number(_)) => {
                let n = self.get("sample_size", 0)?;
                Some([n, n])
            }
            _ => self.get("sample_size", None)?,
        })
    }
}

/// Our message about a key in diffusers' words.
fn their_names(message: &str) -> String {
    [
        ("`channels`", "`block_out_channels`"),
        ("`layers`", "`layers_per_block`"),
        ("`head_dim`", "`attention_head_dim`"),
        ("`groups`", "`norm_num_groups`"),
        ("`middle_groups`", "`attn_norm_num_groups`"),
        ("`eps`", "`norm_eps`"),
        ("`middle_scale`", "`mid_block_scale_factor`"),
        ("`embedding`", "`time_embedding_dim`"),
    ]
    .iter()
    .fold(message.to_string(), |message, (ours, theirs)| message.replace(ours, theirs))
}
