"""The guide's plug-in: its attack is listed, runs in the worker, and results name its package. Faulty ones harm nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.processes import die_with_tests
from tests.worker.world import make_world
from worker.settings import Settings

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "extending.md").read_text().partition("## A plug-in:")[2]
SAID = """
import io, json, sys
from contextlib import redirect_stdout
from app.cli import main

def said(arguments):
    sys.argv = ["auditor", *arguments]
    with redirect_stdout(io.StringIO()) as output:
        try:
            main()
        except SystemExit as ended:
            assert not ended.code, ended.code
    return output.getvalue()

print(json.dumps([said(arguments) for arguments in json.loads(sys.argv[1])]))
"""
"""Several commands in one process: each one by itself would import all of it again."""

FORM = """
import json, sys
from streamlit.testing.v1 import AppTest
page = AppTest.from_file(sys.argv[1], default_timeout=120)
page.run()
page.switch_page("views/new_audit.py")
page.run()
print(json.dumps(page.multiselect(key="audit-attack").options))
"""
FAULTS = """
import json
from auditor import ATTACKS, CHECKS
from auditor.kit.errors import AuditorError

def answer(kind):
    try:
        return ATTACKS.parse(kind).describe()
    except AuditorError as error:
        return str(error)

print(json.dumps({
    "faults": {name: fault.message for name, fault in ATTACKS.faults.items()}, "checks": len(CHECKS.faults),
    "pgd": [ATTACKS["pgd"].__module__, answer("pgd:steps=3")],
    "asked": answer("torn"), "unknown": answer("pdg"), "kinds": list(ATTACKS.members),
}))
"""
COLLIDING = """
from typing import Literal
from auditor import Attack

class Mine(Attack):
    kind: Literal["{kind}"] = "{kind}"
"""


def fenced(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", GUIDE, re.S)
    assert found is not None
    return found[1]


def install(folder: Path, name: str, module: str, source: str, point: str, group: str = "auditor.attacks") -> None:
    """What an installer leaves: the module, and its metadata."""
    folder.mkdir(exist_ok=True)
    (folder / f"{module}.py").write_text(source)
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{point}\n")


def run(folder: Path, *arguments: str) -> str:
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, *arguments], env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "200"},
        capture_output=True, text=True, timeout=240, check=False, preexec_fn=die_with_tests, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_guides_attack_is_listed_runs_and_is_named_in_the_result(settings: Settings, tmp_path: Path) -> None:
    world = make_world(settings)
    packages = tmp_path / "packages"
    project = tomllib.loads(fenced("toml"))["project"]
    ((name, value),) = project["entry-points"]["auditor.attacks"].items()
    install(packages, project["name"], value.partition(":")[0], fenced("python"), f"{name} = {value}")

    text = " ".join(run(packages, "-m", "app.cli", "audit", "run", "--help").split())
    assert "our-brighten" in text
    assert "(From the plug-in our-attacks 1.0.)" in text
    main = str(ROOT / "app" / "main.py")
    assert "Brighten" in json.loads(run(packages, "-c", FORM, main).splitlines()[-1])

    audit = ["audit", "run", "tiny", "random", "--attack", "our_brighten:share=0.5", "--samples", "20"]
    told = " ".join(run(packages, "-m", "app.cli", *audit).split())
    assert "our-brighten:budget=fixed,share=0.5" in told.replace(" ", "")
    said = "The attack our-brighten comes from the package our-attacks 1.0, not from Neuron Auditor"
    assert said in told
    (job,) = (view.id[:8] for view in world.client.jobs.find(kind="audit"))
    page = tmp_path / "report.html"
    commands = [["audit", "list"], ["audit", "show", job, "--json"], ["report", job, "-o", str(page)]]
    listed, shown, _ = json.loads(run(packages, "-c", SAID, json.dumps(commands)).splitlines()[-1])
    assert job in re.findall(r"\b[0-9a-f]{8}\b", listed)
    result = json.loads(shown)
    assert result["provenance"]["versions"]["our-attacks"] == "1.0"
    (flag,) = [flag for flag in result["flags"] if flag["name"] == "foreign_code"]
    assert flag["evidence"] == "our_attacks:Brighten"
    assert flag["severity"] == "info"
    assert said in page.read_text()


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What the catalogue says where one plug-in cannot be imported, one takes our kind, one another's, and one brings nothing."""
    folder = tmp_path_factory.mktemp("faulty") / "packages"
    install(folder, "torn", "torn_attacks", "import there_is_no_such_module\n", "torn = torn_attacks")
    install(folder, "taking", "taking_attacks", COLLIDING.format(kind="pgd"), "taking = taking_attacks")
    install(folder, "a-first", "first_attacks", COLLIDING.format(kind="big_one"), "a-first = first_attacks")
    install(folder, "b-second", "second_attacks", COLLIDING.format(kind="big-one"), "b-second = second_attacks")
    install(folder, "empty", "empty_attacks", "", "empty = empty_attacks")
    install(folder, "wrong", "wrong_attacks", "Mine = dict\n", "wrong = wrong_attacks:Mine")
    return json.loads(run(folder, "-c", FAULTS).splitlines()[-1])


@pytest.mark.parametrize(
    ("plugin", "words"),
    [
        ("torn", "(torn_attacks, of torn 1.0) cannot be loaded: ModuleNotFoundError: No module named"),
        ("taking", "its attack 'pgd' has the kind of Neuron Auditor's own auditor.attacking.attacks.pgd"),
        ("b-second", "its attack 'big-one' has the kind of first_attacks:Mine of the plug-in a-first 1.0"),
        ("empty", "empty_attacks defines no attack"),
        ("wrong", "wrong_attacks:Mine is no attack with a kind of its own"),
    ],
)
def test_a_faulty_plugin_is_named_with_its_fault(faulty: dict[str, Any], plugin: str, words: str) -> None:
    assert faulty["faults"].keys() == {"torn", "taking", "b-second", "empty", "wrong"}
    assert words in faulty["faults"][plugin]


def test_faulty_plugins_take_nothing_else_with_them(faulty: dict[str, Any]) -> None:
    assert faulty["pgd"][0] == "auditor.attacking.attacks.pgd"
    assert faulty["pgd"][1].startswith("pgd:budget=fixed,steps=3")
    assert faulty["checks"] == 0
    assert "big_one" in faulty["kinds"]
    assert "big-one" not in faulty["kinds"]


def test_asking_for_a_faulty_plugin_says_what_is_wrong_with_it(faulty: dict[str, str]) -> None:
    assert faulty["asked"].startswith("The plug-in torn (torn_attacks, of torn 1.0) cannot be loaded")
    assert "Did you mean pgd?" in faulty["unknown"]
    assert "The plug-in torn" in faulty["unknown"]
