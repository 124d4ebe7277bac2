"""Where numbers come from: data, versions, revision, device, hashes."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from types import MappingProxyType

import torch
from pydantic import Field

from auditor.kit.document import Data

PACKAGES = ("neuron-auditor", "torch", "torchvision", "numpy", "scipy", "safetensors")


class DatasetFacts(Data):
    """The data set as it was used. ``sha256`` names its content; empty for arrays that were never stored. ``class_names``: in the
    order of the labels that were used, the model's. ``notes``: how it was read, and its classes on the model's.
    """

    name: str
    sha256: str
    samples: int
    shape: tuple[int, int, int]
    class_names: tuple[str, ...] | None
    notes: tuple[str, ...] = ()


class Provenance(Data):
    """With what, where and when numbers were made. Times in UTC, ISO 8601; empty where nobody noted them.

    ``threads``, ``batch_size``: of an audit; ``processes``: of a training.
    """

    versions: dict[str, str]
    revision: str
    device: str
    threads: int | None = Field(None, exclude_if=lambda threads: threads is None)
    batch_size: int | None = Field(None, exclude_if=lambda size: size is None)
    processes: int | None = Field(None, exclude_if=lambda processes: processes is None)
    started: str
    seconds: float

    @property
    def product(self) -> str:
        """``0.2.0``: the version of the product."""
        return self.versions["neuron-auditor"]

    def lines(self) -> dict[str, str]:
        """What a report lists."""
        made = {**self.versions, "revision": self.revision or "installed package", "device": self.device}
        optional = {"threads": self.threads, "batch size": self.batch_size, "processes": self.processes}
        known = {name: str(value) for name, value in optional.items() if value is not None}
        return made | known | {"seconds": f"{self.seconds:.1f}"}


def provenance_lifted(data: dict[str, object], *more: str) -> dict[str, object]:
    """A stored result whose provenance was among its other fields, in its own; ``more``: fields besides those of all."""
    names = {"versions", "revision", "device", "started", "seconds", *more}
    return {name: value for name, value in data.items() if name not in names} | {
        "provenance": {name: value for name, value in data.items() if name in names}
    }


def provenance(
    device: torch.device,
    started: datetime | None,
    seconds: float,
    *,
    packages: Mapping[str, str] = MappingProxyType({}),
    **more: int,
) -> Provenance:
    """Of numbers that this process made, or went on with: then nobody knows when they were ``started``.

    ``packages``: those of plug-ins that had a part in them, with their versions.
    """
    return Provenance(
        versions={**versions(), **packages}, revision=revision(), device=device_name(device),
        started=started.isoformat(timespec="seconds") if started is not None else "", seconds=seconds, **more,
    )  # fmt: skip


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
    folder = Path(__file__).resolve().parents[2]
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
