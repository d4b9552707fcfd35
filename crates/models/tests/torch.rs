//! What `torch.save` wrote is read to the bit, nothing in it is run, and what is wrong is one sentence.

mod common;

use candle_core::{Result, Tensor};
use langevin_models::diffusers::weights;
use langevin_models::{plain, tensors, torch};
use std::io::Write;
use std::path::Path;

fn message<T>(result: Result<T>) -> String {
    let message = plain(&result.err().expect("it was taken"));
    assert_eq!(message.lines().count(), 1, "{message}");
    message
}

#[test]
fn what_torch_saves_is_read_to_the_bit() -> Result<()> {
    // strides, offsets, shared storages, every type; and wrapped as `state_dict` with `module.`, in protocol 4
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/torch");
    let expected = tensors::load(&folder.join("expected.safetensors"))?.tensors;
    for file in ["plain.bin", "wrapped.bin"] {
        let ours = weights::read(&folder.join(file), false)?;
        let plain =
            |name: &str| name.strip_prefix("module.").filter(|_| file == "wrapped.bin").unwrap_or(name).to_string();
        let ours: std::collections::BTreeMap<_, _> = ours.into_iter().map(|(name, t)| (plain(&name), t)).collect();
        assert_eq!(ours.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        for (name, b) in &expected {
            let a: &Tensor = &ours[name];
            assert_eq!((a.dtype(), a.dims()), (b.dtype(), b.dims()), "{name}");
            assert!(a.elem_count() == 0 || common::distance(a, b)? == 0., "{name}");
        }
    }
    let old = message(weights::read(&folder.join("before-1.6.bin"), false));
    assert!(old.contains("before-1.6.bin` is a bare pickle"), "{old}");
    Ok(())
}

/// A file as PyTorch writes it, with this pickle and one storage of eight numbers.
fn archive(pickle: &[u8], method: zip::CompressionMethod) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(vec![]));
    let options = zip::write::SimpleFileOptions::default().compression_method(method);
    let storage: Vec<u8> = (0..8u8).flat_map(|n| f32::from(n).to_le_bytes()).collect();
    for (name, bytes) in [("x/data.pkl", pickle), ("x/data/0", &storage)] {
        zip.start_file(name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.bytes());
}

fn tuple(out: &mut Vec<u8>, numbers: &[i64]) {
    out.push(b'(');
    for n in numbers {
        out.extend([0x8a, 8]);
        out.extend(n.to_le_bytes());
    }
    out.push(b't');
}

/// The pickle of {"w": tensor} with such a view of storage `key` of this type.
fn view(class: &str, key: &str, offset: i64, size: &[i64], stride: &[i64]) -> Vec<u8> {
    let mut out = b"\x80\x02}".to_vec();
    text(&mut out, "w");
    out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
    text(&mut out, "storage");
    out.extend(format!("ctorch\n{class}\n").bytes());
    text(&mut out, key);
    text(&mut out, "cpu");
    out.extend(b"K\x08tQ");
    out.extend([0x8a, 8]);
    out.extend(offset.to_le_bytes());
    tuple(&mut out, size);
    tuple(&mut out, stride);
    out.extend(b"\x89}tRs.");
    out
}

#[test]
fn hostile_torch_files_are_refused() -> Result<()> {
    let stored = zip::CompressionMethod::Stored;
    let parse = |pickle: &[u8]| torch::parse(&archive(pickle, stored));
    let good = parse(&view("FloatStorage", "0", 1, &[2, 3], &[1, 2]))?;
    assert_eq!(good["w"].to_vec2::<f32>()?, [[1., 3., 5.], [2., 4., 6.]]);
    let huge = i64::MAX;
    for (offset, size, stride) in [
        (3, vec![2, 3], vec![3, 1]),             // reaches beyond
        (-1, vec![2], vec![1]),                  // before
        (0, vec![1 << 30, 1 << 30], vec![0, 0]), // one number, repeated
        (0, vec![9], vec![0]),                   // the same, small
        (0, vec![huge, huge], vec![huge, huge]), // overflow
        (huge, vec![2], vec![1]),                // overflow
        (0, vec![1 << 39, 0], vec![1 << 39, 1]), // nothing, of an absurd shape
        (0, vec![2], vec![1, 1]),                // not as many strides
        (0, vec![1; 9], vec![1; 9]),             // too many dimensions
    ] {
        match parse(&view("FloatStorage", "0", offset, &size, &stride)) {
            Ok(tensors) => assert_eq!(tensors["w"].elem_count(), 0, "{size:?} {stride:?}"),
            Err(e) => assert!(message::<()>(Err(e)).contains("`w`")),
        }
    }
    for (pickle, says) in [
        (view("FloatStorage", "1", 0, &[2], &[1]), "`data/1` in it cannot be read"),
        (view("FloatStorage", "../../x", 0, &[2], &[1]), "cannot be read"),
        (view("ComplexFloatStorage", "0", 0, &[2], &[1]), "ComplexFloatStorage, which is not supported"),
        (b"\x80\x02].".to_vec(), "no dict of tensors"),
        (b"\x80\x02}K\x01K\x01s.".to_vec(), "a key that is no text"),
        (b"\x80\x02}U\x01wK\x01s.".to_vec(), "`w`, which is not a tensor"),
        (b"\x80\x02}U\x01wcos\nsystem\nU\x02ls\x85Rs.".to_vec(), "made by `os.system` and not a plain tensor"),
        (b"\x80\x02}U\x01w(X\xff\xff\xff\xff".to_vec(), "the pickle is cut short"),
        (b"\x80\x02i.".to_vec(), "opcode 0x69"),
    ] {
        let refused = message(parse(&pickle));
        assert!(refused.contains(says), "{refused}");
    }
    let mut twice = view("FloatStorage", "0", 0, &[2], &[1]);
    let again = twice[3..].to_vec();
    twice.pop();
    twice.extend(again);
    assert!(message(parse(&twice)).contains("two tensors named `w`"));
    // a thousand tensors, each all of the storage
    let mut many = b"\x80\x02}".to_vec();
    let one = view("FloatStorage", "0", 0, &[8], &[1]);
    let value = &one[9..one.len() - 2];
    for i in 0..1000 {
        text(&mut many, &i.to_string());
        many.extend_from_slice(if i == 0 { value } else { b"h\0" });
        many.extend_from_slice(if i == 0 { b"q\0s" } else { b"s" });
    }
    many.push(b'.');
    assert!(message(parse(&many)).contains("larger than the file"));
    Ok(())
}

#[test]
fn damaged_pickles_never_panic() -> Result<()> {
    // inside the zip, whose checksum would else find every change
    let good = view("FloatStorage", "0", 1, &[2, 3], &[1, 2]);
    let mut draws = langevin_ops::noise::Noise::seeds(&[29, 30, 31, 32]);
    for _ in 0..5000 {
        let u = draws.uniform(4)?;
        let mut pickle = good.clone();
        for pair in u.chunks(2) {
            let at = (pair[0] * pickle.len() as f64) as usize;
            pickle[at] = (pair[1] * 256.) as u8;
        }
        if let Err(e) = torch::parse(&archive(&pickle, zip::CompressionMethod::Stored)) {
            message::<()>(Err(e));
        }
    }
    Ok(())
}
