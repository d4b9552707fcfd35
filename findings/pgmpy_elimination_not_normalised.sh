#!/usr/bin/env bash
# pgmpy 1.1.2: `VariableElimination.query` of an undirected network gives numbers that do not sum to 1, where
# `BeliefPropagation.query` of the same network and question gives probabilities. Code written for Bayesian networks, of which both
# give probabilities, goes on with weights without a warning; the sum is the partition function.
# Seen, a triangle of three binary variables: elimination [29.653, 0.959], propagation [0.969, 0.031]; Z = 30.611.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" -q install pgmpy==1.1.2 numpy==2.4.6
"$work/venv/bin/python" - <<'P' 2> >(grep -v it/s >&2)
import numpy as np
from pgmpy.factors.discrete import DiscreteFactor
from pgmpy.inference import BeliefPropagation, VariableElimination
from pgmpy.models import DiscreteMarkovNetwork

edges = [("a", "b"), ("b", "c"), ("a", "c")]
rng = np.random.default_rng(0)
factors = [DiscreteFactor(list(edge), [2, 2], 3 * rng.random(4)) for edge in edges]
network = DiscreteMarkovNetwork(edges)
network.add_factors(*factors)
joint = np.einsum("ab,bc,ac->abc", *[factor.values for factor in factors])
weights = joint.sum((1, 2))
elimination = VariableElimination(network).query(["a"], show_progress=False).values
propagation = BeliefPropagation(network).query(["a"], show_progress=False).values
print("elimination", elimination.round(3), "propagation", propagation.round(3), "Z", joint.sum().round(3))
assert np.allclose(elimination, weights) and np.allclose(propagation, weights / weights.sum()), "the behaviour has changed"
P
