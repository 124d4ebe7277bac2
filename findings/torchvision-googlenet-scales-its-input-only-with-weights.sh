#!/usr/bin/env bash
# torchvision: the state dict of a pretrained googlenet (or inception_v3), loaded into googlenet(weights=None).
#
# One would guess: a state dict and the function that makes the network are the network. load_state_dict(strict=True) succeeds, so
# the answers are those of the network that was saved.
# What happens: with weights, the function turns `transform_input` on (the network then scales images from ImageNet's mean and
# deviation to 0.5 and 0.5 itself); without, it is off. It is no tensor, so a file of weights cannot say it. The same tensors give
# other logits, and nothing is said. Who loads such a file offline, or into a network with another head, has to give
# transform_input=True, or to normalize with 0.5.
# The weights here are random ones in place of the download; the code that runs is torchvision's.
# Seen with torchvision 0.29.2: "googlenet: transform_input True with weights, False without; same tensors: True, logits differ by
# up to 128% of the largest; with transform_input=True 0%".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 torchvision==0.29.2 numpy==2.4.0
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import warnings

import torch
import torchvision
from torchvision.models import GoogLeNet_Weights, googlenet

warnings.simplefilter("ignore")
torch.manual_seed(0)
random = googlenet(weights=None, init_weights=True)
for module in random.modules():
    if isinstance(module, torch.nn.Conv2d):
        torch.nn.init.kaiming_normal_(module.weight)
GoogLeNet_Weights.get_state_dict = lambda self, *args, **kwargs: random.state_dict()
trained = googlenet(weights=GoogLeNet_Weights.DEFAULT).eval()
loaded = googlenet(weights=None, aux_logits=False, init_weights=False).eval()
loaded.load_state_dict(trained.state_dict(), strict=True)
told = googlenet(weights=None, aux_logits=False, init_weights=False, transform_input=True).eval()
told.load_state_dict(trained.state_dict(), strict=True)
tensors = all(torch.equal(a, b) for a, b in zip(trained.state_dict().values(), loaded.state_dict().values(), strict=True))
with torch.no_grad():
    x = torch.randn(2, 3, 224, 224)
    expected = trained(x)
    off, right = (float((network(x) - expected).abs().max() / expected.abs().max()) for network in (loaded, told))
print(
    f"torchvision {torchvision.__version__.split('+')[0]}: googlenet: transform_input {trained.transform_input} with weights, "
    f"{loaded.transform_input} without; same tensors: {tensors}, logits differ by up to {off:.0%} of the largest; "
    f"with transform_input=True {right:.0%}"
)
sys.exit(not (trained.transform_input and not loaded.transform_input and tensors and off > 0.01 and right == 0))
PYTHON
