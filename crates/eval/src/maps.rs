//! Where in an image the model takes offence: the size of grad_x E at each pixel, and what reconstruction loses there.

use crate::score::time;
use candle_core::{Result, Tensor, bail};
use langevin_dynamics::Denoiser;
use langevin_ops::noise::Noise;

/// Numbers of each pixel, higher where the image is less like the data.
#[derive(Clone, Debug)]
pub struct Maps {
    /// sigma_t |grad_x E(alpha x, t)| over the channels, `[B, H, W]`.
    pub gradient: Tensor,
    /// |x - x0(x_t)|^2, the mean over the channels and the noise levels, `[B, H, W]`.
    pub residual: Tensor,
}

/// The maps of clean images `x` `[B, C, H, W]`: the gradient at the noise level `steep`, the residual at `levels`, all of
/// them sigma / alpha. `z` has `B` streams. A score is all that it takes.
pub fn maps(m: &dyn Denoiser, x: &Tensor, steep: f64, levels: &[f64], z: &mut Noise) -> Result<Maps> {
    if x.rank() != 4 || levels.is_empty() {
        bail!(
            "maps: {} levels for samples of shape {:?}; give images, [B, C, H, W], and a level",
            levels.len(),
            x.dims()
        );
    }
    let t = time(m.process(), steep)?;
    let marginal = m.process().marginal(t);
    let score = m.score(&x.affine(marginal.alpha, 0.)?, &[t])?.detach();
    let gradient = score.sqr()?.sum(1)?.sqrt()?.affine(marginal.sigma, 0.)?;
    let mut residual = gradient.zeros_like()?;
    for &level in levels {
        let t = time(m.process(), level)?;
        let marginal = m.process().marginal(t);
        let noisy = (x.affine(marginal.alpha, 0.)? + z.normal_like(x)?.affine(marginal.sigma, 0.)?)?;
        let lost = (m.x0(&noisy, &[t])?.detach() - x)?.sqr()?.mean(1)?;
        residual = (residual + lost.affine(1. / levels.len() as f64, 0.)?)?;
    }
    Ok(Maps { gradient, residual })
}
