"""What the documents say of numbers and commands is so."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import typer

from app.cli import app
from auditor.analysis import ANALYSES
from auditor.attack import ATTACKS
from auditor.check import CHECKS
from auditor.corruption import CORRUPTIONS
from auditor.errors import known_names
from auditor.hardening import HARDENINGS
from worker.settings import Settings

ROOT = Path(__file__).parents[1]
README, OPERATIONS, METHODS, EXTENDING = (
    (ROOT / name).read_text() for name in ("README.md", "docs/operations.md", "docs/methods.md", "docs/extending.md")
)
DOCUMENTS = {path.name: path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}


def test_the_readme_counts_what_there_is() -> None:
    text = " ".join(README.split())
    counted = {
        name: int(found.group(1))
        for name, pattern in {
            "attacks": r"There are (\d+) of these, from FGSM", "corruptions": r"and (\d+) common corruptions",
            "checks": r"(\d+) checks look for faults", "analyses": r"comes from (\d+) analyses",
        }.items()
        if (found := re.search(pattern, text))
    }  # fmt: skip
    assert counted == {
        "attacks": len(ATTACKS.members), "corruptions": len(CORRUPTIONS.members), "checks": len(CHECKS.members),
        "analyses": len(ANALYSES.members),
    }  # fmt: skip


def test_every_setting_is_documented_with_its_name() -> None:
    table = OPERATIONS.split("## How a job lives")[0]
    named = set(re.findall(r"`([A-Z_]+)`", table))
    assert {name.upper() for name in Settings.model_fields} <= named


@pytest.mark.parametrize("kind", sorted(ANALYSES.members))
def test_every_analysis_has_its_method(kind: str) -> None:
    title = {"neuron_sensitivity": "## Neuron sensitivity and ratio"}.get(kind, f"`{kind}`")
    assert title in METHODS


@pytest.mark.parametrize("kind", sorted(HARDENINGS.members))
def test_every_hardening_has_its_loss(kind: str) -> None:
    assert f"| `{kind}` |" in METHODS


@pytest.mark.parametrize("name", sorted(DOCUMENTS))
def test_no_section_of_a_document_is_there_twice(name: str) -> None:
    headings = re.findall(r"^#+ .*$", DOCUMENTS[name], re.MULTILINE)
    assert len(headings) == len(set(headings)), headings


@pytest.mark.parametrize("name", sorted(DOCUMENTS))
def test_the_files_and_commands_that_a_document_names_exist(name: str) -> None:
    text = re.sub(r"```.*?```", "", DOCUMENTS[name], flags=re.DOTALL)
    for path in re.findall(r"`((?:auditor|worker|app|tests|docs|benchmarks|migrations)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"\]\(([\w./-]+\.md)\)", text):
        assert (ROOT / path).exists() or (ROOT / "docs" / path).exists(), path
    groups = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for command, rest in re.findall(r"`auditor ([a-z]+)(?: ([a-z]+))?[ `]", text):
        assert command in groups, command
        inner = getattr(groups[command], "commands", None)
        assert inner is None or not rest or rest in inner, (command, rest)


def hints() -> list[tuple[str, str, str]]:
    """Every command that a message of the product names: (file, group, command)."""
    found = []
    for path in sorted(path for package in ("auditor", "worker", "app") for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                for group, command in re.findall(r"`auditor ([a-z]+)(?: ([a-z]+))?[ `]", node.value):
                    found.append((str(path.relative_to(ROOT)), group, command))
    return found


def test_every_command_that_a_message_advises_exists() -> None:
    groups = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    advised = hints()
    assert len(advised) > 10
    for file, group, command in advised:
        assert group in groups, (file, group)
        inner = getattr(groups[group], "commands", None)
        assert inner is None or not command or command in inner, (file, group, command)


def test_a_name_that_there_is_none_of_gets_the_nearest_one_and_all_that_there_are() -> None:
    layers = ["conv1", "layer1.0.conv1", "", "fc", "fc"]
    assert known_names("layer1.conv1", layers) == "Did you mean layer1.0.conv1? There are: conv1, layer1.0.conv1, fc."
    assert known_names("x", map(str, range(100))).endswith("28, 29 and 70 more.")
    assert known_names("x", []) == ""


def test_the_words_that_were_wrong_say_what_the_code_does() -> None:
    """The playground's rule, what counts as an attempt: the settings' own text says the same as the document."""
    assert "without getting further" in str(Settings.model_fields["max_attempts"].description)
    (playground,) = re.findall(r"\*\*Playground\.\*\*.*?\n\n", METHODS, re.DOTALL)
    assert "to the last step" in playground
    assert EXTENDING.count("## A hardening method") == 1
