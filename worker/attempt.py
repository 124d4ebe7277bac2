"""One attempt of a job: run it, keep what it made, and write into its row how it ended."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from auditor.kit.disk import outages_named
from auditor.kit.errors import AuditorError, OutageError
from worker.blobs import BlobStore
from worker.db import connect
from worker.job import JOBS, Context
from worker.ledger import Claim, Ledger
from worker.logs import get_logger, set_up_logging
from worker.owned import run_job
from worker.patience import for_seconds, patiently
from worker.registry import Registry
from worker.settings import load_settings
from worker.store import Store
from worker.watch import JobStopped, Watch
from worker.workspaces import Workspaces

PATIENCE_SECONDS = 300.0
"""How long a finished job waits for room on the disk, or for the database, before all its work counts as lost."""


def attempt(job_id: str, fence: int) -> None:
    """Run a claimed job to its end. Raises OutageError if its row could not be told."""
    settings = load_settings()
    set_up_logging(settings)
    log = get_logger("runner", job=job_id, fence=fence)
    database = connect(settings)
    ledger = Ledger(database)
    row = patiently(lambda: ledger.get(job_id), for_seconds(settings.lease_seconds))
    if row is None or row.fence != fence:
        log.warning("the job is not ours")
        return
    claim = Claim(row.id, row.kind, fence, row.time_limit, row.grace)
    watch, workspaces = Watch(ledger, claim), Workspaces(settings.workspaces)
    store = Store(settings.blobs, database)
    insist = partial(patiently, enough=for_seconds(max(2 * settings.lease_seconds, PATIENCE_SECONDS)))
    try:
        job = JOBS.build(row.kind, {name: value for name, value in row.spec.items() if name != "kind"})
        blobs = BlobStore(settings.blobs)
        with outages_named(settings.home), blobs.staging() as folder:
            workspace = workspaces.take(job_id, fence)
            context = Context(Registry(database), blobs, watch.on_progress, folder, workspace, watch)
            made = run_job(job, context, settings, seconds=claim.time_limit)
            # Blobs first, their rows second: a crash between leaves files that the janitor sweeps, never a row without file.
            files = {file.name: insist(partial(blobs.take, file)) for file in made.files}
            content = insist(lambda: blobs.put(made.content))
            if why := insist(store.trouble):
                raise OutageError(why)  # files that nobody finds are no result
            written = insist(
                lambda: ledger.succeed(
                    claim, content, made.summary, files, child=made.child, defense=made.defense,
                    state=made.state, message=made.error or None, hint=made.hint or None,
                )
            )  # fmt: skip
        log.info(made.state if written else "finished, but the job was no longer ours")
    except JobStopped:
        insist(lambda: ledger.cancelled(claim))
        log.info("stopped")
    except OutageError as error:
        log.warning("an outage ended the attempt", message=error.message, exc_info=error)
        lost = partial(ledger.lost, claim, error.message, error.hint)
        insist(lost)
    except Exception as error:
        if why := insist(store.trouble):  # it cannot see its files: not the job's fault
            log.warning("given back", reason=why, exc_info=error)
            insist(lambda: ledger.lost(claim, why))
        else:
            insist(partial(ledger.fail, claim, *_said(error, job_id)))
            log.info("refused", message=str(error)) if isinstance(error, AuditorError) else log.exception("failed")
    finally:
        with suppress(AuditorError):  # the keeper does it, too
            workspaces.sweep(ledger.ended)


def _said(error: Exception, job_id: str) -> tuple[str, str]:
    """Why the job failed and what to do about it, for its owner."""
    if isinstance(error, AuditorError):
        return error.message, error.hint
    if _out_of_memory(error):
        return "The job needs more memory than there is.", "Set a smaller batch_size, or use fewer samples."
    return (
        "The job stopped on an internal error.",
        f"The log has the details: see Jobs, or `auditor jobs log {job_id[:8]}`.",
    )


def _out_of_memory(error: Exception) -> bool:
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )
