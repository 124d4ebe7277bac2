"""Watch: the line between a running job and its row: progress and points go up, a wish to stop comes down."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

from auditor.kit.errors import OutageError
from worker.job import Live
from worker.ledger import Claim, Ledger

PROGRESS_SECONDS = 0.5
"""The row is written and looked at no oftener: a training makes hundreds of steps in that time."""

MOST_POINTS = 1000
"""Points that one job keeps; with more, every second one goes."""

CANCELLED, TIME = "cancelled", "time limit"


class JobStopped(Exception):
    """The job is no longer ours, or somebody asked to stop it."""


class Watch(Live):
    """Of one attempt. Raises JobStopped from within the job where that is to end at once.

    A job with ``grace`` and a checkpoint is told of a cancel by ``stop``, and likewise that its time is nearly over. While the
    database does not answer the job goes on: what it tells is kept until it can be written, and its supervisor ends it when that
    takes too long.
    """

    def __init__(self, ledger: Ledger, claim: Claim) -> None:
        self._ledger, self._claim = ledger, claim
        self._looked = self._written = 0.0
        self._wish = ""
        self._deadline = time.monotonic() + max(claim.time_limit - claim.grace, claim.time_limit / 2)
        self._points: dict[int, dict[str, Any]] = {}
        self._resumed = False
        self._kept: dict[int, bool] = {}
        self._gone: set[int] = set()
        self._reached: int | None = None

    def on_progress(self, share: float, step: str) -> None:
        if time.monotonic() - self._written < PROGRESS_SECONDS:
            return
        self._written = time.monotonic()
        with suppress(OutageError):
            self._look()
            self._tell_reached()
            self._gone = self._gone.union(self._thinned()).difference(self._points)
            points, gone = self._points, sorted(self._gone)
            if not self._ledger.progress(self._claim, share, step, points, forget=gone, resumed=self._resumed):
                raise JobStopped
            self._points, self._gone, self._resumed = {}, set(), False

    def stop(self) -> str:
        if self._claim.grace and time.monotonic() - self._looked >= PROGRESS_SECONDS:
            with suppress(OutageError):
                self._look()
        return self._wish

    def point(self, number: int, content: dict[str, Any], *, keep: bool) -> None:
        self._points[number] = content
        self._kept[number] = keep

    def checkpoint(self, number: int) -> None:
        self._reached = number
        with suppress(OutageError):
            self._tell_reached()

    def resumed(self) -> None:
        self._resumed = True

    def _tell_reached(self) -> None:
        if self._reached is not None:
            self._ledger.reached(self._claim, self._reached)
            self._reached = None

    def _look(self) -> None:
        self._looked = time.monotonic()
        seen = self._ledger.look(self._claim)
        if not seen.held or (seen.cancel and not seen.saves):
            raise JobStopped
        if seen.cancel:
            self._wish = CANCELLED
        elif self._claim.grace and self._looked > self._deadline:
            self._wish = TIME

    def _thinned(self) -> list[int]:
        """The points that must go, were those that wait written now."""
        gone: list[int] = []
        while len(self._kept) > MOST_POINTS:
            *earlier, _ = sorted(self._kept)  # the last one stays, so a curve shows where the job is
            plain = [number for number in earlier if not self._kept[number]]
            for number in (plain if len(plain) > MOST_POINTS // 10 else earlier)[1::2]:
                del self._kept[number]
                self._points.pop(number, None)
                gone.append(number)
        return gone
