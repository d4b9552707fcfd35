//! `langevin check`: the derivatives of every op against finite differences, on a device.

use crate::args::Check;
use anyhow::{Result, bail};
use langevin_ops::check::cases;

/// Carries out `langevin check`.
pub fn run(args: &Check) -> Result<()> {
    let device = args.machine.open()?;
    let cases = cases()?;
    let (all, mut failed) = (cases.len(), 0);
    let width = cases.iter().map(|case| case.name.len()).max().unwrap_or(0);
    for case in cases {
        // a failure is one line among the others: the rest is checked all the same
        let (passed, found) = match case.run(&device) {
            Ok(outcome) => {
                let errors: Vec<_> = outcome.errors.iter().map(|e| format!("{e:.1e}")).collect();
                (outcome.passed(), format!("{}  (at most {:.0e})", errors.join("  "), outcome.tolerance))
            }
            Err(e) => (false, e.to_string()),
        };
        failed += usize::from(!passed);
        crate::say!("{:<6} {:<width$}  {found}", if passed { "ok" } else { "FAILED" }, case.name)?;
    }
    if all == 0 || failed > 0 {
        bail!("{failed} of {all} ops have wrong derivatives on {}", args.machine.device);
    }
    crate::talk!("all {all} are right; the numbers are errors of the first, second, ... derivative");
    Ok(())
}
