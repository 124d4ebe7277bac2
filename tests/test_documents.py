"""What the documents say of numbers and commands is so."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from app.cli import app
from auditor.attacking.attack import ATTACKS
from auditor.auditing.check import CHECKS
from auditor.auditing.corruption import CORRUPTIONS
from auditor.hardening.hardening import HARDENINGS
from auditor.kit.errors import known_names
from auditor.neural.analysis import ANALYSES
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
            "attacks": r"There are (\d+) attacks, from FGSM", "corruptions": r"and (\d+) common corruptions",
            "checks": r"(\d+) checks look for faults", "analyses": r"comes from (\d+) analyses",
        }.items()
        if (found := re.search(pattern, text))
    }  # fmt: skip
    assert counted == {
        "attacks": len(ATTACKS.members), "corruptions": len(CORRUPTIONS.members), "checks": len(CHECKS.members),
        "analyses": len(ANALYSES.members),
    }, "write the new numbers into README.md, under 'What the numbers mean'"  # fmt: skip


def test_every_setting_is_documented_with_its_name() -> None:
    table = OPERATIONS.split("## How a job lives")[0]
    named = set(re.findall(r"`([A-Z_]+)`", table))
    assert {name.upper() for name in Settings.model_fields} <= named


@pytest.mark.parametrize("kind", sorted(ANALYSES.members))
def test_every_analysis_has_its_method(kind: str) -> None:
    title = {"neuron_sensitivity": "## Neuron sensitivity and ratio"}.get(kind, f"`{kind}`")
    assert title in METHODS, f"describe the analysis in docs/methods.md and name it there: {title}"


@pytest.mark.parametrize("kind", sorted(HARDENINGS.members))
def test_every_hardening_has_its_loss(kind: str) -> None:
    assert f"| `{kind}` |" in METHODS, "add a row with its loss to the table of methods in docs/methods.md"


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
    groups = typer.main.get_group(app).commands
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
    groups = typer.main.get_group(app).commands
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


def test_every_file_that_names_the_version_names_the_same() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"image: neuron-auditor:{version}\n" in (ROOT / "docker-compose.yml").read_text()
    newest = re.search(r"^## (\S+) \((\S+)\)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert newest is not None
    assert newest[1] == version
    assert f'date-released: "{newest[2]}"' in (ROOT / "CITATION.cff").read_text()


def test_the_command_line_tells_its_version() -> None:
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.output) == (0, f"Neuron Auditor {metadata.version('neuron-auditor')}\n")
    assert CliRunner().invoke(app, ["--help"]).output.count("Audit image classifiers:") == 1


def test_the_glossary_is_sorted_and_explains_our_terms() -> None:
    terms = re.findall(r"^\*\*(.+?)\.\*\*", (ROOT / "docs" / "glossary.md").read_text(), re.M)
    assert terms == sorted(terms, key=str.lower)
    assert {"Twin", "Route", "Front and tail", "View", "Passing", "Headline", "Withheld"} <= set(terms)


def test_no_document_or_setting_names_an_address_to_fetch_from() -> None:
    """Web addresses are this machine's own, but for the source that a licence names."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    seen = set()
    for name in listed:
        if Path(name).suffix in {".md", ".toml", ".txt", ".yml", ".yaml", ".cff", ""} and "stored" not in name:
            text = (ROOT / name).read_text(errors="ignore")
            assert not re.search(r"--(?:extra-)?index-url", text), name
            seen |= {(name, host) for host in re.findall(r"https?://([\w.-]+)", text) if "LICENSE" not in name}
    assert {host for _, host in seen} == {"127.0.0.1"}, seen


BANNED = (
    "behind walls", "is no number", "where it is none", "when it is none", "that is none", "where there is none", "what came of",
    "in a word", " hears ", "beside it", "beside them", "stands beside", "stand beside", "at random answers",
    "answers at random", "answer at random", "makes nothing", "is had", "to be had", "kept back", "what he want", "his own",
    "the likeliest", "likeliest first", "all that came", "looks for nothing", "each of which", "without such", "write anew",
)  # fmt: skip
VERBS = (
    "normal|minim|maxim|optim|initial|regular|linear|recogn|summar|penal|equal|standard|stabil|general|random|serial|special|"
    "visual|quant"
)
SPELLINGS = {
    "-ize": re.compile(rf"(?<![\w./`-])[a-z]*(?:{VERBS})is(?:e|es|ed|er|ers|ing|ations?)\b(?![(./]\w)", re.IGNORECASE),
    "colour, grey, centre": re.compile(
        r"(?<![\w./`-])(?:color(?:ed|ing)?|gray|centers?|behaviors?|labeled|canceled)\b(?![\w(=.:-])"
    ),
    "data set": re.compile(
        r"\b(?:a|an|the|one|this|that|each|every|another|of|on|test|training) datasets?\b(?!`)", re.IGNORECASE
    ),
}
"""What we write, and what it must not be: -ize as in "normalization", colour as in Britain, "data set" in two words."""


def words() -> list[tuple[str, str]]:
    """Every string and docstring of the product, and every document: (file, text)."""
    documents = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")]
    texts = [
        (str(path.relative_to(ROOT)), re.sub(r"```.*?```|`[^`]*`", "", path.read_text(), flags=re.DOTALL))
        for path in (*documents, *sorted((ROOT / "docs").rglob("*.md")))
    ]
    sources = sorted(path for package in ("auditor", "worker", "app") for path in (ROOT / package).rglob("*.py"))
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
                texts.append((str(path.relative_to(ROOT)), re.sub(r"`[^`]*`", "", node.value)))
    return [(file, " ".join(text.split())) for file, text in texts]


def test_no_text_of_the_product_uses_a_phrase_that_readers_stumble_over() -> None:
    found = [(file, phrase) for file, text in words() for phrase in BANNED if phrase in f" {text} ".lower()]
    assert found == []


def test_every_text_has_one_spelling() -> None:
    found = [
        (file, rule, seen.group()) for file, text in words() for rule, wrong in SPELLINGS.items()
        for seen in wrong.finditer(text)
    ]  # fmt: skip
    assert found == []


def test_every_name_in_the_code_has_the_same_spelling() -> None:
    """Also in tests and benchmarks, whatever is defined, named or said there."""
    wrong = re.compile(rf"\w*(?:{VERBS})is(?:e|es|ed|er|ers|ing|ations?)(?![a-z])\w*", re.IGNORECASE)
    stored = {"sensitivity_regulariser"}  # a kind, and the files that are named after it
    here = Path(__file__)
    packages = ("auditor", "worker", "app", "tests", "benchmarks", "docs", "migrations")
    sources = sorted(path for package in packages for path in (ROOT / package).rglob("*.py") if path != here)
    found = [(str(path.relative_to(ROOT)), name) for path in sources for name in wrong.findall(path.read_text())]
    assert [(file, name) for file, name in found if not any(kept in name for kept in stored)] == []
    assert any("sensitivity_regulariser" in name for _, name in found), "the rule sees what it is for"


@pytest.mark.parametrize(
    ("rule", "wrong", "right"),
    [
        ("-ize", "The normalisation is wrong.", "The normalization, sensitivity_regulariser, likewise promised."),
        ("colour, grey, centre", "A gray centre.", "A grey centre, and `color=`."),
        ("data set", "Audit the dataset.", "Audit the data set with DATASET and dataset.npz."),
    ],
)
def test_the_rules_of_spelling_see_what_they_are_for(rule: str, wrong: str, right: str) -> None:
    assert SPELLINGS[rule].search(wrong)
    assert not SPELLINGS[rule].search(right)
