"""What killed processes leave: folders, rows of workers; and the processes that tests start end with the tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from sqlalchemy import select, update

from tests.worker.test_supervisor import wait_until
from worker.client import Client
from worker.db import connect, upgrade
from worker.keeper import WORKER_FORGOTTEN_SECONDS
from worker.ledger import Ledger
from worker.models import WorkerRow
from worker.settings import Settings

READ = """
import sys, time
from io import BytesIO
import numpy as np
from worker.client import Client
client = Client()
client.prepare()
buffer = BytesIO()
np.savez(buffer, images=np.zeros((20000, 32, 32, 3), np.uint8), labels=np.arange(20000) % 2)
print("go", flush=True)
client.library.add_dataset(BytesIO(buffer.getvalue()), "data.npz", name="zeros")
"""


def test_a_killed_upload_leaves_nothing_once_another_process_keeps_house(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    process = subprocess.Popen([sys.executable, "-c", READ])
    staging = settings.blobs / "staging"
    wait_until(lambda: any(temporary.glob("auditor-home-*")))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(list(temporary.glob("auditor-*"))) == 1
    assert len(list(staging.iterdir())) == 1
    client = Client(settings)
    keeper = client.keeper()
    keeper.keep()
    keeper.sweep()
    assert list(temporary.glob("auditor-*")) == []
    assert list(staging.iterdir()) == []


def test_rows_of_workers_that_are_gone_are_removed_and_one_that_wakes_is_back(settings: Settings) -> None:
    upgrade(settings)
    ledger = Ledger(connect(settings))
    client = Client(settings)
    sleeper, watcher = client.keeper(), client.keeper()
    sleeper.register("sleeper", ["cpu"], [])
    watcher.register("watcher", ["cpu"], [])
    with ledger.database.write() as session:
        long_ago = ledger.database.now() - WORKER_FORGOTTEN_SECONDS - 1
        session.execute(update(WorkerRow).where(WorkerRow.id == "sleeper").values(seen=long_ago))
    watcher.keep()

    def rows() -> set[str]:
        with ledger.database.read() as session:
            return set(session.scalars(select(WorkerRow.id)))

    assert rows() == {"watcher"}
    sleeper.keep()
    assert rows() == {"watcher", "sleeper"}
    sleeper.unregister()
    watcher.unregister()
    assert rows() == set()


TEST = """
import os
from tests.worker.test_queue import worker
from tests.worker.world import make_world
from worker.settings import load_settings

def test_that_never_ends(home):
    import time
    with worker(make_world(load_settings())) as process:
        print(f"<{process.pid}>", flush=True)
        time.sleep(600)
"""


def test_the_workers_of_a_test_end_when_pytest_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "test_endless.py"
    file.write_text(TEST)
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    pytest_ = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-s", "-q", "-p", "no:cacheprovider", "-p", "tests.conftest", "-c", os.devnull,
         "--basetemp", str(tmp_path / "base"), str(file)],
        env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True, cwd=root,
    )  # fmt: skip
    assert pytest_.stdout is not None
    pid = 0
    for text in pytest_.stdout:
        if text.strip().startswith("<") or "<" in text:
            pid = int(text.split("<")[1].split(">")[0])
            break
    assert pid
    os.kill(pytest_.pid, signal.SIGKILL)
    pytest_.wait()
    pytest_.stdout.close()
    home = f"AUDITOR_HOME={tmp_path}".encode()
    limit = time.monotonic() + 15
    while left := _of(home):
        assert time.monotonic() < limit, f"still there: {left}"
        time.sleep(0.1)


def _of(home: bytes) -> list[str]:
    """Command lines of the processes whose home lies in the test's folder."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if home in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found
