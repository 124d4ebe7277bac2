"""Members of catalogues that come with installed packages: where they are, found once."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from pathlib import Path

ARCHITECTURES = "auditor.architectures"
"""The entry point group of packages that bring architectures."""


@cache
def entry_points(group: str) -> tuple[metadata.EntryPoint, ...]:
    """The entry points of a group, sorted by name. Found once: in the sandbox this runs before its walls hide the folders."""
    return tuple(sorted(metadata.entry_points(group=group), key=lambda point: (point.name, point.value)))


def plugin_folders(points: Sequence[metadata.EntryPoint]) -> list[Path]:
    """The folder of each plug-in's top package, or the file of its module, wherever it is installed; without those not found."""
    found = []
    for top in dict.fromkeys(point.module.partition(".")[0] for point in points):
        try:
            spec = importlib.util.find_spec(top)
        except (ImportError, ValueError):
            continue  # what is wrong with it is said where it is loaded
        if spec is not None:
            found += spec.submodule_search_locations or [spec.origin or ""]
    return [path for path in map(Path, found) if path.is_absolute() and path.exists()]


def described(point: metadata.EntryPoint) -> str:
    """``ours (our_package.networks, of our-package 1.0)``."""
    whose = f", of {point.dist.name} {point.dist.version}" if point.dist is not None else ""
    return f"{point.name} ({point.value}{whose})"
