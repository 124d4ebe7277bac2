"""The public surface: complete, lazy, and every example of its document runs."""

from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path

import pytest

import auditor
from auditor.kit.capability import Catalog
from tests.catalogues import CATALOGUES

ROOT = Path(__file__).parents[1]


def fresh(program: str) -> str:
    """What a new interpreter prints."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout.strip()


@pytest.mark.parametrize("name", auditor.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(auditor, name) is not None
    assert name in dir(auditor)


def test_every_catalogue_that_plug_ins_extend_is_public_under_its_name() -> None:
    extended = {name.partition(":")[2] for name, catalogue in CATALOGUES.items() if catalogue.entry_points}
    public = {name for name in auditor.__all__ if isinstance(getattr(auditor, name), Catalog)}
    assert public == extended
    assert len(public) == 8


def test_the_entry_point_groups_are_called_like_the_catalogues() -> None:
    for name, catalogue in CATALOGUES.items():
        if catalogue.entry_points:
            assert catalogue.entry_points == f"auditor.{name.partition(':')[2].lower()}"


def test_old_and_new_names_are_one_thing() -> None:
    assert auditor.run_audit is auditor.audit
    assert auditor.train_classifier is auditor.train


def test_importing_the_package_costs_nothing() -> None:
    loaded = fresh(
        "import sys, auditor; print(sorted(n for n in sys.modules if n.startswith(('auditor', 'torch', 'numpy', 'pydantic'))))"
    )
    assert loaded == "['auditor']"


@pytest.mark.parametrize("before", ["", "import auditor.report.html;"])
def test_report_is_a_function_and_a_package_in_any_order(before: str) -> None:
    said = fresh(
        f"{before}from auditor import report; import auditor.report.html; print(callable(report), report.html.render.__name__)"
    )
    assert said == "True render"


def test_the_types_are_declared() -> None:
    assert all((ROOT / package / "py.typed").exists() for package in ("auditor", "worker", "app"))


def test_the_examples_of_the_document_run() -> None:
    failed, tried = doctest.testfile(
        str(ROOT / "docs" / "python.md"), module_relative=False, optionflags=doctest.ELLIPSIS
    )
    assert (failed, tried > 15) == (0, True)


def test_the_document_shows_every_public_function() -> None:
    text = (ROOT / "docs" / "python.md").read_text()
    for name in ("audit", "evaluate_defense", "fit", "train", "compare", "report"):
        assert f"`{name}(" in text
        assert any(line.startswith((">>>", "...")) and f"{name}(" in line for line in text.splitlines()), name
