//! Names of weights that all begin with the name of what the network was in: `module.`, `_orig_mod.`, `unet.`, `model.`.
//!
//! Wrappers of PyTorch put it there: `DataParallel`, `torch.compile`, a module that has the network as a member.

use candle_core::{Result, Tensor, bail};
use std::collections::{BTreeMap, BTreeSet};

/// `tensors` without the prefix under which they hold all that a network `needs`; as they are if there is none, or if they
/// hold it without one. Some may have the prefix and others not. What the network does not need keeps its name.
///
/// Errors, in words that follow the name of the file, if two prefixes will do or a tensor is there both with and without; if
/// a part of what is needed has a prefix, the message names it.
pub fn strip(tensors: BTreeMap<String, Tensor>, needs: &BTreeSet<String>) -> Result<BTreeMap<String, Tensor>> {
    let lacks = |prefix: &str| {
        needs.iter().find(|name| !tensors.contains_key(*name) && !tensors.contains_key(&format!("{prefix}{name}")))
    };
    if lacks("").is_none() {
        return Ok(tensors);
    }
    let found = prefixes(&tensors, needs);
    let whole: Vec<&str> = found.iter().map(|(prefix, _)| *prefix).filter(|prefix| lacks(prefix).is_none()).collect();
    let prefix = match whole[..] {
        [prefix] => prefix.to_string(),
        [a, b, ..] => bail!(
            "holds the network twice, under names that begin with `{a}` and with `{b}`; save one of them in a file of its own"
        ),
        [] => match found.iter().max_by_key(|(_, names)| *names) {
            Some((prefix, names)) => bail!(
                "has names that begin with `{prefix}`: {names} of the network's {}; without it they lack `{}`",
                needs.len(),
                lacks(prefix).map_or("", String::as_str)
            ),
            None => return Ok(tensors),
        },
    };
    let mut out = BTreeMap::new();
    for (old, t) in tensors {
        let name = match old.strip_prefix(&prefix).filter(|rest| needs.contains(*rest)) {
            Some(rest) => rest.to_string(),
            None => old,
        };
        if out.contains_key(&name) {
            bail!("holds `{name}` both with `{prefix}` before it and without");
        }
        out.insert(name, t);
    }
    Ok(out)
}

/// What comes before names that are needed, and before how many of them each.
fn prefixes<'a>(tensors: &'a BTreeMap<String, Tensor>, needs: &BTreeSet<String>) -> Vec<(&'a str, usize)> {
    let mut found: BTreeMap<&str, usize> = BTreeMap::new();
    for name in tensors.keys().filter(|name| !needs.contains(*name)) {
        // the shortest prefix: what is left may itself begin with a name that a prefix could have
        let mut dots = name.match_indices('.').map(|(at, _)| at + 1);
        if let Some(at) = dots.find(|&at| needs.contains(&name[at..])) {
            *found.entry(&name[..at]).or_default() += 1;
        }
    }
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    fn of(names: &[&str]) -> BTreeMap<String, Tensor> {
        let zero = Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap();
        names.iter().map(|name| (name.to_string(), zero.clone())).collect()
    }

    /// Of a network of `in.weight`, `net.in.weight` and `out.bias`.
    fn stripped(names: &[&str]) -> std::result::Result<String, String> {
        let needs = ["in.weight", "net.in.weight", "out.bias"].map(String::from).into();
        let found = strip(of(names), &needs).map_err(|e| crate::model::plain(&e))?;
        Ok(found.into_keys().collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn a_prefix_is_left_out() {
        let plain = "in.weight net.in.weight out.bias".to_string();
        assert_eq!(stripped(&["in.weight", "net.in.weight", "out.bias"]), Ok(plain.clone()));
        for p in ["module.", "_orig_mod.", "module._orig_mod.", "net.", "net.net.", "a.b.c.d."] {
            let names = ["in.weight", "net.in.weight", "out.bias"].map(|name| format!("{p}{name}"));
            assert_eq!(stripped(&[&names[0], &names[1], &names[2]]), Ok(plain.clone()), "{p}");
        }
        // some with it and some without, as a state dict has that was put together from two
        assert_eq!(stripped(&["in.weight", "module.net.in.weight", "module.out.bias"]), Ok(plain.clone()));
        // what else there is keeps its name, so that it can be told
        let all = ["ema.in.weight", "ema.net.in.weight", "ema.out.bias", "ema.decay", "step.count"];
        assert_eq!(stripped(&all), Ok(format!("ema.decay {plain} step.count")));
    }

    #[test]
    fn what_cannot_be_told_names_the_prefix() {
        let twice = ["a.in.weight", "a.net.in.weight", "a.out.bias", "b.in.weight", "b.net.in.weight", "b.out.bias"];
        let why = stripped(&twice).unwrap_err();
        assert!(why.contains("`a.`") && why.contains("`b.`"), "{why}");
        let why = stripped(&["module.in.weight", "module.net.in.weight", "in.weight", "module.out.bias"]).unwrap_err();
        assert!(why.contains("`in.weight`") && why.contains("`module.`"), "{why}");
        let why = stripped(&["module.in.weight", "module.out.bias"]).unwrap_err();
        assert!(why.contains("`module.`: 2 of the network's 3") && why.contains("`net.in.weight`"), "{why}");
        // of another network altogether there is nothing to say
        assert_eq!(stripped(&["conv.weight"]), Ok("conv.weight".into()));
    }
}
