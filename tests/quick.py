"""``make quick``: the contracts, and the tests of what changed since main, for as long as the time lasts.

    python -m tests.quick

A changed module is tested by the files named after it (``pgd.py``: ``test_pgd*.py``), or else by those of its folder. A changed
member of a catalogue is also tested by the contract of all members, as far as that names it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SECONDS = 35
"""For the tests; the linters before take up to 20 s with warm caches."""
ALWAYS = ("tests/auditor/kit/test_capability.py", "tests/test_documents.py")
LONG = ("/browser/", "_memory", "test_server", "test_cli")


def git(*arguments: str) -> list[str]:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split("\n")


def changed() -> list[str]:
    """Files that differ from main, committed or not."""
    base = git("merge-base", "HEAD", "main")[0] if "main" in git("branch", "--format=%(refname:short)") else "HEAD"
    return sorted({*git("diff", "--name-only", base), *git("ls-files", "--others", "--exclude-standard")} - {""})


def paths_for(path: str) -> list[str]:
    """The test files of one changed file, as paths from the root."""
    file = Path(path)
    if file.suffix != ".py" or not (ROOT / file).exists():
        return []
    if file.parts[0] == "tests":
        return [path] if file.name.startswith("test_") else []
    folder = ROOT / "tests" / file.parent
    named = sorted((ROOT / "tests" / file.parts[0]).rglob(f"test_{file.stem}*.py"))
    near = named or (sorted(folder.glob("test_*.py")) if folder.is_dir() else [])
    return [str(found.relative_to(ROOT)) for found in near]


def chosen(files: list[str]) -> list[str]:
    """The test files to run, those of the contracts first, without those that take minutes."""
    found = [*ALWAYS, *(test for file in files for test in paths_for(file))]
    return [name for name in dict.fromkeys(found) if not any(part in name for part in LONG)]


def contracts_for(path: str) -> list[str]:
    """The tests over all members of a catalogue of which the file may be one: those in its folder's tests or one above."""
    file = Path(path)
    if file.parts[0] != "auditor" or file.suffix != ".py" or not (ROOT / file).exists():
        return []
    near = [ROOT / "tests" / folder for folder in (file.parent, file.parent.parent)]
    found = [test for folder in near for name in ("contract", "snapshots") for test in folder.glob(f"test_*_{name}.py")]
    return [str(test.relative_to(ROOT)) for test in found]


def names(item: str, members: set[str]) -> bool:
    """Whether the id of a test, ``test_x.py::test_y[pgd-linf]``, has one of these kinds among its parameters."""
    parameters = "-".join(item.partition("[")[2].rstrip("]").replace("_", "-").split())
    return any(f"-{member.replace('_', '-')}-" in f"-{parameters}-" for member in members)


class Members:
    """Of the contracts that are run for changed members alone, keeps the tests that name one of these."""

    def __init__(self, files: list[str]) -> None:
        whole = set(chosen(files))
        self.members: dict[str, set[str]] = {}
        for file in files:
            for contract in set(contracts_for(file)) - whole:
                self.members.setdefault(contract, set()).add(Path(file).stem)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if self._keeps(item)]

    def _keeps(self, item: pytest.Item) -> bool:
        members = self.members.get(str(item.path.relative_to(ROOT)))
        return members is None or names(item.nodeid, members)


class Deadline:
    """Stops after SECONDS, and says so."""

    def __init__(self) -> None:
        self.end = time.monotonic() + SECONDS

    def pytest_runtest_teardown(self, item: pytest.Item) -> None:
        if time.monotonic() > self.end:
            item.session.shouldstop = f"{SECONDS} s are over; make test runs the rest"


def main() -> int:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    files = changed()
    members = Members(files)
    tests = dict.fromkeys([*chosen(files), *members.members])
    marks = "not slow and not thorough and not browser"
    code = pytest.main(["-q", "-x", "-m", marks, *tests], plugins=[Deadline(), members])
    return 0 if code in (pytest.ExitCode.OK, pytest.ExitCode.INTERRUPTED) else int(code)


if __name__ == "__main__":
    sys.exit(main())
