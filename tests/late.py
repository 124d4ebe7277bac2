"""Large libraries beside which a file tests: imported by its first test, not by each process that collects the tests."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Any

import pytest


class _Late:
    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)


def late(name: str) -> Any:
    """The library, imported when something of it is used; skips the file where it is not installed."""
    if find_spec(name.partition(".")[0]) is None:
        pytest.skip(f"no {name}", allow_module_level=True)
    return _Late(name)
