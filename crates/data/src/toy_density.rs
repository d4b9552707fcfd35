//! The densities of the toys, where they are known: in closed form, or by one integral along an arc.
//!
//! A component k has its share of the points, 1/K, and its own density, so that ln of 1/K p_k says both where the density lies and
//! of which component it is.

use candle_core::Result;
use std::f64::consts::{PI, TAU};

/// ln of a component's part of the density at a point.
type LogPart = fn(usize, [f64; 2]) -> f64;

/// The toys whose densities are known, with their components.
const KNOWN: [(&str, usize, LogPart); 4] = [
    ("toy:two-moons", 2, two_moons),
    ("toy:rings", 4, rings),
    ("toy:checkerboard", 8, checkerboard),
    ("toy:8-gaussians", 8, gaussians),
];

/// The density of a toy.
#[derive(Clone, Copy, Debug)]
pub struct ToyDensity {
    parts: usize,
    log_part: LogPart,
}

impl ToyDensity {
    /// The names of those that are known.
    pub fn known() -> Vec<&'static str> {
        KNOWN.iter().map(|(name, ..)| *name).collect()
    }

    /// That of the data set `spec`, such as `toy:8-gaussians` or a part of it.
    ///
    /// Errors, with the names of those that are known, if it is not among them.
    pub fn of(spec: &str) -> Result<Self> {
        let whole = [":train", ":test"].iter().find_map(|part| spec.strip_suffix(part)).unwrap_or(spec);
        match KNOWN.iter().find(|(name, ..)| *name == whole) {
            Some(&(_, parts, log_part)) => Ok(Self { parts, log_part }),
            None => bail!("the density of {spec} is not known; give one whose is: {}", Self::known().join(", ")),
        }
    }

    /// Components, K.
    pub fn components(&self) -> usize {
        self.parts
    }

    /// ln (1/K p_k(x)) of each component: minus infinity where it has nothing.
    pub fn log_parts(&self, x: [f64; 2]) -> Vec<f64> {
        (0..self.parts).map(|k| (self.log_part)(k, x)).collect()
    }
}

/// ln of the density of a point of an arc of radius `r` around 0 between two angles, even along it, that a normal of standard
/// deviation `blur` has moved.
fn arc([x, y]: [f64; 2], r: f64, blur: f64, [from, to]: [f64; 2]) -> f64 {
    const STEPS: usize = 256; // of Simpson's rule
    let (rho, phi) = (x.hypot(y), y.atan2(x));
    let b2 = blur * blur;
    // exp(-(rho - r)^2 / 2 b^2) times the mean over the arc of exp(-k (1 - cos(a - phi)))
    let k = rho * r / b2;
    let wide = (9. / k.sqrt()).min(PI);
    let (low, high) = if to - from >= TAU {
        (phi - wide, phi + wide)
    } else {
        let turn = |a: f64| (a - (from + to) / 2. + PI).rem_euclid(TAU) + (from + to) / 2. - PI;
        let nearest = turn(phi).clamp(from, to);
        ((nearest - wide).max(from), (nearest + wide).min(to))
    };
    let step = (high - low) / STEPS as f64;
    let log = |i: usize| -k * (1. - (low + i as f64 * step - phi).cos());
    let top = (0..=STEPS).map(log).fold(f64::NEG_INFINITY, f64::max);
    let weight = |i: usize| if i == 0 || i == STEPS { 1. } else { 2. + 2. * (i % 2) as f64 };
    let sum: f64 = (0..=STEPS).map(|i| weight(i) * (log(i) - top).exp()).sum();
    let mean = top + (sum * step / 3. / (to - from)).ln();
    mean - (rho - r).powi(2) / (2. * b2) - (TAU * b2).ln()
}

/// As the toy draws them.
fn two_moons(k: usize, [x, y]: [f64; 2]) -> f64 {
    const R: f64 = 1.2;
    let point = if k == 0 { [x + R / 2., y + R / 4.] } else { [x - R / 2., R / 4. - y] };
    arc(point, R, 0.08, [0., PI]) - 2f64.ln()
}

fn rings(k: usize, x: [f64; 2]) -> f64 {
    arc(x, 0.5 * (k + 1) as f64, 0.05, [0., TAU]) - 4f64.ln()
}

/// A square has its lower edges, and not its upper ones.
fn checkerboard(k: usize, [x, y]: [f64; 2]) -> f64 {
    let row = k / 2;
    let column = 2 * (k % 2) + row % 2;
    let within = |v: f64, i: usize| (0. ..1.).contains(&(v + 2. - i as f64));
    if within(x, column) && within(y, row) { -8f64.ln() } else { f64::NEG_INFINITY }
}

fn gaussians(k: usize, [x, y]: [f64; 2]) -> f64 {
    const B: f64 = 0.15;
    let (sin, cos) = (TAU * k as f64 / 8.).sin_cos();
    let square = (x - 1.4 * cos).powi(2) + (y - 1.4 * sin).powi(2);
    -square / (2. * B * B) - (TAU * B * B).ln() - 8f64.ln()
}
