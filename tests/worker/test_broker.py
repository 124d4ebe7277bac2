"""The embedded broker: whole messages, each delivered once, and none that ends the worker."""

from __future__ import annotations

import base64
import copy
import json
import os
import stat
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
from celery import Celery, chain
from kombu import Connection, Exchange, Queue
from kombu.exceptions import ChannelError

from auditor.kit.errors import ServiceError
from tests.worker.broker_programs import END, QUEUE, connection, envelope, make_app
from worker import broker as module
from worker.broker import (
    ABANDONED_SECONDS,
    MAX_MESSAGE_BYTES,
    QUARANTINED,
    UNREAD_SECONDS,
    broker_settings,
    remove_leftovers,
)

PROGRAM = [sys.executable, "-m", "tests.worker.broker_programs"]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    broker_settings(tmp_path / "broker")
    return tmp_path / "broker"


@pytest.fixture
def channel(folder: Path) -> Iterator[Any]:
    with connection(folder) as broker:
        yield broker.default_channel


def messages(folder: Path, queue: str = QUEUE) -> list[Path]:
    return sorted((folder / "messages").glob(f"*.{queue}.msg"))


def quarantined(folder: Path) -> list[Path]:
    return sorted((folder / "quarantine").iterdir())


def publish(channel: Any, *numbers: Any) -> None:
    for number in numbers:
        channel.basic_publish(envelope(number), exchange="", routing_key=QUEUE)


def received(channel: Any) -> list[str]:
    numbers = []
    while (message := channel.basic_get(QUEUE, no_ack=True)) is not None:
        numbers.append(message.payload["number"])
    return numbers


def drop(folder: Path, content: bytes, queue: str = QUEUE) -> Path:
    """Put bytes into the folder as a message of ``queue``."""
    path = folder / "messages" / f"{time.time_ns():019d}_{uuid.uuid4()}.{queue}.msg"
    path.with_suffix(".new").write_bytes(content)
    return path.with_suffix(".new").rename(path)


def test_two_writers_and_two_readers_deliver_each_message_once_and_whole(folder: Path) -> None:
    count = 300
    readers = [subprocess.Popen([*PROGRAM, "read", folder], stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in "ab"]
    writers = [subprocess.Popen([*PROGRAM, "write", folder, name, str(count)], cwd=ROOT) for name in "ab"]
    try:
        assert [writer.wait(30) for writer in writers] == [0, 0]
        with connection(folder) as broker:
            publish(broker.default_channel, END, END)  # the last in order: a reader stops at its first
        lines = [line for reader in readers for line in reader.communicate(timeout=30)[0].split()]
        assert [reader.returncode for reader in readers] == [0, 0]
    finally:
        for reader in readers:
            reader.kill()
            reader.wait()
        for writer in writers:
            writer.kill()
            writer.wait()
    expected = {f"{name}-{number}": 1 for name in "ab" for number in range(count)}
    assert Counter(lines) == Counter({**expected, END: 2})
    assert quarantined(folder) == []
    assert list((folder / "messages").iterdir()) == []


def test_messages_come_in_the_order_of_time(channel: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(channel, 1, 2, 3)
    # After a reboot kombu's own clock starts anew; the wall clock does not, whatever `monotonic` says.
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    publish(channel, 4)
    assert received(channel) == ["1", "2", "3", "4"]
    publish(channel, 5)
    stamp = int(messages(folder)[0].name.partition("_")[0]) / 1e9
    assert abs(stamp - time.time()) < 60


def test_a_queue_sees_only_its_own_messages(channel: Any) -> None:
    publish(channel, 1)
    channel.basic_publish(envelope(2), exchange="", routing_key="gpu")
    assert [channel.queue_declare(name).message_count for name in (QUEUE, "gpu", "pu")] == [1, 1, 0]
    assert channel.queue_purge("gpu") == 1
    assert received(channel) == ["1"]


def _good() -> dict[str, Any]:
    """What Celery 5.7 sends for a task."""
    headers = {"lang": "py", "task": "leave_a_mark", "id": "1", "timelimit": [None, None], "eta": None, "retries": 0}
    properties = {
        "delivery_tag": "1",
        "body_encoding": "base64",
        "delivery_info": {"exchange": "", "routing_key": QUEUE},
    }
    return {
        "body": _body([["x"], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": headers,
        "properties": properties,
    }


def _body(value: Any) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


def _changed(*path: str, to: Any) -> bytes:
    message = copy.deepcopy(_good())
    place = message
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = to
    return json.dumps(message).encode()


WHOLE = json.dumps(_good()).encode()
GARBAGE = {
    "empty": b"",
    "torn": WHOLE[: len(WHOLE) // 2],
    "not JSON": b"hello",
    "binary": bytes(range(256)) * 40,
    "JSON, but no message": b"[1, 2]",
    "JSON null": b"null",
    "deeply nested": b"[" * 200_000,
    "NUL bytes": b"\0" * 4096,
    "10 MB": b"x" * 10_000_000,
    "10 MB, well formed": _changed("body", to=_body(["x" * 7_000_000])),
    "no properties": json.dumps({"body": ""}).encode(),
    "no headers": json.dumps({key: value for key, value in _good().items() if key != "headers"}).encode(),
    "pickle": _changed("content-type", to="application/x-python-serialize"),
    "body is not base64": _changed("body", to="é"),
    "body is not JSON": _changed("body", to=base64.b64encode(b"{").decode()),
    "body is a number": _changed("body", to=_body(1)),
    "compressed": _changed("headers", "compression", to="gzip"),
    "a task without a name": _changed("headers", "task", to=None),
    "a list as an id": _changed("headers", "id", to=[1]),
    "time limits that are no pair": _changed("headers", "timelimit", to=1),
    "a name that stalls Celery's pool": _changed("headers", "shadow", to=[1]),
    "a time that ends Celery's loop": _changed("headers", "eta", to=""),
    "a tag that is no text": _changed("properties", "delivery_tag", to=[1]),
    "no route back": _changed("properties", "delivery_info", to={}),
    "an unknown JSON type": _changed("body", to=_body([[{"__type__": "x", "__value__": 1}], {}, None])),
}


def test_the_good_message_is_good(channel: Any, folder: Path) -> None:
    """Else the test below would pass for the wrong reason."""
    drop(folder, WHOLE)
    assert channel.basic_get(QUEUE).headers["task"] == "leave_a_mark"


def test_whatever_celery_sends_is_good(folder: Path) -> None:
    """The checks of a message are strict, and must not refuse what an honest producer may ask for."""
    app = make_app(folder)
    mark = app.tasks["leave_a_mark"]
    wishes: list[dict[str, Any]] = [
        {},
        {"countdown": 5, "expires": 10},
        {"expires": datetime.now(UTC) + timedelta(hours=1), "eta": datetime.now(UTC)},
        {"time_limit": 10, "soft_time_limit": 5.5, "retries": 2, "shadow": "other", "priority": 3},
        {"link": mark.si("after"), "link_error": [mark.si("error")], "headers": {"own": {"header": [1]}}},
        {"ignore_result": True, "group_id": "1", "group_index": 2, "root_id": "3", "parent_id": "4"},
        {"stamped_headers": ["own"], "own": ["stamp"]},
        {"args": [], "kwargs": {"path": [datetime.now(UTC), b"\xff", "é"]}},
    ]
    for wish in wishes:
        mark.apply_async(**({"args": ["path"]} | wish))
    app.send_task("leave_a_mark", args=["path"])
    chain(mark.si("one"), mark.si("two")).apply_async()
    with connection(folder) as broker:
        for _ in range(len(wishes) + 2):
            assert broker.default_channel.basic_get(QUEUE, no_ack=True).headers["task"] == "leave_a_mark"
    assert quarantined(folder) == []


@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_is_put_aside_and_the_reader_goes_on(channel: Any, folder: Path, content: bytes) -> None:
    publish(channel, 1)
    path = drop(folder, content)
    publish(channel, 2)
    assert received(channel) == ["1", "2"]
    assert [kept.name for kept in quarantined(folder)] == [path.name]
    assert quarantined(folder)[0].read_bytes() == content


def _folder(path: Path) -> None:
    (path / "inside").mkdir(parents=True)


SPECIAL: dict[str, Callable[[Path], object]] = {
    "a pipe": lambda path: os.mkfifo(path),
    "a folder": _folder,
    "a link": lambda path: path.symlink_to("/etc/passwd"),
    "a broken link": lambda path: path.symlink_to("/nowhere"),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("make", SPECIAL.values(), ids=SPECIAL.keys())
def test_what_is_no_file_is_put_aside(channel: Any, folder: Path, make: Callable[[Path], object]) -> None:
    make(folder / "messages" / f"{time.time_ns():019d}_x.{QUEUE}.msg")
    publish(channel, 1)
    assert received(channel) == ["1"]
    assert len(quarantined(folder)) == 1


def test_a_message_that_is_being_written_is_never_read(
    channel: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []

    def sync(descriptor: int) -> None:  # called when all is written and nothing is renamed
        seen.extend((folder / "messages").iterdir())
        with pytest.raises(Empty):
            channel._get(QUEUE)

    monkeypatch.setattr(os, "fsync", sync)
    publish(channel, 1)
    assert [path.name.startswith(".") for path in seen] == [True]
    assert stat.S_IMODE(messages(folder)[0].stat().st_mode) == 0o600
    assert received(channel) == ["1"]


def test_a_writer_that_dies_leaves_nothing_to_read(folder: Path, channel: Any) -> None:
    program = (
        "import os, sys; os.fsync = lambda _: os.kill(os.getpid(), 9); from tests.worker.broker_programs import *\n"
    )
    program += "write(Path(sys.argv[1]), 'a', 1)"
    died = subprocess.run([sys.executable, "-c", program, folder], cwd=ROOT)
    assert died.returncode == -9
    assert [path.name[0] for path in (folder / "messages").iterdir()] == ["."]
    assert received(channel) == []
    _grow_old(folder, ABANDONED_SECONDS + 1)
    remove_leftovers(folder / "messages", folder / "control", folder / "quarantine")
    assert list((folder / "messages").iterdir()) == []


def test_a_full_disk_is_an_error_and_leaves_nothing(
    channel: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ChannelError, match="No space left on device"):
        publish(channel, 1)
    assert list((folder / "messages").iterdir()) == []


def test_what_would_not_be_read_is_not_written(channel: Any, folder: Path) -> None:
    with pytest.raises(ChannelError, match=f"at most {MAX_MESSAGE_BYTES} bytes"):
        publish(channel, "x" * MAX_MESSAGE_BYTES)
    for name in ("../outside", "", "a\0b"):
        with pytest.raises(ChannelError, match="queue's name"):
            channel.basic_publish(envelope(1), exchange="", routing_key=name)
    assert list((folder / "messages").iterdir()) == []


def test_nothing_is_open_to_other_users(folder: Path, channel: Any) -> None:
    folder.chmod(0o755)
    broker_settings(folder)
    publish(channel, 1)
    channel.exchange_declare("all", "fanout")
    channel.queue_bind("mailbox", "all")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*")) if path.is_dir()}
    assert modes == {0o700}
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert len(files) == 3  # a message, a table of bindings, and its lock


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ServiceError, match=r"embedded broker, .*file/broker, cannot be used: Not a directory\. A file"):
        broker_settings(tmp_path / "file" / "broker")
    with pytest.raises(ServiceError, match=r"File exists\. A file is in the way: name another data folder"):
        broker_settings(tmp_path / "file")
    assert broker_settings(tmp_path / "another")["broker_url"]


def test_a_folder_that_vanished_is_an_error_that_celery_retries_and_comes_back(folder: Path) -> None:
    with connection(folder) as broker:
        broker.connect()
        (folder / "messages").rmdir()
        with pytest.raises(ChannelError, match="Cannot read the broker's folder"):
            broker.default_channel.basic_get(QUEUE)
    assert broker_settings(folder)["broker_channel_error_retry"] is True
    with connection(folder) as broker:
        publish(broker.default_channel, 1)
        assert received(broker.default_channel) == ["1"]


def test_all_mailboxes_that_are_bound_at_once_are_bound(folder: Path) -> None:
    """kombu's own loses bindings here: it creates the table without a lock, and a reader may see it empty."""
    rounds, at_once = 10, 8
    for number in range(rounds):
        barrier = threading.Barrier(at_once)

        def bind(name: str, exchange: str, barrier: threading.Barrier) -> None:
            with connection(folder) as broker:
                channel = broker.default_channel
                channel.exchange_declare(exchange, "fanout")
                barrier.wait()
                channel.queue_bind(name, exchange)
                channel.get_table(exchange)

        exchange = f"all{number}"
        threads = [threading.Thread(target=bind, args=(f"box{i}", exchange, barrier)) for i in range(at_once)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with connection(folder) as broker:
            table = broker.default_channel.get_table(exchange)
        assert sorted(entry.queue for entry in table) == [f"box{i}" for i in range(at_once)]


def test_a_damaged_table_counts_as_empty_and_is_bound_again(folder: Path) -> None:
    (folder / "control" / "all.exchange").write_text('[["", "", "bo')
    with connection(folder) as broker:
        channel = broker.default_channel
        channel.exchange_declare("all", "fanout")
        assert channel.get_table("all") == []
        channel.queue_bind("box", "all")
        assert [entry.queue for entry in channel.get_table("all")] == ["box"]


def test_two_brokers_in_one_process_know_nothing_of_each_other(tmp_path: Path) -> None:
    """kombu's own shares what is bound among all connections of a process: the second folder would stay unbound."""
    for name in ("one", "two"):
        with connection(tmp_path / name) as broker:
            Queue("box", Exchange("all", "fanout"))(broker.default_channel).declare()
            assert [entry.queue for entry in broker.default_channel.get_table("all")] == ["box"]


def _grow_old(folder: Path, seconds: float) -> None:
    for path in (folder / "messages").iterdir():
        stamp, _, rest = path.name.partition("_")
        old = path.with_name(f"{int(stamp) - int(seconds * 1e9):019d}_{rest}") if rest else path
        path.rename(old)
        os.utime(old, (time.time() - seconds,) * 2)


def test_a_mailbox_that_nobody_reads_does_not_grow(folder: Path, channel: Any) -> None:
    channel.exchange_declare("all", "fanout")
    for name in ("dead.pidbox", "alive.pidbox"):
        channel.queue_bind(name, "all")

    def broadcast() -> dict[str, int]:
        channel.basic_publish(envelope("ping"), exchange="all", routing_key="")
        channel._get("alive.pidbox")
        return {name: channel._size(name) for name in ("dead.pidbox", "alive.pidbox")}

    assert broadcast() == {"dead.pidbox": 1, "alive.pidbox": 0}
    assert broadcast() == {"dead.pidbox": 2, "alive.pidbox": 0}
    _grow_old(folder, UNREAD_SECONDS + 1)
    assert broadcast() == {"dead.pidbox": 2, "alive.pidbox": 0}
    channel.queue_purge("dead.pidbox")  # it was only asleep, and reads on
    assert broadcast() == {"dead.pidbox": 1, "alive.pidbox": 0}
    _grow_old(folder, ABANDONED_SECONDS + 1)
    assert broadcast() == {"dead.pidbox": 0, "alive.pidbox": 0}
    assert [entry.queue for entry in channel.get_table("all")] == ["alive.pidbox"]


def test_the_sweep_keeps_tasks_and_the_newest_of_the_quarantine(folder: Path, channel: Any) -> None:
    publish(channel, 1)
    for name in ("1234.reply.celery.pidbox", "worker@host.celery.pidbox"):
        channel.basic_publish(envelope(2), exchange="", routing_key=name)
    _grow_old(folder, ABANDONED_SECONDS + 1)
    for number in range(QUARANTINED + 5):
        (folder / "quarantine" / f"{number:019d}_x.{QUEUE}.msg").write_text("")
    with connection(folder) as broker:
        broker.connect()
    assert len(messages(folder)) == 1
    # A worker's mailbox stays: its age tells the next broadcast that nobody reads it.
    assert len(list((folder / "messages").iterdir())) == 2
    kept = [int(path.name.partition("_")[0]) for path in quarantined(folder)]
    assert kept == list(range(5, QUARANTINED + 5))


class Worker:
    """A real Celery worker on the broker in ``folder``."""

    def __init__(self, folder: Path, pool: str, name: str = "one") -> None:
        options = ["-P", pool, "-c", "2", "-n", f"{name}@test", "-l", "warning", "--without-gossip", "--without-mingle"]
        self.log = folder.parent / f"{name}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "tests.worker.broker_programs:app", "worker", *options],
                env={**os.environ, "BROKER_TEST_FOLDER": str(folder)},
                cwd=ROOT,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self) -> int:
        self.process.terminate()
        try:
            return self.process.wait(15)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, 9)
                self.process.wait()


def eventually(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return value


def pings(app: Celery, expected: int) -> list[str]:
    """The workers that answer; asked again while they start."""
    answers: list[dict[str, Any]] = []

    def ask() -> bool:
        answers[:] = app.control.ping(timeout=1.0, limit=expected)
        return len(answers) == expected

    eventually(ask)
    return sorted(name for answer in answers for name in answer)


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_a_real_worker_runs_tasks_answers_and_survives_garbage(tmp_path: Path, pool: str) -> None:
    folder = tmp_path / "broker"
    app = make_app(folder)
    worker = Worker(folder, pool)
    try:
        assert pings(app, 1) == ["one@test"]
        for content in (*GARBAGE.values(), _changed("headers", "task", to="unknown.task")):
            drop(folder, content)
            drop(folder, content, "one@test.celery.pidbox")
        for number in range(20):
            app.send_task("leave_a_mark", args=[str(tmp_path / f"mark{number}")])
        marks = [tmp_path / f"mark{number}" for number in range(20)]
        assert eventually(lambda: all(mark.exists() for mark in marks)), worker.log.read_text()[-3000:]
        assert worker.process.poll() is None
        assert pings(app, 1) == ["one@test"]
        assert "leave_a_mark" in app.control.inspect(timeout=5.0, limit=1).registered()["one@test"]
        assert [mark.read_text() for mark in marks] == ["done\n"] * 20
        assert worker.stop() == 0
        assert messages(folder) == []  # all acknowledged: nothing was put back
    finally:
        worker.stop()


def test_two_workers_share_the_tasks_and_a_dead_one_does_no_harm(tmp_path: Path) -> None:
    folder = tmp_path / "broker"
    app = make_app(folder)
    workers = [Worker(folder, "threads", name) for name in ("one", "two")]
    marks = [tmp_path / f"mark{number}" for number in range(40)]
    try:
        assert pings(app, 2) == ["one@test", "two@test"]
        for mark in marks[:20]:
            app.send_task("leave_a_mark", args=[str(mark)])
        assert eventually(lambda: all(mark.exists() for mark in marks[:20]))
        os.killpg(workers[1].process.pid, 9)
        workers[1].process.wait()
        for mark in marks[20:]:
            app.send_task("leave_a_mark", args=[str(mark)])
        assert eventually(lambda: all(mark.exists() for mark in marks))
        assert pings(app, 1) == ["one@test"]
        assert [mark.read_text() for mark in marks] == ["done\n"] * 40
    finally:
        for worker in workers:
            worker.stop()


def test_the_settings_name_a_transport_that_kombu_takes(folder: Path) -> None:
    settings = broker_settings(folder)
    broker = Connection(settings["broker_url"], transport=settings["broker_transport"])
    assert broker.get_transport_cls() is module.SafeFilesystemTransport
    assert settings["broker_transport_options"]["polling_interval"] == 0.2
