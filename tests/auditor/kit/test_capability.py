"""Capabilities and catalogues: found, never listed; parsed from text; wrong values named in one sentence."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Annotated, Any

import pytest
from pydantic import TypeAdapter, ValidationError

from auditor.attacking.presets import PRESETS, find_preset
from auditor.auditing.spec import AuditSpec
from auditor.kit.capability import Capability, Catalog, MemberOf
from auditor.kit.errors import SpecError
from auditor.models.architecture import ARCHITECTURES
from tests.catalogues import CATALOGUES, MEMBERS
from tests.narrow import typed


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Catalog[Capability]]:
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
            from auditor.kit.capability import Capability

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
    assert set(typed(again.json_schema()["$defs"], dict)) == {"AnimalAnt", "AnimalCat"}


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


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("cat:3", "Did you mean cat:legs=3?"),
        ("cat:legs", "Give legs a value: cat:legs=..."),
        ("cat:tabby", "Its parameters: legs."),
    ],
)
def test_a_value_without_its_name_is_given_one(zoo: Catalog[Capability], text: str, hint: str) -> None:
    with pytest.raises(SpecError) as error:
        zoo.parse(text)
    assert error.value.hint == hint


def test_the_name_of_a_network_is_told_where_it_belongs() -> None:
    with pytest.raises(SpecError) as error:
        ARCHITECTURES.parse("torchvision:resnet50")
    assert error.value.hint == "Did you mean torchvision:model=resnet50?"
    assert ARCHITECTURES.parse("torchvision:model=resnet50").settings()["model"] == "resnet50"


@pytest.mark.parametrize("catalogue", CATALOGUES.values(), ids=CATALOGUES)
def test_every_member_describes_itself_and_its_parameters(catalogue: Catalog[Capability]) -> None:
    assert len(catalogue) > 0
    for member in catalogue:
        assert member.summary().endswith((".", "?")), member
        assert member.display_title()
        for name, field in member.parameters().items():
            assert field.description, f"{member.kind_name()}.{name} has no description"


@pytest.mark.parametrize("catalogue", CATALOGUES.values(), ids=CATALOGUES)
def test_every_member_is_frozen_and_survives_its_text_and_its_json(catalogue: Catalog[Capability]) -> None:
    for member in catalogue:
        if any(field.is_required() for field in member.parameters().values()):
            continue
        one = catalogue.build(member.kind_name(), {})
        if member.describe is Capability.describe:  # numbers are printed with six digits
            assert catalogue.parse(one.describe()).describe() == one.describe()
        assert member.model_validate_json(one.model_dump_json()) == one
        with pytest.raises(ValueError, match="frozen"):
            one.kind = "other"  # type: ignore[misc]  # that it is refused is what is tested


def test_the_catalogues_are_found() -> None:
    nouns = {catalogue.noun for catalogue in CATALOGUES.values()}
    assert nouns >= {
        "attack",
        "analysis",
        "check",
        "corruption",
        "defense",
        "hardening",
        "architecture",
        "reportsection",
    }


def swapped(kind: str) -> str:
    """The other spelling of a kind: ``k-ns`` for ``k_ns``."""
    return kind.translate(str.maketrans("-_", "_-"))


def misspelt(kind: str) -> str:
    """With two letters in the middle exchanged, or the last one doubled where these are the same."""
    middle = len(kind) // 2
    mixed = kind[: middle - 1] + kind[middle] + kind[middle - 1] + kind[middle + 1 :]
    return mixed if mixed != kind else kind + kind[-1]


@pytest.mark.parametrize("catalogue", CATALOGUES.values(), ids=CATALOGUES)
def test_a_catalogue_spells_its_kinds_in_one_way(catalogue: Catalog[Any]) -> None:
    assert len({sign for kind in catalogue.members for sign in "-_" if sign in kind}) <= 1


def field_of(catalogue: Catalog[Any]) -> TypeAdapter[Any]:
    """A field of a model that holds any member."""
    annotation: Any = Annotated[catalogue.contract, MemberOf(catalogue)]  # known at run time only
    return TypeAdapter(annotation)


@pytest.mark.parametrize(("name", "kind"), MEMBERS)
def test_a_kind_is_taken_in_both_spellings_and_printed_in_one(name: str, kind: str) -> None:
    catalogue = CATALOGUES[name]
    member, other = catalogue[kind], swapped(kind)
    assert catalogue[other] is member
    assert other in catalogue
    if any(field.is_required() for field in member.parameters().values()):
        return
    field = field_of(catalogue)
    read = field.validate_python({"kind": other})
    assert read == field.validate_json(f'{{"kind": "{other}"}}') == catalogue.parse(other) == member(kind=other)
    assert read.describe().partition(":")[0] == read.kind == kind


@pytest.mark.parametrize(("name", "kind"), MEMBERS)
def test_a_misspelt_kind_gets_the_nearest_ones_everywhere(name: str, kind: str) -> None:
    catalogue, wrong = CATALOGUES[name], misspelt(kind)
    assert wrong not in catalogue
    assert wrong.upper() not in catalogue
    with pytest.raises(SpecError) as looked_up:
        _ = catalogue[wrong]
    with pytest.raises(SpecError) as parsed:
        catalogue.parse(f"{wrong}:x=1")
    with pytest.raises(ValidationError) as validated:
        field_of(catalogue).validate_python({"kind": wrong})
    in_spec = SpecError.from_validation("spec", validated.value)
    assert looked_up.value.hint == parsed.value.hint == in_spec.hint
    assert kind in in_spec.hint.partition("?")[0], in_spec.hint
    assert in_spec.hint.startswith("Did you mean ")
    assert repr(wrong) in looked_up.value.message
    assert repr(wrong) in in_spec.message


@pytest.mark.parametrize(("name", "kind"), MEMBERS)
def test_a_misspelt_parameter_gets_the_nearest_ones_everywhere(name: str, kind: str) -> None:
    catalogue = CATALOGUES[name]
    field = field_of(catalogue)
    for parameter in catalogue[kind].parameters():
        wrong = f"{parameter}z"
        with pytest.raises(SpecError) as parsed:
            catalogue.parse(f"{kind}:{wrong}=1")
        with pytest.raises(ValidationError) as validated:
            field.validate_python({"kind": kind, wrong: 1})
        with pytest.raises(ValidationError, match=f"Did you mean .*{parameter}"):
            catalogue[kind](**{wrong: 1})
        assert f"{wrong} is not a parameter" in parsed.value.message
        assert parsed.value.hint == SpecError.from_validation("spec", validated.value).hint
        assert parsed.value.hint.startswith("Did you mean ")
        assert parameter in parsed.value.hint
        assert parsed.value.hint.endswith(f" for {wrong}?")


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_taken_in_both_spellings_and_a_misspelt_one_gets_the_nearest(name: str) -> None:
    assert find_preset(swapped(name)) is PRESETS[name]
    with pytest.raises(SpecError, match=f"Did you mean [^?]*{name}"):
        find_preset(misspelt(name))


@pytest.mark.parametrize(
    ("data", "message", "hint"),
    [
        ({"threats": [{"norm": "lnif"}]}, "threats.0.norm: expected 'linf', 'l2', 'l1' or 'l0', got 'lnif'", "linf"),
        ({"goal": {"kind": "targetd"}}, "goal: expected 'untargeted', 'targeted', got 'targetd'", "targeted"),
        ({"sampels": 3}, "sampels is not a parameter", "samples"),
        ({"device": "cdua"}, "device: expected 'auto', 'cpu' or 'cuda', got 'cdua'", "cuda"),
        ({"attacks": [{"kind": "{x}"}, {"kind": "pgd"}]}, "attacks.0: there is no attack '{x}'", ""),
    ],
)
def test_other_names_of_a_specification_get_the_nearest_as_well(data: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(SpecError) as refused:
        AuditSpec.load(data)
    assert refused.value.message == f"audit: {message}."
    assert refused.value.hint.startswith(f"Did you mean {hint}" if hint else "Known: ")


def test_a_list_whose_only_item_is_refused_is_not_called_too_short() -> None:
    with pytest.raises(SpecError) as refused:
        AuditSpec.load({"attacks": [{"kind": "pdg"}]})
    assert refused.value.message == "audit: attacks.0: there is no attack 'pdg'."
    with pytest.raises(SpecError, match=r"attacks: expected .*at least 1 item"):
        AuditSpec.load({"attacks": []})


def test_two_spellings_of_one_kind_are_one_kind(zoo: Catalog[Capability], tmp_path: Path) -> None:
    add(tmp_path, "big_cat", "Roars.", module="one")
    add(tmp_path, "big-cat", "Roars.", module="two")
    with pytest.raises(TypeError, match=r"both call themselves .big[-_]cat"):
        _ = Catalog("zoo", Capability).members
