"""The examples of docs/extending.md, put where the guide says and run with the tests that it shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.plugins import plugged
from tests.processes import die_with_tests

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "extending.md").read_text()


def blocks(heading: str) -> list[str]:
    """The Python code of one section."""
    section = GUIDE[GUIDE.index(f"## {heading}: a file in") :].partition("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.S)


def test_the_tests_of_the_guide_pass_on_its_examples(tmp_path: Path) -> None:
    _, attack_test = blocks("An attack")
    analysis, analysis_test = blocks("An analysis")
    check, check_test = blocks("A check")
    plugged(tmp_path, "auditor.neural.analyses", "silent_neurons", analysis)
    environment = plugged(tmp_path, "auditor.auditing.checks", "repeated_images", check)
    folder = tmp_path / "examples"
    folder.mkdir()
    for name, code in {"attack": attack_test, "analysis": analysis_test, "check": check_test}.items():
        (folder / f"test_{name}.py").write_text(code)
    environment["PYTHONPATH"] = f"{environment['PYTHONPATH']}:{ROOT}"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)], cwd=tmp_path, env=environment,
        capture_output=True, text=True, timeout=300, check=False, preexec_fn=die_with_tests,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
