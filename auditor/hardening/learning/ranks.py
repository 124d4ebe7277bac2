"""Several processes that share one piece of work; the caller's process starts, watches and ends them."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import secrets
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, NamedTuple

import torch

from auditor.hardening.learning.checkpoint import MEETING
from auditor.hardening.learning.team import Several, joined
from auditor.hardening.result import TrainingPoint
from auditor.kit.errors import AuditorError, SpecError, TrainingError
from auditor.kit.progress import OnProgress, no_progress

GRACE_SECONDS = 10.0
"""After one process failed: for the leading one to tell why, which may know it better."""


@dataclass(frozen=True)
class Listener:
    """Callbacks that follow a training and may stop it."""

    on_progress: OnProgress = no_progress
    on_point: Callable[[TrainingPoint], None] = lambda point: None
    stop: Callable[[], bool] = lambda: False
    on_checkpoint: Callable[[int], None] = lambda step: None


PRELOADED = ("auditor.hardening.training", "safetensors.torch", "torch._dynamo")
"""What every process needs, read once by the server that they are forked from; torch's optimizers ask for the last."""

Work = Callable[[Several, Listener], Any]


class _Rank(NamedTuple):
    """One of the processes, and the line to it."""

    number: int
    process: ForkServerProcess
    line: Connection


class _Failure(NamedTuple):
    """How a process failed: with an error of ours, with words, or without."""

    rank: _Rank
    seconds: float
    error: AuditorError | None = None
    words: str = ""


def run_together(work: Work, size: int, device_type: str, listener: Listener, folder: Path) -> Any:
    """Call ``work`` in so many processes, on a GPU each or on the CPU; what it returns in the leading one is the result.

    The listener is the leading process's, and is called here. Whatever happens, no process is left: when one fails, or the
    listener raises, all are ended; when this process dies, they end themselves. They meet in a small file in ``folder``. Raises
    what the leading one raised, TrainingError if a process failed in another way, and SpecError for work that cannot be
    pickled.
    """
    try:
        # By value, not by torch's shared memory, of which a container may have very little.
        content = pickle.dumps(work)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise SpecError(
            f"The model or the data cannot be passed to other processes ({error}).", "Set processes to 1."
        ) from None
    meeting = folder / MEETING.replace("*", secrets.token_hex(8))
    threads = max(1, torch.get_num_threads() // size)
    ranks: list[_Rank] = []
    try:
        for number in range(size):
            ranks.append(_begun(meeting, device_type, threads, number, size))
        for rank in ranks:
            with suppress(ConnectionError):  # that it died is noticed below
                rank.line.send_bytes(content)
        return _heard(ranks, listener)
    finally:
        for rank in ranks:
            rank.process.kill()
        for rank in ranks:
            rank.process.join()
            rank.line.close()
        meeting.unlink(missing_ok=True)


def _begun(meeting: Path, device_type: str, threads: int, number: int, size: int) -> _Rank:
    # Forked from a server that has read torch, but not touched a GPU: they start quickly, and have no thread of ours.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    ours, theirs = context.Pipe()
    arguments = (meeting, device_type, threads, number, size, theirs)
    process = context.Process(target=_rank, name=f"rank {number}", args=arguments, daemon=True)
    process.start()
    theirs.close()
    return _Rank(number, process, ours)


def _heard(ranks: Sequence[_Rank], listener: Listener) -> Any:
    """Serve the listener until the leading process has its result."""
    silent: set[int] = set()
    failures: list[_Failure] = []
    while not failures or (0 not in silent and time.monotonic() < failures[0].seconds + GRACE_SECONDS):
        lines = {rank.line: rank for rank in ranks if rank.number not in silent}
        for line in connection.wait(list(lines), timeout=1.0):
            assert isinstance(line, Connection)
            rank = lines[line]
            try:
                kind, *content = line.recv()
            except (EOFError, ConnectionError):
                kind, content = "dead", []
            if kind == "hear":
                name, arguments = content
                answer = getattr(listener, name)(*arguments)
                if name == "stop":
                    with suppress(ConnectionError):
                        line.send(answer)
                continue
            silent.add(rank.number)
            if kind == "result" and rank.number == 0:
                return content[0]
            if kind != "result":
                failures.append(_Failure(rank, *(content or [time.monotonic()])))
    raise _cause(failures, len(ranks))


def _cause(failures: Sequence[_Failure], size: int) -> AuditorError:
    """Which of them to tell: when one process fails, the others fail for want of it."""
    by_rank = {failure.rank.number: failure for failure in failures}
    if 0 in by_rank and (error := by_rank[0].error):
        return error
    for failure in failures:
        if not failure.error and not failure.words:
            failure.rank.process.join()
            return _died(failure.rank.number, failure.rank.process.exitcode or 0, size)
    first = min(failures, key=lambda failure: failure.seconds)
    if first.error:
        return first.error
    memory = "memory" in first.words.lower()
    return TrainingError(
        f"Process {first.rank.number + 1} of the {size} that train together failed: {first.words}.",
        "Set a smaller batch_size." if memory else "The log has the details; processes = 1 trains without the others.",
    )


def _died(number: int, code: int, size: int) -> TrainingError:
    how = f"by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"with code {code}"
    return TrainingError(
        f"Process {number + 1} of the {size} that train together was ended {how}.",
        "It probably ran out of memory: set a smaller batch_size." if code == -signal.SIGKILL else "",
    )


def _rank(meeting: Path, device_type: str, threads: int, number: int, size: int, line: Connection) -> None:
    """One process: do the work, tell how it ended, wait for the end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller receives it, too
    threading.Thread(target=_end_with_caller, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        work: Work = line.recv()
        with joined(meeting, device_type, number, size) as team:
            result = work(team, _relay(line) if team.leads else Listener())
            line.send(("result", result if team.leads else None))
    except AuditorError as error:
        line.send(("failed", time.monotonic(), error))
    except Exception as error:
        traceback.print_exc()
        line.send(("failed", time.monotonic(), None, f"{type(error).__name__}: {error}"[:500].rstrip(". \n")))
    threading.Event().wait()  # to go now would break the others' connections


def _relay(line: Connection) -> Listener:
    """A listener that hands on to the caller's."""

    def stop() -> bool:
        line.send(("hear", "stop", ()))
        return bool(line.recv())

    return Listener(
        on_progress=lambda share, what: line.send(("hear", "on_progress", (share, what))),
        on_point=lambda point: line.send(("hear", "on_point", (point,))),
        stop=stop,
        on_checkpoint=lambda step: line.send(("hear", "on_checkpoint", (step,))),
    )


def _end_with_caller() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
