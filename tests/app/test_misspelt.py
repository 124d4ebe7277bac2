"""A misspelt kind gets the same answer from the options of the command line and from a file given with --spec."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.commands.audits import _from_file, _from_options
from auditor.auditing.spec import AuditSpec
from auditor.kit.errors import SpecError

OPTIONS = {"attack": "attacks", "analysis": "analyses", "check": "checks"}


def from_options(**named: list[str]) -> AuditSpec:
    given = {"attack": None, "analysis": None, "check": None, **named}
    return _from_options(
        preset="",
        norm="linf",
        epsilon=None,
        target="",
        corruptions=[],
        samples=1,
        draws=1,
        seed=0,
        device="cpu",
        **given,
    )


@pytest.mark.parametrize(
    ("option", "wrong", "right"),
    [("attack", "pdg", "pgd"), ("analysis", "k-sn", "k_ns"), ("check", "eval-moed", "eval_mode")],
)
def test_option_and_file_answer_alike(option: str, wrong: str, right: str, tmp_path: Path) -> None:
    file = tmp_path / "spec.json"
    file.write_text(json.dumps({OPTIONS[option]: [{"kind": wrong}]}))
    with pytest.raises(SpecError) as by_option:
        from_options(**{option: [wrong]})
    with pytest.raises(SpecError) as by_file:
        _from_file(file)
    assert by_option.value.hint == by_file.value.hint
    assert by_file.value.hint.startswith(f"Did you mean {right}")


def test_both_spellings_make_the_same_audit(tmp_path: Path) -> None:
    file = tmp_path / "spec.json"
    file.write_text(
        json.dumps(
            {
                "attacks": [{"kind": "mi_fgsm"}],
                "analyses": [{"kind": "k-ns"}],
                "checks": [{"kind": "eval-mode"}],
                "samples": 1,
                "draws": 1,
                "device": "cpu",
            }
        )
    )
    spec = from_options(attack=["mi-fgsm"], analysis=["k_ns"], check=["eval_mode"])
    assert _from_file(file) == spec
    assert [spec.attacks[0].kind, spec.analyses[0].kind, spec.checks[0].kind] == ["mi-fgsm", "k_ns", "eval_mode"]
