//! Deblurring: y is x with a Gaussian or box kernel over it, cut off and normalised where it hangs over the edge.

use super::along::{Along, Separable, image};
use super::{Operator, Task};
use candle_core::{Device, Result, Tensor, bail};
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// The shape of a kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Blur {
    /// exp(-d^2 / (2 sigma^2)).
    #[default]
    Gaussian,
    /// The same weight for all that is within sigma pixels.
    Box,
}

/// A blur along both sides.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Deblur {
    /// Width of the kernel in pixels: deviation of a Gaussian, half the side of a box.
    pub sigma: f64,
    /// Shape of the kernel: "gaussian" or "box".
    pub kernel: Blur,
}

impl Default for Deblur {
    fn default() -> Self {
        Self { sigma: 1., kernel: Blur::Gaussian }
    }
}

impl Named for Deblur {
    const NAME: &'static str = "deblur";
    const ABOUT: &'static str = "a sharp picture from a blurred one: a Gaussian of deviation sigma, or a box";
}

impl Task for Deblur {
    fn key(&self) -> Option<&'static str> {
        Some("sigma")
    }

    fn operator(&self, shape: &[usize]) -> Result<Box<dyn Operator>> {
        let [_, h, w] = image(Self::NAME, shape)?;
        if !(self.sigma.is_finite() && self.sigma > 0.) {
            bail!("deblur: sigma is {}; it must be a number of pixels above 0", self.sigma);
        }
        let weight = |far: f64| match self.kernel {
            Blur::Gaussian => (-0.5 * (far / self.sigma).powi(2)).exp(),
            Blur::Box => f64::from(u8::from(far.abs() <= self.sigma)),
        };
        let matrix = |n: usize| {
            let row = |i: usize| {
                let row: Vec<f64> = (0..n).map(|j| weight(i as f64 - j as f64)).collect();
                let sum: f64 = row.iter().sum();
                row.into_iter().map(move |v| v / sum)
            };
            Tensor::from_iter((0..n).flat_map(row), &Device::Cpu)?.reshape((n, n))
        };
        Ok(Box::new(Separable::new(vec![Along::new(2, &matrix(h)?)?, Along::new(3, &matrix(w)?)?], None)?))
    }
}
