//! A model of ours in the words of diffusers: the `config.json` of its network, and the scheduler that means the same process.

use crate::model::{Head, ModelSpec};
use crate::net::AnyNet;
use crate::unet::{ClassInput, Kind, Time, UNetConfig};
use candle_core::{Result, bail};
use langevin_dynamics::predict::AnyParametrisation;
use langevin_dynamics::process::{AnyProcess, Betas};
use serde_json::{Value, json};

/// The `config.json` of the network as a `UNet2DModel`, whose weights have the names of ours.
///
/// Errors, naming the option, if no `UNet2DModel` computes the same.
pub fn network(spec: &ModelSpec) -> Result<Value> {
    let (AnyNet::UNetConfig(net), &[channels, height, width]) = (&spec.net, spec.shape.as_slice()) else {
        bail!("diffusers has no network such as `{}`; U-Nets can be exported", spec.net.name());
    };
    let alike = if net.residual_resampling { Kind::Residual } else { Kind::Conv };
    let kinds = |kinds: &Option<Vec<Kind>>| kinds.clone().unwrap_or(vec![alike; net.channels.len()]);
    let (down, up) = (kinds(&net.down), kinds(&net.up));
    if net.groups.is_none() && down.iter().chain(&up).any(|kind| *kind != Kind::Skip) {
        bail!(
            "`groups` is left out, so that every norm has groups of its own, which UNet2DModel has not; a model trained \
             with model.net.groups=8 can be exported"
        );
    }
    if !net.sines.is_empty() {
        bail!(
            "the network sees sines of its input (`sines`), which UNet2DModel does not; train with model.net.sines=[]"
        );
    }
    let up_attention = net.up_attention.as_ref().unwrap_or(&net.attention);
    let downsample = resampling(&down, &net.attention, alike)?;
    let upsample = resampling(&up, up_attention, alike)?;
    let down = blocks("Down", "Downsample", &down, &net.attention);
    let mut up = blocks("Up", "Upsample", &up, up_attention);
    up.reverse();
    let outputs = if spec.head == Head::Energy { spec.form.outputs(channels) } else { channels };
    let (time, rows) = match net.time {
        Time::Sinusoid => ("positional", None),
        Time::Fourier => ("fourier", None),
        Time::Learned(rows) => ("learned", Some(rows)),
    };
    let class = match net.class {
        ClassInput::Table => None,
        ClassInput::AsTime => Some("timestep"),
        ClassInput::AsIs => Some("identity"),
    };
    let UNetConfig { channels: widths, layers, head_dim, groups, middle_groups, eps, .. } = net;
    Ok(json!({
        "_class_name": "UNet2DModel",
        "sample_size": if height == width { json!(height) } else { json!([height, width]) },
        "in_channels": channels,
        "out_channels": outputs,
        "center_input_sample": net.center_input,
        "time_embedding_type": time,
        "num_train_timesteps": rows,
        "time_embedding_dim": net.embedding,
        "freq_shift": net.freq_shift,
        "flip_sin_to_cos": net.cos_first,
        "down_block_types": down,
        "mid_block_type": net.middle.then_some("UNetMidBlock2D"),
        "up_block_types": up,
        "block_out_channels": widths,
        "layers_per_block": layers,
        "mid_block_scale_factor": net.middle_scale,
        "downsample_padding": net.downsample_padding,
        "downsample_type": downsample,
        "upsample_type": upsample,
        "dropout": net.dropout,
        "act_fn": net.activation,
        "class_embed_type": class,
        "attention_head_dim": head_dim,
        "norm_num_groups": groups,
        "attn_norm_num_groups": middle_groups,
        "norm_eps": eps,
        "resnet_time_scale_shift": if net.scale_shift { "scale_shift" } else { "default" },
        "add_attention": net.middle_attention,
        "num_class_embeds": spec.labels(),
    }))
}

/// The names of the blocks of levels, finest first.
fn blocks(word: &str, sampler: &str, kinds: &[Kind], attention: &[usize]) -> Vec<String> {
    let name = |(level, kind): (usize, &Kind)| match (attention.contains(&level), kind) {
        (true, Kind::Skip) => format!("AttnSkip{word}Block2D"),
        (false, Kind::Skip) => format!("Skip{word}Block2D"),
        (true, _) => format!("Attn{word}Block2D"),
        (false, Kind::Residual) => format!("Resnet{sampler}Block2D"),
        (false, Kind::Conv) => format!("{word}Block2D"),
    };
    kinds.iter().enumerate().map(name).collect()
}

/// How levels with attention change the resolution: one word for all of them.
fn resampling(kinds: &[Kind], attention: &[usize], alike: Kind) -> Result<&'static str> {
    let with: Vec<Kind> = attention.iter().filter_map(|&level| kinds.get(level).copied()).collect();
    let residual = with.contains(&Kind::Residual);
    if residual && with.contains(&Kind::Conv) {
        bail!(
            "of the levels with attention some are joined by residual blocks and some by convolutions: UNet2DModel has one word for all"
        );
    }
    Ok(if residual || with.is_empty() && alike == Kind::Residual { "resnet" } else { "conv" })
}

/// The configuration of the `DDPMScheduler` with which a `DDPMPipeline` draws from the model; or else every key of a run that
/// would have to be another for there to be one, with the value that it would have.
pub fn scheduler(spec: &ModelSpec) -> std::result::Result<Value, Vec<&'static str>> {
    let table = match &spec.process {
        AnyProcess::Table(table) => Some(table.options()),
        _ => None,
    };
    let prediction = match spec.predict {
        AnyParametrisation::Eps(_) => Some("epsilon"),
        AnyParametrisation::V(_) => Some("v_prediction"),
        AnyParametrisation::X0(_) => Some("sample"),
        _ => None,
    };
    let schedule = match table.map_or(Betas::Linear, |table| table.beta_schedule) {
        Betas::Linear => Some("linear"),
        Betas::ScaledLinear => Some("scaled_linear"),
        Betas::Cosine => Some("squaredcos_cap_v2"),
        Betas::Sigmoid => Some("sigmoid"),
        Betas::Laplace => Some("laplace"),
        Betas::Exp => None,
    };
    let lacks = [
        (spec.head != Head::Denoiser, "model.head=denoiser"),
        (table.is_none(), "process.name=table"),
        (prediction.is_none(), "model.predict=eps (or v, or x0)"),
        // or the network is given x at another scale
        (spec.sigma_data != 1., "model.sigma_data=1"),
        // or the table is one of another class
        (table.is_some_and(|table| table.last_alpha_bar != 0.), "process.last_alpha_bar=0"),
        (schedule.is_none(), "process.beta_schedule=linear (or any but exp)"),
        // its pipeline tells no class, and takes the data to lie in [-1, 1]
        (spec.classes.is_some(), "model.conditional=false"),
        (spec.from_zero, "model.from_zero=false"),
    ];
    let lacks: Vec<_> = lacks.into_iter().filter(|(lacks, _)| *lacks).map(|(_, key)| key).collect();
    let Some(options) = table.filter(|_| lacks.is_empty()) else { return Err(lacks) };
    Ok(json!({
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": options.num_train_timesteps,
        "beta_schedule": schedule,
        "beta_start": options.beta_start,
        "beta_end": options.beta_end,
        "trained_betas": options.trained_betas,
        "rescale_betas_zero_snr": options.rescale_betas_zero_snr,
        "prediction_type": prediction,
        "clip_sample": false,
        "timestep_spacing": if options.rescale_betas_zero_snr { "trailing" } else { "leading" },
    }))
}
