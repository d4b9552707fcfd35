#!/usr/bin/env bash
# safetensors 0.8.0 with numpy 2.4.6: `safetensors.numpy.save` of an array that is not C-contiguous, such as a transpose or a
# Fortran-ordered array, writes the numbers in the order of memory under the shape of the view. What is loaded has the right
# shape and the wrong numbers, without an error or a warning. Batches in [N, H, W, C] turned to [N, C, H, W] by `transpose` are
# such arrays.
# Seen: [[0, 1, 2], [3, 4, 5]] transposed is read back as [[0, 1], [2, 3], [4, 5]]; np.ascontiguousarray before saving mends it.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" -q install safetensors==0.8.0 numpy==2.4.6
"$work/venv/bin/python" -W error - <<'P'
import numpy as np
from safetensors.numpy import load, save

x = np.arange(6, dtype=np.float32).reshape(2, 3)
back = lambda array: load(save({"x": array}))["x"]
for name, array in [("transposed", x.T), ("Fortran order", np.asfortranarray(x))]:
    print(name, array.tolist(), "is read back as", back(array).tolist())
    assert back(array).shape == array.shape and not np.array_equal(back(array), array), "the behaviour has changed"
assert np.array_equal(back(np.ascontiguousarray(x.T)), x.T)
P
