//! Arrays in numpy's `.npz`: a zip archive, not compressed, of one `.npy` an array.
//!
//! The format: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>

use super::pending::Pending;
use anyhow::{Context, Result, bail};
use candle_core::{DType, Tensor};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use zip::write::{SimpleFileOptions, ZipWriter};

/// `arr_0`, written batch by batch, and `arr_1` after it.
pub struct Npz {
    path: PathBuf,
    zip: ZipWriter<Pending>,
    dtype: DType,
    /// Of one sample.
    shape: Vec<usize>,
    /// Samples that the header of `arr_0` says, and those that are written.
    said: usize,
    written: usize,
}

impl Npz {
    /// An archive for `n` samples of this type (u8, f32 or f64) and shape.
    pub fn create(path: &Path, dtype: DType, shape: &[usize], n: usize) -> Result<Self> {
        let zip = ZipWriter::new(Pending::create(path)?);
        let mut npz = Self { path: path.into(), zip, dtype, shape: shape.to_vec(), said: n, written: 0 };
        npz.begin(n)?;
        Ok(npz)
    }

    /// The header of `arr_0` for `n` samples.
    fn begin(&mut self, n: usize) -> Result<()> {
        let dims: Vec<usize> = std::iter::once(n).chain(self.shape.iter().copied()).collect();
        let start = start(&mut self.zip, "arr_0", self.dtype, &dims);
        start.with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Adds `samples` `[N, ...]`.
    pub fn add(&mut self, samples: &Tensor) -> Result<()> {
        if samples.dtype() != self.dtype || samples.dims()[1..] != self.shape {
            bail!("{}: samples {:?} among others of {:?}", self.path.display(), samples.dims(), self.shape);
        }
        self.zip.write_all(&bytes(samples)?).with_context(|| format!("cannot write {}", self.path.display()))?;
        self.written += samples.dim(0)?;
        Ok(())
    }

    /// Adds `labels`, one a sample, and puts the file in its place. Fewer samples than the archive was made for are all that
    /// it then says it has.
    pub fn finish(self, labels: Option<&[i64]>) -> Result<()> {
        let path = self.path.clone();
        let finish = || -> Result<Pending> {
            let mut npz = if self.written < self.said { self.shortened()? } else { self };
            if let Some(labels) = labels {
                start(&mut npz.zip, "arr_1", DType::I64, &[labels.len()])?;
                npz.zip.write_all(&labels.iter().flat_map(|label| label.to_le_bytes()).collect::<Vec<_>>())?;
            }
            Ok(npz.zip.finish()?)
        };
        finish().with_context(|| format!("cannot write {}", path.display()))?.finish()
    }

    /// The same samples under a header that says how many they are.
    fn shortened(self) -> Result<Self> {
        let Self { path, zip, dtype, shape, written, .. } = self;
        let mut archive = zip.finish_into_readable()?;
        let mut samples = archive.by_name("arr_0.npy")?;
        let header = samples.size() - (shape.iter().product::<usize>() * written * dtype.size_in_bytes()) as u64;
        io::copy(&mut samples.by_ref().take(header), &mut io::sink())?;
        let mut shorter = Self::create(&path, dtype, &shape, written)?;
        io::copy(&mut samples, &mut shorter.zip)?;
        Ok(Self { written, ..shorter })
    }
}

/// Begins an array: its entry in the archive, and its header.
fn start(zip: &mut ZipWriter<Pending>, name: &str, dtype: DType, dims: &[usize]) -> Result<()> {
    let size = dims.iter().product::<usize>() as u64 * dtype.size_in_bytes() as u64;
    let large = size > u64::from(u32::MAX) - 4096; // with its header above 4 GiB
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored).large_file(large);
    zip.start_file(format!("{name}.npy"), stored)?;
    Ok(zip.write_all(&header(dtype, dims)?)?)
}

/// Magic, version, length, and the description of an array: a multiple of 64 bytes that ends in a newline.
fn header(dtype: DType, dims: &[usize]) -> Result<Vec<u8>> {
    let kind = match dtype {
        DType::U8 => "|u1",
        DType::F32 => "<f4",
        DType::F64 => "<f8",
        DType::I64 => "<i8",
        other => bail!("npz: arrays of {other:?} are not written"),
    };
    let shape: String = dims.iter().map(|d| format!("{d}, ")).collect();
    let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({}), }}", shape.trim_end());
    // magic (6), version (2), length of the header (2), header
    let padding = 63 - (10 + header.len()) % 64;
    let length = (header.len() + padding + 1) as u16;
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend(length.to_le_bytes());
    out.extend(header.as_bytes());
    out.extend(std::iter::repeat_n(b' ', padding));
    out.push(b'\n');
    Ok(out)
}

/// The numbers of a tensor, little-endian.
fn bytes(array: &Tensor) -> Result<Vec<u8>> {
    let flat = array.flatten_all()?;
    Ok(match array.dtype() {
        DType::U8 => flat.to_vec1::<u8>()?,
        DType::F32 => flat.to_vec1::<f32>()?.into_iter().flat_map(f32::to_le_bytes).collect(),
        DType::F64 => flat.to_vec1::<f64>()?.into_iter().flat_map(f64::to_le_bytes).collect(),
        other => bail!("npz: arrays of {other:?} are not written"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use std::collections::HashMap;

    fn read(path: &Path) -> HashMap<String, Tensor> {
        Tensor::read_npz(path).unwrap().into_iter().collect()
    }

    #[test]
    fn what_is_written_in_parts_is_read_back_whole() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("a.npz");
        let a = Tensor::arange(0u8, 60, &Device::Cpu)?.reshape((5, 3, 4, 1))?;
        let mut npz = Npz::create(&path, DType::U8, &[3, 4, 1], 5)?;
        npz.add(&a.narrow(0, 0, 2)?)?;
        npz.add(&a.narrow(0, 2, 3)?)?;
        assert!(!path.exists(), "a file is at its place when it is whole");
        npz.finish(Some(&[7, 0, -1, 2, 3]))?;
        let found = read(&path);
        assert_eq!(found["arr_0"].dims(), [5, 3, 4, 1]);
        assert_eq!(found["arr_0"].flatten_all()?.to_vec1::<u8>()?, a.flatten_all()?.to_vec1::<u8>()?);
        assert_eq!(found["arr_1"].to_vec1::<i64>()?, [7, 0, -1, 2, 3]);
        assert_eq!(std::fs::read_dir(dir.path())?.count(), 1, "nothing else is left");
        Ok(())
    }

    #[test]
    fn an_array_that_is_cut_short_says_how_long_it_is() -> Result<()> {
        let dir = tempfile::tempdir()?;
        for (all, some) in [(1_000_000_000_000, 3), (4, 3), (10, 0)] {
            let path = dir.path().join(format!("{all}.npz"));
            let mut npz = Npz::create(&path, DType::F64, &[2], all)?;
            let x = ((Tensor::arange(0f64, 2. * some as f64, &Device::Cpu)? + 1e9)? + 0.125)?.reshape((some, 2))?;
            npz.add(&x)?;
            npz.finish(None)?;
            let found = read(&path);
            assert_eq!(found["arr_0"].dims(), [some, 2]);
            assert_eq!(found["arr_0"].flatten_all()?.to_vec1::<f64>()?, x.flatten_all()?.to_vec1::<f64>()?);
        }
        Ok(())
    }

    #[test]
    fn data_start_at_a_multiple_of_64() -> Result<()> {
        for n in [1usize, 12, 1234, 123456] {
            assert_eq!(header(DType::U8, &[n])?.len() % 64, 0);
        }
        Ok(())
    }
}
