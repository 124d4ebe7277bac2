#!/usr/bin/env bash
# transformers: the preprocessor_config.json of MobileViT.
#
# One would guess: image_mean and image_std in preprocessor_config.json are what the processor subtracts and divides by.
# What happens: MobileViT's processor writes image_mean = image_std = 0.5, and does not normalize: the file has no do_normalize,
# and black stays 0. ViT's file has the same two lines, with do_normalize, and black becomes -1. Who reads mean and deviation
# alone feeds MobileViT another range than it was trained on.
# Seen with transformers 5.24.0: "MobileViT: mean 0.5, do_normalize None, black 0.0" and "ViT: mean 0.5, do_normalize True, black
# -1.0".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.24.0 numpy==2.4.0 pillow
HF_HOME="$folder/home" HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - "$folder" <<'PYTHON'
import json
import sys
from pathlib import Path

import numpy as np
from transformers.models.mobilevit.image_processing_pil_mobilevit import MobileViTImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

black, found = np.zeros((256, 256, 3), np.uint8), []
for name, processor in (("MobileViT", MobileViTImageProcessorPil()), ("ViT", ViTImageProcessorPil())):
    processor.save_pretrained(Path(sys.argv[1]) / name)
    saved = json.loads((Path(sys.argv[1]) / name / "preprocessor_config.json").read_text())
    pixels = processor(images=black, return_tensors="np")["pixel_values"]
    found.append((saved["image_mean"][0], saved.get("do_normalize"), float(np.max(pixels))))
    print(f"{name}: mean {found[-1][0]}, do_normalize {found[-1][1]}, black {found[-1][2]}")
sys.exit(found != [(0.5, None, 0.0), (0.5, True, -1.0)])
PYTHON
