"""The embedded broker: kombu's file transport with messages and bindings that are never torn, lost to a race, or fatal.

What kombu 5.7.0's own does, and this does not: it writes a message in place, so a reader may see half of it; it
lets a message that does not decode end the worker; two workers that bind their mailboxes at once lose one of them; it
orders messages by a clock that restarts at every boot; its files are open to every user of the machine; a mailbox
that nobody reads fills the disk; what one connection bound is believed to be bound in every other folder.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty
from typing import Any

from kombu.exceptions import ChannelError
from kombu.transport import filesystem, virtual
from kombu.utils.json import dumps, loads

from auditor.kit.disk import outage
from auditor.kit.errors import ServiceError
from worker.envelope import decoded
from worker.private import private_folder

MAX_MESSAGE_BYTES = 1 << 20
"""A message carries a job id, or the answer to a ping: a larger one is not ours, and is not read."""
QUARANTINED = 100
"""Unreadable messages that are kept, the newest: enough to see what happened, too few to fill a disk."""
UNREAD_SECONDS = 60.0
"""A mailbox whose oldest message waited longer has no reader now: a broadcast passes it by, so it cannot grow."""
ABANDONED_SECONDS = 86400.0
"""Mailboxes, their messages and temporary files that are older belong to processes that died."""

log = logging.getLogger(__name__)


def broker_settings(folder: Path) -> dict[str, Any]:
    """The Celery settings of a broker that lives in ``folder``, which is created and closed to other users.

    kombu 5.7 takes no class path from a URL any more, so the class is named by ``broker_transport``. Raises
    ServiceError when the folder cannot be used.
    """
    folder = folder.absolute()
    options = {
        "data_folder_in": str(folder / "messages"),
        "data_folder_out": str(folder / "messages"),  # the same: what one writes, another reads
        "control_folder": str(folder / "control"),
        "processed_folder": str(folder / "quarantine"),
        "store_processed": False,
        "polling_interval": 0.2,
    }
    try:
        for path in (folder, folder / "messages", folder / "control", folder / "quarantine"):
            private_folder(path)
    except OSError as error:
        if (fault := outage(error, folder)) is not None:
            raise fault from error
        raise ServiceError(
            f"The folder of the embedded broker, {folder}, cannot be used: {error.strerror}.",
            "A file is in the way: name another data folder in AUDITOR_HOME."
            if isinstance(error, (NotADirectoryError, FileExistsError))
            else "Make the data folder writable for the user that runs the worker and the dashboard.",
        ) from error
    return {
        "broker_url": "safefs://localhost",
        "broker_transport": "worker.broker:SafeFilesystemTransport",
        "broker_transport_options": options,
        "broker_channel_error_retry": True,  # a folder that cannot be read now is tried again, not a reason to exit
    }


class SafeChannel(filesystem.Channel):
    """kombu's channel with whole messages, whole binding tables, and no message that ends its reader."""

    def _put(self, queue: str, payload: dict[str, Any], **kwargs: Any) -> None:  # type: ignore[override]
        """Write beside, then rename: a message is in the folder whole or not at all."""
        if not queue or "/" in queue or "\0" in queue:
            raise ChannelError(f"Expected a queue's name without a slash, got {queue!r}.")
        content = dumps(payload).encode()
        if len(content) > MAX_MESSAGE_BYTES:
            raise ChannelError(f"Expected a message of at most {MAX_MESSAGE_BYTES} bytes, got {len(content)}.")
        # Nineteen digits until the year 2286, so the order of the names is the order of the messages.
        _write(Path(self.data_folder_out) / f"{time.time_ns():019d}_{uuid.uuid4()}.{queue}.msg", content)

    def _get(self, queue: str, timeout: float | None = None) -> dict[str, Any]:
        """Take the oldest message of ``queue``. The reader whose ``unlink`` succeeds owns it: one, always."""
        for path in self._waiting(queue):
            try:
                payload = _read(path)
                if payload is not None:
                    path.unlink()
                    return payload
                # Two readers may judge the same file; the rename, too, succeeds for one only.
                path.replace(Path(self.processed_folder) / path.name)
            except OSError:
                continue  # another reader was faster, or it cannot be opened now
            log.error("An unreadable message in queue %s was put aside, in %s.", queue, self.processed_folder)
        raise Empty

    def _waiting(self, queue: str) -> list[Path]:
        """The messages of ``queue``, the oldest first."""
        return [self._folder / name for name in sorted(self._names()) if name.partition(".")[2] == f"{queue}.msg"]

    def _names(self) -> list[str]:
        try:
            return os.listdir(self._folder)  # noqa: PTH208  # five times a second: names are all it needs
        except OSError as error:
            # The kind of error after which Celery connects anew; any other would end the worker.
            raise ChannelError(f"Cannot read the broker's folder {self._folder}: {error.strerror}.") from error

    @property
    def _folder(self) -> Path:
        return Path(self.data_folder_in)

    def _size(self, queue: str) -> int:
        return len(self._waiting(queue))

    def _put_fanout(self, exchange: str, payload: dict[str, Any], routing_key: str, **kwargs: Any) -> None:
        for binding in self.get_table(exchange):
            waited = max((_age(path.name) for path in self._waiting(binding.queue)), default=0.0)
            if waited > ABANDONED_SECONDS:
                self._delete(binding.queue, exchange, binding.routing_key, binding.pattern)
            elif waited < UNREAD_SECONDS:
                self._put(binding.queue, payload)

    def get_table(self, exchange: str) -> list[filesystem.exchange_queue_t]:
        """The bindings of ``exchange``. They are replaced as a whole, so a reader needs no lock."""
        try:
            content = self._exchange_file(exchange).read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ChannelError(f"Cannot read the bindings of {exchange!r}: {error.strerror}.") from error
        try:
            return [filesystem.exchange_queue_t(*entry) for entry in loads(content)]
        except Exception:  # damaged from outside: bound again by the next worker that starts
            log.error("The bindings of %r are unreadable and count as empty.", exchange)
            return []

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        new = filesystem.exchange_queue_t(routing_key or "", pattern or "", queue or "")
        self._rebind(exchange, lambda table: table if new in table else [new, *table])

    def _delete(self, queue: str, exchange: str, routing_key: str, pattern: str, *args: Any, **kwargs: Any) -> None:
        self._purge(queue)
        old = filesystem.exchange_queue_t(routing_key or "", pattern or "", queue or "")
        self._rebind(exchange, lambda table: [entry for entry in table if entry != old])

    def _rebind(self, exchange: str, change: Callable[[list[Any]], list[Any]]) -> None:
        with _locked(self.control_folder / ".lock"):
            before = self.get_table(exchange)
            after = change(before)
            if after != before:
                _write(self._exchange_file(exchange), dumps(after).encode())


class SafeFilesystemTransport(filesystem.Transport):
    """kombu's file transport, on SafeChannel."""

    Channel = SafeChannel

    def __init__(self, client: Any, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        # kombu keeps one state for the process: a second folder, or one that was wiped, would never be bound.
        self.state = virtual.BrokerState()

    def establish_connection(self) -> Any:
        """Create what is missing, so a worker survives the loss of the folder, and clear away what died."""
        options = self.client.transport_options  # type: ignore[union-attr]  # kombu declares client = None
        try:
            folders = [Path(options[key]) for key in ("data_folder_in", "control_folder", "processed_folder")]
            for folder in folders:
                private_folder(folder)
            remove_leftovers(*folders)
        except OSError as error:
            raise ChannelError(f"Cannot use the broker's folder: {error}.") from error
        return super().establish_connection()


def remove_leftovers(messages: Path, control: Path, quarantine: Path) -> None:
    """Remove what no process will: temporary files and unread answers of the dead, and old quarantined messages.

    Messages of tasks stay, whatever their age: a queue may wait for a worker for weeks.
    """
    for path in (*messages.iterdir(), *control.iterdir()):
        dead = path.name.endswith(".tmp") or (".reply." in path.name and path.name.endswith(".pidbox.msg"))
        with suppress(OSError):  # another process sweeps, too
            if dead and time.time() - path.lstat().st_mtime > ABANDONED_SECONDS:
                path.unlink()
    for path in sorted(quarantine.iterdir())[:-QUARANTINED]:
        with suppress(OSError):
            path.unlink()


def _write(path: Path, content: bytes) -> None:
    """Put ``content`` at ``path`` whole: a hidden file in the same folder, mode 0600, synced, then renamed."""
    temporary = path.with_name(f".{uuid.uuid4()}.tmp")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise ChannelError(f"Cannot write {path}: {error.strerror}.") from error


def _read(path: Path) -> dict[str, Any] | None:
    """The message at ``path``; None if it is not a message, too large or not a file (a pipe would block its reader for
    ever)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EACCES):  # a link, a socket, a file of another user
            return None
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_MESSAGE_BYTES:
            return None
        content = os.read(descriptor, MAX_MESSAGE_BYTES)
    finally:
        os.close(descriptor)
    try:
        return decoded(content)
    except Exception:  # whatever a broken file makes a parser raise: it must not end the worker
        return None


def _age(name: str) -> float:
    """Seconds since the message called ``name`` was written; 0 for a name that is not ours."""
    digits = name.partition("_")[0]
    return time.time() - int(digits) / 1e9 if digits.isdecimal() else 0.0


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise ChannelError(f"Cannot lock {path}: {error.strerror}.") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
