#!/usr/bin/env bash
# arviz 0.23.4: `ess` of chains of fewer than ten draws does not look at their correlation. They are cut in half, and the loop over
# lags never runs for halves of fewer than five, so that all N draws count as N log10 N, the most that is ever given.
# Seen, 4 random walks, whose draws are about as dependent as can be: 4 draws each: 19.3 of 16; 8 draws each: 48.2 of 32, by `mean`,
# `bulk` and `tail` alike; 10 draws each: 12 to 20 of 40. No warning: many short chains, as annealing gives them, look perfect.
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
for steps in (4, 6, 8, 10):
    x = np.cumsum(rng.normal(size=(4, steps)), axis=1)
    ess = [float(arviz.ess(x, method=method)) for method in ("mean", "bulk", "tail")]
    most = 4 * steps * np.log10(4 * steps)
    print(f"4 random walks of {steps} draws: ESS {np.round(ess, 1)} of {4 * steps}, N log10 N is {most:.1f}")
    assert np.allclose(ess, most) if steps < 10 else max(ess) < 0.6 * 4 * steps, "the behaviour has changed"
P
