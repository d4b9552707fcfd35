//! The images of another dataset, turned by quarters: `rotate:90=SPEC`.

use crate::{Batch, Dataset, Kind};
use candle_core::{Result, Tensor};

/// Images turned clockwise; labels stay.
pub(crate) struct Rotated {
    of: Box<dyn Dataset>,
    quarters: usize,
    shape: Vec<usize>,
}

impl Rotated {
    /// `of` turned clockwise by `degrees`: 90, 180 or 270.
    pub fn new(of: Box<dyn Dataset>, degrees: &str) -> Result<Self> {
        let quarters = match degrees {
            "90" => 1,
            "180" => 2,
            "270" => 3,
            _ => bail!("rotate:{degrees}: images are turned by 90, 180 or 270 degrees, clockwise"),
        };
        let mut shape = of.shape().to_vec();
        if of.kind() != Kind::Image {
            bail!("rotate:{degrees}: images can be turned, and samples of shape {shape:?} are none");
        }
        if quarters != 2 {
            shape.swap(1, 2);
        }
        Ok(Self { of, quarters, shape })
    }
}

impl Dataset for Rotated {
    fn kind(&self) -> Kind {
        Kind::Image
    }

    fn len(&self) -> usize {
        self.of.len()
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn classes(&self) -> Option<usize> {
        self.of.classes()
    }

    fn class_names(&self) -> Option<&[String]> {
        self.of.class_names()
    }

    fn get(&self, idx: &[usize]) -> Result<Batch> {
        let Batch { x, conditions } = self.of.get(idx)?; // [B, C, H, W]
        let x = match self.quarters {
            1 => x.transpose(2, 3)?.contiguous()?.flip(&[3])?,
            2 => x.flip(&[2, 3])?,
            _ => x.transpose(2, 3)?.contiguous()?.flip(&[2])?,
        };
        Ok(Batch { x, conditions })
    }

    fn labels(&self, idx: &[usize]) -> Result<Option<Tensor>> {
        self.of.labels(idx)
    }

    fn notes(&self) -> Vec<String> {
        [self.of.notes(), vec![format!("images turned clockwise by {} degrees", 90 * self.quarters)]].concat()
    }

    fn files(&self) -> Option<&[String]> {
        self.of.files()
    }
}
