//! `config.json` of `UNet2DModel`: defaults of old files, old attention names, and errors that name the key.

use candle_core::{DType, Device, Result, Tensor};
use langevin_models::diffusers::{self, Config};
use langevin_models::unet::UNetConfig;
use langevin_models::{plain, tensors};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

#[test]
fn missing_keys_have_the_defaults_of_the_class() -> Result<()> {
    let config = Config::from_json("{}")?;
    let unet = UNetConfig {
        channels: vec![224, 448, 672, 896],
        layers: 2,
        attention: vec![1, 2, 3],
        head_dim: Some(8),
        groups: Some(32),
        ..UNetConfig::default()
    };
    assert_eq!(config, Config { unet, inputs: 3, outputs: 3, classes: None, size: None });
    Ok(())
}

#[test]
fn google_ddpm_cifar10_is_understood() -> Result<()> {
    let config = Config::from_json(
        r#"{"_class_name": "UNet2DModel", "_diffusers_version": "0.0.4", "act_fn": "silu", "attention_head_dim": null,
        "block_out_channels": [128, 256, 256, 256], "center_input_sample": false,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
        "downsample_padding": 0, "flip_sin_to_cos": false, "freq_shift": 1, "in_channels": 3, "layers_per_block": 2,
        "mid_block_scale_factor": 1, "norm_eps": 1e-06, "norm_num_groups": 32, "out_channels": 3, "sample_size": 32,
        "time_embedding_type": "positional",
        "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"]}"#,
    )?;
    assert_eq!(config.size, Some([32, 32]));
    assert_eq!((config.unet.attention.as_slice(), &config.unet.up_attention), ([1].as_slice(), &None));
    let params = langevin_models::params::Params::counting();
    let vb = params.builder(DType::F32, &Device::Cpu);
    langevin_models::unet::UNet::new(&config.unet, 3, 3, None, vb)?;
    assert_eq!(params.count(), 35_746_307); // as the model's card has it: 35.7 M
    Ok(())
}

#[test]
fn what_is_not_supported_or_absurd_is_named() {
    for (json, says) in [
        ("", "not JSON"),
        ("[1]", "not a JSON object"),
        (r#"{"_class_name": "AutoencoderKL"}"#, "`_class_name` is \"AutoencoderKL\""),
        (r#"{"time_embedding_type": "rotary"}"#, "`time_embedding_type` is \"rotary\", which is not supported"),
        (r#"{"time_embedding_type": "learned"}"#, "`num_train_timesteps` is missing"),
        (
            r#"{"time_embedding_type": "learned", "num_train_timesteps": 1000000000}"#,
            "`num_train_timesteps` has 1000000000",
        ),
        (r#"{"class_embed_type": "projection"}"#, "`class_embed_type` is \"projection\""),
        (r#"{"resnet_time_scale_shift": "spatial"}"#, "`resnet_time_scale_shift` is \"spatial\""),
        (r#"{"mid_block_scale_factor": 0}"#, "`mid_block_scale_factor` is 0"),
        (r#"{"time_embedding_dim": 1000000000}"#, "`time_embedding_dim` is 1000000000"),
        (r#"{"block_out_channels": []}"#, "4, 4 and 0 entries"),
        (r#"{"block_out_channels": [], "down_block_types": [], "up_block_types": []}"#, "`block_out_channels` lists 0"),
        (r#"{"block_out_channels": 1e300}"#, "`block_out_channels`: invalid type: floating point"),
        (
            r#"{"in_channels": 4, "up_block_types": ["UpBlock2D", "UpBlock2D", "UpBlock2D", "UpBlock2D"],
            "down_block_types": ["SkipDownBlock2D", "DownBlock2D", "DownBlock2D", "DownBlock2D"]}"#,
            "`in_channels` is 4",
        ),
        (
            r#"{"down_block_types": ["DownBlock2D", "SkipDownBlock2D", "DownBlock2D", "DownBlock2D"]}"#,
            "`down_block_types` has level 1 of skip blocks and level 0 not",
        ),
        (r#"{"layers_per_block": 1000000000}"#, "`layers_per_block` is 1000000000"),
        (r#"{"layers_per_block": -5}"#, "`layers_per_block`: invalid value: integer `-5`"),
        (r#"{"layers_per_block": null}"#, "`layers_per_block`: invalid type: null"),
        (r#"{"block_out_channels": [1, 2]}"#, "4, 4 and 2 entries"),
        (r#"{"block_out_channels": [9223372036854775807, 8, 8, 8]}"#, "`block_out_channels` has 9223372036854775807"),
        (r#"{"norm_num_groups": 0}"#, "`norm_num_groups` is 0"),
        (r#"{"norm_eps": "small"}"#, "`norm_eps`: invalid type: string"),
        (r#"{"in_channels": 0}"#, "`in_channels` is 0"),
        (r#"{"num_class_embeds": 99999999999}"#, "`num_class_embeds` is 99999999999"),
        (r#"{"act_fn": "tanh"}"#, "`act_fn` is \"tanh\""),
        (r#"{"downsample_padding": 2}"#, "`downsample_padding` is 2"),
        (r#"{"sample_size": [1, 2, 3]}"#, "`sample_size`"),
        (r#"{"sample_size": 1000000000}"#, "`sample_size` is [1000000000, 1000000000]"),
        (r#"{"downsample_type": "kernel"}"#, "`downsample_type` is \"kernel\", which is not supported"),
        (r#"{"down_block_types": ["KDownBlock2D", "DownBlock2D", "DownBlock2D", "DownBlock2D"]}"#, "\"KDownBlock2D\""),
    ] {
        let message = plain(&Config::from_json(json).unwrap_err());
        assert!(message.contains(says), "{json}: {message}");
        assert_eq!(message.lines().count(), 1, "{message}");
        assert!(message.len() < 300, "{message}");
    }
    let deep = "[".repeat(1_000_000);
    assert!(plain(&Config::from_json(&deep).unwrap_err()).contains("not JSON"));
    let long = format!(r#"{{"act_fn": "{}"}}"#, "x".repeat(100_000));
    assert!(plain(&Config::from_json(&long).unwrap_err()).len() < 300);
}

#[test]
fn attention_names_of_old_files_are_read() -> Result<()> {
    let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/unet/ddpm-cifar10-like");
    let weights = tensors::load(&case.join("diffusion_pytorch_model.safetensors"))?.tensors;
    let old = |name: &String| {
        [(".to_q.", ".query."), (".to_k.", ".key."), (".to_v.", ".value."), (".to_out.0.", ".proj_attn.")]
            .iter()
            .fold(name.clone(), |name, (new, old)| name.replace(new, old))
    };
    let renamed: Vec<_> = weights.iter().map(|(name, t)| (old(name), t.clone())).collect();
    assert!(renamed.iter().any(|(name, _)| name.contains("proj_attn")));
    let folder = tempfile::tempdir()?;
    fs::create_dir(folder.path().join("unet"))?;
    fs::copy(case.join("config.json"), folder.path().join("unet/config.json"))?;
    let file = folder.path().join("unet/diffusion_pytorch_model.safetensors");
    tensors::save(&file, &renamed, &BTreeMap::new())?;
    let network = diffusers::open(folder.path(), DType::F32, &Device::Cpu)?;
    for ((name, var), (expected, t)) in network.vars.iter().zip(&weights) {
        assert_eq!(name, expected);
        assert_eq!((var.as_tensor() - t)?.abs()?.sum_all()?.to_scalar::<f32>()?, 0.);
    }

    // and so they are behind a prefix
    let wrapped: Vec<_> = renamed.iter().map(|(name, t)| (format!("_orig_mod.{name}"), t.clone())).collect();
    tensors::save(&file, &wrapped, &BTreeMap::new())?;
    assert_eq!(diffusers::open(folder.path(), DType::F32, &Device::Cpu)?.vars.len(), weights.len());

    // wrong shape, missing, surplus
    let refusal = |tensors: &[(String, Tensor)]| {
        tensors::save(&file, tensors, &BTreeMap::new()).unwrap();
        diffusers::open(folder.path(), DType::F32, &Device::Cpu).err().unwrap().to_string()
    };
    let mut wrong = renamed.clone();
    let at = wrong.iter().position(|(name, _)| name == "conv_in.weight").unwrap();
    wrong[at].1 = Tensor::zeros((8, 1, 3, 3), DType::F32, &Device::Cpu)?;
    assert!(refusal(&wrong).contains("`conv_in.weight` with shape [8, 1, 3, 3], and the network needs [8, 3, 3, 3]"));
    wrong[at].0 = "conv_inn.weight".into();
    assert!(refusal(&wrong).contains("lack `conv_in.weight`"));
    wrong[at] = ("conv_in.weight".into(), weights["conv_in.weight"].clone());
    wrong.push(("extra".into(), Tensor::zeros(1, DType::F32, &Device::Cpu)?));
    assert!(refusal(&wrong).contains("holds `extra`, which the network has not"));
    fs::remove_file(folder.path().join("unet/config.json"))?;
    assert!(refusal(&renamed).contains("config.json"));
    Ok(())
}
