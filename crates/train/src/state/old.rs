//! States of runs that began before objectives had names, as states are today. The one place that knows how they were.
//!
//! The weight and the level of the loss stood for themselves, its other options among the numbers of training, and what it
//! remembered stood beside the weights.

use super::LOSS;
use candle_core::{Result, Tensor, bail};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The numbers that always came first.
const NUMBERS: [&str; 7] = ["batch", "accumulate", "lr", "warmup", "decay", "clip", "seed"];

/// `tensors` and `identity` as they are written today.
pub(super) fn renewed(tensors: &mut BTreeMap<String, Tensor>, identity: &mut BTreeMap<String, Value>) -> Result<()> {
    let Some(weight) = identity.remove("run.weight") else { return Ok(()) };
    let (Some(level), Some(Value::Array(numbers))) = (identity.remove("run.level"), identity.remove("run.train"))
    else {
        bail!("does not say what run it is of");
    };
    let mut loss = Map::from_iter([("weight".to_string(), weight), ("level".to_string(), level)]);
    let mut train = Map::new();
    for (i, number) in numbers.into_iter().enumerate() {
        match (NUMBERS.get(i), number) {
            (Some(key), number) => drop(train.insert((*key).into(), number)),
            (None, Value::Object(one)) => one.into_iter().for_each(|(key, value)| match key.strip_prefix("loss.") {
                Some(own) => drop(loss.insert(own.into(), value)),
                None => drop(train.insert(key, value)),
            }),
            (None, steps) => drop(train.insert("distil".into(), steps)),
        }
    }
    let name = if loss.contains_key("time") { "dual" } else { "denoising" };
    loss.insert("name".into(), name.into());
    identity.insert("run.loss".into(), loss.into());
    identity.insert("run.train".into(), train.into());
    for name in ["level", "walkers/x", "walkers/numbers"] {
        if let Some(t) = tensors.remove(name) {
            tensors.insert(format!("{LOSS}{name}"), t);
        }
    }
    Ok(())
}
