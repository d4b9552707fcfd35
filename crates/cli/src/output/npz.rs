//! Arrays in numpy's `.npz`: a zip archive, not compressed, of one `.npy` an array.
//!
//! The format: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>

use anyhow::Result;
use candle_core::{DType, Tensor, bail};
use std::io::{Cursor, Write};
use zip::write::{SimpleFileOptions, ZipWriter};

/// The archive of `arrays`, each under its name, as u8, f32, f64 or i64 (labels and seeds).
pub fn npz(arrays: &[(&str, &Tensor)]) -> Result<Vec<u8>> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored).large_file(true);
    for (name, array) in arrays {
        zip.start_file(format!("{name}.npy"), stored)?;
        zip.write_all(&npy(array)?)?;
    }
    Ok(zip.finish()?.into_inner())
}

fn npy(array: &Tensor) -> candle_core::Result<Vec<u8>> {
    let flat = array.flatten_all()?;
    let (kind, data): (_, Vec<u8>) = match array.dtype() {
        DType::U8 => ("|u1", flat.to_vec1::<u8>()?),
        DType::F32 => ("<f4", flat.to_vec1::<f32>()?.into_iter().flat_map(f32::to_le_bytes).collect()),
        DType::F64 => ("<f8", flat.to_vec1::<f64>()?.into_iter().flat_map(f64::to_le_bytes).collect()),
        DType::I64 => ("<i8", flat.to_vec1::<i64>()?.into_iter().flat_map(i64::to_le_bytes).collect()),
        other => bail!("npz: arrays of {other:?} are not written"),
    };
    let shape: String = array.dims().iter().map(|d| format!("{d}, ")).collect();
    let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({}), }}", shape.trim_end());
    // magic (6), version (2), length of the header (2), header: a multiple of 64 bytes that ends in a newline
    let padding = 63 - (10 + header.len()) % 64;
    let length = (header.len() + padding + 1) as u16;
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend(length.to_le_bytes());
    out.extend(header.as_bytes());
    out.extend(std::iter::repeat_n(b' ', padding));
    out.push(b'\n');
    out.extend(data);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn what_is_written_is_read_back() -> Result<()> {
        let a = Tensor::arange(0u8, 24, &Device::Cpu)?.reshape((2, 3, 4))?;
        let b = Tensor::new(&[0.5f32, -1.], &Device::Cpu)?;
        let c = Tensor::new(&[7i64], &Device::Cpu)?;
        let d = Tensor::new(&[1e9 + 0.125f64, f64::MIN_POSITIVE], &Device::Cpu)?;
        let file = tempfile::NamedTempFile::with_suffix(".npz")?;
        std::fs::write(file.path(), npz(&[("arr_0", &a), ("arr_1", &b), ("seeds", &c), ("rows", &d)])?)?;
        let read: std::collections::HashMap<_, _> = Tensor::read_npz(file.path())?.into_iter().collect();
        assert_eq!(read["arr_0"].dims(), [2, 3, 4]);
        assert_eq!(read["arr_0"].flatten_all()?.to_vec1::<u8>()?, a.flatten_all()?.to_vec1::<u8>()?);
        assert_eq!(read["arr_1"].to_vec1::<f32>()?, [0.5, -1.]);
        assert_eq!(read["rows"].to_vec1::<f64>()?, [1e9 + 0.125, f64::MIN_POSITIVE]);
        assert_eq!(read["seeds"].to_vec1::<i64>()?, [7]);
        Ok(())
    }

    #[test]
    fn data_start_at_a_multiple_of_64() -> Result<()> {
        for n in [1usize, 12, 1234, 123456] {
            let bytes = npy(&Tensor::zeros(n, DType::U8, &Device::Cpu)?)?;
            assert_eq!((bytes.len() - n) % 64, 0);
        }
        Ok(())
    }
}
