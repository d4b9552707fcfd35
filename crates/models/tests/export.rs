//! A network described for diffusers and read back is the same network.

use candle_core::Result;
use langevin_dynamics::predict::AnyParametrisation;
use langevin_dynamics::process::{AnyProcess, Betas, Table, TableOptions};
use langevin_models::diffusers::{Config, describe};
use langevin_models::mlp::MlpConfig;
use langevin_models::unet::UNetConfig;
use langevin_models::{Form, Head, ModelSpec};

fn spec(net: UNetConfig, head: Head) -> ModelSpec {
    ModelSpec::energy([3, 16, 24])
        .head(head)
        .form(Form::Scalar)
        .net(net)
        .classes(5)
        .process(AnyProcess::named("table").unwrap())
        .predict(AnyParametrisation::named("v").unwrap())
        .sigma_data(1.)
}

#[test]
fn networks_come_back_as_they_were() -> Result<()> {
    let plain = UNetConfig { groups: Some(8), ..UNetConfig::default() };
    for net in [
        plain.clone(),
        UNetConfig {
            attention: vec![1],
            up_attention: Some(vec![0, 2]),
            head_dim: Some(8),
            layers: 2,
            middle_attention: false,
            downsample_padding: 0,
            cos_first: false,
            freq_shift: 1.,
            dropout: 0.1,
            eps: 1e-6,
            ..plain.clone()
        },
        UNetConfig {
            attention: vec![2],
            residual_resampling: true,
            scale_shift: true,
            middle_groups: Some(4),
            middle_scale: 1.5,
            center_input: true,
            embedding: Some(96),
            ..plain.clone()
        },
        UNetConfig { middle: false, ..plain },
    ] {
        for (head, outputs) in [(Head::Denoiser, 3), (Head::Energy, 1)] {
            let json = describe::network(&spec(net.clone(), head))?;
            let read = Config::from_json(&json.to_string())?;
            assert_eq!((&read.unet, read.inputs, read.outputs, read.classes), (&net, 3, outputs, Some(5)), "{json}");
            assert_eq!(read.size, Some([16, 24]));
        }
    }
    Ok(())
}

/// Every configuration among the reference cases, which diffusers wrote.
#[test]
fn configurations_of_diffusers_come_back() -> Result<()> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/unet");
    let mut seen = 0;
    for case in std::fs::read_dir(folder)? {
        let Ok(text) = std::fs::read_to_string(case?.path().join("config.json")) else { continue };
        let config = Config::from_json(&text)?;
        let spec = ModelSpec { classes: config.classes, ..spec(config.unet.clone(), Head::Denoiser) };
        let again = Config::from_json(&describe::network(&spec)?.to_string())?;
        assert_eq!((again.unet, again.classes), (config.unet, config.classes), "{text}");
        seen += 1;
    }
    assert!(seen > 5, "{seen}");
    Ok(())
}

#[test]
fn what_diffusers_has_not_is_an_error() {
    let error = |spec: &ModelSpec| describe::network(spec).unwrap_err().to_string();
    assert!(error(&spec(UNetConfig::default(), Head::Denoiser)).contains("groups=8"));
    let mlp =
        ModelSpec { shape: vec![2], net: MlpConfig::default().into(), ..spec(UNetConfig::default(), Head::Energy) };
    assert!(error(&mlp).contains("mlp"));
}

#[test]
fn only_the_same_process_has_a_scheduler() {
    let net = UNetConfig { groups: Some(8), ..UNetConfig::default() };
    let denoiser = ModelSpec { classes: None, ..spec(net.clone(), Head::Denoiser) };
    let config = describe::scheduler(&denoiser).unwrap();
    assert_eq!(config["prediction_type"], "v_prediction");
    assert_eq!(config["beta_schedule"], "linear");
    assert_eq!(config["num_train_timesteps"], 1000);
    assert!(config.get("single_precision").is_none(), "what diffusers does not know");
    assert!(describe::scheduler(&ModelSpec { head: Head::Energy, ..denoiser.clone() }).is_err());
    let told = ModelSpec { classes: Some(5), ..denoiser.clone() };
    assert!(describe::scheduler(&told).is_err(), "its pipeline tells no class");
    let from_zero = ModelSpec { from_zero: true, ..denoiser.clone() };
    assert!(describe::scheduler(&from_zero).is_err(), "its pipeline takes the data from -1 to 1");
    for (process, predict, sigma_data) in [("vp", "eps", 1.), ("table", "edm", 1.), ("table", "eps", 0.5)] {
        let other = ModelSpec {
            process: AnyProcess::named(process).unwrap(),
            predict: AnyParametrisation::named(predict).unwrap(),
            sigma_data,
            ..denoiser.clone()
        };
        assert!(describe::scheduler(&other).is_err(), "{process} {predict} {sigma_data}");
    }
    // every key that would have to be another is named
    let edm = |process: AnyProcess| ModelSpec {
        process,
        predict: AnyParametrisation::named("edm").unwrap(),
        ..denoiser.clone()
    };
    let far =
        ModelSpec { head: Head::Energy, sigma_data: 0.5, classes: Some(2), ..edm(AnyProcess::named("edm").unwrap()) };
    let keys = [
        "model.head=denoiser",
        "process.name=table",
        "model.predict=",
        "model.sigma_data=1",
        "model.conditional=false",
    ];
    let lacks = describe::scheduler(&far).unwrap_err();
    assert!(
        lacks.len() == keys.len() && lacks.iter().zip(keys).all(|(lacks, key)| lacks.starts_with(key)),
        "{lacks:?}"
    );
    let exp = Table::new(TableOptions { beta_schedule: Betas::Exp, ..TableOptions::default() }).unwrap();
    let lacks =
        describe::scheduler(&ModelSpec { predict: AnyParametrisation::named("x0").unwrap(), ..edm(exp.into()) });
    assert!(
        lacks.clone().is_err_and(|keys| keys.len() == 1 && keys[0].starts_with("process.beta_schedule")),
        "{lacks:?}"
    );
}
