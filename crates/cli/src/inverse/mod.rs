//! What a model makes of a measurement: the verbs `inpaint` and `impute`.

pub mod impute;
pub mod inpaint;
mod table;
