"""The tests' own forked sandboxes are what the product's are: as confined, with the same answers and ends."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from auditor.kit.errors import AuditorError
from tests.warm import Template
from worker.sandbox import capabilities, confined, self_test

REPORT = capabilities()
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the walls are Linux's"),
    pytest.mark.usefixtures("warm_sandbox"),
]


def call(function: str, **options: Any) -> Any:
    where: dict[str, Any] = {"arguments": {}, "memory": 1 << 30, "seconds": 30} | options
    return confined(f"tests.worker.sandbox_targets:{function}", **where)


@pytest.mark.skipif(not (REPORT.landlock and REPORT.seccomp and REPORT.rlimits), reason="a wall is missing here")
def test_every_wall_holds_around_it(warm_sandbox: Template) -> None:
    before = warm_sandbox.forked
    assert [wall for wall, held in self_test() if not held] == []
    assert warm_sandbox.forked == before + 1


def test_nothing_of_the_parent_or_of_another_one_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDITOR_DATABASE_URL", "postgresql://user:hunter2@host/db")
    first, second = call("surroundings"), call("surroundings")
    assert first["cwd"] == first["environment"]["HOME"] != second["environment"]["HOME"]
    for seen in (first, second):
        assert "hunter2" not in str(seen)
        assert (seen["home"], seen["session"], seen["limits"], len(seen["descriptors"])) == ([], True, [0, 256], 5)


@pytest.mark.parametrize("kind", ["segmentation fault", "exit", "rust", "unprintable"])
def test_it_ends_as_one_of_its_own_does(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    said = []
    for _ in range(2):
        with pytest.raises(AuditorError) as raised:
            call("misbehave", arguments={"kind": kind})
        said.append((type(raised.value), str(raised.value)))
        monkeypatch.undo()  # the second one is the product's
    assert said[0] == said[1]


def test_what_computes_with_more_threads_starts_its_own(warm_sandbox: Template) -> None:
    before = warm_sandbox.forked
    assert call("surroundings", threads=2)["environment"]["OMP_NUM_THREADS"] == "2"
    assert warm_sandbox.forked == before
