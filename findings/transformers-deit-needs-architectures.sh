#!/usr/bin/env bash
# transformers: AutoModelForImageClassification.from_config of a DeiT or LeViT configuration.
#
# One would guess: `architectures` in a configuration is a note of what was saved. A fresh configuration has none, and
# from_config makes the usual classifier of its sort, as it does for ViT.
# What happens: DeiT and LeViT have two classifiers each (with and without a teacher), and the choice between them runs through
# `architectures` without asking whether it is there: "TypeError: 'NoneType' object is not iterable", which names neither the
# entry nor the sort. With an empty list the usual classifier is made.
# Seen with transformers 5.24.0: "vit: ViTForImageClassification; deit: TypeError: 'NoneType' object is not iterable; levit:
# TypeError: 'NoneType' object is not iterable; with an empty list: DeiTForImageClassification, LevitForImageClassification".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.24.0 torch==2.15.0 numpy==2.4.0
HF_HOME="$folder/home" HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PYTHON'
import sys

import transformers
from transformers import AutoConfig, AutoModelForImageClassification

small = {"num_hidden_layers": 1, "hidden_size": 12, "num_attention_heads": 3, "intermediate_size": 16}


def made(sort, architectures):
    config = AutoConfig.for_model(sort, **({} if sort == "levit" else small))
    config.architectures = architectures
    try:
        return type(AutoModelForImageClassification.from_config(config)).__name__
    except TypeError as error:
        return f"TypeError: {error}"


fresh = {sort: made(sort, None) for sort in ("vit", "deit", "levit")}
listed = [made(sort, []) for sort in ("deit", "levit")]
print(
    f"transformers {transformers.__version__}: "
    + "; ".join(f"{key}: {value}" for key, value in fresh.items())
    + f"; with an empty list: {', '.join(listed)}"
)
error = "TypeError: 'NoneType' object is not iterable"
as_expected = fresh == {"vit": "ViTForImageClassification", "deit": error, "levit": error}
sys.exit(not (as_expected and listed == ["DeiTForImageClassification", "LevitForImageClassification"]))
PYTHON
