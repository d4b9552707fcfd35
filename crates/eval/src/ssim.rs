//! Structural similarity: the mean over windows of (2 m_a m_b + c1)(2 s_ab + c2) / ((m_a^2 + m_b^2 + c1)(s_a^2 + s_b^2 + c2)),
//! with means, variances and covariance under a Gaussian of deviation 1.5 in 11 x 11 pixels, c1 = (0.01 range)^2 and
//! c2 = (0.03 range)^2. [Wang, Bovik, Sheikh & Simoncelli 2004, section III.B]

use candle_core::{Result, Tensor, bail};
use langevin_ops::shape::to_host;

/// Side of a window.
pub const SIDE: usize = 11;
const DEVIATION: f64 = 1.5;

/// Of each image of `a` against that of `b`, both `[B, C, H, W]` with values in an interval of length `range`: over all
/// windows that lie inside, averaged over channels. Errors for images of less than 11 pixels a side.
pub fn ssim(a: &Tensor, b: &Tensor, range: f64) -> Result<Vec<f64>> {
    let (_, channels, height, width) = a.dims4()?;
    if a.dims() != b.dims() || height < SIDE || width < SIDE {
        bail!(
            "ssim of images {:?} and {:?}; give as many, of one size, at least {SIDE} pixels a side",
            a.dims(),
            b.dims()
        );
    }
    let (a, b, plane) = (to_host(a)?, to_host(b)?, height * width);
    let of_plane = |(a, b): (&[f64], &[f64])| {
        let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).collect::<Vec<_>>();
        let blurred = |x: &[f64]| blur(x, width);
        let (ma, mb) = (blurred(a), blurred(b));
        let (aa, bb, ab) = (blurred(&product(a, a)), blurred(&product(b, b)), blurred(&product(a, b)));
        let (c1, c2) = ((0.01 * range).powi(2), (0.03 * range).powi(2));
        let window = |i: usize| {
            let (means, squares) = (ma[i] * mb[i], ma[i] * ma[i] + mb[i] * mb[i]);
            (2. * means + c1) * (2. * (ab[i] - means) + c2) / ((squares + c1) * (aa[i] + bb[i] - squares + c2))
        };
        (0..ma.len()).map(window).sum::<f64>() / ma.len() as f64
    };
    let planes: Vec<f64> = a.chunks(plane).zip(b.chunks(plane)).map(of_plane).collect();
    Ok(planes.chunks(channels).map(|image| image.iter().sum::<f64>() / channels as f64).collect())
}

/// `x` under the window at every place inside, row by row.
fn blur(x: &[f64], width: usize) -> Vec<f64> {
    let weight = |i: usize| (-0.5 * ((i as f64 - (SIDE / 2) as f64) / DEVIATION).powi(2)).exp();
    let sum: f64 = (0..SIDE).map(weight).sum();
    let kernel: Vec<f64> = (0..SIDE).map(|i| weight(i) / sum).collect();
    let inside = width + 1 - SIDE;
    let along =
        |row: &[f64]| row.windows(SIDE).map(|some| some.iter().zip(&kernel).map(|(x, k)| x * k).sum()).collect();
    let rows: Vec<Vec<f64>> = x.chunks(width).map(along).collect();
    let down = |some: &[Vec<f64>], j: usize| some.iter().zip(&kernel).map(|(row, k)| row[j] * k).sum();
    rows.windows(SIDE).flat_map(|some| (0..inside).map(|j| down(some, j)).collect::<Vec<f64>>()).collect()
}
