//! Weights files of diffusers: every format is read as it was written, and what is wrong is one sentence.

mod common;

use candle_core::{DType, Device, Result, Tensor};
use langevin_models::diffusers::{self, Files, weights};
use langevin_models::{plain, tensors};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Read, Write};
use std::path::{Path, PathBuf};

type Tensors = BTreeMap<String, Tensor>;

fn reference(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference").join(path)
}

fn message<T>(result: Result<T>) -> String {
    let message = plain(&result.err().expect("it was taken"));
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(message.len() < 600, "{message}");
    message
}

fn same(ours: &Tensors, theirs: &Tensors) -> Result<()> {
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    for (name, a) in ours {
        let b = &theirs[name];
        assert_eq!((a.dtype(), a.dims()), (b.dtype(), b.dims()), "{name}");
        if a.elem_count() > 0 {
            assert_eq!(common::distance(a, b)?, 0., "{name}");
        }
    }
    Ok(())
}

/// A folder with the network of the case "one-level", whose weights are up to the test.
fn folder() -> (tempfile::TempDir, Tensors) {
    let folder = tempfile::tempdir().unwrap();
    let case = reference("unet/one-level");
    fs::copy(case.join("config.json"), folder.path().join("config.json")).unwrap();
    (folder, weights::read(&case.join("diffusion_pytorch_model.bin"), false).unwrap())
}

fn save(path: &Path, tensors: &Tensors) {
    let tensors: Vec<_> = tensors.iter().map(|(name, t)| (name.clone(), t.clone())).collect();
    tensors::save(path, &tensors, &BTreeMap::new()).unwrap();
}

fn vars(network: &diffusers::Network) -> Tensors {
    network.vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect()
}

fn open(path: &Path) -> Result<diffusers::Network> {
    diffusers::open(path, DType::F32, &Device::Cpu)
}

#[test]
fn files_are_found_in_order() -> Result<()> {
    let (folder, tensors) = folder();
    let at = |name: &str| folder.path().join(name);
    assert!(message(open(folder.path())).contains("has no weights"));
    assert!(message(open(&at("nothing"))).contains("does not exist"));

    save(&at("diffusion_pytorch_model.fp16.safetensors"), &tensors);
    let network = open(folder.path())?;
    assert!(network.note.is_some_and(|note| note.contains("is the fp16 variant")));
    fs::write(at("diffusion_pytorch_model.bin"), b"PK\x03\x04")?;
    assert!(message(open(folder.path())).contains("diffusion_pytorch_model.bin` is damaged"));
    fs::copy(reference("unet/one-level/diffusion_pytorch_model.bin"), at("diffusion_pytorch_model.bin"))?;
    let network = open(folder.path())?;
    assert_eq!(network.note, None);
    same(&vars(&network), &tensors)?;
    fs::write(at("diffusion_pytorch_model.safetensors"), b"")?;
    assert!(message(open(folder.path())).contains("diffusion_pytorch_model.safetensors` is not a safetensors file"));
    save(&at("diffusion_pytorch_model.safetensors"), &tensors);
    same(&vars(&open(folder.path())?), &tensors)?;
    same(&vars(&open(&at("diffusion_pytorch_model.bin"))?), &tensors)?;

    fs::create_dir(at("unet"))?;
    for file in ["config.json", "diffusion_pytorch_model.bin"] {
        fs::rename(at(file), at("unet").join(file))?;
    }
    same(&vars(&open(folder.path())?), &tensors)?;
    assert!(message(open(&at("diffusion_pytorch_model.safetensors"))).contains("config.json` is missing"));
    Ok(())
}

#[test]
fn shards_are_joined_and_their_index_is_checked() -> Result<()> {
    let (folder, tensors) = folder();
    let at = |name: &str| folder.path().join(name);
    let (mut one, mut two): (Tensors, Tensors) = tensors.clone().into_iter().partition(|(name, _)| name.as_str() < "m");
    let map = |file: &str, part: &Tensors| part.keys().map(|name| (name.clone(), json!(file))).collect::<Vec<_>>();
    let index = |map: Vec<(String, serde_json::Value)>| {
        let index = json!({ "metadata": {}, "weight_map": map.into_iter().collect::<serde_json::Map<_, _>>() });
        fs::write(at("diffusion_pytorch_model.safetensors.index.json"), index.to_string()).unwrap();
    };
    let good = [map("a.safetensors", &one), map("b.safetensors", &two)].concat();
    index(good.clone());
    assert!(message(open(folder.path())).contains("cannot read"));
    save(&at("a.safetensors"), &one);
    save(&at("b.safetensors"), &two);
    same(&vars(&open(folder.path())?), &tensors)?;

    for bad in ["../b.safetensors", "/etc/passwd", "..", "", "x/b.safetensors", "C:\\b"] {
        let mut map = good.clone();
        map[0].1 = json!(bad);
        index(map);
        assert!(message(open(folder.path())).contains("which is not the name of a file beside it"), "{bad}");
    }
    index(good.clone());
    let (name, t) = one.pop_first().unwrap();
    save(&at("a.safetensors"), &one);
    assert!(message(open(folder.path())).contains(&format!("a.safetensors` lacks `{name}`")));
    one.insert(name.clone(), t.clone());
    save(&at("a.safetensors"), &one);
    two.insert(name, t);
    save(&at("b.safetensors"), &two);
    assert!(message(open(folder.path())).contains("do not belong together"));
    for (text, says) in
        [("{", "is not JSON"), ("{}", "has no `weight_map`"), (r#"{"weight_map": 3}"#, "no `weight_map`")]
    {
        fs::write(at("diffusion_pytorch_model.safetensors.index.json"), text)?;
        assert!(message(open(folder.path())).contains(says), "{text}");
    }
    Ok(())
}

#[test]
fn what_the_network_cannot_be_is_said_in_the_words_of_the_file() -> Result<()> {
    let (folder, tensors) = folder();
    save(&folder.path().join("diffusion_pytorch_model.safetensors"), &tensors);
    for (key, value, says) in [
        ("norm_num_groups", json!(3), "`norm_num_groups`: 8 channels"),
        ("attention_head_dim", json!(9), "`attention_head_dim` is 9"),
        ("layers_per_block", json!(1_000_000_000), "`layers_per_block` is 1000000000"),
        ("block_out_channels", json!([16384]), "more than 4000000000 parameters"),
        ("block_out_channels", json!([16]), "and the network needs"),
    ] {
        let text = fs::read_to_string(reference("unet/one-level/config.json"))?;
        let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
        config[key] = value;
        fs::write(folder.path().join("config.json"), config.to_string())?;
        let refused = message(open(folder.path()));
        assert!(refused.contains(says), "{refused}");
    }
    Ok(())
}

/// The bytes of a file that `torch.save` wrote, with `prefix` before every name of `tensors` for which `which` holds.
fn renamed(bytes: &[u8], tensors: &Tensors, prefix: &str, which: impl Fn(usize) -> bool) -> Vec<u8> {
    let mut old = zip::ZipArchive::new(Cursor::new(bytes)).unwrap();
    let mut new = zip::ZipWriter::new(Cursor::new(vec![]));
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for i in 0..old.len() {
        let mut member = old.by_index(i).unwrap();
        let mut data = vec![];
        member.read_to_end(&mut data).unwrap();
        if member.name().unwrap().ends_with("data.pkl") {
            for name in tensors.keys().enumerate().filter(|(i, _)| which(*i)).map(|(_, name)| name) {
                // a text is X, its length in four bytes, and its letters
                let text = |text: String| {
                    [b"X".to_vec(), (text.len() as u32).to_le_bytes().to_vec(), text.into_bytes()].concat()
                };
                let (from, to) = (text(name.clone()), text(format!("{prefix}{name}")));
                let at = data.windows(from.len()).position(|window| window == from).unwrap();
                data.splice(at..at + from.len(), to);
            }
        }
        new.start_file(member.name().unwrap().to_string(), options).unwrap();
        new.write_all(&data).unwrap();
    }
    new.finish().unwrap().into_inner()
}

#[test]
fn what_a_wrapper_put_before_every_name_is_left_out() -> Result<()> {
    let (folder, weights) = folder();
    let bin = fs::read(reference("unet/one-level/diffusion_pytorch_model.bin")).unwrap();
    let (safetensors, torch) =
        (folder.path().join("diffusion_pytorch_model.safetensors"), folder.path().join("diffusion_pytorch_model.bin"));
    save(&safetensors, &weights);
    let expected = vars(&open(folder.path())?);
    fs::remove_file(&safetensors).unwrap();
    for prefix in ["module.", "_orig_mod.", "module._orig_mod.", "model.", "ema_model.", "unet.", "net.unet.model."] {
        // all names, or every second: as of a dict that was put together from two
        for which in [|_| true, |i| i % 2 == 0] as [fn(usize) -> bool; 2] {
            fs::write(&torch, renamed(&bin, &weights, prefix, which)).unwrap();
            same(&vars(&open(folder.path())?), &expected)?;
            fs::remove_file(&torch).unwrap();
            let named = weights.iter().enumerate();
            let name = |(i, (name, t)): (usize, (&String, &Tensor))| {
                (if which(i) { format!("{prefix}{name}") } else { name.clone() }, t.clone())
            };
            save(&safetensors, &named.map(name).collect());
            same(&vars(&open(folder.path())?), &expected)?;
            fs::remove_file(&safetensors).unwrap();
        }
    }
    // what is no part of the network is told by the name that it has
    let mut more: Tensors = weights.iter().map(|(name, t)| (format!("module.{name}"), t.clone())).collect();
    let spare = more.values().next().unwrap().clone();
    more.insert("module.spare".into(), spare.clone());
    save(&safetensors, &more);
    assert!(message(open(folder.path())).contains("holds `module.spare`"));
    // half of it, or twice: the prefix is named
    more.remove("module.spare");
    more.remove("module.conv_in.weight");
    save(&safetensors, &more);
    let why = message(open(folder.path()));
    assert!(why.contains("begin with `module.`") && why.contains("lack `conv_in.weight`"), "{why}");
    more.extend(weights.iter().map(|(name, t)| (format!("ema_model.{name}"), t.clone())));
    more.insert("module.conv_in.weight".into(), weights["conv_in.weight"].clone());
    save(&safetensors, &more);
    let why = message(open(folder.path()));
    assert!(why.contains("twice") && why.contains("`ema_model.`") && why.contains("`module.`"), "{why}");
    Ok(())
}

#[test]
fn types_are_converted_and_numbers_checked() -> Result<()> {
    let (folder, tensors) = folder();
    let file = folder.path().join("diffusion_pytorch_model.safetensors");
    // tensors::save writes f32 and f64 alone
    let write = |tensors: &Tensors| candle_core::safetensors::save(&tensors.clone().into_iter().collect(), &file);
    for dtype in [DType::F16, DType::BF16, DType::F64] {
        let converted: Tensors =
            tensors.iter().map(|(name, t)| Ok((name.clone(), t.to_dtype(dtype)?))).collect::<Result<_>>()?;
        write(&converted)?;
        for (name, var) in vars(&open(folder.path())?) {
            assert_eq!(var.dtype(), DType::F32);
            assert_eq!(common::distance(&var, &converted[&name])?, 0.);
        }
    }
    let mut large = tensors.clone();
    large.insert("conv_in.bias".into(), Tensor::full(1e300, 8, &Device::Cpu)?);
    write(&large)?;
    assert!(message(open(folder.path())).contains("a number in `conv_in.bias` that is too large for F32"));
    for wrong in [f32::NAN, f32::INFINITY] {
        large.insert("conv_in.bias".into(), Tensor::full(wrong, 8, &Device::Cpu)?);
        write(&large)?;
        assert!(message(open(folder.path())).contains("a number that is not finite in `conv_in.bias`"));
        Files { any_number: true, ..Files::find(folder.path())? }.load(DType::F32, &Device::Cpu)?;
    }
    Ok(())
}

/// Every length and many random changes of a good file: taken or refused in one sentence.
#[test]
fn damage_never_panics() -> Result<()> {
    let file = |name: &str| fs::read(reference("torch").join(name)).unwrap();
    for (good, step) in [(file("plain.bin"), 7), (file("wrapped.bin"), 11), (file("expected.safetensors"), 1)] {
        for length in (0..good.len()).step_by(step) {
            message(weights::parse(&good[..length]));
        }
        let mut draws = langevin_ops::noise::Noise::seeds(&[23, 24, 25]);
        let mut refused = 0;
        for _ in 0..3000 {
            let u = draws.uniform(3)?;
            let (mut bytes, below) = (good.clone(), |u: f64, n: usize| (u * n as f64) as usize);
            let at = below(u[0], bytes.len());
            match below(u[1], 3) {
                0 => bytes[at] ^= 1 << below(u[2], 8),
                1 => bytes[at] = below(u[2], 256) as u8,
                _ => drop(bytes.splice(at..at + 1, [0x85; 3])),
            }
            if let Err(e) = weights::parse(&bytes) {
                message::<()>(Err(e));
                refused += 1;
            }
        }
        assert!(refused > 1000, "{refused}");
    }
    Ok(())
}

#[test]
fn what_is_no_weights_file_is_said() {
    for (bytes, says) in [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0" as &[u8], "Git LFS"),
        (b"<!doctype html><html>", "not a safetensors file"),
        (
            &header(
                r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
                8,
            ),
            "two tensors named `a`",
        ),
        (
            &header(
                r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
                4,
            ),
            "two tensors named `a`",
        ),
        (
            &header(
                r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
                8,
            ),
            "the offsets of `b` overlap",
        ),
        (&header(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,800]}}"#, 8), "damaged"),
        (&header(r#"{"a":{"dtype":"F32","shape":[99999999999,99999999999],"data_offsets":[0,8]}}"#, 8), "damaged"),
    ] {
        let refused = message(weights::parse(bytes));
        assert!(refused.contains(says), "{refused}");
    }
}

/// A safetensors file with this header and `n` bytes of data.
fn header(text: &str, n: usize) -> Vec<u8> {
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.bytes());
    bytes.extend(vec![0; n]);
    bytes
}
