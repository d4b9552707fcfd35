//! log p_t(x), three ways: along the probability-flow ODE ([`Flow`]), by an energy that knows its normaliser
//! ([`Normaliser`]), and by annealed importance sampling along the noise levels ([`Annealing`]). Of the last, at all levels,
//! comes log Z(t) for an energy that does not know it ([`Constants`], for [`Sum::normalised`](crate::Sum::normalised)).
//!
//! All three take the density at the prior end to be the Gaussian N(0, s^2 I) that samplers begin with, s = sigma there.
//! What they return is the density of x_t itself, in the units of x, with t mostly the least noisy time of the span; clean
//! data are put in as they are, without noise. Numbers are natural logarithms, in f64 on the host.

mod annealing;
mod flow;
mod integral;
mod normalised;
mod normaliser;

pub use annealing::{Annealing, LogZ, Population, RungReport};
pub use flow::{Divergence, FEW, Flow, FlowLikelihood, Probe};
pub use integral::{Integral, log_integral};
pub use normalised::{ConstantAt, Constants};
pub use normaliser::Normaliser;
