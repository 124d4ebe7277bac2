"""Which tests ``make quick`` runs."""

from __future__ import annotations

import pytest

from tests.catalogues import CATALOGUES
from tests.quick import ALWAYS, ROOT, Members, chosen, contracts_for, names, paths_for


def test_a_module_is_tested_by_the_files_named_after_it() -> None:
    assert paths_for("auditor/kit/capability.py") == ["tests/auditor/kit/test_capability.py"]


def test_a_module_without_such_a_file_is_tested_by_its_folder() -> None:
    found = paths_for("auditor/attacking/attack_that_is_new.py")
    assert found == [], "a file that is gone has no tests"
    folder = paths_for("auditor/kit/errors.py")
    assert "tests/auditor/kit/test_capability.py" in folder


def test_a_changed_test_is_run_and_what_is_no_test_is_not() -> None:
    assert paths_for("tests/test_quick.py") == ["tests/test_quick.py"]
    assert paths_for("tests/catalogues.py") == []
    assert paths_for("README.md") == []


def test_the_contracts_come_first_and_what_takes_minutes_is_left_out() -> None:
    assert chosen(["tests/app/browser/test_audit.py", "tests/test_quick.py"]) == [*ALWAYS, "tests/test_quick.py"]
    assert all((ROOT / name).exists() for name in ALWAYS)


@pytest.mark.parametrize("name", [name for name, catalogue in CATALOGUES.items() if catalogue.entry_points])
def test_a_changed_member_is_tested_by_the_contract_of_its_catalogue(name: str) -> None:
    member = next(iter(CATALOGUES[name]))
    path = member.__module__.replace(".", "/") + ".py"
    assert any(test.endswith("_contract.py") for test in contracts_for(path)), path


def test_only_the_tests_that_name_the_member_are_kept() -> None:
    contract = "tests/auditor/attacking/test_attack_contract.py"
    assert Members(["auditor/attacking/attacks/mi_fgsm.py"]).members == {contract: {"mi_fgsm"}}
    assert Members(["auditor/attacking/attacks/mi_fgsm.py", contract]).members == {}, "a changed contract is run whole"
    assert names("test_x.py::test_y[mi-fgsm-linf]", {"mi_fgsm"})
    assert not names("test_x.py::test_y[mi-fgsm-linf]", {"fgsm_l"})
    assert not names("test_x.py::test_mi_fgsm", {"mi_fgsm"})
