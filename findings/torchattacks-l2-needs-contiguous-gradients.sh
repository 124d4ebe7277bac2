#!/usr/bin/env bash
# torchattacks' PGDL2 on a network whose weights are in channels-last order, as speeds up convolutions on CPUs and GPUs.
#
# One would guess: the order of a network's weights in memory is the network's own business. Images and labels are ordinary
# contiguous tensors, the logits are the same, so an attack runs as before.
# What happens: the gradient at the images inherits the weights' order, and the attack takes a view of it to find its norm. The
# attack in L-infinity (PGD) works on the same network, the one in L2 (PGDL2) raises.
# Seen with torchattacks 3.3.0 and torch 2.13.0 and 2.15.0: "contiguous: PGD ok, PGDL2 ok; channels last: PGD ok, PGDL2
# RuntimeError: view size is not compatible with input tensor's size and stride".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.0 scipy==1.17.0 requests==2.32.5 tqdm==4.67.1
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps torchattacks==3.3.0
"$folder/venv/bin/python" - <<'PYTHON'
import copy
import sys

import torch
import torchattacks
from torch import nn

torch.manual_seed(0)
network = nn.Sequential(
    nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
).eval()
images, labels = torch.rand(4, 3, 8, 8), torch.arange(4)


def outcome(attack):
    try:
        attack(images, labels)
    except RuntimeError as error:
        return f"RuntimeError: {str(error).partition(' (')[0]}"
    return "ok"


said = {}
for name, order in (("contiguous", torch.contiguous_format), ("channels last", torch.channels_last)):
    model = copy.deepcopy(network).to(memory_format=order)
    attacks = {"PGD": torchattacks.PGD(model, steps=2), "PGDL2": torchattacks.PGDL2(model, steps=2)}
    said[name] = {key: outcome(attack) for key, attack in attacks.items()}
print(
    f"torchattacks {torchattacks.__version__}, torch {torch.__version__.split('+')[0]}: "
    + "; ".join(f"{name}: " + ", ".join(f"{key} {value}" for key, value in row.items()) for name, row in said.items())
)
works = {"PGD": "ok", "PGDL2": "ok"}
last = said["channels last"]
sys.exit(not (said["contiguous"] == works and last["PGD"] == "ok" and "view size is not compatible" in last["PGDL2"]))
PYTHON
