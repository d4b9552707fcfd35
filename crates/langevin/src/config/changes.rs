//! The changes of a command, `key=value` with dotted keys. They are taken together: their order does not matter.

use crate::config::{is_density, read};
use crate::error::usage;
use anyhow::{Result, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

/// Options of `[sampler]` that every sampler has: they stay where another sampler is named.
pub const COMMON: [&str; 3] = ["steps", "grid", "clip"];

/// What names the family of a density: its options stand beside it.
const FAMILY: [&str; 2] = ["model", "family"];

/// One value at one key, or an empty table: all that is there is replaced.
#[derive(Clone, Debug)]
struct Change {
    /// As it was typed.
    text: String,
    path: Vec<String>,
    value: Value,
    /// `X=NAME` for `X.name=NAME`: X has no options but its defaults then, even if it had that name before.
    short: bool,
}

/// All changes of a command.
#[derive(Clone, Debug, Default)]
pub struct Changes(Vec<Change>);

impl Changes {
    /// Of `texts`, each `key=value`.
    pub fn parse<S: AsRef<str>>(texts: &[S]) -> Result<Self> {
        let mut all = vec![];
        for text in texts.iter().map(AsRef::as_ref) {
            let Some((key, value)) = text.split_once('=') else {
                return usage(format!("`{text}` is no key=value, such as train.steps=2000"));
            };
            let path: Vec<String> = key.trim().split('.').map(str::to_string).collect();
            if path.iter().any(String::is_empty) {
                return usage(format!("`{key}` is no key, such as train.steps"));
            }
            let value = parsed(value);
            if !finite(&value) {
                return usage(format!("`{text}`: give a finite number"));
            }
            spread(text, path, value, &mut all);
        }
        Ok(Self(all))
    }

    /// The text of the first change that has to do with `key`: of itself, of something in it, or of all that it is in.
    pub fn find(&self, key: &str) -> Option<&str> {
        let key: Vec<&str> = key.split('.').collect();
        let found = self.0.iter().find(|change| change.path.iter().zip(&key).all(|(a, b)| a == b));
        found.map(|change| change.text.as_str())
    }

    /// The texts of the changes for whose dotted key `which` holds.
    pub fn texts(&self, which: impl Fn(&str) -> bool) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |change| which(&change.path.join("."))).map(|change| change.text.as_str())
    }

    /// The first of them.
    pub fn first(&self, which: impl Fn(&str) -> bool) -> Option<&str> {
        self.texts(which).next()
    }

    /// The changes in the section `name`, and the others.
    pub fn split(self, name: &str) -> (Self, Self) {
        let (own, others) = self.0.into_iter().partition(|change| change.path[0] == name);
        (Self(own), Self(others))
    }

    /// What these changes make of `thing`, which they call `name`: `NAME.KEY=value`.
    pub fn of<T: Serialize + DeserializeOwned>(&self, name: &str, thing: &T) -> Result<T> {
        let mut table = Table::from_iter([(name.to_string(), Value::Table(Table::try_from(thing)?))]);
        self.apply(&mut table)?;
        let Some(Value::Table(mut options)) = table.remove(name) else { bail!("{name} has no options") };
        let own = Value::String(name.into());
        if let (true, Some(text)) = (options.get("name").is_some_and(|n| *n != own), self.find(&format!("{name}.name")))
        {
            return usage(format!("`{text}`: this changes options of {name}, and not what it is; leave it out"));
        }
        options.insert("name".into(), own);
        read(options)
    }

    /// Makes all changes in `table`. The name of a thing comes first, an outer one before those in it, and drops the options of
    /// another thing that was there; then come options. Of two values of one key the later one counts.
    pub fn apply(&self, table: &mut Table) -> Result<()> {
        let mut all = self.in_full(table);
        for (i, a) in all.iter().enumerate() {
            if let Some(b) = all[i + 1..].iter().find(|b| a.excludes(b) || b.excludes(a)) {
                return usage(format!("`{}` and `{}` contradict each other; leave one out", a.text, b.text));
            }
        }
        all.sort_by_key(Change::rank); // which keeps the order of changes of one key
        let density = is_density(table) || all.iter().any(|change| change.path == FAMILY);
        all.iter().try_for_each(|change| change.make(table, density))
    }

    /// The changes of `texts` as they were typed; says which of them later ones replace.
    pub fn typed<S: AsRef<str>>(texts: &[S]) -> Result<Self> {
        let all = Self::parse(texts)?;
        let full = all.in_full(&Table::new());
        for (i, a) in full.iter().enumerate() {
            let same = |b: &&Change| a.path == b.path && a.value != b.value && !a.replaces() && !b.replaces();
            if let Some(b) = full[i + 1..].iter().rfind(same) {
                crate::note!("warning: `{}` comes after `{}` and counts in its place", b.text, a.text);
            }
        }
        Ok(all)
    }

    /// The changes with `X=NAME` as `X.name=NAME`, where X has options in `table` or among the changes.
    fn in_full(&self, table: &Table) -> Vec<Change> {
        let mut all = self.0.clone();
        for change in all.iter_mut().filter(|change| change.value.is_str()) {
            if is_section(table, &change.path) || self.0.iter().any(|other| other.is_in(&change.path)) {
                change.path.push("name".into());
                change.short = true;
            }
        }
        all
    }
}

impl Change {
    /// Whether it replaces a whole section.
    fn replaces(&self) -> bool {
        self.value.is_table()
    }

    fn is_in(&self, section: &[String]) -> bool {
        self.path.len() > section.len() && self.path.starts_with(section)
    }

    /// Whether it makes a value of what `other` changes something in.
    fn excludes(&self, other: &Self) -> bool {
        !self.replaces() && other.is_in(&self.path)
    }

    fn names(&self) -> bool {
        self.path.last().is_some_and(|last| last == "name") || self.path == FAMILY
    }

    /// What comes first: sections and names, outer before inner; then options.
    fn rank(&self) -> (bool, usize, bool) {
        match (self.replaces(), self.names()) {
            (true, _) => (false, self.path.len(), false),
            (_, true) => (false, self.path.len() - 1, true),
            _ => (true, 0, true),
        }
    }

    /// Makes it in `table`, the configuration of a `density` or of a model that denoises, whose samplers have options in common.
    fn make(&self, table: &mut Table, density: bool) -> Result<()> {
        let Some((last, parents)) = self.path.split_last() else { bail!("a change without a key") };
        let mut at = table;
        for part in parents {
            let entry = at.entry(part).or_insert_with(|| Value::Table(Table::new()));
            if let Value::String(name) = entry {
                // `process = "vp"` is short for a table with that name
                *entry = Value::Table(Table::from_iter([("name".to_string(), Value::String(name.clone()))]));
            }
            at = match entry {
                Value::Table(inner) => inner,
                _ => return usage(format!("`{}`: {part} is not a section", self.text)),
            };
        }
        let own = if self.path == FAMILY { "family" } else { "name" };
        let implied = (*parents == ["loss"] && !density).then(|| Value::from(implied_loss(at)));
        if self.names() && (self.short || at.get(own).or(implied.as_ref()) != Some(&self.value)) {
            at.retain(|key, _| *parents == ["sampler"] && !density && COMMON.contains(&key));
        }
        at.insert(last.clone(), self.value.clone());
        Ok(())
    }
}

/// The loss that a section without a name means.
fn implied_loss(section: &Table) -> &'static str {
    let counts =
        |key| section.get(key).is_some_and(|value| value.as_float() != Some(0.) && value.as_integer() != Some(0));
    if ["time", "fokker_planck", "walkers"].into_iter().any(counts) { "dual" } else { "denoising" }
}

/// Makes the changes `texts` in `table`, as [`Changes::apply`] does.
pub fn apply<S: AsRef<str>>(table: &mut Table, texts: &[S]) -> Result<()> {
    Changes::parse(texts)?.apply(table)
}

/// The change to `value` at `path`; of a table that one, emptied, and those of all that is in it.
fn spread(text: &str, path: Vec<String>, value: Value, all: &mut Vec<Change>) {
    let Value::Table(inner) = value else {
        return all.push(Change { text: text.into(), path, value, short: false });
    };
    all.push(Change { text: text.into(), path: path.clone(), value: Value::Table(Table::new()), short: false });
    for (key, value) in inner {
        spread(text, path.iter().cloned().chain([key]).collect(), value, all);
    }
}

/// Whether there is a table at `path`.
fn is_section(table: &Table, path: &[String]) -> bool {
    let Some((last, parents)) = path.split_last() else { return false };
    let at = parents.iter().try_fold(table, |at, part| at.get(part)?.as_table());
    at.and_then(|at| at.get(last)).is_some_and(Value::is_table)
}

/// A TOML value, or text that need not be quoted.
fn parsed(text: &str) -> Value {
    let text = text.trim();
    let as_text = || Value::String(text.into());
    // what TOML takes for the beginning of a comment belongs to the text
    if text.contains('#') && !text.starts_with(['"', '\'', '[', '{']) {
        return as_text();
    }
    let table = format!("v = {text}").parse::<Table>().ok();
    match table.and_then(|mut table| if table.len() == 1 { table.remove("v") } else { None }) {
        None | Some(Value::Datetime(_)) => as_text(),
        Some(value) => whole(value),
    }
}

/// The numbers in it without a fraction as whole ones, such as 1e3: who counts takes these alone, and the others both.
fn whole(value: Value) -> Value {
    const EXACT: f64 = (1u64 << 53) as f64;
    match value {
        Value::Float(v) if v.fract() == 0. && v.abs() < EXACT => Value::Integer(v as i64),
        Value::Array(all) => all.into_iter().map(whole).collect::<Vec<_>>().into(),
        Value::Table(all) => Value::Table(all.into_iter().map(|(key, v)| (key, whole(v))).collect()),
        other => other,
    }
}

/// Whether all numbers in it are.
fn finite(value: &Value) -> bool {
    match value {
        Value::Float(v) => v.is_finite(),
        Value::Array(all) => all.iter().all(finite),
        Value::Table(all) => all.values().all(finite),
        _ => true,
    }
}
