#!/usr/bin/env bash
# arviz 0.23.4: `ess(method="sd")`, and `mcse(method="sd")` by it, depend on the unit of the draws. The squares of the centred
# draws are tested for being constant against an absolute 1e-15, so that chains of a quantity in small units (1e-9: nanometres told
# in metres) count as constant, and a constant counts as if all draws were independent.
# Seen, 4 chains of 1,000 steps of x' = 0.95 x + noise: ESS 303.6 as they are and times 1e-8, but 4000 times 1e-9; the error of the
# deviation, in the same unit, 0.130 and then 0.036. No warning.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" -q install arviz==0.23.4 numpy==2.4.6
"$work/venv/bin/python" - <<'P'
import warnings
import numpy as np
warnings.simplefilter("ignore")  # of the import
import arviz
warnings.simplefilter("error")

rng = np.random.default_rng(0)
x = np.zeros((4, 1000))
for i in range(1, 1000):
    x[:, i] = 0.95 * x[:, i - 1] + rng.normal(size=4)
for unit, low, high in [(1.0, 290, 320), (1e-8, 290, 320), (1e-9, 4000, 4000)]:
    ess, error = float(arviz.ess(unit * x, method="sd")), float(arviz.mcse(unit * x, method="sd")) / unit
    print(f"times {unit}: ESS of the deviation {ess:.1f}, its error {error:.3f}")
    assert low <= ess <= high, "the behaviour has changed"
P
