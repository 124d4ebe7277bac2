"""Memory: bombs are refused, and honest large files pass, without the process growing with them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

GROWTH_MIB = 200
ROOT = Path(__file__).parents[4]
PROGRAM = "tests.auditor.data.intake.memory_program"


@pytest.mark.skipif(sys.platform != "linux", reason="measures through /proc")
def test_memory_stays_bounded(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", PROGRAM, str(tmp_path), str(GROWTH_MIB)],
        capture_output=True, text=True, timeout=300, cwd=ROOT,
    )  # fmt: skip
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert done.stdout.endswith("done\n")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
