"""Uploads on their way to the disk."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest

from auditor.data.intake.upload import replacing, sha256_of, take_upload
from auditor.kit.errors import IntakeError
from tests.narrow import known


class Stream(io.BytesIO):
    """Bytes that come in small pieces, as from a socket, and may break off."""

    def __init__(self, content: bytes, breaks_at: int = 1 << 40) -> None:
        super().__init__(content)
        self.breaks_at = breaks_at
        self.largest = 0

    def read(self, size: int | None = -1) -> bytes:
        wanted = known(size)
        self.largest = max(self.largest, wanted)
        if self.tell() >= self.breaks_at:
            raise ConnectionResetError("gone")
        return super().read(min(wanted, 1000))


def test_an_upload(tmp_path: Path) -> None:
    content = bytes(range(256)) * 100
    stream = Stream(content)
    upload = take_upload(stream, tmp_path, limit=len(content))
    assert upload.path.parent == tmp_path
    assert upload.path.read_bytes() == content
    assert (upload.size, upload.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert sha256_of(upload.path) == upload.sha256
    assert 0 < stream.largest <= 1 << 20
    assert take_upload(Stream(content), tmp_path, limit=len(content)).path != upload.path


def test_nothing_is_an_upload_too(tmp_path: Path) -> None:
    assert take_upload(io.BytesIO(b""), tmp_path, limit=10).size == 0


def test_the_limit(tmp_path: Path) -> None:
    with pytest.raises(IntakeError, match="more than 100 bytes, which is the limit"):
        take_upload(Stream(bytes(101)), tmp_path, limit=100)
    assert list(tmp_path.iterdir()) == []


def test_an_endless_stream_is_cut(tmp_path: Path) -> None:
    class Endless(io.BytesIO):
        given = 0

        def read(self, size: int | None = -1) -> bytes:
            self.given += known(size)
            return bytes(known(size))

    stream = Endless()
    with pytest.raises(IntakeError):
        take_upload(stream, tmp_path, limit=5 << 20)
    assert stream.given <= 7 << 20
    assert list(tmp_path.iterdir()) == []


def test_a_broken_connection_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConnectionResetError):
        take_upload(Stream(bytes(10_000), breaks_at=5000), tmp_path, limit=1 << 20)
    assert list(tmp_path.iterdir()) == []


def stop_half_way(destination: Path) -> None:
    with replacing(destination) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt


def test_replacing_is_all_or_nothing(tmp_path: Path) -> None:
    destination = tmp_path / "a"
    destination.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        stop_half_way(destination)
    assert destination.read_text() == "old"
    with replacing(destination) as temporary:
        temporary.write_text("new")
        assert destination.read_text() == "old"
    assert destination.read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
