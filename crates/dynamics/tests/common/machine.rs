//! A Boltzmann machine of four bits, all of whose sixteen states can be summed over, and its temperatures as a ladder.

use candle_core::{Result, Tensor};
use langevin_dynamics::density::unclamped;
use langevin_dynamics::{Conditionals, Density, Energy, Ladder};
use langevin_ops::noise::Noise;
use langevin_ops::shape::to_host;

/// Bits x with E = -(x W x / 2 + b x), W symmetric without a diagonal: a Boltzmann machine, whose blocks are its bits.
pub struct Machine {
    w: [[f64; 4]; 4],
    b: [f64; 4],
}

pub const MACHINE: Machine = Machine {
    w: [[0., 1.2, -0.7, 0.4], [1.2, 0., 0.9, -1.5], [-0.7, 0.9, 0., 0.6], [0.4, -1.5, 0.6, 0.]],
    b: [0.3, -0.5, 0.2, 0.8],
};

impl Machine {
    pub fn field(&self, i: usize, x: &[f64]) -> f64 {
        self.b[i] + (0..4).map(|j| self.w[i][j] * x[j]).sum::<f64>()
    }

    pub fn value(&self, x: &[f64]) -> f64 {
        -(0..4).map(|i| x[i] * (0.5 * self.field(i, x) + 0.5 * self.b[i])).sum::<f64>()
    }

    /// Every state with its probability, and ln Z, of energies times `beta`.
    pub fn exact(&self, beta: f64) -> (Vec<([f64; 4], f64)>, f64) {
        let states: Vec<[f64; 4]> = (0..16u8).map(|k| [0, 1, 2, 3].map(|i| f64::from(k >> i & 1))).collect();
        let weights: Vec<f64> = states.iter().map(|x| (-beta * self.value(x)).exp()).collect();
        let z: f64 = weights.iter().sum();
        (states.into_iter().zip(weights).map(|(x, w)| (x, w / z)).collect(), z.ln())
    }
}

/// The machine at an inverse temperature.
pub struct At<'a>(pub &'a Machine, pub f64);

impl Energy for At<'_> {
    fn energy(&self, x: &Tensor) -> Result<Tensor> {
        let rows = to_host(x)?;
        Tensor::from_iter(rows.chunks(4).map(|x| self.1 * self.0.value(x)), x.device())?.to_dtype(x.dtype())
    }
}

impl Conditionals for At<'_> {
    fn blocks(&self) -> usize {
        4
    }

    fn draw(&self, block: usize, x: &Tensor, clamped: Option<&Tensor>, z: &mut Noise) -> Result<Tensor> {
        let (mut rows, u) = (to_host(x)?, z.uniform(x.dim(0)?)?);
        for (x, u) in rows.chunks_mut(4).zip(u) {
            x[block] = f64::from(u8::from(u < 1. / (1. + (-self.1 * self.0.field(block, x)).exp())));
        }
        unclamped(x, Tensor::from_vec(rows, x.shape(), x.device())?.to_dtype(x.dtype())?, clamped)
    }
}

impl Density for At<'_> {
    fn as_energy(&self) -> Option<&dyn Energy> {
        Some(self)
    }

    fn as_conditionals(&self) -> Option<&dyn Conditionals> {
        Some(self)
    }
}

/// From fair bits to the machine, by its temperature.
pub struct Cooling<'a>(pub &'a Machine, pub Vec<f64>);

impl Ladder for Cooling<'_> {
    fn rungs(&self) -> usize {
        self.1.len()
    }

    fn density(&self, rung: usize) -> Box<dyn Density + '_> {
        Box::new(At(self.0, self.1[rung]))
    }

    fn start(&self, like: &Tensor, _precision: f64, z: &mut Noise) -> Result<Tensor> {
        z.normal_like(like)?.gt(0.)?.to_dtype(like.dtype())
    }

    fn log_start(&self, x: &Tensor, _precision: f64) -> Result<Vec<f64>> {
        Ok(vec![-4. * 2f64.ln(); x.dim(0)?])
    }
}
