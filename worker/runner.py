"""One job in one process: ``python -m worker.runner JOB FENCE``. It dies with its supervisor."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from contextlib import suppress
from functools import partial

from worker.private import private_umask

PR_SET_PDEATHSIG = 1

EXIT_OUTAGE = 75
"""The exit code of a runner that could not say how its attempt ended, since the database did not answer (EX_TEMPFAIL)."""

PATIENCE_SECONDS = 300.0
"""How long a finished job waits for room on the disk, or for the database, before all its work counts as lost."""


def main() -> int:
    """Run the job named on the command line; 0 when its row says how it ended."""
    die_with_parent()
    private_umask()
    from auditor.errors import OutageError

    try:
        return _run(sys.argv[1], int(sys.argv[2]))
    except OutageError as error:
        print(error, file=sys.stderr)
        return EXIT_OUTAGE


def die_with_parent() -> None:
    """Two ways, since each alone has a hole: the kernel's signal, and the end of the pipe that is our standard input."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_watch_stdin, daemon=True).start()


def _watch_stdin() -> None:
    while os.read(0, 1024):
        pass
    os._exit(1)


def _run(job_id: str, fence: int) -> int:
    from auditor.disk import outages_named
    from auditor.errors import AuditorError, OutageError
    from worker.blobs import BlobStore
    from worker.db import connect
    from worker.job import JOBS, Context
    from worker.ledger import Claim, Ledger
    from worker.logs import get_logger, set_up_logging
    from worker.patience import for_seconds, patiently
    from worker.registry import Registry
    from worker.settings import load_settings
    from worker.store import Store
    from worker.watch import Stopped, Watch
    from worker.workspaces import Workspaces

    settings = load_settings()
    set_up_logging(settings)
    log = get_logger("runner", job=job_id, fence=fence)
    database = connect(settings)
    ledger = Ledger(database)
    row = patiently(lambda: ledger.get(job_id), for_seconds(settings.lease_seconds))
    if row is None or row.fence != fence:
        log.warning("the job is not ours")
        return 0
    claim = Claim(row.id, row.kind, fence, row.time_limit, row.grace)
    watch, workspaces = Watch(ledger, claim), Workspaces(settings.workspaces)
    store = Store(settings.blobs, database)
    insist = partial(patiently, enough=for_seconds(max(2 * settings.lease_seconds, PATIENCE_SECONDS)))
    try:
        job = JOBS.build(row.kind, {name: value for name, value in row.spec.items() if name != "kind"})
        blobs = BlobStore(settings.blobs)
        with outages_named(settings.home), blobs.staging() as folder:
            workspace = workspaces.take(job_id, fence)
            made = job.run(Context(Registry(database), blobs, watch.on_progress, folder, workspace, watch))
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
    except Stopped:
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
    return 0


def _said(error: Exception, job_id: str) -> tuple[str, str]:
    """Why the job failed and what to do about it, for its owner."""
    from auditor.errors import AuditorError

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


if __name__ == "__main__":
    raise SystemExit(main())
