#!/usr/bin/env bash
# scikit-learn 1.9.1, BernoulliRBM: a last batch with fewer rows than `batch_size` spoils what is learnt.
# The chains of the negative phase are always `batch_size` many, and the two phases are subtracted as sums, both divided by the
# number of data rows in the batch. So a batch of m rows is balanced only where the model's mean is m / batch_size of the data's.
# Seen: 100 rows of mean 0.775: with batch_size 100 or 50 the model's mean is 0.77, with batch_size 1000 it is 0.077;
# 101 rows of mean 0.777: with batch_size 101 it is 0.776, with batch_size 100 (whose second batch has one row) 0.016. No warning.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" -q install scikit-learn==1.9.1 numpy==2.4.6
"$work/venv/bin/python" -W error - <<'P'
import numpy as np
from sklearn.neural_network import BernoulliRBM

def means(rows, batch_size):
    """the mean of the data, and that of the model by Gibbs sampling"""
    x = (np.random.default_rng(0).random((rows, 6)) < 0.8).astype(float)
    model = BernoulliRBM(n_components=2, batch_size=batch_size, n_iter=3000, learning_rate=0.05, random_state=0).fit(x)
    v, total = x.copy(), 0.0
    for sweep in range(200):
        v = model.gibbs(v)
        total += v.mean() if sweep >= 50 else 0
    return x.mean(), total / 150

for rows, batch_size, spoilt in [(100, 100, False), (100, 50, False), (100, 1000, True), (101, 101, False), (101, 100, True)]:
    data, model = means(rows, batch_size)
    print(f"{rows} rows, batch_size {batch_size}: data {data:.3f}, model {model:.3f}")
    assert (model < 0.2) if spoilt else (abs(model - data) < 0.05), "the behaviour has changed"
P
