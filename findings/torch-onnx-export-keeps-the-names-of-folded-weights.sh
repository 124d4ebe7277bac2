#!/usr/bin/env bash
# torch.onnx.export of a network with batch normalizations, with its defaults.
#
# One would guess: an initializer called `0.weight` holds the tensor that the state dict calls `0.weight`, so that weights can be
# compared or loaded by name.
# What happens: the optimizer folds each batch normalization into the convolution before it and keeps the convolution's name.
# The file has `0.weight` with other values, and nothing in the initializers says so (the node's metadata does, under
# `pkg.onnxscript.rewriter.rule_name`). Loaded by name into the original network, next to its batch normalization, the weights
# are normalized twice. With optimize=False names and values are the state dict's.
# Seen with torch 2.15.0, onnx 1.23.2, onnxscript 0.7.2: "default: 0.weight is the state dict's: False, logits by name off by
# 1.0; optimize=False: True, 0.0".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 numpy==2.4.0 onnx==1.23.2 onnxscript==0.7.2
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import copy
import sys
import warnings

import onnx
import torch
from onnx import numpy_helper
from torch import nn

warnings.simplefilter("ignore")
torch.manual_seed(0)
network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5))
nn.init.uniform_(network[1].running_var, 0.2, 0.5)
nn.init.normal_(network[1].running_mean)
network.eval()
x = torch.rand(2, 3, 6, 6)


def by_name(**options):
    torch.onnx.export(network, (x[:1],), "model.onnx", external_data=False, verbose=False, **options)
    stored = {item.name: torch.tensor(numpy_helper.to_array(item)) for item in onnx.load("model.onnx").graph.initializer}
    other = copy.deepcopy(network)
    other.load_state_dict({name: value for name, value in stored.items() if name in other.state_dict()}, strict=False)
    same = torch.equal(stored["0.weight"], network.state_dict()["0.weight"])
    with torch.no_grad():
        return same, float((other(x) - network(x)).abs().max())


default, whole = by_name(), by_name(optimize=False)
print(
    f"torch {torch.__version__.split('+')[0]}: default: 0.weight is the state dict's: {default[0]}, logits by name off by "
    f"{default[1]:.1f}; optimize=False: {whole[0]}, {whole[1]:.1f}"
)
sys.exit(not (not default[0] and default[1] > 0.01 and whole[0] and whole[1] == 0.0))
PYTHON
