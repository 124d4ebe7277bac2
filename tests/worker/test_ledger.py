"""A job row's life: claimed once, kept by a lease, ended once, never lost; on SQLite and on Postgres."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import update

from tests.worker.rows import new_job
from worker.db import Database
from worker.ledger import Claim, Ledger, Which
from worker.models import JobRow


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return Ledger(database)


def expire(ledger: Ledger, job: str) -> None:
    """As if the worker had not been heard of for long."""
    with ledger.database.write() as session:
        session.execute(update(JobRow).where(JobRow.id == job).values(lease_until=ledger.database.now() - 1))


def claimed(ledger: Ledger, job: str) -> Claim:
    claim = ledger.claim(job, "worker", 30)
    assert claim is not None
    return claim


def state(ledger: Ledger, job: str) -> tuple[str, int]:
    row = ledger.get(job)
    assert row is not None
    return row.state, row.attempts


def test_of_many_who_claim_a_job_at_once_one_gets_it(ledger: Ledger) -> None:
    jobs = [new_job(ledger) for _ in range(10)]
    won: list[str] = []
    gate = threading.Barrier(4)

    def race(owner: str) -> None:
        gate.wait()
        won.extend(job for job in jobs if ledger.claim(job, owner, 30) is not None)

    threads = [threading.Thread(target=race, args=(f"w{index}",)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == sorted(jobs)


def test_a_job_succeeds_once_with_its_result(ledger: Ledger) -> None:
    job = new_job(ledger)
    claim = claimed(ledger, job)
    assert ledger.progress(claim, 0.5, "half")
    assert ledger.succeed(claim, "a" * 64, {"n": 1})
    assert not ledger.succeed(claim, "b" * 64, {"n": 2})
    assert not ledger.fail(claim, "too late")
    row, result = ledger.get(job), ledger.result(job)
    assert row is not None
    assert result is not None
    assert (row.state, row.share, result.content, result.summary) == ("succeeded", 1.0, "a" * 64, {"n": 1})
    assert ledger.claim(job, "another", 30) is None, "a message that comes again is harmless"


def test_a_zombie_that_wakes_after_its_lease_cannot_write(ledger: Ledger) -> None:
    job = new_job(ledger)
    zombie = claimed(ledger, job)
    expire(ledger, job)
    assert ledger.reap().requeued == [job]
    second = claimed(ledger, job)
    assert second.fence > zombie.fence
    assert not ledger.renew(zombie, 30).held
    assert not ledger.progress(zombie, 0.9, "I live")
    assert not ledger.succeed(zombie, "b" * 64, {})
    assert not ledger.fail(zombie, "no")
    assert ledger.succeed(second, "a" * 64, {})
    result = ledger.result(job)
    assert result is not None
    assert result.content == "a" * 64


def test_a_lease_that_is_renewed_is_not_reaped_and_a_missing_one_is(ledger: Ledger) -> None:
    job = new_job(ledger)
    claim = claimed(ledger, job)
    expire(ledger, job)
    assert ledger.renew(claim, 30).held
    assert ledger.reap() == ([], [])
    with ledger.database.write() as session:
        session.execute(update(JobRow).values(lease_until=None))
    assert ledger.reap().requeued == [job], "a worker that died before its first heartbeat"
    assert ledger.reap() == ([], []), "two reapers find it once"


def test_a_job_that_kills_its_workers_is_given_up(ledger: Ledger) -> None:
    job = new_job(ledger, max_attempts=2)
    claimed(ledger, job)
    expire(ledger, job)
    assert ledger.reap().requeued == [job]
    claimed(ledger, job)
    expire(ledger, job)
    assert ledger.reap().failed == [job]
    row = ledger.get(job)
    assert row is not None
    assert (row.state, row.attempts, row.error) == ("failed", 2, "The worker was lost while it ran the job")


def test_a_crashed_runner_counts_and_a_released_job_does_not(ledger: Ledger) -> None:
    job = new_job(ledger, max_attempts=2)
    assert ledger.crashed(claimed(ledger, job), "signal 9") == "queued"
    assert state(ledger, job) == ("queued", 1)
    assert ledger.release(claimed(ledger, job))
    assert state(ledger, job) == ("queued", 1)
    claim = claimed(ledger, job)
    assert ledger.crashed(claim, "signal 9", "smaller batches") == "failed"
    row = ledger.get(job)
    assert row is not None
    assert (row.error, row.hint) == ("signal 9", "smaller batches")
    assert ledger.crashed(claim, "again") is None


def test_a_queued_job_is_cancelled_at_once_and_a_running_one_is_asked(ledger: Ledger) -> None:
    waiting, running, done = new_job(ledger), new_job(ledger), new_job(ledger)
    claim = claimed(ledger, running)
    assert ledger.succeed(claimed(ledger, done), "a" * 64, {})
    assert ledger.request_cancel(waiting)
    assert state(ledger, waiting)[0] == "cancelled"
    assert ledger.claim(waiting, "w", 30) is None
    assert ledger.request_cancel(running)
    assert state(ledger, running)[0] == "running"
    assert ledger.look(claim)[:4] == ledger.renew(claim, 30)[:4] == (True, True, False, False)
    assert not ledger.progress(claim, 0.5, "on")
    assert ledger.cancelled(claim)
    assert ledger.look(claim)[:3] == (False, True, True)
    assert state(ledger, running)[0] == "cancelled"
    assert not ledger.request_cancel(done)
    assert not ledger.request_cancel("nobody")


def test_a_lost_job_that_was_to_be_cancelled_is_cancelled(ledger: Ledger) -> None:
    job = new_job(ledger)
    claimed(ledger, job)
    ledger.request_cancel(job)
    expire(ledger, job)
    assert ledger.reap() == ([], [])
    assert state(ledger, job)[0] == "cancelled"


def test_what_the_broker_does_not_have_is_found(ledger: Ledger) -> None:
    first, second = new_job(ledger), new_job(ledger, queue="gpu")
    assert ledger.unpublished() == [(first, "cpu"), (second, "gpu")]
    ledger.published(first)
    assert ledger.unpublished() == [(second, "gpu")]
    assert ledger.unpublished(older_than=60) == [(second, "gpu")]
    assert ledger.unpublished(older_than=-60) == [(first, "cpu"), (second, "gpu")]
    ledger.release(claimed(ledger, first))
    assert (first, "cpu") in ledger.unpublished(), "a job that came back must be published again"


def test_jobs_are_listed_newest_first_with_their_summaries_and_found_by_the_beginning_of_their_id(
    ledger: Ledger,
) -> None:
    jobs = [new_job(ledger, kind=kind) for kind in ("vet", "audit", "audit")]
    ledger.succeed(claimed(ledger, jobs[1]), "a" * 64, {"n": 7})
    listed = ledger.list(Which(kind="audit"))
    assert {row.id for row, _ in listed} == set(jobs[1:])
    assert {row.id: summary for row, summary in listed}[jobs[1]] == {"n": 7}
    created = [row.created for row, _ in ledger.list()]
    assert created == sorted(created, reverse=True)
    assert len(ledger.list(limit=1)) == 1
    assert [row.id for row in ledger.find(jobs[0][:8])] == [jobs[0]]
    assert ledger.find(jobs[0][:3]) == []
    assert ledger.find("%%%%") == ledger.find("\0\0\0\0") == []
    assert ledger.counts(Which(text="\0job")) == {"queued": 2, "succeeded": 1}
    assert ledger.counts(Which(text="%")) == {}


def with_checkpoint(ledger: Ledger, grace: float = 5.0) -> tuple[str, Claim]:
    """A running job that stops by itself, after its first checkpoint."""
    job = new_job(ledger, grace=grace)
    claim = claimed(ledger, job)
    assert ledger.reached(claim, 10)
    return job, claim


def test_an_attempt_that_came_further_than_those_before_does_not_count(ledger: Ledger) -> None:
    job = new_job(ledger, max_attempts=2)
    for number in (10, 20, 30, 40, 50):
        claim = claimed(ledger, job)
        assert ledger.reached(claim, number)
        assert not ledger.reached(claim, number), "it grows, or it does not"
        assert not ledger.reached(claim, number - 5)
        assert ledger.crashed(claim, "signal 9") == "queued"
    assert state(ledger, job) == ("queued", 5)
    claim = claimed(ledger, job)
    assert not ledger.reached(claim, 50), "the same point again"
    assert ledger.crashed(claim, "signal 9") == "queued"
    assert ledger.crashed(claimed(ledger, job), "signal 9") == "failed"
    assert state(ledger, job) == ("failed", 7)


def test_a_release_gives_back_no_more_than_its_own_attempt(ledger: Ledger) -> None:
    job = new_job(ledger, max_attempts=1)
    claim = claimed(ledger, job)
    ledger.reached(claim, 1)
    assert ledger.release(claim)
    assert ledger.release(claimed(ledger, job))
    assert state(ledger, job) == ("queued", 0)
    assert ledger.crashed(claimed(ledger, job), "signal 9") == "failed"


def test_any_number_of_releases_leaves_a_job_all_its_attempts(ledger: Ledger) -> None:
    job = new_job(ledger, max_attempts=2)
    for _ in range(4):
        assert ledger.release(claimed(ledger, job))
    assert ledger.crashed(claimed(ledger, job), "signal 9") == "queued"
    assert ledger.crashed(claimed(ledger, job), "signal 9") == "failed"


def test_a_job_released_after_somebody_cancelled_it_is_cancelled(ledger: Ledger) -> None:
    job = new_job(ledger)
    claim = claimed(ledger, job)
    ledger.request_cancel(job)
    assert ledger.release(claim)
    assert state(ledger, job)[0] == "cancelled"


def test_a_job_that_stops_gently_may_write_on_until_it_does(ledger: Ledger) -> None:
    job, claim = with_checkpoint(ledger)
    assert ledger.request_cancel(job)
    assert ledger.progress(claim, 0.5, "stopping", {7: {"loss": 1.0}})
    assert ledger.succeed(claim, "a" * 64, {}, state="cancelled", message="why", hint="so")
    row = ledger.get(job)
    assert row is not None
    assert (row.state, row.share, row.error, row.hint) == ("cancelled", 0.5, "why", "so")
    assert ledger.result(job) is not None
    assert ledger.points(job) == [(7, {"loss": 1.0})]


@pytest.mark.parametrize("how", ["crashed", "released", "lost"])
def test_what_a_cancelled_job_had_reached_is_saved_by_one_more_attempt(ledger: Ledger, how: str) -> None:
    job, claim = with_checkpoint(ledger)
    ledger.request_cancel(job)
    if how == "crashed":
        assert ledger.crashed(claim, "signal 9") == "queued"
    elif how == "released":
        assert ledger.release(claim)
    else:
        expire(ledger, job)
        assert ledger.reap().requeued == [job]
    saving = claimed(ledger, job)
    assert ledger.look(saving).cancel
    assert ledger.succeed(saving, "a" * 64, {}, state="cancelled")
    assert state(ledger, job)[0] == "cancelled"


def test_a_waiting_job_with_a_checkpoint_is_saved_when_cancelled_and_ended_when_cancelled_again(ledger: Ledger) -> None:
    job, claim = with_checkpoint(ledger)
    ledger.crashed(claim, "signal 9")
    assert ledger.request_cancel(job)
    assert state(ledger, job)[0] == "queued"
    assert ledger.unpublished() == [(job, "cpu")]
    assert ledger.request_cancel(job)
    assert state(ledger, job)[0] == "cancelled"
    assert ledger.claim(job, "w", 30) is None
    assert not ledger.request_cancel(job)


def test_a_crash_loop_while_saving_ends(ledger: Ledger) -> None:
    job, claim = with_checkpoint(ledger)
    ledger.request_cancel(job)
    for _ in range(10):
        if ledger.crashed(claim, "signal 9") != "queued":
            break
        claim = claimed(ledger, job)
    assert state(ledger, job) == ("cancelled", 4), "the first, which reached something, and three that did not"


def test_points_are_the_owners_to_write_and_a_resumed_job_begins_with_those_it_has(ledger: Ledger) -> None:
    job = new_job(ledger)
    zombie = claimed(ledger, job)
    measured = {number: {"step": number} for number in range(5)}
    assert ledger.progress(zombie, 0.1, "on", measured)
    assert ledger.progress(zombie, 0.1, "on", {3: {"step": "again"}}, forget=[1])
    expire(ledger, job)
    ledger.reap()
    second = claimed(ledger, job)
    assert not ledger.progress(zombie, 0.9, "on", {9: {}})
    assert [number for number, _ in ledger.points(job)] == [0, 2, 3, 4]
    assert ledger.points(job, after=2) == [(3, {"step": "again"}), (4, {"step": 4})]
    assert not ledger.progress(zombie, 0.0, "on", {}, resumed=True)
    assert ledger.progress(second, 0.25, "on", {0: {"step": 0}, 1: {"step": 1}}, resumed=True)
    assert [number for number, _ in ledger.points(job)] == [0, 1]
    row = ledger.get(job)
    assert row is not None
    assert row.resumed == 0.25


def test_which_jobs_have_ended_is_told_also_of_those_that_never_were(ledger: Ledger) -> None:
    waiting, running, done = new_job(ledger), new_job(ledger), new_job(ledger)
    claimed(ledger, running)
    ledger.fail(claimed(ledger, done), "no")
    assert ledger.ended([waiting, running, done, "nobody"]) == {done, "nobody"}
