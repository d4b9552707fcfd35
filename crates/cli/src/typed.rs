//! Which options of a command were typed: those that mean nothing beside the others are an error, and an option that has a
//! default cannot say itself whether it was typed.

use anyhow::Result;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, Error, FromArgMatches};
use langevin::error::usage;
use std::collections::BTreeSet;

/// The options that were typed, by the names of their fields. It must be the first field of a command, flattened: clap takes
/// the options that have had their turn away.
#[derive(Clone, Debug, Default)]
pub struct Typed(BTreeSet<String>);

impl FromArgMatches for Typed {
    fn from_arg_matches(matches: &ArgMatches) -> std::result::Result<Self, Error> {
        let typed = |id: &&str| matches.value_source(id) == Some(ValueSource::CommandLine);
        Ok(Self(matches.ids().map(clap::Id::as_str).filter(typed).map(str::to_string).collect()))
    }

    fn update_from_arg_matches(&mut self, _: &ArgMatches) -> std::result::Result<(), Error> {
        Err(Error::new(ErrorKind::InvalidSubcommand))
    }
}

impl Args for Typed {
    fn augment_args(command: Command) -> Command {
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        command
    }
}

impl Typed {
    /// Errors if one of `options`, such as --max-steps, was typed: `why` says beside what it means nothing, and what to do.
    pub fn refuse(&self, options: &[&str], why: &str) -> Result<()> {
        let typed = |option: &&&str| self.0.contains(&option.trim_start_matches('-').replace('-', "_"));
        match options.iter().find(typed) {
            Some(option) => usage(format!("{option}: {why}")),
            None => Ok(()),
        }
    }
}
