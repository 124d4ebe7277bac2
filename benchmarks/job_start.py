"""From the claim of a job to the end of the first pass of its network: its process forked from the job server, or spawned.

    python -m benchmarks.job_start --write docs/benchmarks-job-start.md

Both ways take turns in the same run, on the sample's network and data. The clock of the claim is the database's; the pass is seen
by a hook in the job's process, which a module put beside the kinds of jobs sets, and which goes when it has fired.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from app.sample import DATASET, MODELS, TRAINING, seed
from auditor.auditing.spec import AuditSpec
from auditor.hardening.spec import TrainingSpec
from auditor.kit.provenance import versions
from worker.client import Client
from worker.launch import launcher
from worker.settings import load_settings
from worker.supervisor import supervise

TARGET = 0.5
"""Seconds, forked."""

LATER_SECONDS = 5.0
"""By then the server has imported what it imports when nothing is asked of it."""

STOPWATCH = """
import os, time
from pathlib import Path
from torch.nn.modules import module

def passed(network, images, logits):
    if type(network).__name__ == "Classifier" or (network.training and not hasattr(network, "in_channels")):
        handle.remove()
        file = Path(os.environ["AUDITOR_HOME"], "first-pass")
        file.with_suffix(".new").write_text(repr(time.time()))
        file.with_suffix(".new").replace(file)

handle = module.register_module_forward_hook(passed)
"""
CUSTOMIZE = "import worker.jobs; worker.jobs.__path__.append({folder!r})\n"


class Times(NamedTuple):
    """Seconds of every run, in the order in which they were made."""

    title: str
    forked: list[float]
    spawned: list[float]

    def row(self) -> str:
        forked, spawned = statistics.median(self.forked), statistics.median(self.spawned)
        ranges = [f"{min(some):.2f} to {max(some):.2f}" for some in (self.spawned, self.forked)]
        return f"| {self.title} | {spawned:.2f} ({ranges[0]}) | {forked:.2f} ({ranges[1]}) | {spawned / forked:.1f} |"


def kinds(client: Client) -> dict[str, Callable[[], str]]:
    """What is queued, by what the table calls it."""
    model = MODELS["plain"]
    training = TrainingSpec.load({"hardening": {"kind": "pat"}})
    return {
        "Vetting": lambda: client.audits.vet(model, DATASET),
        "Audit": lambda: client.audits.queue(
            model, DATASET, AuditSpec.load({"samples": 200, "threats": [{"epsilon": 0.1}]})
        ),
        "Training (PAT)": lambda: client.trainings.queue(model, TRAINING, training),
    }


def first_pass(client: Client, queue: Callable[[], str], *, fork: bool) -> float:
    """Seconds from the claim to the end of the first pass; the job is stopped then."""
    settings, stopping = client.settings.model_copy(update={"fork": fork}), threading.Event()
    file, job = settings.home / "first-pass", queue()
    file.unlink(missing_ok=True)
    thread = threading.Thread(target=supervise, args=(job, "benchmark", settings, client.ledger, stopping))
    thread.start()
    while not file.exists():
        if not thread.is_alive():
            raise RuntimeError(f"The job ended before its first pass: {client.jobs.get(job).error}")
        time.sleep(0.01)
    row = client.ledger.get(job)
    assert row is not None
    assert row.started is not None
    seconds = float(file.read_text()) - row.started
    stopping.set()
    thread.join()
    client.jobs.cancel(job)
    return seconds


def measure(client: Client, repeats: int) -> list[Times]:
    """Of each kind, the two ways in turn."""
    launcher().ready(client.settings, threading.Event())
    time.sleep(LATER_SECONDS)
    found = []
    for title, queue in kinds(client).items():
        times = Times(title, [], [])
        for _ in range(repeats):
            times.spawned.append(first_pass(client, queue, fork=False))
            times.forked.append(first_pass(client, queue, fork=True))
        print(times.row(), flush=True)
        found.append(times)
    return found


def page(found: list[Times], repeats: int, load: float) -> str:
    machine = (
        f"{platform.machine()}, {os.cpu_count()} cores, OMP_NUM_THREADS {os.environ.get('OMP_NUM_THREADS', 'not set')}"
    )
    return "\n".join(
        [
            "# Benchmark of the start of a job",
            "",
            f"Machine: {machine}, torch {versions()['torch']}. Seconds from the claim of a job to the end of the first pass of "
            f"its network: median (smallest to largest) of {repeats} runs, the two ways in turn, on the sample's network and "
            f"data. Target: {TARGET:g} s, forked.",
            "",
            "| job | spawned | forked from the job server | ratio |",
            "|---|---|---|---|",
            *(times.row() for times in found),
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--write", type=Path, help="Markdown file to write")
    arguments, load = parser.parse_args(), os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        jobs = Path(folder, "jobs")
        jobs.mkdir()
        (jobs / "stopwatch.py").write_text(STOPWATCH)
        Path(folder, "sitecustomize.py").write_text(CUSTOMIZE.format(folder=str(jobs)))
        os.environ |= {"AUDITOR_HOME": str(Path(folder, "home")), "PYTHONPATH": folder}
        client = Client(load_settings())
        client.prepare()
        seed(client)
        found = measure(client, arguments.repeats)
        launcher().close()
    text = page(found, arguments.repeats, load)
    print(text)
    if arguments.write is not None:
        arguments.write.write_text(text)


if __name__ == "__main__":
    main()
