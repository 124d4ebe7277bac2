"""A job row's life, and all its SQL: insert, claim, renew, progress, succeed, fail, lose, cancel, release, reap, list."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from sqlalchemy import ColumnElement, and_, case, delete, false, func, insert, or_, select, true, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from auditor.kit.errors import NotFoundError
from worker.db import Database
from worker.defenses import NewDefense, add_defense
from worker.lineage import ChildModel, add_child
from worker.models import DefenseJobRow, JobRow, PointRow, ResultFileRow, ResultRow

JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]

ENDED = frozenset({"succeeded", "failed", "cancelled"})

HOPEFUL = ("queued", "running", "succeeded")
"""States of a job that has a result, or may come to one."""

LOST = "The worker was lost while it ran the job"

MOST_OUTAGES = 10
"""So many attempts in a row may end by an outage, with no further checkpoint: a job that itself fills the disk ends, too."""

SHORTEST_WAIT, LONGEST_WAIT = 5.0, 1800.0
"""Seconds from an outage to the next attempt; twice as long after each: over an hour in all."""

NAME_TRIES = 5
"""How often the name of a new model or defense is chosen again when another job takes it in the same moment."""


class Claim(NamedTuple):
    """A job that is ours to run, as long as our fence is the row's fence."""

    job_id: str
    kind: str
    fence: int
    time_limit: float
    grace: float = 0.0


class Renewal(NamedTuple):
    """The answer to a heartbeat. ``held``: the job is still ours to run. ``cancel``: somebody asked to stop it.
    ``ended``: our own runner has written its end. ``saves``: asked to stop, it has something to keep, and is given time for that.
    ``heard``: when its process last showed that it gets on.
    """

    held: bool
    cancel: bool
    ended: bool
    saves: bool = False
    heard: float | None = None


class Reaped(NamedTuple):
    """What the reaper found: jobs put back into the queue, and jobs given up."""

    requeued: list[str]
    failed: list[str]


class Which(NamedTuple):
    """Which jobs: of this kind, model, data set, evaluated defense; in one of these states; whose title holds ``text`` or whose
    id begins with it. What is empty does not matter.
    """

    kind: str | None = None
    model_id: str | None = None
    dataset_id: str | None = None
    defense_id: str | None = None
    states: Sequence[str] = ()
    text: str = ""

    def condition(self) -> ColumnElement[bool]:
        """As an SQL expression."""
        chosen = [
            getattr(JobRow, name) == value
            for name in ("kind", "model_id", "dataset_id")
            if (value := getattr(self, name)) is not None
        ]
        if self.defense_id is not None:
            of_it = select(DefenseJobRow.job_id).where(DefenseJobRow.defense_id == self.defense_id)
            chosen.append(JobRow.id.in_(of_it))
        if self.states:
            chosen.append(JobRow.state.in_(self.states))
        if text := self.text.replace("\0", ""):
            begins = JobRow.id.startswith(text.lower(), autoescape=True)
            chosen.append(or_(JobRow.title.icontains(text, autoescape=True), begins))
        return and_(true(), *chosen)


ALL = Which()


class Ledger:
    """Every change of a job's row is one statement guarded by the state, or the fence, that it relies on."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def insert(
        self,
        *,
        kind: str,
        title: str,
        spec: dict[str, Any],
        queue: str,
        model_id: str | None,
        dataset_id: str | None,
        max_attempts: int,
        time_limit: float,
        grace: float = 0.0,
        defense_id: str | None = None,
    ) -> str:
        """A new queued job; it is committed when this returns, so its id may be published. ``defense_id``: what it evaluates;
        raises NotFoundError when that is gone.
        """
        job_id = uuid.uuid4().hex
        with self.database.write() as session:
            session.execute(
                insert(JobRow).values(
                    id=job_id, kind=kind, title=title[:400], spec=spec, queue=queue, model_id=model_id, dataset_id=dataset_id,
                    state="queued", created=self.database.now(), attempts=0, max_attempts=max_attempts, time_limit=time_limit,
                    fruitless=0, outages=0, reached=0, resumed=0.0, grace=grace, fence=0, cancel=False, share=0.0, step="",
                )
            )  # fmt: skip
            if defense_id is not None:
                try:
                    session.execute(insert(DefenseJobRow).values(job_id=job_id, defense_id=defense_id))
                except IntegrityError:
                    raise NotFoundError("The defense was deleted meanwhile.", "Fit it again.") from None
        return job_id

    def published(self, job_id: str) -> None:
        """The broker has the job's id."""
        self._change(JobRow.id == job_id, published=self.database.now())

    def unpublished_again(self, job_id: str) -> None:
        """The job's message was taken by a worker that cannot run it: it is to be published again."""
        self._change(and_(JobRow.id == job_id, JobRow.state == "queued"), published=None)

    def claim(self, job_id: str, owner: str, lease: float) -> Claim | None:
        """Take a queued job. None when it is taken, done or cancelled: a message that comes twice is harmless.

        One that is to be cancelled and has something to save is taken for that.
        """
        now = self.database.now()
        statement = (
            update(JobRow)
            .where(JobRow.id == job_id, JobRow.state == "queued", or_(JobRow.cancel.is_(False), _SAVES), self._due())
            .values(
                state="running", owner=owner, fence=JobRow.fence + 1, lease_until=now + lease, attempts=JobRow.attempts + 1,
                fruitless=JobRow.fruitless + 1, started=now, share=0.0, resumed=0.0, step="starting", error=None, hint=None,
                waits=None, not_before=None, heard=now,
            )
            .returning(JobRow.id, JobRow.kind, JobRow.fence, JobRow.time_limit, JobRow.grace)
        )  # fmt: skip
        with self.database.write() as session:
            row = session.execute(statement).first()
        return Claim(*row) if row is not None else None

    def renew(self, claim: Claim, lease: float) -> Renewal:
        """Heartbeat: prolong the lease of a job that is ours."""
        self._change(_ours(claim), lease_until=self.database.now() + lease)
        return self.look(claim)

    def look(self, claim: Claim) -> Renewal:
        """How the job stands; it only reads."""
        with self.database.read() as session:
            row = session.execute(
                select(JobRow.state, JobRow.fence, JobRow.cancel, JobRow.heard, _SAVES.label("saves")).where(
                    JobRow.id == claim.job_id
                )
            ).first()
        if row is None or row.fence != claim.fence:
            return Renewal(held=False, cancel=False, ended=False)
        return Renewal(row.state == "running", row.cancel, row.state in ENDED, bool(row.saves), row.heard)

    def progress(
        self,
        claim: Claim,
        share: float,
        step: str,
        points: Mapping[int, dict[str, Any]] = MappingProxyType({}),
        *,
        forget: Sequence[int] = (),
        resumed: bool = False,
    ) -> bool:
        """Write how far the job is, and what it measured on the way, by number; False (and nothing written) when it is no
        longer ours, or somebody asked to stop it and it has nothing to save.

        ``forget``: numbers of points to delete. ``resumed``: the job goes on from here, and ``points`` are all that it has.
        """
        goes_on = or_(JobRow.cancel.is_(False), _SAVES)
        values = {"share": share, "step": step[:200], "heard": self.database.now()} | (
            {"resumed": share} if resumed else {}
        )
        old = PointRow.job_id == claim.job_id
        with self.database.write() as session:
            if _count(session.execute(update(JobRow).where(_ours(claim), goes_on).values(**values))) != 1:
                return False
            if resumed:
                session.execute(delete(PointRow).where(old))
            elif points or forget:
                session.execute(delete(PointRow).where(old, PointRow.number.in_([*points, *forget])))
            if points:
                rows = [{"job_id": claim.job_id, "number": key, "content": value} for key, value in points.items()]
                session.execute(insert(PointRow), rows)
        return True

    def reached(self, claim: Claim, number: int) -> bool:
        """The job has a checkpoint to go on from. Where it came further than ever, this attempt does not count as fruitless."""
        return self._change(and_(_ours(claim), JobRow.reached < number), reached=number, fruitless=0, outages=0) == 1

    def succeed(
        self,
        claim: Claim,
        content: str,
        summary: dict[str, Any],
        files: Mapping[str, str] = MappingProxyType({}),
        *,
        child: ChildModel | None = None,
        defense: NewDefense | None = None,
        state: JobState = "succeeded",
        message: str | None = None,
        hint: str | None = None,
    ) -> bool:
        """The result and the end of the job, in one transaction; False (and nothing written) when it is no longer ours. May be
        called again where the answer was lost on its way.

        ``files``: further blobs by name. ``child``, ``defense``: a model or a defense that the job made. ``state``: "cancelled"
        or "failed" for a job that leaves a result although it was stopped, or broke; ``message`` and ``hint`` then say why.
        """
        end = {"state": state, "error": message, "hint": hint, "finished": self.database.now(), "lease_until": None}
        done = {"share": 1.0, "step": "done"} if state == "succeeded" else {}
        for attempt in range(NAME_TRIES):
            try:
                with self.database.write() as session:
                    if _count(session.execute(update(JobRow).where(_ours(claim)).values(**end, **done))) != 1:
                        return _written(session, claim, content)
                    now = self.database.now()
                    session.execute(
                        insert(ResultRow).values(job_id=claim.job_id, created=now, content=content, summary=summary)
                    )
                    if files:
                        rows = [{"job_id": claim.job_id, "name": key, "content": value} for key, value in files.items()]
                        session.execute(insert(ResultFileRow), rows)
                    if child is not None:
                        add_child(session, child, claim.job_id, now)
                    if defense is not None:
                        add_defense(session, defense, claim.job_id, now)
                return True
            except IntegrityError:
                if (child is None and defense is None) or attempt == NAME_TRIES - 1:
                    raise
        return False

    def fail(self, claim: Claim, message: str, hint: str = "") -> bool:
        """The job ends without a result, for a reason that another try would not change."""
        return self._end(_ours(claim), "failed", message, hint) == 1

    def cancelled(self, claim: Claim) -> bool:
        """The job stopped because somebody asked for it."""
        return self._end(and_(_ours(claim), JobRow.cancel.is_(True)), "cancelled", None, None) == 1

    def crashed(self, claim: Claim, message: str, hint: str = "") -> str | None:
        """The job's process died: back to the queue, or failed when it had its attempts.

        Returns the new state, None when the job was no longer ours.
        """
        with self.database.write() as session:
            return session.execute(
                update(JobRow).where(_ours(claim)).values(**_back(message, hint, self.database)).returning(JobRow.state)
            ).scalar()

    def lost(self, claim: Claim, message: str, hint: str = "") -> str | None:
        """An outage ended the attempt, not the job: it is queued again, to start after a while, and this attempt does not
        count. After ``MOST_OUTAGES`` in a row it has failed.

        Returns the new state, None when the job was no longer ours.
        """
        with self.database.write() as session:
            outages = session.scalar(select(JobRow.outages).where(_ours(claim)).with_for_update())
            if outages is None:
                return None
            spent = outages + 1 >= MOST_OUTAGES
            often = f"{message} That ended {MOST_OUTAGES} attempts in a row."
            wait = min(SHORTEST_WAIT * 2**outages, LONGEST_WAIT)
            values = _back(often, hint, self.database, spent=true() if spent else false()) | {
                "fruitless": case((JobRow.fruitless > 0, JobRow.fruitless - 1), else_=0),
                "outages": outages + 1,
                "waits": f"{message} {hint}".strip(),
                "not_before": self.database.now() + wait,
            }
            return session.execute(update(JobRow).where(_ours(claim)).values(**values).returning(JobRow.state)).scalar()

    def release(self, claim: Claim) -> bool:
        """The worker shuts down: back to the queue, and this attempt does not count."""
        drop = and_(JobRow.cancel.is_(True), ~_SAVES)
        values = {
            "state": case((drop, "cancelled"), else_="queued"),
            "finished": case((drop, self.database.now()), else_=None),
            "attempts": JobRow.attempts - 1,
            "fruitless": case((JobRow.fruitless > 0, JobRow.fruitless - 1), else_=0),
            "fence": JobRow.fence + 1,
            "lease_until": None,
            "owner": None,
            "published": None,
            "step": "",
            "share": 0.0,
        }
        return self._change(_ours(claim), **values) == 1

    def request_cancel(self, job_id: str) -> bool:
        """Ask to stop a job; False when it had ended already.

        A queued one ends at once; one that has something to save when it is asked again, or when a worker has saved it.
        """
        waits = and_(JobRow.state == "queued", or_(~_SAVES, JobRow.cancel.is_(True)))
        with self.database.write() as session:
            ended = session.execute(
                update(JobRow)
                .where(JobRow.id == job_id, waits)
                .values(state="cancelled", cancel=True, finished=self.database.now())
            )
            asked = session.execute(
                update(JobRow).where(JobRow.id == job_id, JobRow.state.in_(("queued", "running"))).values(cancel=True)
            )
        return _count(ended) + _count(asked) == 1

    def reap(self) -> Reaped:
        """Jobs whose lease has run out: their worker is lost. A missing lease counts as run out. Safe to call twice."""
        lost = and_(
            JobRow.state == "running", or_(JobRow.lease_until.is_(None), JobRow.lease_until < self.database.now())
        )
        values = _back(LOST, "", self.database)
        with self.database.write() as session:
            rows = session.execute(update(JobRow).where(lost).values(**values).returning(JobRow.id, JobRow.state)).all()
        return Reaped(
            [job for job, state in rows if state == "queued"], [job for job, state in rows if state == "failed"]
        )

    def unpublished(self, older_than: float | None = None) -> list[tuple[str, str]]:
        """Queued jobs (id, queue) that the broker was never given, or was given so many seconds ago."""
        stale: ColumnElement[bool] = JobRow.published.is_(None)
        if older_than is not None:
            stale = or_(stale, JobRow.published < self.database.now() - older_than)
        with self.database.read() as session:
            rows = session.execute(
                select(JobRow.id, JobRow.queue)
                .where(JobRow.state == "queued", stale, self._due())
                .order_by(JobRow.created)
            )
            return [(job_id, queue) for job_id, queue in rows]

    def get(self, job_id: str) -> JobRow | None:
        with self.database.read() as session:
            return session.get(JobRow, job_id)

    def find(self, key: str) -> Sequence[JobRow]:
        """The jobs whose id is ``key``, or begins with it where it has at least four characters."""
        if not key.isalnum():  # no id, and PostgreSQL takes no zero bytes
            return []
        begins = JobRow.id.startswith(key.lower(), autoescape=True) if len(key) >= 4 else JobRow.id == key
        with self.database.read() as session:
            return session.scalars(select(JobRow).where(begins).limit(2)).all()

    def result(self, job_id: str) -> ResultRow | None:
        with self.database.read() as session:
            return session.get(ResultRow, job_id)

    def points(self, job_id: str, after: int = -1) -> list[tuple[int, dict[str, Any]]]:
        """What a job measured on its way, by number, in order; ``after``: later ones only."""
        statement = select(PointRow.number, PointRow.content).where(PointRow.job_id == job_id, PointRow.number > after)
        with self.database.read() as session:
            return [(number, content) for number, content in session.execute(statement.order_by(PointRow.number))]

    def ended(self, job_ids: Sequence[str]) -> set[str]:
        """Those of these jobs that have ended, or that there are none of."""
        with self.database.read() as session:
            alive = select(JobRow.id).where(JobRow.id.in_(job_ids), JobRow.state.not_in(ENDED))
            return set(job_ids) - set(session.scalars(alive))

    def result_files(self, job_id: str) -> dict[str, str]:
        """The blobs of a result's further files, by name."""
        statement = select(ResultFileRow.name, ResultFileRow.content).where(ResultFileRow.job_id == job_id)
        with self.database.read() as session:
            return {row.name: row.content for row in session.execute(statement)}

    def list(
        self,
        which: Which = ALL,
        *,
        limit: int | None = None,
        offset: int = 0,
        order: Literal["newest", "pressing"] = "newest",
    ) -> list[tuple[JobRow, dict[str, Any] | None]]:
        """Jobs, each with the summary of its result: the newest first; or, "pressing", those that run, then those that wait in
        the order in which they will run, then the rest, the newest first.
        """
        statement = select(JobRow, ResultRow.summary).outerjoin(ResultRow, ResultRow.job_id == JobRow.id)
        pressing = (_RANK, case((JobRow.state == "queued", JobRow.created), else_=-JobRow.created))
        keys = pressing if order == "pressing" else (JobRow.created.desc(),)
        statement = statement.where(which.condition()).order_by(*keys, JobRow.id).limit(limit).offset(offset)
        with self.database.read() as session:
            return [(job, summary) for job, summary in session.execute(statement)]

    def counts(self, which: Which = ALL) -> dict[str, int]:
        """How many of these jobs there are, by state; states without a job are left out."""
        statement = select(JobRow.state, func.count()).where(which.condition()).group_by(JobRow.state)
        with self.database.read() as session:
            return dict(session.execute(statement).all())

    def clock(self) -> float:
        """The database server's time, seconds since 1970."""
        with self.database.read() as session:
            return float(session.execute(select(self.database.now())).scalar_one())

    def _due(self) -> ColumnElement[bool]:
        return or_(JobRow.not_before.is_(None), JobRow.not_before <= self.database.now())

    def _end(self, where: ColumnElement[bool], state: JobState, message: str | None, hint: str | None) -> int:
        return self._change(
            where, state=state, error=message, hint=hint, finished=self.database.now(), lease_until=None
        )

    def _change(self, where: ColumnElement[bool], **values: Any) -> int:
        with self.database.write() as session:
            return _count(session.execute(update(JobRow).where(where).values(**values)))


def _ours(claim: Claim) -> ColumnElement[bool]:
    return and_(JobRow.id == claim.job_id, JobRow.fence == claim.fence, JobRow.state == "running")


_RANK = case((JobRow.state == "running", 0), (JobRow.state == "queued", 1), else_=2)

_SAVES = and_(JobRow.grace > 0, JobRow.reached > 0)
"""A job that stops by itself and has a checkpoint: cancelling it is one more attempt, which keeps what there is."""


def _back(message: str, hint: str, database: Database, spent: ColumnElement[bool] | None = None) -> dict[str, Any]:
    """The new values of a job whose attempt came to nothing: queued again, cancelled, or failed after its last attempt.

    ``spent``: it was the last; by default told by the attempts that came no further than those before.
    """
    spent = JobRow.fruitless >= JobRow.max_attempts if spent is None else spent
    cancelled = and_(JobRow.cancel.is_(True), or_(spent, ~_SAVES))
    failed = and_(JobRow.cancel.is_(False), spent)
    return {
        "state": case((cancelled, "cancelled"), (failed, "failed"), else_="queued"),
        "error": case((failed, message), else_=None),
        "hint": case((failed, hint), else_=None),
        "finished": case((or_(failed, cancelled), database.now()), else_=None),
        "waits": f"{message.rstrip('.')}. {hint}".strip(),
        "fence": JobRow.fence + 1,
        "lease_until": None,
        "owner": None,
        "published": None,
    }


def _written(session: Session, claim: Claim, content: str) -> bool:
    """Was it our own earlier try that ended the job with this result, and only its answer got lost?"""
    statement = (
        select(ResultRow.content)
        .join(JobRow, JobRow.id == ResultRow.job_id)
        .where(JobRow.id == claim.job_id, JobRow.fence == claim.fence)
    )
    return session.scalar(statement) == content


def _count(result: Any) -> int:
    return int(result.rowcount)
