"""Where numbers come from: versions, revision, device, hashes."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

import torch

PACKAGES = ("neuron-auditor", "torch", "torchvision", "numpy", "scipy", "safetensors")


@cache
def versions() -> dict[str, str]:
    """Python and the packages that shape the numbers; "not installed" where one is missing."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


@cache
def revision() -> str:
    """The git commit of a checkout, with "+changes" where it differs; empty for an installed package."""
    folder = Path(__file__).resolve().parent.parent
    if not (folder / ".git").exists():
        return ""
    try:
        described = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty=+changes", "--abbrev=12", "--exclude=*"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return described.stdout.strip()


def usable_gpus() -> list[str]:
    """Names of the GPUs on which PyTorch can compute here."""
    return (
        [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        if torch.cuda.is_available()
        else []
    )


def device_name(device: torch.device) -> str:
    """``NVIDIA H200`` or ``CPU (x86_64)``."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({platform.machine()})"
