//! `langevin check`: the values of every op in f32 against f64, and its derivatives against finite differences.

use crate::machine::Machine;
use anyhow::{Result, bail};
use clap::Parser;
use langevin::ops::check::{PRECISION, by_composition, cases};

/// Check the values and derivatives of every operation on a device
///
/// Values in f32 are compared with f64, and the first, second and third derivative with finite differences.
#[derive(Parser)]
pub struct Check {
    /// With every operation composed of candle's own, as on devices that have no kernels of ours
    #[arg(long)]
    pub composed: bool,
    #[command(flatten)]
    pub machine: Machine,
}

/// Carries out `langevin check`.
pub fn run(args: &Check) -> Result<()> {
    let device = args.machine.open()?;
    let cases = cases()?;
    let (all, mut failed) = (cases.len(), 0);
    let width = cases.iter().map(|case| case.name.len()).max().unwrap_or(0);
    for case in cases {
        // a failure is one line among the others: the rest is checked all the same
        let run = || case.run(&device);
        let (passed, found) = match if args.composed { by_composition(run) } else { run() } {
            Ok(outcome) => {
                let mut found = format!("{:.1e} (at most {PRECISION:.0e})", outcome.precision);
                if !outcome.errors.is_empty() {
                    let errors: Vec<_> = outcome.errors.iter().map(|e| format!("{e:.1e}")).collect();
                    found += &format!("  {} (at most {:.0e})", errors.join(" "), outcome.tolerance);
                }
                (outcome.passed(), found)
            }
            Err(e) => (false, e.to_string()),
        };
        failed += usize::from(!passed);
        crate::say!("{:<6} {:<width$}  {found}", if passed { "ok" } else { "FAILED" }, case.name)?;
    }
    if all == 0 || failed > 0 {
        bail!("{failed} of {all} ops are wrong on {}", args.machine.device);
    }
    crate::talk!(
        "all {all} are right; the numbers are errors of the value in f32, and of the first, second, ... derivative"
    );
    Ok(())
}
