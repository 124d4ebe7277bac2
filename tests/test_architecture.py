"""The layout of the code: no circles, and the picture of it in docs is today's."""

from __future__ import annotations

import importlib.util
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("architecture", Path(__file__).parents[1] / "docs" / "architecture.py")
assert spec is not None
assert spec.loader is not None
architecture = importlib.util.module_from_spec(spec)
spec.loader.exec_module(architecture)


def test_no_module_and_no_wing_imports_itself_by_way_of_others() -> None:
    modules = architecture.imports()
    assert len(modules) > 400
    tuple(TopologicalSorter(modules).static_order())
    wings = architecture.uses(modules)
    assert {"app", "worker", "auditor.show", "auditor.report"} <= wings.keys()
    tuple(TopologicalSorter(wings).static_order())


def test_a_circle_would_be_seen() -> None:
    with pytest.raises(CycleError):
        architecture.reduced({"a": {"b"}, "b": {"c"}, "c": {"a"}})
    assert architecture.reduced({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == {"a": {"b"}, "b": {"c"}, "c": set()}


def test_the_page_is_todays() -> None:
    assert architecture.PAGE.read_text() == architecture.page(), "run: make architecture"
