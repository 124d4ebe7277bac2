#!/usr/bin/env bash
# torch.save(..., pickle_protocol=...) of a state dict, read by torch.load with its default, weights_only=True.
#
# One would guess: torch.load reads every state dict that torch.save writes; weights_only is about code in a file, and a state
# dict has none.
# What happens: with pickle_protocol=4 or 5 (documented as an argument that may be changed) the file is refused, since the reader
# of weights knows the instructions of protocol 2 alone: "Unsupported operand 149" (FRAME). The text blames the file and advises
# to load it without the check, if one trusts its source.
# Seen with torch 2.15.0: "protocol 2 read, 3 read, 4 refused (Unsupported operand 149), 5 refused (Unsupported operand 149)".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 numpy==2.4.0
"$folder/venv/bin/python" - <<'PYTHON'
import io
import pickle
import re
import sys

import torch
from torch import nn

found = {}
for protocol in (2, 3, 4, 5):
    stream = io.BytesIO()
    torch.save(nn.Linear(2, 2).state_dict(), stream, pickle_protocol=protocol)
    stream.seek(0)
    try:
        torch.load(stream)
        found[protocol] = "read"
    except pickle.UnpicklingError as error:
        reason = re.search(r"Unsupported operand \d+", str(error))
        found[protocol] = f"refused ({reason[0] if reason else 'for another reason'})"
print(f"torch {torch.__version__.split('+')[0]}: protocol " + ", ".join(f"{key} {value}" for key, value in found.items()))
frame = "refused (Unsupported operand 149)"
sys.exit(found != {2: "read", 3: "read", 4: frame, 5: frame})
PYTHON
