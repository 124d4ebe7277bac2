"""Patience: what must be said or kept is tried again while a disk is full or the database does not answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from auditor.kit.errors import OutageError

T = TypeVar("T")

RETRY_SECONDS = 0.5


def patiently(call: Callable[[], T], enough: Callable[[float, OutageError], bool]) -> T:
    """Call until it does not raise OutageError; raises it when ``enough`` is True of the seconds that passed and the error."""
    began = time.monotonic()
    while True:
        try:
            return call()
        except OutageError as error:
            if enough(time.monotonic() - began, error):
                raise
            time.sleep(RETRY_SECONDS)


def for_seconds(limit: float) -> Callable[[float, OutageError], bool]:
    """Enough after so many seconds."""
    return lambda passed, _: passed >= limit
