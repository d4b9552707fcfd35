//! Classes by their names: what --class means, and which of a model's classes those of a data set are.

use crate::error::{Usage, usage};
use crate::open::Opened;
use anyhow::Result;
use langevin_data::{Dataset, list, places};

/// The label that --class CLASS means: a name, a number, or `none`.
pub fn number(opened: &Opened, class: &str) -> Result<u32> {
    let spec = &opened.model.spec;
    let Some(n) = spec.classes else {
        return usage(
            Usage::of("class", "this model was trained without classes (model.conditional = false)").value(class),
        );
    };
    let names = opened.class_names().unwrap_or_default();
    if let Some(number) = names.iter().position(|name| name == class) {
        return Ok(number as u32);
    }
    match (class, spec.null_label(), class.parse::<u32>()) {
        ("none", Some(null), _) => Ok(null),
        ("none", None, _) => usage(
            Usage::of("class", "this model must be told a class; train with train.label_dropout=0.1").value("none"),
        ),
        (_, _, Ok(label)) if (label as usize) < n => {
            if let Some(name) =
                names.get(label as usize).filter(|_| names.iter().any(|name| name.parse::<u32>().is_ok()))
            {
                crate::note!("--class {class}: no class is called {class}; class number {class} is {name}");
            }
            Ok(label)
        }
        _ => usage(Usage::of("class", format!("the classes of this model are {}", known(opened))).value(class)),
    }
}

/// The classes of a model for a message: `cat, dog, or 0 to 1, or none`.
pub fn known(opened: &Opened) -> String {
    let spec = &opened.model.spec;
    let mut all = vec![];
    let last = spec.classes.unwrap_or(0).saturating_sub(1);
    let names = opened.class_names();
    all.extend(names.map(list));
    // names that are the numbers themselves are said once
    if !names.is_some_and(|names| names.iter().enumerate().all(|(i, name)| *name == i.to_string())) {
        all.push(format!("0 to {last}"));
    }
    if spec.null_class {
        all.push("none".into());
    }
    all.join(", or ")
}

/// For each class of `data` the number that it has in the model: by name, where both have names. `None` where the model is
/// told no classes or the data have none. `what` is what an error calls the data.
pub fn matched(opened: &Opened, data: &dyn Dataset, what: &str) -> Result<Option<Vec<u32>>> {
    let (Some(n), Some(theirs)) = (opened.model.spec.classes, data.classes()) else { return Ok(None) };
    let numbers = || (0..theirs as u32).collect::<Vec<_>>();
    match (opened.class_names(), data.class_names()) {
        (own, Some([name])) if !own.unwrap_or_default().contains(name) => Ok(None), // a folder in a folder, not a class
        (Some(own), Some(names)) => match places(own, names) {
            Ok(numbers) => Ok(Some(numbers)),
            Err(why) => usage(format!("{what}: {why}; give --class, or data of these classes alone")),
        },
        (None, Some(names)) if theirs != n => usage(format!(
            "{what}: it has the classes {}, and the model has {n} that it does not name, so that they cannot be \
             matched; give --class",
            list(names)
        )),
        (None, Some(names)) => {
            if names.iter().enumerate().any(|(i, name)| *name != i.to_string()) {
                let all: Vec<String> = names.iter().enumerate().map(|(i, name)| format!("{i} = {name}")).collect();
                crate::note!("{what}: the model does not name its classes, which are taken by number: {}", list(&all));
            }
            Ok(Some(numbers()))
        }
        (_, None) if theirs > n => usage(format!("{what}: it has {theirs} classes, and the model {n}; give --class")),
        (_, None) => Ok(Some(numbers())),
    }
}

/// The labels of the samples `idx` of `data` as the model's classes, as of [`matched`].
pub fn labels(opened: &Opened, data: &dyn Dataset, idx: &[usize], what: &str) -> Result<Option<Vec<u32>>> {
    let (Some(to), Some(labels)) = (matched(opened, data, what)?, data.labels(idx)?) else { return Ok(None) };
    let labels: Vec<u32> = labels.to_vec1()?;
    Ok(labels.into_iter().map(|label| to.get(label as usize).copied()).collect())
}

/// The label that the class `label` of the model has in `data`; `None` where the data have no classes, or others that nobody
/// can match, which is told.
pub fn in_data(opened: &Opened, label: u32, data: &dyn Dataset) -> Result<Option<u32>> {
    let (Some(n), Some(theirs)) = (opened.model.spec.classes, data.classes()) else { return Ok(None) };
    let class = |names: &[String]| names.get(label as usize).cloned().unwrap_or(label.to_string());
    match (opened.class_names(), data.class_names()) {
        (own, Some([name])) if !own.unwrap_or_default().contains(name) => Ok(None),
        (Some(own), Some(names)) => match names.iter().position(|name| *name == class(own)) {
            Some(place) => Ok(Some(place as u32)),
            None => usage(
                Usage::of("class", format!("the data have no samples of it, but the classes {}", list(names)))
                    .value(class(own)),
            ),
        },
        (None, Some(names)) if theirs != n => {
            crate::note!(
                "--class {label}: the model does not name its {n} classes, which cannot be matched with those of \
                 the data, {}: samples of all of these are taken",
                list(names)
            );
            Ok(None)
        }
        _ if (label as usize) < theirs => Ok(Some(label)),
        _ => usage(
            Usage::of("class", format!("the data have the classes 0 to {} alone", theirs.saturating_sub(1)))
                .value(label),
        ),
    }
}
