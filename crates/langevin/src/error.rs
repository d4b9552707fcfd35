//! What is wrong with what was asked, as data; and that work was stopped.
//!
//! Errors are [`anyhow::Error`]s whose texts say what is wrong and what to do. Those that a caller may want to tell apart are
//! found by `downcast_ref`.

use anyhow::Result;
use std::fmt::{Display, Formatter};

/// The mistake is in what was asked, not in what the program met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The option or the key of the configuration that is wrong, such as `strength` or `sampler.steps`, if it is one alone.
    pub option: Option<String>,
    /// What was given for it, if that is worth saying.
    pub value: Option<String>,
    /// What is wrong, and what to do.
    pub why: String,
}

impl Usage {
    /// A mistake of no one option.
    pub fn new(why: impl Display) -> Self {
        Self { option: None, value: None, why: why.to_string() }
    }

    /// A mistake in `option`.
    pub fn of(option: &str, why: impl Display) -> Self {
        Self { option: Some(option.into()), ..Self::new(why) }
    }

    /// The same, which has this `value`.
    pub fn value(self, value: impl Display) -> Self {
        Self { value: Some(value.to_string()), ..self }
    }

    /// The sentence, in which `typed` makes of an option and its value what was typed.
    pub fn text(&self, typed: impl Fn(&str, Option<&str>) -> String) -> String {
        match &self.option {
            Some(option) => format!("{}: {}", typed(option, self.value.as_deref()), self.why),
            None => self.why.clone(),
        }
    }
}

impl Display for Usage {
    fn fmt(&self, f: &mut Formatter) -> std::fmt::Result {
        f.write_str(&self.text(|option, value| match value {
            Some(value) => format!("{option} = {value}"),
            None => option.into(),
        }))
    }
}

impl std::error::Error for Usage {}

impl From<String> for Usage {
    fn from(why: String) -> Self {
        Self::new(why)
    }
}

impl From<&str> for Usage {
    fn from(why: &str) -> Self {
        Self::new(why)
    }
}

/// It was asked to stop; the text says how to go on.
#[derive(Clone, Debug)]
pub struct Stopped(pub String);

impl Display for Stopped {
    fn fmt(&self, f: &mut Formatter) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Stopped {}

/// `Err` of a [`Usage`].
pub fn usage<T>(why: impl Into<Usage>) -> Result<T> {
    Err(anyhow::Error::new(why.into()))
}

/// The text of an error in one line: candle puts a backtrace there where `RUST_BACKTRACE` is set; a sentence needs none.
pub fn without_backtrace(text: &str) -> String {
    let frame = |line: &&str| {
        let inner = line.trim_start();
        let number =
            inner.split_once(": ").is_some_and(|(n, _)| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
        line.starts_with("  ") && (number || inner.starts_with("at "))
    };
    text.lines().filter(|line| !frame(line)).collect::<Vec<_>>().join("\n").trim_end().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_is_data_and_stands_in_front() {
        let all = [
            Usage::new("there is nothing to do"),
            Usage::of("class", "this model has none"),
            Usage::of("strength", "give at most 1").value(2),
            Usage::of("sampler.steps", "give at least 1").value(0),
        ];
        let dashed = |option: &str, value: Option<&str>| format!("--{option} {}", value.unwrap_or("?"));
        assert_eq!(
            all.each_ref().map(ToString::to_string),
            [
                "there is nothing to do",
                "class: this model has none",
                "strength = 2: give at most 1",
                "sampler.steps = 0: give at least 1"
            ]
        );
        assert_eq!(all[2].text(dashed), "--strength 2: give at most 1");
        let e = usage::<()>(all[2].clone()).unwrap_err().context("inside");
        assert_eq!(e.downcast_ref::<Usage>().and_then(|usage| usage.option.as_deref()), Some("strength"));
    }
}
