"""Every catalogue of the product, found in its source."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from auditor.kit.capability import Catalog

ROOT = Path(__file__).parents[1]


def catalogues() -> dict[str, Catalog[Any]]:
    """``auditor.attacking.attack:ATTACKS`` -> the catalogue, for each module that makes one."""
    found = {}
    for path in sorted(path for package in ("auditor", "worker", "app") for path in (ROOT / package).rglob("*.py")):
        for name in re.findall(r"^([A-Z_]+)\b.*= Catalog\(", path.read_text(), re.M):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[f"{module}:{name}"] = getattr(importlib.import_module(module), name)
    return found


CATALOGUES = catalogues()
MEMBERS = [(name, kind) for name, catalogue in CATALOGUES.items() for kind in catalogue.members]
