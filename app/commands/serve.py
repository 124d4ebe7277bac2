"""``auditor demo``, ``up``, ``worker``, ``dashboard`` and ``migrate``: the commands that run things."""

from __future__ import annotations

import signal
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.commands.show import console, duration, follow
from app.processes import child, kept_running, obey_parent, wait_for_worker
from auditor.kit.errors import AuditorError, ServiceError
from worker.queues import Lane

if TYPE_CHECKING:
    from worker.client import Client
    from worker.settings import Settings

Host = Annotated[str, typer.Option(help="Address to listen on; any but this machine's own needs AUDITOR_TOKEN.")]
Port = Annotated[int, typer.Option(help="Port of the dashboard; 0: as in the settings.")]


def demo(
    once: Annotated[
        bool, typer.Option("--once", help="Run both audits, write the reports, print a summary, and exit.")
    ] = False,
    reports: Annotated[Path, typer.Option(help="Folder for the reports of --once.")] = Path("reports"),
    port: Port = 0,
) -> None:
    """Add the sample data and models, start a worker and the dashboard, and audit both models."""
    from app.sample import queue_audits, seed
    from worker.client import Client

    obey_parent()
    began = time.monotonic()
    client = Client()
    client.prepare()
    seed(client)
    with ExitStack() as stack:
        worker_process = stack.enter_context(child(client.settings, "worker", log="worker"))
        wait_for_worker(client, worker_process)
        jobs = queue_audits(client, anew=once)
        if once:
            _once(client, jobs, reports, worker_process)
            console.print(f"Done in {duration(time.monotonic() - began)}.")
            return
        address = _start_dashboard(stack, client.settings, port)
        console.print(f"Two audits of the sample models are under way: {address}/jobs")
        _wait(worker_process)


def up(host: Host = "", port: Port = 0) -> None:
    """Start a worker and the dashboard."""
    from worker.client import Client

    obey_parent()
    client = Client()
    client.prepare()
    with ExitStack() as stack:
        worker_process = stack.enter_context(child(client.settings, "worker", log="worker"))
        wait_for_worker(client, worker_process)
        _start_dashboard(stack, client.settings, port, host)
        _wait(worker_process)


def worker(
    concurrency: Annotated[int, typer.Option(min=0, help="Long jobs to run in parallel; 0: as in the settings.")] = 0,
    lane: Annotated[
        Lane, typer.Option(help="all: long jobs here and short jobs in a second process; long or short: only these.")
    ] = "all",
) -> None:
    """Run jobs from the queue until told to stop. Vettings and playground runs never wait behind an audit."""
    from worker.db import connect, upgrade
    from worker.launch import launcher
    from worker.logs import set_up_logging
    from worker.private import private_umask
    from worker.settings import load_settings
    from worker.store import Store

    obey_parent()
    private_umask()
    settings = load_settings()
    set_up_logging(settings)
    launcher().prepare(settings)  # its imports take seconds: they run beside ours
    upgrade(settings)
    Store(settings.blobs, connect(settings)).establish()
    from worker.celery import app, make_worker, worker_queues

    this = make_worker(lane, concurrency or (1 if lane == "short" else settings.concurrency))
    with ExitStack() as stack:
        if lane == "all":
            short = kept_running(
                settings, "worker", "--lane", "short", log="worker-short", server=lambda: launcher().prepare(settings)
            )
            stack.enter_context(short)
        app.worker_main(
            [
                "worker",
                "--pool=threads",
                f"--concurrency={this.concurrency}",
                f"--queues={','.join(worker_queues())}",
                f"--hostname={this.identity}",
                "--without-gossip",
                "--without-mingle",
                "--loglevel=INFO",
            ]
        )


def dashboard(host: Host = "", port: Port = 0) -> None:
    """Serve the dashboard until told to stop."""
    from app.server import serve
    from worker.private import private_umask
    from worker.settings import load_settings

    obey_parent()
    private_umask()
    settings = load_settings()
    serve(settings.model_copy(update={"host": host or settings.host, "port": port or settings.port}))


def migrate(
    adopt_store: Annotated[
        bool,
        typer.Option(
            "--adopt-store", help="Take the home's folder of stored files as this database's, even if their ids differ."
        ),
    ] = False,
) -> None:
    """Bring the database to the newest revision."""
    from worker.db import connect, upgrade
    from worker.settings import load_settings
    from worker.store import Store

    settings = load_settings()
    upgrade(settings)
    store = Store(settings.blobs, connect(settings))
    store.adopt() if adopt_store else store.establish()
    console.print("The database is up to date.")


def _once(client: Client, jobs: list[str], reports: Path, worker_process: subprocess.Popen[bytes]) -> None:
    from app.commands.audits import summary
    from app.commands.files import write_text

    def worker_lives() -> None:
        if worker_process.poll() is not None:
            raise ServiceError("The worker ended.", f"Its log is {client.settings.logs / 'worker.log'}.")

    ended = follow(client, jobs, worker_lives)
    for job in ended:
        if job.state != "succeeded":
            raise AuditorError(f"The audit {job.title} was {job.state}: {job.error}", job.hint)
    for job in ended:
        console.print()
        summary(client, job)
        path = reports / f"{job.title.replace(' ', '-').lower()}.html"
        write_text(path, client.audits.report(job.id))
        console.print(f"report: {path}")


def _start_dashboard(stack: ExitStack, settings: Settings, port: int, host: str = "") -> str:
    from app.server import address, is_up

    chosen = settings.model_copy(update={"host": host or settings.host, "port": port or settings.port})
    if is_up(chosen):
        raise ServiceError(f"Another program already listens on {address(chosen)}.", "Choose another --port.")
    process = stack.enter_context(child(chosen, "dashboard", log="dashboard"))
    limit = time.monotonic() + 60
    while not is_up(chosen):
        if process.poll() is not None or time.monotonic() > limit:
            raise ServiceError("The dashboard did not start.", f"Its log is {settings.logs / 'dashboard.log'}.")
        time.sleep(0.2)
    console.print(f"The dashboard is at {address(chosen)} (Ctrl+C ends it).")
    return address(chosen)


def _wait(worker_process: subprocess.Popen[bytes]) -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the same tidy end as Ctrl+C
    try:
        while worker_process.poll() is None:
            time.sleep(0.5)
    except KeyboardInterrupt:
        console.print("Stopping.")
        return
    raise ServiceError("The worker ended.", "See its log for the reason.")
