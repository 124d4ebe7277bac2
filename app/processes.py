"""Processes of ours that run side by side: a worker and a dashboard, which end when their parent does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from auditor.kit.errors import ServiceError
from worker.queues import CPU

if TYPE_CHECKING:
    from worker.client import Client
    from worker.settings import Settings

WATCH = "AUDITOR_DIE_WITH_PARENT"
"""Set for our children: they end when their standard input does, so none outlives a killed parent."""

START_SECONDS = 60.0
STOP_SECONDS = 15.0
POLL_SECONDS = 0.5
RESTART_SECONDS = 2.0


def no_server() -> None:
    """For a process that forks no jobs, or starts a job server of its own."""


@contextmanager
def child(
    settings: Settings, *arguments: str, log: str, server: Callable[[], int | None] = no_server
) -> Iterator[subprocess.Popen[bytes]]:
    """``auditor ARGUMENTS`` as a process of ours, its output in the log folder; asked to end, then killed, at the end.

    ``server``: gives the descriptor of our job server, for a worker that is to share it.
    """
    from worker.launch import CONTROL
    from worker.private import private_log

    control = server()
    shared = {} if control is None else {CONTROL: str(control)}

    with private_log(settings.logs / f"{log}.log") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "app.cli", *arguments],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env={**settings.environment(), **shared, WATCH: "1"},
            pass_fds=[] if control is None else [control],
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if process.stdin is not None:
            process.stdin.close()


@contextmanager
def kept_running(
    settings: Settings, *arguments: str, log: str, server: Callable[[], int | None] = no_server
) -> Iterator[None]:
    """The same, started again whenever it ends while this lasts."""
    stopping = threading.Event()

    def keep() -> None:
        while not stopping.is_set():
            with child(settings, *arguments, log=log, server=server) as process:
                while process.poll() is None and not stopping.wait(POLL_SECONDS):
                    pass
            stopping.wait(RESTART_SECONDS)

    # The kernel ends the child with the thread that started it, so this one lives as long as the child.
    thread = threading.Thread(target=keep, name=f"keep {log}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join(STOP_SECONDS + RESTART_SECONDS)


@contextmanager
def worker_if_none(client: Client) -> Iterator[Callable[[], None]]:
    """A worker is running while inside; call what this yields now and then, since a worker that others started may end."""
    with ExitStack() as stack:

        def ensure() -> None:
            if not any(CPU in row.queues for row in client.jobs.workers()):
                process = stack.enter_context(child(client.settings, "worker", log="worker"))
                wait_for_worker(client, process)

        ensure()
        yield ensure


def wait_for_worker(client: Client, process: subprocess.Popen[bytes]) -> None:
    """Until the worker has said that it is there. Raises ServiceError when it ends or takes too long."""
    limit = time.monotonic() + START_SECONDS
    while not any(f"-{process.pid}-" in row.id for row in client.jobs.workers()):
        if process.poll() is not None or time.monotonic() > limit:
            raise ServiceError("The worker did not start.", f"Its log is {client.settings.logs / 'worker.log'}.")
        time.sleep(0.2)


def obey_parent() -> None:
    """Called at the start of our own long-running commands."""
    if os.environ.pop(WATCH, ""):
        from worker.runner import die_with_parent

        die_with_parent()
