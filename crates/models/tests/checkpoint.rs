//! Weights files: what is saved comes back; a damaged or foreign file is one clear sentence.

use candle_core::{DType, Device, Result, Tensor};
use langevin_dynamics::Cond;
use langevin_dynamics::predict::AnyParametrisation;
use langevin_dynamics::process::AnyProcess;
use langevin_models::checkpoint::{self, write_atomic};
use langevin_models::{Form, Head, Model, ModelSpec, mlp::MlpConfig, plain, tensors, unet::UNetConfig};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

fn model(seed: u64) -> Result<Model> {
    let spec = ModelSpec::energy([1, 4, 4])
        .net(UNetConfig { channels: vec![8, 8], attention: vec![1], dropout: 0.1, ..UNetConfig::default() })
        .form(Form::InnerProduct)
        .classes(3)
        .process(AnyProcess::named("vp").unwrap())
        .predict(AnyParametrisation::named("v").unwrap())
        .sigma_data(0.6);
    Model::new(spec, seed, DType::F32, &Device::Cpu)
}

fn saved(path: &Path) -> Result<Model> {
    let model = model(3)?;
    let extra = BTreeMap::from([("step".to_string(), "12".to_string()), ("a".to_string(), "b".to_string())]);
    checkpoint::save(path, &model.spec, &checkpoint::weights(&model), &extra)?;
    Ok(model)
}

fn refusal(path: &Path) -> String {
    match checkpoint::load(path, DType::F32, &Device::Cpu) {
        Ok(_) => panic!("{} was taken", path.display()),
        Err(e) => plain(&e),
    }
}

#[test]
fn what_is_saved_comes_back() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (path, again) = (folder.path().join("m.safetensors"), folder.path().join("n.safetensors"));
    let model = saved(&path)?;
    saved(&again)?;
    assert_eq!(fs::read(&path)?, fs::read(&again)?, "equal models are equal bytes");
    assert_eq!(fs::read_dir(folder.path())?.count(), 2, "nothing else is left in the folder");

    let (loaded, extra) = checkpoint::load(&path, DType::F32, &Device::Cpu)?;
    assert_eq!(extra, BTreeMap::from([("step".into(), "12".into()), ("a".into(), "b".into())]));
    assert_eq!(serde_json::to_string(&loaded.spec).unwrap(), serde_json::to_string(&model.spec).unwrap());
    assert_eq!(loaded.parameters() as u64, model.spec.parameters()?);
    let x = Tensor::arange(0f32, 32., &Device::Cpu)?.affine(0.1, -1.)?.reshape((2, 1, 4, 4))?;
    let cond = Cond::class(Tensor::new(&[0u32, 2], &Device::Cpu)?);
    let energy = |m: &Model| m.energy(&x, &[0.4], &cond)?.to_vec1::<f32>();
    assert_eq!(energy(&model)?, energy(&loaded)?);
    Ok(())
}

#[test]
fn half_precision_weights_are_read() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for dtype in [DType::F16, DType::BF16, DType::F64] {
        let path = folder.path().join("m.safetensors");
        let model = model(3)?;
        let metadata = [(checkpoint::KEY.to_string(), serde_json::to_string(&model.spec).unwrap())];
        let narrow = |(name, t): (String, Tensor)| Ok((name, t.to_dtype(dtype)?));
        let weights = checkpoint::weights(&model).into_iter().map(narrow).collect::<Result<BTreeMap<_, _>>>()?;
        safetensors::serialize_to_file(&weights, Some(metadata.into_iter().collect()), &path).unwrap();
        let (loaded, _) = checkpoint::load(&path, DType::F32, &Device::Cpu)?;
        for ((name, a), (_, b)) in model.vars().iter().zip(loaded.vars()) {
            assert_eq!(b.dtype(), DType::F32);
            let expected = a.to_dtype(dtype)?.to_dtype(DType::F32)?;
            assert_eq!((expected - b.as_tensor())?.abs()?.sum_all()?.to_scalar::<f32>()?, 0., "{name} as {dtype:?}");
        }
    }
    Ok(())
}

#[test]
fn damaged_files_are_one_sentence_each() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("m.safetensors");
    assert!(refusal(&path).contains("No such file"));
    assert!(refusal(folder.path()).contains("cannot read"));
    saved(&path)?;
    let good = fs::read(&path)?;
    let header = u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let check = |bytes: &[u8], says: &str| {
        fs::write(&path, bytes).unwrap();
        let message = refusal(&path);
        assert!(message.contains(says) && message.contains("m.safetensors"), "{says:?} is not in: {message}");
        assert!(message.lines().count() == 1 && message.len() < 400, "{message}");
    };
    check(b"", "is not a safetensors file");
    check(b"<html><body>404 Not Found</body></html>", "is not a safetensors file");
    check(&good[..20], "is cut short");
    check(&good[..8 + header], "is cut short");
    check(&good[..good.len() / 2], "is cut short");
    check(&good[..good.len() - 1], "is cut short");
    check(&[&good[..], &[0; 16]].concat(), "bytes that belong to no tensor");
    let mut nan = good.clone();
    nan[8 + header..12 + header].copy_from_slice(&f32::NAN.to_le_bytes());
    check(&nan, "not finite in `class_embedding.weight`");
    nan[8 + header..12 + header].copy_from_slice(&f32::INFINITY.to_le_bytes());
    check(&nan, "not finite");

    // the same length, so that only the words change
    let text = String::from_utf8(good[8..8 + header].to_vec()).unwrap();
    let edit = |from: &str, to: &str, says: &str| {
        assert!(text.contains(from) && from.len() == to.len(), "{from}");
        check(&[&good[..8], text.replacen(from, to, 1).as_bytes(), &good[8 + header..]].concat(), says);
    };
    // a header that would take hundreds of MB, with next to no numbers
    let long = [text.as_bytes(), &b" ".repeat(17 << 20)].concat();
    check(&[&(long.len() as u64).to_le_bytes()[..], &long, &good[8 + header..]].concat(), "longer than its numbers");
    edit("langevin.model", "langevin.modem", "not written by this program");
    edit("{\"__meta", "[\"__meta", "is not a safetensors file");
    edit("\"data_offsets\":[0,", "\"data_offsets\":[9,", "damaged");
    edit("\"conv_in.bias\"", "\"conv_in.bios\"", "lack `conv_in.bias`");
    edit("\\\"name\\\":\\\"vp\\\"", "\\\"name\\\":\\\"vq\\\"", "unknown process `vq`");
    edit("\\\"sigma_data\\\":0.6", "\\\"sigma_data\\\":-.6", "cannot read");
    edit("\\\"sigma_data\\\":0.6", "\\\"sigma_data\\\":0.0", "`sigma_data` is 0");
    edit("\\\"classes\\\":3", "\\\"classes\\\":4", "needs [4, 32]");
    edit("\\\"layers\\\":1", "\\\"layers\\\":0", "`layers` is 0");
    edit("\\\"layers\\\":1", "\\\"layers\\\":2", "which the network needs");
    edit("[1,4,4]", "[1,4,5]", "multiples of 2");
    Ok(())
}

/// A thousand random changes to a good file: each is taken or refused in one sentence, none panics.
#[test]
fn random_damage_never_panics() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("m.safetensors");
    saved(&path)?;
    let good = fs::read(&path)?;
    let header = 8 + u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let description = std::str::from_utf8(&good[8..header]).unwrap().find("langevin.model").unwrap();
    let words: [&[u8]; 8] = [b"0", b"9", b"-", b"\"", b"{", b"1e99", b"null", b"18446744073709551615"];
    let mut draws = langevin_ops::noise::Noise::seeds(&[17]);
    let mut refused = 0;
    for n in 0..1000 {
        let u = |d: &mut langevin_ops::noise::Noise, below: usize| {
            Ok::<_, candle_core::Error>((d.uniform(1)?[0] * below as f64) as usize)
        };
        let mut bytes = good.clone();
        // anywhere in the file, in its header, or in the model's description
        let at = match n % 4 {
            0 => u(&mut draws, bytes.len())?,
            1 => u(&mut draws, header)?,
            _ => 8 + description + u(&mut draws, 700)?,
        };
        let word = words[u(&mut draws, words.len())?];
        if n % 8 == 0 {
            bytes[at] ^= 1 << u(&mut draws, 8)?;
        } else {
            bytes.splice(at..at + 1, word.iter().copied());
            if at >= 8 && at < header {
                let length = (header - 8 + word.len() - 1) as u64;
                bytes[..8].copy_from_slice(&length.to_le_bytes());
            }
        }
        fs::write(&path, &bytes)?;
        if let Err(e) = checkpoint::load(&path, DType::F32, &Device::Cpu) {
            assert_eq!(plain(&e).lines().count(), 1, "{e}");
            refused += 1;
        }
    }
    assert!(refused > 500, "{refused}");
    Ok(())
}

#[test]
fn tensors_that_do_not_belong_are_refused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("m.safetensors");
    let model = model(3)?;
    let mut weights = checkpoint::weights(&model);
    weights.push(("visitor".into(), Tensor::zeros(3, DType::F32, &Device::Cpu)?));
    checkpoint::save(&path, &model.spec, &weights, &BTreeMap::new())?;
    assert!(refusal(&path).contains("`visitor`"));
    Ok(())
}

#[test]
fn a_prefix_of_every_name_is_left_out() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("m.safetensors");
    let model = model(3)?;
    let prefixed = |prefix: &str| -> Vec<(String, Tensor)> {
        checkpoint::weights(&model).into_iter().map(|(name, t)| (format!("{prefix}{name}"), t)).collect()
    };
    for prefix in ["_orig_mod.", "module.model."] {
        checkpoint::save(&path, &model.spec, &prefixed(prefix), &BTreeMap::new())?;
        let names: Vec<String> = saved(&path)?.vars().iter().map(|(name, _)| name.clone()).collect();
        assert_eq!(names, model.vars().iter().map(|(name, _)| name.clone()).collect::<Vec<_>>());
    }
    checkpoint::save(&path, &model.spec, &prefixed("module.")[1..], &BTreeMap::new())?;
    assert!(refusal(&path).contains("begin with `module.`"), "{}", refusal(&path));
    Ok(())
}

#[test]
fn a_failed_write_leaves_the_old_file() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("m.safetensors");
    fs::write(&path, "old")?;
    let full = |file: &mut fs::File| {
        file.write_all(b"ne")?;
        Err(std::io::Error::from(std::io::ErrorKind::StorageFull))
    };
    let message = write_atomic(&path, full).unwrap_err().to_string();
    assert!(message.contains("m.safetensors"), "{message}");
    assert_eq!(fs::read_to_string(&path)?, "old");
    assert_eq!(fs::read_dir(folder.path())?.count(), 1);
    assert!(write_atomic(&folder.path().join("no/such/folder"), |_| Ok(())).is_err());
    let same = [("a".to_string(), Tensor::zeros(1, DType::F32, &Device::Cpu)?)];
    assert!(tensors::save(&path, &[same[0].clone(), same[0].clone()], &BTreeMap::new()).is_err());
    Ok(())
}

#[test]
fn initial_weights_are_a_function_of_seed_and_name() -> Result<()> {
    let (a, b, c) = (model(3)?, model(3)?, model(4)?);
    let numbers = |m: &Model, name: &str| -> Vec<f32> {
        let var = &m.vars().iter().find(|(n, _)| n == name).unwrap().1;
        var.flatten_all().unwrap().to_vec1().unwrap()
    };
    for (name, _) in a.vars() {
        assert_eq!(numbers(&a, name), numbers(&b, name));
    }
    let name = "mid_block.resnets.0.conv1.weight";
    assert_ne!(numbers(&a, name), numbers(&c, name));
    assert_ne!(numbers(&a, name), numbers(&a, "mid_block.resnets.1.conv1.weight"));
    // uniform on +-1/sqrt(fan_in): the largest close to the bound, the variance a third of its square
    let (w, bound) = (numbers(&a, name), 1. / 72f32.sqrt());
    let largest = w.iter().fold(0f32, |m, w| m.max(w.abs()));
    assert!(largest <= bound && largest > 0.97 * bound, "{largest} of {bound}");
    let variance = w.iter().map(|w| w * w).sum::<f32>() / w.len() as f32;
    assert!((variance / (bound * bound) - 1. / 3.).abs() < 0.05, "{variance}");
    let (class, n) = (numbers(&a, "class_embedding.weight"), 96.);
    let variance = class.iter().map(|w| w * w).sum::<f32>() / n;
    assert!((variance - 1.).abs() < 0.4, "{variance}");
    assert!(numbers(&a, "conv_norm_out.weight").iter().all(|&w| w == 1.));
    assert!(numbers(&a, "conv_norm_out.bias").iter().all(|&w| w == 0.));
    // the same where the rest of the network differs: the name decides
    let deeper = ModelSpec {
        net: UNetConfig { channels: vec![8, 8], layers: 2, ..UNetConfig::default() }.into(),
        ..a.spec.clone()
    };
    assert_eq!(numbers(&Model::new(deeper, 3, DType::F32, &Device::Cpu)?, name), numbers(&a, name));
    Ok(())
}

#[test]
fn a_specification_is_made_of_what_differs() -> Result<()> {
    for shape in [vec![2], vec![1, 8, 8]] {
        let energy = ModelSpec::energy(shape.clone());
        assert!(energy.parameters()? > 0 && energy.head == Head::Energy);
        assert_eq!(ModelSpec::denoiser(shape).head, Head::Denoiser);
        let told = energy.classes(3).null_class().normalised();
        assert!(told.parameters()? > 0 && told.normalised);
        assert_eq!((told.labels(), told.null_label()), (Some(4), Some(3)));
    }
    Ok(())
}

#[test]
fn dropout_is_a_function_of_its_key() -> Result<()> {
    let net = UNetConfig { channels: vec![8, 8], dropout: 0.5, ..UNetConfig::default() };
    let spec = ModelSpec { classes: None, head: Head::Denoiser, net: net.into(), ..model(1)?.spec };
    let model = Model::new(spec, 3, DType::F32, &Device::Cpu)?;
    let x = Tensor::ones((2, 1, 4, 4), DType::F32, &Device::Cpu)?;
    let run = |dropout, n| -> Result<Vec<f32>> {
        let x = x.narrow(0, 0, n)?;
        let t = Tensor::ones(n, DType::F32, &Device::Cpu)?;
        model.net().forward(&x, &t, &Cond { dropout, ..Cond::default() })?.flatten_all()?.to_vec1()
    };
    assert_eq!(run(Some(1), 2)?, run(Some(1), 2)?);
    assert_ne!(run(Some(1), 2)?, run(Some(2), 2)?);
    assert_ne!(run(Some(1), 2)?, run(None, 2)?);
    assert_ne!(run(Some(1), 2)?[..16], run(Some(1), 2)?[16..], "each sample has masks of its own");
    assert_eq!(run(None, 2)?[..16], run(None, 2)?[16..]);
    Ok(())
}

#[test]
fn absurd_options_are_refused_by_name() {
    let try_net = |net: &str| {
        let json = format!(
            r#"{{"shape": [1, 28, 28], "head": "energy", "net": {net}, "process": "edm", "predict": "edm", "sigma_data": 0.6}}"#
        );
        let spec = serde_json::from_str::<ModelSpec>(&json).map_err(|e| e.to_string())?;
        Model::new(spec, 0, DType::F32, &Device::Cpu).map(|_| ()).map_err(|e| plain(&e))
    };
    assert_eq!(try_net(r#"{"name": "unet", "channels": [8, 8]}"#), Ok(()));
    for (net, says) in [
        (r#"{"name": "unet", "channels": []}"#, "`channels`"),
        (r#"{"name": "unet", "channels": [0]}"#, "`channels`"),
        (r#"{"name": "unet", "channels": [16384, 16384, 16384], "layers": 64}"#, "make it smaller"),
        (r#"{"name": "unet", "layers": 1000000000}"#, "`layers`"),
        (r#"{"name": "unet", "layers": -1}"#, "-1"),
        (r#"{"name": "unet", "chanels": [8]}"#, "unknown field `chanels`"),
        (r#"{"name": "unet", "attention": [3]}"#, "`attention` names level 3"),
        (r#"{"name": "unet", "groups": 5}"#, "`groups`"),
        (r#"{"name": "unet", "head_dim": 100}"#, "`head_dim`"),
        (r#"{"name": "unet", "dropout": 1.0}"#, "`dropout`"),
        (r#"{"name": "unet", "channels": [8, 8, 8, 8]}"#, "32x32 does"),
        (r#"{"name": "mlp", "width": 0}"#, "`width`"),
        (r#"{"name": "mlp", "layers": 1000000000}"#, "`layers`"),
        (r#"{"name": "mpl"}"#, "unknown net `mpl`"),
    ] {
        let message = try_net(net).unwrap_err();
        assert!(message.contains(says), "{net}: {message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
    let wide = MlpConfig { width: 65536, layers: 256, dropout: 0. };
    let spec = model(0).unwrap().spec;
    assert!(ModelSpec { net: wide.into(), ..spec.clone() }.parameters().is_err());
    for shape in [vec![], vec![0, 4, 4], vec![1, 1 << 30, 1 << 40], vec![3]] {
        assert!(ModelSpec { shape, ..spec.clone() }.parameters().is_err());
    }
}
