"""Progress: how much of a job is done, as one number that grows from 0 to 1 over stages of known weight."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

OnProgress = Callable[[float, str], None]
"""Called with the share done (0 to 1) and what is being done; may raise to stop the work."""


def no_progress(share: float, what: str) -> None:
    """Nobody is watching."""


class StagedProgress:
    """Reports the share of the whole while each stage reports its own. All stages are added before the first begins."""

    def __init__(self, report: OnProgress) -> None:
        self._report = report
        self._weights: dict[Hashable, float] = {}
        self._done = 0.0
        self._current = 0.0
        self._highest = 0.0

    def add(self, stage: Hashable, weight: float) -> None:
        """A stage to come; weights are relative to each other. A stage may be added twice: its weight grows."""
        self._weights[stage] = self._weights.get(stage, 0.0) + weight

    @property
    def total(self) -> float:
        """Weight of all stages that were added and have not begun."""
        return sum(self._weights.values())

    @contextmanager
    def stage(self, stage: Hashable) -> Iterator[None]:
        """The stage runs inside; it counts as done at the end, however little it reported."""
        self._current = self._weights.pop(stage)
        yield
        self._done += self._current

    def __call__(self, share: float, what: str) -> None:
        total = self._done + self._current + sum(self._weights.values())
        self._highest = max(self._highest, min(1.0, (self._done + self._current * min(1.0, share)) / total))
        self._report(self._highest, what)


def part_of(report: OnProgress, begin: float, end: float) -> OnProgress:
    """For a part of the work: its share of 0 to 1 is reported as one of ``begin`` to ``end``."""
    return lambda share, what: report(begin + (end - begin) * share, what)
