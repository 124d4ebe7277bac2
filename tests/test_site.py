"""The pages that the documentation site makes from the catalogues: complete, with every parameter, and linked."""

from __future__ import annotations

import importlib.util
import inspect
import posixpath
import re
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml

import auditor
from tests.catalogues import CATALOGUES

ROOT = Path(__file__).parents[1]


def hook(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "hooks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    pytest.importorskip("mkdocs", reason="make docs installs what the site needs")
    return hook("pages")


def test_every_member_of_every_public_catalogue_has_a_page_with_its_parameters(hooks: ModuleType) -> None:
    made = hooks.pages()
    for name, catalogue in CATALOGUES.items():
        if not catalogue.entry_points:
            continue
        folder = name.partition(":")[2].lower()
        for member in catalogue:
            text = made[f"catalogue/{folder}/{member.kind_name()}.md"]
            assert text.startswith(f"# {member.display_title()}\n")
            assert all(f"\n| `{parameter}` | " in text for parameter in member.parameters())
            assert f"({folder}/{member.kind_name()}.md)" in made[f"catalogue/{folder}.md"]


def test_every_public_name_but_the_catalogues_and_old_names_is_in_the_api(hooks: ModuleType) -> None:
    listed = set(re.findall(r"toc_label: (\w+)", hooks.pages()["api.md"]))
    old = {"run_audit", "train_classifier", "vet_classifier", "render_report"}
    assert listed == {name for name in auditor.__all__ if not name.isupper()} - old


def test_links_of_the_pages_lead_to_pages(hooks: ModuleType) -> None:
    made = hooks.pages()
    written = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    for name, text in made.items():
        for link in re.findall(r"\]\(([\w./-]+\.md)\)", text):
            target = posixpath.normpath(posixpath.join(posixpath.dirname(name), link))
            assert target in made or target in written, (name, link)


def test_the_navigation_names_every_written_page() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    assert yaml.safe_load(text)["site_dir"] == "build/site"
    for path in (ROOT / "docs").rglob("*.md"):
        assert str(path.relative_to(ROOT / "docs")) in text, path


def test_a_member_is_told_of_every_class_that_its_methods_name(hooks: ModuleType) -> None:
    """The types in the signatures of what a member implements, as far as they are ours."""
    text = hooks.pages()["members.md"]
    for contract, methods in {
        auditor.Attack: ("start", "step"), auditor.Analysis: ("find", "doubts", "neuron_measures"),
        auditor.Check: ("run", "cost"), auditor.Hardening: ("loss",), auditor.Corruption: ("apply",),
    }.items():  # fmt: skip
        for method in methods:
            hints = inspect.get_annotations(getattr(contract, method))
            named = set(re.findall(r"[A-Z]\w+", " ".join(map(str, hints.values()))))
            for name in named - {"Any", "Array", "Iterable", "Tensor"}:
                assert f".{name}\n" in text, (contract, method, name)


def test_the_picture_of_the_wings_has_every_wing_once_and_arrows_lead_down() -> None:
    diagram = hook("diagram")
    page = (ROOT / "docs" / "architecture.md").read_text()
    wings = set(re.findall(r"^\| `(?:auditor\.)?(\w+)` \|", page, re.M))
    drawn = diagram.on_page_markdown(page)
    assert "```" not in drawn
    picture = ElementTree.fromstring(re.search(r"<svg.*</svg>", drawn)[0])  # type: ignore[index]  # fails if there is none
    assert sorted(text.text or "" for text in picture.iter("text")) == sorted(wings)
    lines = [
        [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
        for line in picture.iter("polyline")
    ]
    assert len(lines) == page.count("-->")
    assert all(above[1] < below[1] for line in lines for above, below in pairwise(line))
    boxes = [{name: float(box.attrib[name]) for name in ("x", "y", "width", "height")} for box in picture.iter("rect")]
    assert all(not inside(point, box) for line in lines for point in along(line) for box in boxes)


def along(line: list[tuple[float, ...]]) -> list[tuple[float, float]]:
    """Points of a line, close to each other, without its ends."""
    return [
        (x + part * (right - x), y + part * (bottom - y))
        for (x, y), (right, bottom) in pairwise(line)
        for part in np.linspace(0.02, 0.98, 49)
    ]


def inside(point: tuple[float, float], box: dict[str, float]) -> bool:
    return 0 < point[0] - box["x"] < box["width"] and 0 < point[1] - box["y"] < box["height"]


def test_an_arrow_that_passes_a_row_has_a_place_of_its_own_there() -> None:
    places = hook("diagram").places([("a", "b"), ("a", "c"), ("b", "d"), ("a", "d")])
    assert places == {("a", 0): 0, ("a > d", 1): -1, ("b", 1): 0, ("c", 1): 1, ("d", 2): 0}


def test_a_flow_chart_with_more_than_arrows_is_refused() -> None:
    with pytest.raises(ValueError, match="has 'a --- b'"):
        hook("diagram").arrows("a --> b\na --- b\n")
