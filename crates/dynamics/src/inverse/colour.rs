//! Colour: y is the brightness 0.299 R + 0.587 G + 0.114 B of each pixel (ITU-R BT.601). A A^T = |w|^2 I.

use super::along::{Along, Separable, image};
use super::{Operator, Task};
use candle_core::{Device, Result, Tensor, bail};
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

const WEIGHTS: [f64; 3] = [0.299, 0.587, 0.114];

/// Grey from colours.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Colour {}

impl Named for Colour {
    const NAME: &'static str = "colour";
    const ABOUT: &'static str = "a picture in colour from its grey: y is 0.299 R + 0.587 G + 0.114 B";
}

impl Task for Colour {
    fn operator(&self, shape: &[usize]) -> Result<Box<dyn Operator>> {
        let shape = image(Self::NAME, shape)?;
        if shape[0] != 3 {
            bail!("colour: it needs a model of images in colour, [3, H, W], and this one is of {shape:?}");
        }
        let grey = Along::new(1, &Tensor::new(&[WEIGHTS], &Device::Cpu)?)?;
        let gram = WEIGHTS.iter().map(|w| w * w).sum();
        Ok(Box::new(Separable::new(vec![grey], Some(gram))?.repeated(shape)))
    }
}
