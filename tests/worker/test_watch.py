"""What a running job tells its row: seldom, bounded, and only while the job is its own."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from tests.worker.rows import new_job
from worker.db import Database
from worker.ledger import Claim, Ledger
from worker.watch import MOST_POINTS, JobStopped, Watch


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("worker.watch.time", clock)
    return clock


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return Ledger(database)


def claimed(ledger: Ledger, **values: float) -> Claim:
    claim = ledger.claim(new_job(ledger, **values), "w", 60)
    assert claim is not None
    return claim


def test_many_steps_make_few_writes_and_lose_no_point(
    ledger: Ledger, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[int] = []
    true = Ledger.progress

    def counted(*arguments: Any, **more: Any) -> bool:
        writes.append(1)
        return true(*arguments, **more)

    monkeypatch.setattr(Ledger, "progress", counted)
    claim = claimed(ledger)
    watch = Watch(ledger, claim)
    for step in range(500):
        clock.now += 0.01  # five seconds in all
        watch.point(step, {"step": step}, keep=False)
        watch.on_progress(step / 500, "on")
    clock.now += 1
    watch.on_progress(1, "done")
    assert 9 <= len(writes) <= 12
    assert [number for number, _ in ledger.points(claim.job_id)] == list(range(500))


def test_the_points_of_a_long_job_are_thinned_and_those_to_keep_stay(ledger: Ledger, clock: Clock) -> None:
    claim = claimed(ledger)
    watch = Watch(ledger, claim)
    for step in range(5 * MOST_POINTS):
        watch.point(step, {"step": step}, keep=step % 100 == 0)
        if step % 300 == 0:
            clock.now += 1
            watch.on_progress(0.5, "on")
    clock.now += 1
    watch.on_progress(1, "done")
    stored = [number for number, _ in ledger.points(claim.job_id)]
    assert MOST_POINTS / 3 < len(stored) <= MOST_POINTS
    assert set(range(0, 5 * MOST_POINTS, 100)) <= set(stored)
    assert stored[-1] == 5 * MOST_POINTS - 1
    gaps = [later - earlier for earlier, later in pairwise(stored)]
    assert max(gaps) <= 100, "thinned everywhere, not cut off"


def test_even_points_to_keep_are_bounded(ledger: Ledger, clock: Clock) -> None:
    claim = claimed(ledger)
    watch = Watch(ledger, claim)
    for step in range(3 * MOST_POINTS):
        watch.point(step, {}, keep=True)
    watch.on_progress(1, "done")
    assert len(ledger.points(claim.job_id)) <= MOST_POINTS


def test_a_resumed_job_begins_with_the_points_that_came_again(ledger: Ledger, clock: Clock) -> None:
    claim = claimed(ledger)
    assert ledger.progress(claim, 0.5, "on", {number: {"old": True} for number in range(9)})
    watch = Watch(ledger, claim)
    for number in range(3):
        watch.point(number, {"old": False}, keep=True)
    watch.resumed()
    watch.on_progress(0.25, "on")
    assert ledger.points(claim.job_id) == [(number, {"old": False}) for number in range(3)]
    watch.point(3, {"old": False}, keep=True)
    clock.now += 1
    watch.on_progress(0.3, "on")
    assert len(ledger.points(claim.job_id)) == 4


def test_a_cancel_is_told_to_a_job_that_has_something_to_keep_and_ends_another(ledger: Ledger, clock: Clock) -> None:
    gentle, hard = claimed(ledger, grace=10.0), claimed(ledger)
    watches = [Watch(ledger, claim) for claim in (gentle, hard)]
    watches[0].checkpoint(1)
    for claim, watch in zip((gentle, hard), watches, strict=True):
        assert watch.stop() == ""
        watch.on_progress(0.1, "on")
        ledger.request_cancel(claim.job_id)
    assert watches[0].stop() == "", "it has just looked"
    clock.now += 1
    assert watches[0].stop() == "cancelled"
    watches[0].on_progress(0.2, "stopping")
    with pytest.raises(JobStopped):
        watches[1].on_progress(0.2, "on")


def test_a_lost_job_ends_whatever_it_does(ledger: Ledger, clock: Clock) -> None:
    claim = claimed(ledger, grace=10.0)
    watch = Watch(ledger, claim)
    ledger.crashed(claim, "lost")
    with pytest.raises(JobStopped):
        watch.stop()
    with pytest.raises(JobStopped):
        watch.on_progress(0.1, "on")
    watch.checkpoint(7)
    row = ledger.get(claim.job_id)
    assert row is not None
    assert row.reached == 0


def test_the_end_of_its_time_is_told_while_there_is_time_to_save(ledger: Ledger, clock: Clock) -> None:
    watch = Watch(ledger, claimed(ledger, grace=10.0, time_limit=60.0))
    clock.now += 49
    assert watch.stop() == ""
    clock.now += 2
    assert watch.stop() == "time limit"
