"""The queues: for jobs on any processor, for jobs that ask for a GPU, and for short jobs, which wait behind neither."""

from __future__ import annotations

from typing import Literal

CPU, GPU, SHORT = "cpu", "gpu", "short"

QUEUES = (CPU, GPU, SHORT)

Lane = Literal["all", "long", "short"]
"""Which jobs a worker takes. With "all", a second process takes the short ones."""

NOBODY = {
    CPU: "No worker for long jobs is running. Start one with `auditor worker`.",
    GPU: "No worker with a GPU is running, and the job asks for one.",
    SHORT: "No worker for short jobs is running. Start one with `auditor worker`.",
}
"""Why a job of this queue waits while workers run, of which none serves it."""
