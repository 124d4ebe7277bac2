"""Checkpoints: the whole state of a training in one file, replaced at once; and the digests by which it is told from others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from auditor.data.intake.upload import replacing
from auditor.kit.errors import MismatchError
from auditor.models.dataset import ImageDataset

LAST, BEST = "last.safetensors", "best.safetensors"
"""The checkpoint from which a training goes on, and the weights that it keeps."""


MEETING = ".meeting-*.tmp"
"""The file in which the processes of one training find each other; each training has one of its own."""


class ComputeSite(NamedTuple):
    """Where a training computes, as far as its bits depend on that: sums end in other bits on another kind of device, and in
    another number of processes."""

    device: str
    processes: int = 1

    def __str__(self) -> str:
        unit = "GPU" if self.device == "cuda" else self.device.upper()
        if self.processes == 1:
            return f"on a {unit}"
        return f"on {self.processes} GPUs" if self.device == "cuda" else f"in {self.processes} processes on a {unit}"


class Saved(NamedTuple):
    """A file of tensors by name, and what else was written, in JSON form."""

    tensors: dict[str, Tensor]
    data: dict[str, Any]


def save(path: Path, tensors: Mapping[str, Tensor], data: Mapping[str, Any]) -> None:
    """Write tensors and JSON data as one safetensors file. A crash leaves the old file or the new one."""
    from safetensors.torch import save_file

    # Copies, since two names may stand for one tensor.
    copies = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}
    with replacing(path) as temporary:
        # One entry alone: the file's format leaves the order of several to chance, and the same training gives the same bytes.
        save_file(copies, temporary, {"data": json.dumps(data)})


def read(path: Path, fingerprint: str, place: ComputeSite) -> Saved:
    """What ``save`` wrote, with ``fingerprint`` and ``place`` among the data.

    Raises MismatchError if it belongs to another training, was made elsewhere, or cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            data = json.loads(file.metadata()["data"])
            if data["fingerprint"] != fingerprint:
                raise MismatchError(
                    f"The folder {path.parent.name} holds the checkpoint of another training: its spec, model or data differ.",
                    "Use a separate folder for each training, or empty this one.",
                )
            if (made := ComputeSite(*data["place"])) != place:
                raise MismatchError(
                    f"The checkpoint was made {made}; here it would be continued {place}, and the training would end with other "
                    "weights than one that was never interrupted.",
                    f"Continue it {made}: set device and processes if the machine would choose otherwise. Or start "
                    "again, as a "
                    "new job or in an empty folder.",
                )
            return Saved({name: file.get_tensor(name) for name in file.keys()}, data)  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        raise MismatchError(
            f"{path.name} is damaged or not a checkpoint of this program: it cannot be read.",
            "Empty the folder and train again.",
        ) from None


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under names that begin with ``prefix/``."""
    return {f"{prefix}/{name}": value for name, value in tensors.items()}


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix/``, without it."""
    start = f"{prefix}/"
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}


def tidy(folder: Path) -> None:
    """Remove what a killed process was about to write, and the place where its helpers met."""
    for pattern in (".intake-*.tmp", ".tmp*", MEETING):  # the second are safetensors' own
        for left in folder.glob(pattern):
            left.unlink(missing_ok=True)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors: names, types, shapes and values."""
    found = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def data_digest(dataset: ImageDataset) -> str:
    """SHA-256 of a data set: that of its file, or of its labels and images where it was never stored."""
    if dataset.sha256:
        return dataset.sha256
    found = hashlib.sha256(np.ascontiguousarray(dataset.labels, "<i8").tobytes())
    for batch in dataset.batches(np.arange(len(dataset)), 1024):
        found.update(batch.images.numpy().tobytes())
    return found.hexdigest()
