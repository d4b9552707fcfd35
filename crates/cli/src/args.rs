//! What the command line accepts, and which file carries it out. Each verb has its arguments beside its code.

use crate::{apply, bench, check, detect, ema, eval, export, hub, info, inverse, lab, list, look, sample, train};
use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};
use langevin::error::usage;

/// Train, sample, score and evaluate energy-based and diffusion models.
///
/// A model trained here is an energy E(x, t) whose score is its negative gradient; plain denoisers are welcome too.
#[derive(Parser)]
#[command(
    name = "langevin",
    version,
    arg_required_else_help = true,
    args_conflicts_with_subcommands = true,
    after_long_help = "\
Examples:
  langevin train digits                     an energy of the digits inside this program, and samples
  langevin train toy:two-moons              the same in two dimensions, with a picture of the energy
  langevin sample runs/digits -n 64         64 new samples, as a PNG grid
  langevin list samplers                    every sampler that `sampler.name=` takes
  langevin train mnist --data DIR train.steps=20000 --dry-run"
)]
pub struct Args {
    /// Show the licences of the program and of the data inside it
    #[arg(long)]
    licences: bool,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    Train(train::Train),
    Sample(Box<sample::Sample>),
    Inpaint(Box<inverse::inpaint::Inpaint>),
    Impute(inverse::impute::Impute),
    Apply(apply::Apply),
    Info(info::Info),
    List(list::List),
    Ema(ema::Ema),
    Export(export::Export),
    Eval(eval::Eval),
    Detect(Box<detect::Detect>),
    Look(look::Look),
    Lab(lab::Args),
    Check(check::Check),
    Bench(bench::Bench),
    Hub(hub::Hub),
    Completions(Completions),
}

/// Print a completion script for a shell
#[derive(Parser)]
#[command(
    after_long_help = "Example:\n  langevin completions bash > ~/.local/share/bash-completion/completions/langevin"
)]
pub struct Completions {
    /// The shell
    shell: clap_complete::Shell,
}

impl Args {
    /// Carries out what was asked.
    pub fn run(self) -> Result<()> {
        if self.licences {
            return list::licences();
        }
        match self.verb {
            Some(Verb::Train(args)) => train::run(args),
            Some(Verb::Sample(args)) => sample::run(&args),
            Some(Verb::Inpaint(args)) => inverse::inpaint::run(&args),
            Some(Verb::Impute(args)) => inverse::impute::run(&args),
            Some(Verb::Apply(args)) => apply::run(&args),
            Some(Verb::Info(args)) => info::run(&args),
            Some(Verb::List(args)) => list::run(&args),
            Some(Verb::Ema(args)) => ema::run(&args),
            Some(Verb::Export(args)) => export::run(&args),
            Some(Verb::Eval(args)) => eval::run(&args),
            Some(Verb::Detect(args)) => detect::run(&args),
            Some(Verb::Look(args)) => look::run(&args),
            Some(Verb::Lab(args)) => lab::run(&args),
            Some(Verb::Check(args)) => check::run(&args),
            Some(Verb::Bench(args)) => bench::run(&args),
            Some(Verb::Hub(args)) => hub::run(&args),
            Some(Verb::Completions(args)) => {
                let mut script = vec![];
                clap_complete::generate(args.shell, &mut Args::command(), "langevin", &mut script);
                crate::say!("{}", String::from_utf8_lossy(&script).trim_end())
            }
            None => usage("nothing to do; see langevin --help"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Command;

    /// The widest line that is shown as it is written.
    const WIDTH: usize = 100;

    fn check(command: &Command) {
        let text = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        for pair in lines.windows(2) {
            let broken = pair.iter().all(|line| !line.is_empty() && !line.starts_with(' ')) && !pair[0].ends_with(':');
            assert!(!broken, "{}: a paragraph is one line, so that it fits every width: {pair:?}", command.get_name());
        }
        for line in lines.iter().filter(|line| line.starts_with(' ')) {
            assert!(line.chars().count() <= WIDTH, "{}: too wide: {line}", command.get_name());
        }
        command.get_subcommands().for_each(check);
    }

    #[test]
    fn examples_of_the_help_are_shown_as_they_are_written() {
        check(&Args::command());
    }
}
