"""Wrong uploads, one of each kind that a user may bring, made on the spot."""

from __future__ import annotations

import argparse
import io
import pickle
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

ARCHITECTURE = "resnet18-cifar:width_factor=0.0625"


def tiny_state() -> dict[str, torch.Tensor]:
    from auditor.models.architecture import ARCHITECTURES

    torch.manual_seed(0)
    return ARCHITECTURES.parse(ARCHITECTURE).build().state_dict()


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _scripted() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Sequential(nn.Linear(2, 2))), buffer)
    return buffer.getvalue()


def _changed(**changes: torch.Tensor | None) -> bytes:
    state: dict[str, torch.Tensor | None] = {**tiny_state(), **changes}
    return saved({name: value for name, value in state.items() if value is not None})


def arrays(**values: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **values)
    return buffer.getvalue()


def images(n: int = 6) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)


def _png(size: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(images(1)[0][:size, :size]).save(buffer, "PNG")
    return buffer.getvalue()


def zipped(*members: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


Maker = Callable[[], bytes]

MODELS: dict[str, tuple[str, Maker, str]] = {
    "a pickled object": ("model.pt", lambda: saved(argparse.Namespace(lr=0.1)), "holds Python objects"),
    "a pickled module of another architecture": ("model.pt", lambda: saved(nn.Linear(2, 2)), "missing"),
    "two sets of weights": (
        "model.pt",
        lambda: saved({"student": tiny_state(), "teacher": tiny_state()}),
        "'student', 'teacher'",
    ),
    "a plain pickle": ("model.pt", lambda: pickle.dumps({"a": 1}), "model.pt"),
    "TorchScript": ("model.pt", _scripted, "TorchScript"),
    "another architecture": ("model.pt", lambda: saved(nn.Linear(2, 2).state_dict()), "missing"),
    "a missing key": ("model.pt", lambda: _changed(**{"linear.weight": None}), "linear.weight"),
    "a truncated file": ("model.pt", lambda: saved(tiny_state())[:-2000], "truncated|damaged|incomplete"),
    "an empty file": ("model.pt", lambda: b"", "empty"),
    "NaN weights": ("model.pt", lambda: _changed(**{"linear.bias": torch.full((10,), torch.nan)}), "linear.bias"),
}
"""Name -> file name, content, and a word of the sentence that refuses it; the architecture is ARCHITECTURE."""

DATASETS: dict[str, tuple[str, Maker, str]] = {
    "a zip with ../": ("images.zip", lambda: zipped(("../a.png", _png()), ("a/b.png", _png())), r"\.\./a\.png"),
    "a zip bomb": ("images.zip", lambda: zipped(("a/bomb.png", bytes(1 << 28))), "expands"),
    "object arrays": (
        "data.npz", lambda: arrays(images=np.array([object()] * 3), labels=np.zeros(3, np.int64)), "Python objects",
    ),
    "labels out of range": (
        "data.npz", lambda: arrays(images=images(), labels=np.array([0, 1, 2, 9, 1, -1]), class_names=np.array(["a", "b", "c"])),
        "labels",
    ),
    "images of unequal size": ("images.zip", lambda: zipped(("a/x.png", _png(8)), ("b/y.png", _png(9))), "8x8.*9x9|9x9.*8x8"),
    "a corrupt image": ("images.zip", lambda: zipped(("a/x.png", _png()), ("b/y.png", _png()[:60])), r"y\.png"),
    "an empty data set": ("data.npz", lambda: arrays(images=images(0), labels=np.zeros(0, np.int64)), "no images|empty"),
}  # fmt: skip
