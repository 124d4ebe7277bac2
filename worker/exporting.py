"""Export of a model's weights: the tensors, and what is needed to use them elsewhere or to add them again."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any, Literal

from auditor.kit.errors import SpecError
from auditor.models.own_code import facts_of, stored_code
from worker.blobs import BlobStore
from worker.loading import architecture_of
from worker.models import ModelRow

WeightsFormat = Literal["safetensors", "pt"]
FORMATS: dict[str, WeightsFormat] = {".safetensors": "safetensors", ".pt": "pt", ".pth": "pt"}
"""Suffix -> format."""


def format_of(file: Path) -> WeightsFormat | None:
    """By the suffix; None for an archive (.zip) with both. Raises SpecError for another suffix."""
    suffix = file.suffix.lower()
    if suffix != ".zip" and suffix not in FORMATS:
        raise SpecError(
            f"{file.name}: expected a name that ends in {', '.join(FORMATS)} or .zip, got {suffix or 'no ending'}.",
            f"Write to {file.with_suffix('.safetensors').name}.",
        )
    return FORMATS.get(suffix)


def write_weights(row: ModelRow, blobs: BlobStore, form: WeightsFormat, file: Path) -> str:
    """The tensors as safetensors (the stored file, byte by byte) or as a state dict by torch.save; returns the SHA-256.

    Names and shapes are those of the architecture.
    """
    stored = blobs.path(row.weights)
    if form == "safetensors":
        shutil.copyfile(stored, file)
        return row.weights
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(stored), file)
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def describe(row: ModelRow, hashes: dict[str, str], parent: str | None) -> str:
    """What the weights are of, as JSON that ``auditor models add --architecture @FILE`` reads.

    ``hashes``: SHA-256 of exported files by name. ``parent``: name of the model that it was trained from.
    """
    architecture = architecture_of(row)
    values: dict[str, Any] = {
        "name": row.name,
        "architecture": facts_of(row.architecture),
        "input_shape": architecture.input_shape,
        "num_classes": architecture.num_classes,
        "class_names": row.class_names,
        "normalization": row.normalization,
        "trained_from": parent,
        **({"output": row.manifest["output"]} if row.manifest.get("output") else {}),
        "notes": list(row.manifest.get("notes", ())),
        "sha256": hashes,
    }
    return json.dumps(values, indent=2) + "\n"


def write_archive(row: ModelRow, blobs: BlobStore, parent: str | None, folder: Path, file: Path) -> dict[str, str]:
    """Both formats and the description in one .zip, and the network's file where that is its owner's code.

    ``folder`` is for temporary files. Returns the hashes of the weights.
    """
    hashes = {}
    names: dict[str, WeightsFormat] = {"weights.safetensors": "safetensors", "weights.pt": "pt"}
    for name, form in names.items():
        hashes[name] = write_weights(row, blobs, form, folder / name)
    with zipfile.ZipFile(file, "w") as archive:  # stored: weights do not compress
        archive.writestr("model.json", describe(row, hashes, parent))
        for name in names:
            archive.write(folder / name, name)
        if (code := stored_code(row.architecture)) is not None:
            archive.writestr(code.file, code.source)
    return hashes
