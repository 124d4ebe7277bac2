"""The device to compute on, with repeatable results."""

from __future__ import annotations

import contextlib

import torch

from auditor.kit.errors import SpecError


def pick_device(choice: str) -> torch.device:
    """ "auto", "cpu" or "cuda" to a device. Raises SpecError for a GPU that is not there."""
    if choice == "cuda" and not torch.cuda.is_available():
        raise SpecError("The device is cuda, but PyTorch finds no GPU on this machine.", "Choose device auto or cpu.")
    return torch.device("cuda" if choice != "cpu" and torch.cuda.is_available() else "cpu")


def reproducible(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """While inside: the same sums in the same order each time, on a GPU too."""
    if device.type != "cuda":
        return contextlib.nullcontext()
    flags: contextlib.AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True
    )
    return flags
