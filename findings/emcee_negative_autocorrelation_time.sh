#!/usr/bin/env bash
# emcee 3.1.6: `autocorr.integrated_time` of antithetic chains (as of HMC with good trajectories, or over-relaxation) is far from
# the truth and can be negative, without a warning: the window of Sokal ends at the first lag M with M >= 5 tau(M), and a tau that
# is negative after the first lag ends it there.
# Seen, 8 chains of 20,000 steps of x' = rho x + noise, whose time is (1 + rho) / (1 - rho): rho = -0.5: about 0.000 for 0.333;
# rho = -0.9: -0.80 for 0.053. An effective sample size n / tau is negative then. rho = 0.5 is right: 3.0.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" -q install emcee==3.1.6 numpy==2.4.6
"$work/venv/bin/python" -W error - <<'P'
import numpy as np
from emcee.autocorr import integrated_time

for rho, low, high in [(0.5, 2.7, 3.3), (-0.5, -0.02, 0.02), (-0.9, -0.82, -0.78)]:
    rng = np.random.default_rng(0)
    x = np.zeros((20_000, 8))
    for i in range(1, len(x)):
        x[i] = rho * x[i - 1] + rng.normal(size=8)
    tau = integrated_time(x[:, :, None])[0]
    print(f"rho {rho}: emcee {tau:.4f}, exact {(1 + rho) / (1 - rho):.4f}")
    assert low < tau < high, "the behaviour has changed"
P
