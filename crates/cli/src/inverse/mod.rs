//! What a model makes of a measurement: the verbs `inpaint` and `impute`.

mod clamped;
pub mod impute;
pub mod inpaint;
mod table;
