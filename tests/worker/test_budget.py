"""Reading uploaded files shares one memory budget among all processes; a wait is said, a killed holder gives its share back."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from auditor.kit.errors import OutageError
from tests.worker.test_supervisor import wait_until
from worker.budget import intake_budget, machine_memory, reading_memory, reading_share
from worker.client import Client
from worker.settings import Settings, load_settings

HOLD = """
import sys
from worker.budget import reading_share
from worker.settings import load_settings
with reading_share(load_settings(), lambda said: print(said, flush=True)) as memory:
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def two_places(home: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("AUDITOR_INTAKE_MEMORY", str(1 << 30))
    monkeypatch.setenv("AUDITOR_INTAKE_BUDGET", str((2 << 30) + 5))
    return load_settings()


def holder() -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_third_reading_waits_says_so_and_takes_the_share_of_one_that_is_killed(two_places: Settings) -> None:
    first, second = holder(), holder()
    assert (line(first), line(second)) == ("held", "held")
    third = holder()
    assert line(third) == ("Waiting: 2 other files are being read, and there is memory for 2 at a time (1 GB each).")
    first.send_signal(signal.SIGKILL)
    assert line(third) == "held"
    for process in (first, second, third):
        process.communicate()


def test_never_more_at_once_than_the_budget_holds_and_all_come_to_their_turn(two_places: Settings) -> None:
    now, most, done, lock = [0], [0], [0], threading.Lock()

    def read() -> None:
        with reading_share(two_places):
            with lock:
                now[0] += 1
                most[0] = max(most[0], now[0])
            time.sleep(0.1)
            with lock:
                now[0] -= 1
                done[0] += 1

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (most[0], done[0]) == (2, 8)


def test_by_default_half_of_the_machine_is_shared_and_one_reading_takes_no_more(settings: Settings) -> None:
    assert intake_budget(settings) == machine_memory() // 2
    assert reading_memory(settings) == min(settings.intake_memory, machine_memory() // 2)
    assert 256 << 20 < machine_memory() < 1 << 50


def test_a_wait_without_end_is_refused(two_places: Settings) -> None:
    impatient = two_places.model_copy(update={"intake_seconds": 1, "intake_budget": 1 << 30})
    with reading_share(impatient), pytest.raises(OutageError, match="Try again later"), reading_share(impatient):
        pass
    with reading_share(impatient):
        pass


def test_an_upload_waits_for_another_and_the_user_is_told(
    two_places: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUDITOR_INTAKE_BUDGET", str(1 << 30))
    client = Client(load_settings())
    said: list[str] = []
    client.prepare()
    buffer = BytesIO()
    np.savez(buffer, images=np.zeros((4, 6, 6, 3), np.uint8), labels=np.array([0, 1, 0, 1]))
    process = holder()
    assert line(process) == "held"
    added: list[str] = []

    def add() -> None:
        row = client.library.add_dataset(BytesIO(buffer.getvalue()), "data.npz", name="zeros", on_wait=said.append)
        added.append(row.name)

    thread = threading.Thread(target=add)
    thread.start()
    wait_until(lambda: said)
    assert added == []
    process.communicate()
    thread.join(60)
    assert added == ["zeros"]
    assert said == ["Waiting: 1 other file is being read, and there is memory for 1 at a time (1 GB each)."]
