"""Capabilities and catalogues: found, never listed; parsed from text; wrong values named in one sentence."""

from __future__ import annotations

import sys
from pathlib import Path
from textwrap import dedent

import pytest

from auditor.analysis import ANALYSES
from auditor.attack import ATTACKS
from auditor.capability import Capability, Catalog
from auditor.check import CHECKS
from auditor.corruption import CORRUPTIONS
from auditor.errors import SpecError
from auditor.report.section import SECTIONS

CATALOGUES = [ATTACKS, ANALYSES, SECTIONS, CHECKS, CORRUPTIONS]


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Catalog[Capability]:
    """A package with one member, in a folder of its own."""
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "__init__.py").touch()
    add(tmp_path, "cat", "Purrs.")
    monkeypatch.syspath_prepend(tmp_path)
    yield Catalog("zoo", Capability)
    for name in [name for name in sys.modules if name.partition(".")[0] == "zoo"]:
        del sys.modules[name]


def add(folder: Path, kind: str, sound: str, module: str = "") -> None:
    (folder / "zoo" / f"{module or kind}.py").write_text(
        dedent(f'''
            from typing import Literal
            from pydantic import Field
            from auditor.capability import Capability

            class Animal{module.title() or kind.title()}(Capability):
                """{sound}

                And more.
                """

                kind: Literal["{kind}"] = "{kind}"
                legs: int = Field(4, ge=0, description="How many.")
        ''')
    )


def test_a_new_file_is_a_new_member(zoo: Catalog[Capability], tmp_path: Path) -> None:
    assert list(zoo.members) == ["cat"]
    add(tmp_path, "ant", "Is silent.")
    again = Catalog("zoo", Capability)
    assert list(again.members) == ["ant", "cat"]
    assert again["ant"].summary() == "Is silent."
    assert set(again.json_schema()["$defs"]) == {"AnimalAnt", "AnimalCat"}


def test_two_files_with_one_kind_are_an_error(zoo: Catalog[Capability], tmp_path: Path) -> None:
    add(tmp_path, "cat", "Barks.", module="dog")
    with pytest.raises(TypeError, match="both call themselves 'cat'"):
        _ = Catalog("zoo", Capability).members


def test_text_becomes_a_member_and_back(zoo: Catalog[Capability]) -> None:
    cat = zoo.parse("cat:legs=3")
    assert cat.settings() == {"legs": 3}
    assert cat.describe() == "cat:legs=3"
    assert zoo.parse(cat.describe()) == cat


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dog", r"There is no capability 'dog'\. Known: cat\."),
        ("cat:legs", r"expected name=value, got 'legs'"),
        ("cat:legs=many", r"capability cat: legs: expected a valid integer.*, got 'many'"),
        ("cat:legs=-1", r"capability cat: legs: expected greater than or equal to 0, got '-1'"),
        ("cat:tails=2", r"capability cat: tails is not a parameter"),
    ],
)
def test_wrong_text_is_named(zoo: Catalog[Capability], text: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        zoo.parse(text)


@pytest.mark.parametrize("catalogue", CATALOGUES, ids=lambda catalogue: catalogue.noun)
def test_every_member_describes_itself_and_its_parameters(catalogue: Catalog[Capability]) -> None:
    assert len(catalogue) > 0
    for member in catalogue:
        assert member.summary().endswith("."), member
        assert member.display_title()
        for name, field in member.parameters().items():
            assert field.description, f"{member.kind_name()}.{name} has no description"


@pytest.mark.parametrize("catalogue", [ATTACKS, ANALYSES, CHECKS, CORRUPTIONS], ids=lambda catalogue: catalogue.noun)
def test_every_member_is_frozen_and_survives_its_text_and_its_json(catalogue: Catalog[Capability]) -> None:
    for member in catalogue:
        one = catalogue.build(member.kind_name(), {})
        assert catalogue.parse(one.describe()) == one
        assert member.model_validate_json(one.model_dump_json()) == one
        with pytest.raises(ValueError, match="frozen"):
            one.kind = "other"
