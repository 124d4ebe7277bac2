"""Members of catalogues that come with installed packages: where they are, found once."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

ARCHITECTURES = "auditor.architectures"
ATTACKS = "auditor.attacks"
ANALYSES = "auditor.analyses"
CERTIFICATES = "auditor.certificates"
CHECKS = "auditor.checks"
CORRUPTIONS = "auditor.corruptions"
DEFENSES = "auditor.defenses"
HARDENINGS = "auditor.hardenings"
"""The entry point groups of packages that bring members of the catalogues."""

GROUPS = (ARCHITECTURES, ATTACKS, ANALYSES, CERTIFICATES, CHECKS, CORRUPTIONS, DEFENSES, HARDENINGS)

PREFIX = "auditor."
OURS = ("auditor", "worker")


class Origin(NamedTuple):
    """The installed package that a class comes from. ``version`` is empty where the package does not say."""

    package: str
    version: str
    place: str

    def __str__(self) -> str:
        return f"{self.package} {self.version}".strip()


@cache
def entry_points(group: str) -> tuple[metadata.EntryPoint, ...]:
    """The entry points of a group, sorted by name. Found once: in the sandbox this runs before the folders become
    unreadable."""
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


def origin(item: type) -> Origin | None:
    """Where a class comes from; None for one of this project's own."""
    top = item.__module__.partition(".")[0]
    if top in OURS:
        return None
    place = f"{item.__module__}:{item.__qualname__}"
    for group in metadata.entry_points().groups:
        for point in entry_points(group) if group.startswith(PREFIX) else ():
            if point.module.partition(".")[0] == top and point.dist is not None:
                return Origin(point.dist.name, point.dist.version, place)
    return Origin(top, "", place)
