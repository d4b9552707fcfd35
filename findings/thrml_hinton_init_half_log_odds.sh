#!/usr/bin/env bash
# thrml 0.1.3, `hinton_init` of an Ising model: its docs say that each spin is drawn by its marginal bias, with P(s = +1) =
# sigmoid(beta h). The energy of the model is -beta h s with s = -1 or +1, of which the marginal without couplings is
# sigmoid(2 beta h): the first state has half of the log-odds. With couplings of 0, where the right first state needs no burn-in,
# chains still have to forget theirs.
# Seen, fields 1, -1, 0.5: means of the first state 0.456, -0.457, 0.246 (tanh(h / 2)), of the model's own Gibbs sampling 0.761,
# -0.761, 0.461 (tanh(h)).
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" -q install thrml==0.1.3 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
"$work/venv/bin/python" - <<'P'
import jax, jax.numpy as jnp, numpy as np
from thrml import Block, SamplingSchedule, SpinNode
from thrml.models import IsingEBM, IsingSamplingProgram, estimate_moments, hinton_init

fields = np.array([1.0, -1.0, 0.5])
nodes = [SpinNode() for _ in fields]
edges = [(nodes[0], nodes[1])]
model = IsingEBM(nodes, edges, jnp.array(fields), jnp.zeros(1), jnp.array(1.0))
blocks = [Block(nodes)]
(first,) = hinton_init(jax.random.key(0), model, blocks, (20_000,))
first = np.asarray(2.0 * first - 1).mean(0)
program = IsingSamplingProgram(model, blocks, [])
start = hinton_init(jax.random.key(0), model, blocks, ())
own, _ = estimate_moments(jax.random.key(1), nodes, edges, program, SamplingSchedule(10, 100_000, 1), start, [])
print("first state", first.round(3), "Gibbs", np.asarray(own).round(3), "exact", np.tanh(fields).round(3))
assert np.abs(first - np.tanh(fields / 2)).max() < 0.03 and np.abs(own - np.tanh(fields)).max() < 0.03, "the behaviour has changed"
P
