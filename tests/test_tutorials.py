"""The tutorials run as they stand: the code blocks of each, one after the other, in an empty folder."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import die_with_tests

FOLDER = Path(__file__).parents[1] / "docs" / "tutorials"
PRINTS = {
    "audit": r"10 classes; 2000 images\nclean accuracy 9\d\.\d %.*at most \d\.\d %",
    "harden": r"finished after 2\.0 epochs.*before: at most \d\.\d %.*after:  at most [1-9]\d\.\d %.*What differs",
    "attack": r"fooled: (4\d|50) of 50",
}
LEAVES = {"audit": ["report.html"], "harden": ["child"], "attack": []}


def test_every_tutorial_is_run() -> None:
    assert {path.stem for path in FOLDER.glob("*.md")} == PRINTS.keys()


@pytest.mark.parametrize("name", PRINTS)
def test_a_tutorial_runs_and_says_what_it_promises(name: str, tmp_path: Path) -> None:
    code = "\n".join(re.findall(r"```python\n(.*?)```", (FOLDER / f"{name}.md").read_text(), re.S))
    file = tmp_path / "tutorial.py"  # a module of its own, as a reader would write it
    file.write_text(code)
    root = str(FOLDER.parents[1])
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r}); import tutorial"], cwd=tmp_path,
        capture_output=True, text=True, timeout=300, check=False, preexec_fn=die_with_tests,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(PRINTS[name], done.stdout, re.S), done.stdout
    assert all((tmp_path / left).exists() for left in LEAVES[name])
