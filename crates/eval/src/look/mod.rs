//! Looking at energies and scores: how conservative they are, along a path, how curved, on a plane, and against samples.

pub mod curl;
pub mod ks;
pub mod lanczos;
pub mod path;
pub mod plane;
