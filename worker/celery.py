"""The Celery app and its one task. This process supervises: it imports no torch and runs no job itself."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

from celery import Celery
from celery.signals import worker_ready, worker_shutting_down
from kombu.entity import Queue

from auditor.kit.disk import outage
from auditor.kit.errors import OutageError
from worker.broker import broker_settings
from worker.db import connect
from worker.keeper import Keeper
from worker.ledger import Ledger
from worker.queues import CPU, GPU, QUEUES, SHORT, Lane
from worker.settings import Settings, load_settings
from worker.supervisor import supervise

TASK = "worker.run_job"
log = logging.getLogger("publish")

LONGEST_JOB = 30 * 86_400
"""Seconds after which a broker may give a message to somebody else; the lease, not the broker, decides who runs a job."""


def make_app(settings: Settings) -> Celery:
    """The app on the broker of these settings; also what the dashboard publishes with."""
    url = settings.broker_url.get_secret_value()
    if url:
        options: dict[str, Any] = {"broker_url": url, "broker_transport_options": _transport_options(url)}
    else:
        options = broker_settings(settings.broker_folder)
    app = Celery("neuron-auditor")
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_publish_retry=False,
        task_queues=[Queue(name, queue_arguments=_queue_arguments(url)) for name in QUEUES],
        task_default_queue=QUEUES[0],
        task_create_missing_queues=False,
        worker_prefetch_multiplier=1,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_enable_remote_control=True,
        broker_connection_retry_on_startup=True,
        broker_connection_timeout=5,
        **options,
    )
    app.task(name=TASK)(run_job)
    return app


def publish(app: Celery, ledger: Ledger, job_id: str, queue: str) -> bool:
    """Give the broker a job's id; False when the broker does not answer (the reaper tries again)."""
    try:
        app.send_task(TASK, args=[job_id], queue=queue)
    except Exception as error:  # every transport has errors of its own; the job row waits in any case
        log.warning("job %s could not be published, and will be again: %s", job_id[:8], outage(error) or error)
        return False
    with suppress(OutageError):  # then it is published twice, which is harmless
        ledger.published(job_id)
    return True


def run_job(job_id: str) -> str:
    """The task: supervise one job to its end."""
    worker = this_worker()
    with worker.busy():
        return supervise(str(job_id), worker.identity, worker.settings, worker.ledger, worker.stopping)


class Worker:
    """What this worker process is and holds."""

    def __init__(self) -> None:
        self.settings = load_settings()
        self.ledger = Ledger(connect(self.settings))
        self.identity = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self.stopping = threading.Event()
        self.lane, self.concurrency = _chosen.lane, _chosen.concurrency or self.settings.concurrency
        self._free = threading.Semaphore(self.concurrency)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """One of this worker's places is taken."""
        taken = self._free.acquire(blocking=False)
        try:
            yield
        finally:
            if taken:
                self._free.release()

    def idle_queues(self) -> list[str]:
        """The queues it could take a job from right now."""
        if not self._free.acquire(blocking=False):
            return []
        self._free.release()
        return worker_queues()


class _CommandLine:
    """What the command line asked for, before the worker is made."""

    lane: Lane = "all"
    concurrency = 0


_chosen = _CommandLine()


def make_worker(lane: Lane, concurrency: int) -> Worker:
    """Make this process's worker, for a lane, with so many jobs side by side (0: the setting)."""
    _chosen.lane, _chosen.concurrency = lane, concurrency
    return this_worker()


@cache
def this_worker() -> Worker:
    """Made at first use, in the process that uses it."""
    return Worker()


def gpus() -> list[str]:
    """Names of the GPUs that NVIDIA's tool lists and CUDA_VISIBLE_DEVICES does not hide; found without torch."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return []
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in listed.stdout.splitlines() if line.strip()]


@cache
def worker_queues() -> list[str]:
    """The queues that this worker serves. With "all", a process of its own serves the short jobs (``auditor worker``)."""
    if _chosen.lane == "short":
        return [SHORT]
    return [CPU, GPU] if gpus() else [CPU]


def _transport_options(url: str) -> dict[str, Any]:
    return {"visibility_timeout": LONGEST_JOB} if url.startswith(("redis", "valkey", "sentinel")) else {}


def _queue_arguments(url: str) -> dict[str, Any] | None:
    # RabbitMQ closes the channel of a consumer that holds a message for more than half an hour, unless told otherwise.
    return {"x-consumer-timeout": LONGEST_JOB * 1000} if url.startswith("amqp") else None


class _Tap:
    """Opens and closes the flow of messages to a worker, from any thread."""

    def __init__(self, consumer: Any, queues: list[str]) -> None:
        self._consumer, self._queues, self._closed = consumer, queues, False

    def __call__(self, closed: bool) -> None:
        if closed == self._closed:
            return
        self._closed = closed
        change = self._consumer.cancel_task_queue if closed else self._consumer.add_task_queue
        for queue in self._queues:
            self._consumer.call_soon(change, queue)


@worker_ready.connect  # type: ignore[untyped-decorator]
def _on_ready(sender: Any, **_: Any) -> None:
    worker = this_worker()
    keeper = Keeper(worker.settings, worker.ledger, _publish, worker.idle_queues, _Tap(sender, worker_queues()))
    keeper.register(worker.identity, worker_queues(), gpus())
    keeper.start(worker.stopping)


def _publish(job_id: str, queue: str) -> bool:
    return publish(app, this_worker().ledger, job_id, queue)


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _on_shutdown(**_: Any) -> None:
    this_worker().stopping.set()


app = make_app(load_settings())
