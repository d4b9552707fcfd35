//! The plane through three samples: x = a + u e1 + v e2, e1 towards b and e2 at right angles towards c.

use candle_core::{DType, Result, Tensor, bail};
use langevin_ops::shape::to_host;

/// A plane in the space of samples.
#[derive(Clone, Debug)]
pub struct Plane {
    origin: Tensor,
    axes: [Tensor; 2],
    points: [[f64; 2]; 3],
}

impl Plane {
    /// Through `a`, `b` and `c`, each `[1, ...]`. Errors if they lie on a line.
    pub fn through(a: &Tensor, b: &Tensor, c: &Tensor) -> Result<Self> {
        let dot =
            |a: &Tensor, b: &Tensor| (a.to_dtype(DType::F64)? * b.to_dtype(DType::F64)?)?.sum_all()?.to_scalar::<f64>();
        let (to_b, to_c) = ((b - a)?, (c - a)?);
        let length = dot(&to_b, &to_b)?.sqrt();
        let e1 = (&to_b / length)?;
        let along = dot(&to_c, &e1)?;
        let across = (&to_c - (&e1 * along)?)?;
        let height = dot(&across, &across)?.sqrt();
        if !(length > 0. && height > 1e-4 * length) {
            bail!("plane: the three points lie on a line, and a plane through them is not one; choose others");
        }
        let points = [[0., 0.], [length, 0.], [along, height]];
        Ok(Self { origin: a.clone(), axes: [e1, (across / height)?], points })
    }

    /// Where the three points are in the plane, (u, v) each.
    pub fn points(&self) -> [[f64; 2]; 3] {
        self.points
    }

    /// The samples at coordinates `uv` `[N, 2]`: `[N, ...]`.
    pub fn at(&self, uv: &Tensor) -> Result<Tensor> {
        let n = uv.dim(0)?;
        let mut shape = self.origin.dims().to_vec();
        shape[0] = n;
        let uv = to_host(uv)?;
        let mut x = self.origin.broadcast_as(shape.as_slice())?.contiguous()?;
        for (i, axis) in self.axes.iter().enumerate() {
            let along: Vec<f64> = uv.iter().skip(i).step_by(2).copied().collect();
            x = (x + langevin_ops::shape::scale(&axis.broadcast_as(shape.as_slice())?.contiguous()?, &along)?)?;
        }
        Ok(x)
    }
}
