//! Reading `scheduler_config.json`: keys with the defaults of a class's signature, and errors that name the key.

use candle_core::{Error, Result, bail};
use serde_json::{Map, Value};

/// The keys of one file. Those that nobody asks for are ignored, null is as good as missing.
pub(super) struct Keys {
    keys: Map<String, Value>,
}

impl Keys {
    /// The file's text; Python's bare NaN and Infinity may stand where JSON has no number for them.
    pub fn parse(text: &str) -> Result<Self> {
        match serde_json::from_str(&quoted(text)) {
            Ok(Value::Object(keys)) => Ok(Self { keys }),
            Ok(_) => {
                bail!("the scheduler's configuration is no table of keys; give a scheduler_config.json of diffusers")
            }
            Err(e) => bail!("the scheduler's configuration is no JSON: {e}"),
        }
    }

    /// The same keys for another class.
    pub fn renamed(mut self, class: &str) -> Self {
        self.keys.insert("_class_name".into(), class.into());
        self
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.keys.get(key).filter(|value| !value.is_null())
    }

    /// The error that `key` has a value that is none of `supported`.
    pub fn wrong(&self, key: &str, supported: &str) -> Error {
        let value = self.get(key).map_or("missing".into(), |value| shortened(&value.to_string()));
        Error::Msg(format!("scheduler: {key} is {value}; it must be {supported}"))
    }

    /// True or false.
    pub fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(self.wrong(key, "true or false")),
        }
    }

    /// A finite number, if there is one.
    pub fn optional(&self, key: &str) -> Result<Option<f64>> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match value.as_f64().filter(|v| v.is_finite()) {
                Some(number) => Ok(Some(number)),
                None => Err(self.wrong(key, "a finite number")),
            },
        }
    }

    /// A finite number.
    pub fn number(&self, key: &str, default: f64) -> Result<f64> {
        Ok(self.optional(key)?.unwrap_or(default))
    }

    /// A number, or minus infinity if it is missing or so written.
    pub fn lower_bound(&self, key: &str) -> Result<f64> {
        if self.get(key).and_then(Value::as_str) == Some("-Infinity") {
            return Ok(f64::NEG_INFINITY);
        }
        self.number(key, f64::NEG_INFINITY)
    }

    /// A count.
    pub fn count(&self, key: &str, default: usize) -> Result<usize> {
        let Some(value) = self.get(key) else { return Ok(default) };
        let whole = value.as_f64().filter(|v| v.fract() == 0. && (0. ..=1e9).contains(v));
        whole.map(|v| v as usize).ok_or_else(|| self.wrong(key, "a whole number from 0 to 1000000000"))
    }

    /// Numbers, if they are given.
    pub fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let all = value.as_array().and_then(|all| all.iter().map(Value::as_f64).collect::<Option<Vec<_>>>());
        all.map(Some).ok_or_else(|| self.wrong(key, "a list of numbers"))
    }

    /// A word.
    pub fn word<'a>(&'a self, key: &str, default: &'a str) -> Result<&'a str> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::String(word)) => Ok(word),
            Some(_) => Err(self.wrong(key, "a word")),
        }
    }

    /// What stands for the word of `key` among `choices`.
    pub fn choice<T: Clone>(&self, key: &str, default: &str, choices: &[(&str, T)]) -> Result<T> {
        let word = self.word(key, default)?;
        match choices.iter().find(|(name, _)| *name == word) {
            Some((_, choice)) => Ok(choice.clone()),
            None => {
                let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
                Err(self.wrong(key, &format!("one of {}", names.join(", "))))
            }
        }
    }

    /// Errors, with `why`, if `key` is given and is neither false nor empty.
    pub fn refuse(&self, key: &str, why: &str) -> Result<()> {
        match self.get(key) {
            None | Some(Value::Bool(false)) => Ok(()),
            Some(_) => bail!("scheduler: {key} is set, but {why}"),
        }
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.into(),
    }
}

/// `text` with NaN, Infinity and -Infinity in quotation marks where they are bare.
fn quoted(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(c) = rest.chars().next() {
        if c == '"' {
            let (mut escaped, mut end) = (false, rest.len());
            for (i, c) in rest.char_indices().skip(1) {
                match c {
                    '"' if !escaped => {
                        end = i + 1;
                        break;
                    }
                    c => escaped = c == '\\' && !escaped,
                }
            }
            out.push_str(&rest[..end]);
            rest = &rest[end..];
            continue;
        }
        match ["-Infinity", "Infinity", "NaN"].iter().find(|word| rest.starts_with(**word)) {
            Some(word) => {
                out.extend(["\"", word, "\""]);
                rest = &rest[word.len()..];
            }
            None => {
                out.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    out
}
