//! Points drawn over the energy that they were drawn from.
//!
//! The energy is a colour (low = bright) with contour lines; it is shown as ln(1 + (E - min E) / s), s the median
//! over the samples, since energies grow without bound away from the data.

use anyhow::Result;
use candle_core::{Device, Tensor};
use image::{Rgb, RgbImage};
use langevin_ops::shape::to_host;

/// Pixels a side unless --size says otherwise, and what it may say.
pub const SIDE: u32 = 720;
const SIDES: std::ops::RangeInclusive<u32> = 32..=8192;
/// Pixels from one point of the lattice on which the energy is evaluated to the next; between them it is interpolated.
const SPACING: u32 = 4;
const CONTOURS: f64 = 12.;
/// The colour map viridis (CC0), from its lower end.
const VIRIDIS: [[u8; 3]; 10] = [
    [68, 1, 84],
    [72, 40, 120],
    [62, 73, 137],
    [49, 104, 142],
    [38, 130, 142],
    [31, 158, 137],
    [53, 183, 121],
    [110, 206, 88],
    [181, 222, 43],
    [253, 231, 37],
];

/// An energy of points, `[M, 2] -> [M]`.
pub type Energy<'a> = dyn Fn(&Tensor) -> Result<Tensor> + 'a;

/// The log SNR at which the energy of data of this deviation is shown: that of clean data has walls as steep as the least
/// noise, and a little noise shows the landscape.
pub fn shown_log_snr(sigma_data: f64) -> f64 {
    -2. * (0.15 * sigma_data).ln()
}

/// Pixels a side as --size says.
pub fn side(asked: Option<u32>) -> Result<u32> {
    match asked {
        Some(size) if !SIDES.contains(&size) => {
            crate::error::usage(format!("--size {size}: give {} to {} pixels a side", SIDES.start(), SIDES.end()))
        }
        asked => Ok(asked.unwrap_or(SIDE)),
    }
}

/// The square that is shown.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// Its middle.
    pub centre: [f64; 2],
    /// Half its side.
    pub half: f64,
    /// Its side in pixels.
    pub side: u32,
}

impl View {
    /// The square that holds nearly all `points` `[N, 2]`, with a margin, in so many pixels a side: a few strays do not shrink
    /// the rest.
    pub fn around(points: &Tensor, side: u32) -> Result<Self> {
        let xy = to_host(points)?;
        let range = |axis: usize| {
            let mut v: Vec<f64> = xy.iter().skip(axis).step_by(2).copied().filter(|v| v.is_finite()).collect();
            v.sort_by(f64::total_cmp);
            let at = |q: f64| v.get(((v.len().max(1) - 1) as f64 * q).round() as usize).copied().unwrap_or(0.);
            (at(0.005), at(0.995))
        };
        let ((left, right), (bottom, top)) = (range(0), range(1));
        let half = (right - left).max(top - bottom).max(1e-3) / 2. * 1.3;
        Ok(Self { centre: [(left + right) / 2., (bottom + top) / 2.], half, side })
    }

    /// Points of the lattice a side.
    fn points(&self) -> usize {
        self.side.div_ceil(SPACING) as usize + 1
    }

    /// Coordinates of the lattice, row by row from the top: `[points^2, 2]`.
    fn lattice(&self, device: &Device) -> Result<Tensor> {
        let all = self.points();
        let at = |i: usize| 2. * i as f64 / (all - 1) as f64 - 1.;
        let point = |i: usize| {
            let (x, y) = (at(i % all), -at(i / all));
            [(self.centre[0] + self.half * x) as f32, (self.centre[1] + self.half * y) as f32]
        };
        let points: Vec<f32> = (0..all * all).flat_map(point).collect();
        Ok(Tensor::from_vec(points, (all * all, 2), device)?)
    }

    /// Where a point is in the picture, in pixels.
    fn pixel(&self, x: f64, y: f64) -> (f64, f64) {
        let unit = |v: f64, c: f64| (v - c) / self.half;
        let to = |u: f64| (u + 1.) / 2. * f64::from(self.side);
        (to(unit(x, self.centre[0])), to(-unit(y, self.centre[1])))
    }
}

/// `samples` `[N, 2]` over `energy` (`[M, 2] -> [M]`), or over plain ground where the model has none.
pub fn landscape(energy: Option<&Energy>, samples: &Tensor, view: View) -> Result<RgbImage> {
    let mut picture = match energy {
        Some(energy) => relief(energy, samples, view)?,
        None => RgbImage::from_pixel(view.side, view.side, Rgb([250, 250, 248])),
    };
    let xy = to_host(samples)?;
    let radius = (60. / (xy.len() as f64 / 2.).max(1.).sqrt()).clamp(1.6, 4.5) * f64::from(view.side) / f64::from(SIDE);
    for point in xy.chunks_exact(2) {
        let (x, y) = view.pixel(point[0], point[1]);
        dot(&mut picture, x, y, radius + 1.1, Rgb([255, 255, 255]), 0.85);
    }
    for point in xy.chunks_exact(2) {
        let (x, y) = view.pixel(point[0], point[1]);
        dot(&mut picture, x, y, radius, Rgb([200, 30, 60]), 1.);
    }
    Ok(picture)
}

/// The energy as colours with contour lines.
fn relief(energy: &Energy, samples: &Tensor, view: View) -> Result<RgbImage> {
    let levels = to_host(&energy(&view.lattice(samples.device())?)?)?;
    let mut at_samples = to_host(&energy(samples)?)?;
    at_samples.retain(|e| e.is_finite());
    at_samples.sort_by(f64::total_cmp);
    let low = levels.iter().chain(&at_samples).copied().filter(|e| e.is_finite()).fold(f64::INFINITY, f64::min);
    let typical = at_samples.get(at_samples.len() / 2).map_or(1., |e| e - low).max(1e-6);
    // what is no number is shown as what is out of sight
    let above = |e: f64| if e.is_nan() { f64::INFINITY } else { (e - low).max(0.) };
    let height: Vec<f64> = levels.iter().map(|&e| (above(e) / typical).ln_1p()).collect();
    let high = height.iter().copied().filter(|h| h.is_finite()).fold(1e-9, f64::max);
    let unit = |h: f64| if h.is_finite() { h / high } else { 1. };
    let height: Vec<f64> = height.into_iter().map(unit).collect();
    let points = view.points();
    let scale = (points - 1) as f64 / f64::from(view.side);
    let at = |x: f64, y: f64| between((height.as_slice(), points), x * scale, y * scale);
    Ok(RgbImage::from_fn(view.side, view.side, |x, y| {
        let (x, y) = (f64::from(x) + 0.5, f64::from(y) + 0.5);
        let h = at(x, y);
        let slope = (at(x + 0.5, y) - at(x - 0.5, y)).hypot(at(x, y + 0.5) - at(x, y - 0.5)) * CONTOURS;
        let off = (h * CONTOURS - (h * CONTOURS).round()).abs() / slope.max(1e-9); // pixels from the nearest contour
        let line = if slope > 0.35 { 0. } else { 0.22 * (1. - off).clamp(0., 1.) };
        mix(viridis(1. - h), Rgb([0, 0, 0]), line)
    }))
}

/// Bilinear interpolation on a lattice of so many points a side.
fn between((v, points): (&[f64], usize), x: f64, y: f64) -> f64 {
    let last = (points - 1) as f64;
    let (x, y) = (x.clamp(0., last), y.clamp(0., last));
    let (i, j) = ((x as usize).min(points - 2), (y as usize).min(points - 2));
    let (fx, fy) = (x - i as f64, y - j as f64);
    let row = |j: usize| v[j * points + i] * (1. - fx) + v[j * points + i + 1] * fx;
    row(j) * (1. - fy) + row(j + 1) * fy
}

/// The colour of a number from 0 to 1.
pub fn viridis(v: f64) -> Rgb<u8> {
    let v = v.clamp(0., 1.) * (VIRIDIS.len() - 1) as f64;
    let i = (v as usize).min(VIRIDIS.len() - 2);
    mix(Rgb(VIRIDIS[i]), Rgb(VIRIDIS[i + 1]), v - i as f64)
}

fn mix(a: Rgb<u8>, b: Rgb<u8>, share: f64) -> Rgb<u8> {
    let one = |i: usize| (f64::from(a[i]) * (1. - share) + f64::from(b[i]) * share).round() as u8;
    Rgb([one(0), one(1), one(2)])
}

/// A disc with a soft edge; outside the picture nothing is drawn.
fn dot(picture: &mut RgbImage, x: f64, y: f64, radius: f64, colour: Rgb<u8>, strength: f64) {
    let side = f64::from(picture.width());
    let inside = |v: f64| v > -radius && v < side + radius; // false for NaN
    if !inside(x) || !inside(y) {
        return;
    }
    let span = |v: f64| {
        let reach = radius + 1.;
        ((v - reach).floor().max(0.) as u32)..=((v + reach).ceil().min(side - 1.) as u32)
    };
    for j in span(y) {
        for i in span(x) {
            let distance = (f64::from(i) + 0.5 - x).hypot(f64::from(j) + 0.5 - y);
            let cover = (radius + 0.5 - distance).clamp(0., 1.) * strength;
            let pixel = picture.get_pixel_mut(i, j);
            *pixel = mix(*pixel, colour, cover);
        }
    }
}
