"""Rows for tests."""

from __future__ import annotations

from typing import Any

from worker.ledger import Ledger


def new_job(ledger: Ledger, **values: Any) -> str:
    """A queued job that nobody will run."""
    given: dict[str, Any] = {
        "kind": "audit", "title": "a job", "spec": {}, "queue": "cpu", "model_id": None, "dataset_id": None,
        "max_attempts": 3, "time_limit": 60.0,
    }  # fmt: skip
    return ledger.insert(**given | values)
