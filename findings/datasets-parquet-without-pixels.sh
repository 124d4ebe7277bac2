#!/usr/bin/env bash
# datasets: to_parquet of a local image folder.
#
# One would guess: a Parquet file of an image data set holds the images, as the files on the Hub do and as save_to_disk does.
# What happens: the column is a struct of bytes and path, and every `bytes` is null: the file holds paths of this machine. It
# loads where the folder still lies, and nowhere else; nothing is said when it is written.
# Seen with datasets 5.2.0 and pyarrow 26.0.1: "rows: 2; bytes: [None, None]; paths kept: True".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check datasets==5.2.0 pyarrow==26.0.1 pillow
HF_HOME="$folder/home" HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys
from pathlib import Path

import pyarrow.parquet as pq
from datasets import load_dataset
from PIL import Image

folder = Path(sys.argv[1])
for name in ("cat", "dog"):
    (folder / "images" / name).mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "images" / name / "1.png")
ds = load_dataset("imagefolder", data_dir=str(folder / "images"), split="train")
ds.to_parquet(str(folder / "data.parquet"))
rows = pq.read_table(folder / "data.parquet").column("image").to_pylist()
found = [row["bytes"] for row in rows]
print(f"rows: {len(rows)}; bytes: {found}; paths kept: {all(row['path'] for row in rows)}")
sys.exit(found != [None, None])
PYTHON
