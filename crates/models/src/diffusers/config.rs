//! A `config.json` of `UNet2DModel` in our terms.
//!
//! Keys that old files lack have the defaults of the class's signature; what we do not have is an error that names the
//! key. [diffusers 0.42, unet_2d.py]

use crate::model::plain;
use crate::unet::{Activation, ClassInput, Kind, Time, UNetConfig};
use candle_core::{Error, Result, bail};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

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

/// A level's blocks: what they are, and whether they have attention.
type Level = (Kind, bool);

/// What each level is, in the order of `blocks`. `word` is "Down" or "Up"; `resampler` joins levels with attention.
fn levels(key: &str, blocks: &[String], word: &str, resampler: Kind) -> Result<Vec<Level>> {
    let known = [
        (format!("{word}Block2D"), Kind::Conv, false),
        (format!("Attn{word}Block2D"), resampler, true),
        (format!("Resnet{word}sampleBlock2D"), Kind::Residual, false),
        (format!("Skip{word}Block2D"), Kind::Skip, false),
        (format!("AttnSkip{word}Block2D"), Kind::Skip, true),
    ];
    let level = |block: &String| {
        let name = block.strip_prefix("UNetRes").unwrap_or(block);
        match known.iter().find(|(known, ..)| known == name) {
            Some(&(_, kind, attention)) => Ok((kind, attention)),
            None => {
                let known: Vec<&str> = known.iter().map(|(known, ..)| known.as_str()).collect();
                let block = short(&block.as_str().into());
                bail!("`{key}` has {block}, which is not supported; {} are", known.join(", "))
            }
        }
    };
    blocks.iter().map(level).collect()
}

fn with_attention(levels: &[Level]) -> Vec<usize> {
    levels.iter().enumerate().filter(|(_, (_, attention))| *attention).map(|(level, _)| level).collect()
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
        f.only("_class_name", &["UNet2DModel".into()])?;
        f.only("resnet_time_scale_shift", &["default".into(), "scale_shift".into()])?;

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
        let down = levels("down_block_types", &down, "Down", f.resampler("downsample_type")?)?;
        let mut up = levels("up_block_types", &up, "Up", f.resampler("upsample_type")?)?;
        up.reverse();
        let kinds = |levels: &[Level]| levels.iter().map(|&(kind, _)| kind).collect::<Vec<_>>();
        // the coarsest level has no way down, and the finest none up: there only skip blocks differ
        let mut joins = kinds(&down[..down.len().saturating_sub(1)]);
        joins.extend(kinds(up.get(1..).unwrap_or_default()));
        let ends = [down.last(), up.first()].into_iter().flatten();
        let alike = |all: Kind| joins.iter().all(|&k| k == all) && ends.clone().all(|&(kind, _)| kind != Kind::Skip);
        let residual_resampling = !joins.is_empty() && alike(Kind::Residual);
        let mixed = !residual_resampling && !alike(Kind::Conv);
        let (attention, up_attention) = (with_attention(&down), with_attention(&up));
        let unet = UNetConfig {
            channels,
            layers: f.get("layers_per_block", 2)?,
            up_attention: (up_attention != attention).then_some(up_attention),
            attention,
            // whatever its name, it is a UNetMidBlock2D
            middle: f.get("mid_block_type", Some(String::new()))?.is_some(),
            middle_attention: f.get("add_attention", true)?,
            head_dim: f.get("attention_head_dim", Some(8))?,
            groups: f.get("norm_num_groups", Some(32))?,
            middle_groups: f.get("attn_norm_num_groups", None)?,
            eps: f.get("norm_eps", 1e-5)?,
            dropout: f.get("dropout", 0.)?,
            scale_shift: f.get("resnet_time_scale_shift", "default".to_string())? == "scale_shift",
            residual_resampling,
            down: mixed.then(|| kinds(&down)),
            up: mixed.then(|| kinds(&up)),
            activation: f.activation()?,
            time: f.time()?,
            class: f.class()?,
            downsample_padding: f.get("downsample_padding", 1)?,
            middle_scale: f.get("mid_block_scale_factor", 1.)?,
            center_input: f.get("center_input_sample", false)?,
            sines: vec![],
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
        let uses = |levels: &[Level]| levels.iter().any(|&(kind, _)| kind == Kind::Skip);
        if (uses(&down) && config.inputs != 3) || (uses(&up) && config.outputs != 3) {
            bail!(
                "`in_channels` is {} and `out_channels` {}, but the skip blocks of diffusers have 3",
                config.inputs,
                config.outputs
            );
        }
        if let Some(size) = config.size.filter(|size| size.iter().any(|n| !(1..=16384).contains(n))) {
            bail!("`sample_size` is {size:?}; give 1 to 16384");
        }
        if config.classes.is_some_and(|n| n == 0 || n > 1_000_000) {
            bail!("`num_class_embeds` is {}; give 1 to 1000000, or null", config.classes.unwrap_or(0));
        }
        Ok(config)
    }
}

impl Fields {
    /// What joins levels with attention.
    fn resampler(&self, key: &str) -> Result<Kind> {
        self.only(key, &["conv".into(), "resnet".into(), Value::Null])?;
        Ok(if self.get(key, None::<String>)?.as_deref() == Some("resnet") { Kind::Residual } else { Kind::Conv })
    }

    fn activation(&self) -> Result<Activation> {
        let name: String = self.get("act_fn", "silu".to_string())?;
        Ok(match name.to_lowercase().as_str() {
            "silu" | "swish" => Activation::Silu,
            "mish" => Activation::Mish,
            "gelu" => Activation::Gelu,
            "relu" => Activation::Relu,
            _ => {
                bail!("`act_fn` is {}, which is not supported; silu, swish, mish, gelu, relu are", short(&name.into()))
            }
        })
    }

    fn time(&self) -> Result<Time> {
        self.only("time_embedding_type", &["positional".into(), "fourier".into(), "learned".into()])?;
        Ok(match self.get("time_embedding_type", String::new())?.as_str() {
            "fourier" => Time::Fourier,
            "learned" => match self.get("num_train_timesteps", None)? {
                Some(times) => Time::Learned(times),
                None => bail!("`num_train_timesteps` is missing, which a learned time needs"),
            },
            _ => Time::Sinusoid,
        })
    }

    fn class(&self) -> Result<ClassInput> {
        self.only("class_embed_type", &[Value::Null, "timestep".into(), "identity".into()])?;
        Ok(match self.get("class_embed_type", None::<String>)?.as_deref() {
            Some("timestep") => ClassInput::AsTime,
            Some(_) => ClassInput::AsIs,
            None => ClassInput::Table,
        })
    }

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
pub(super) fn their_names(message: &str) -> String {
    [
        ("`channels`", "`block_out_channels`"),
        ("`layers`", "`layers_per_block`"),
        ("`head_dim`", "`attention_head_dim`"),
        ("`groups`", "`norm_num_groups`"),
        ("`middle_groups`", "`attn_norm_num_groups`"),
        ("`eps`", "`norm_eps`"),
        ("`middle_scale`", "`mid_block_scale_factor`"),
        ("`embedding`", "`time_embedding_dim`"),
        ("`down`", "`down_block_types`"),
        ("`up`", "`up_block_types`"),
        ("`time`", "`num_train_timesteps`"),
    ]
    .iter()
    .fold(message.to_string(), |message, (ours, theirs)| message.replace(ours, theirs))
}
