"""Stored files: named by their content, checked when read, swept only when nothing names them and they are old."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from auditor.kit.errors import NotFoundError, ServiceError
from tests.worker.world import make_world, quick_spec, run_here
from worker.blobs import KEEP_SECONDS, BlobStore
from worker.settings import Settings


def aged(path: Path) -> None:
    past = time.time() - KEEP_SECONDS - 60
    os.utime(path, (past, past))


def test_a_blob_is_named_by_its_content_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    name = store.put(b"some bytes")
    assert name == hashlib.sha256(b"some bytes").hexdigest()
    assert store.path(name).read_bytes() == b"some bytes"
    store.path(name).write_bytes(b"some bytez")
    with pytest.raises(ServiceError, match="damaged"):
        store.path(name)
    with pytest.raises(NotFoundError, match="missing"):
        store.path("0" * 64)
    with pytest.raises(NotFoundError, match="not the name"):
        store.path("../../etc/passwd")


def test_the_sweep_takes_only_what_is_old_and_unnamed(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    named, old, new = store.put(b"named"), store.put(b"old"), store.put(b"new")
    for blob in (named, old):
        aged(store.path(blob))
    abandoned, busy = tmp_path / "staging" / "abandoned", tmp_path / "staging" / "busy"
    for folder in (abandoned, busy):
        folder.mkdir(parents=True)
        (folder / "shard").write_bytes(b"x")
    for path in (abandoned / "shard", abandoned, busy):  # the file in the busy one was just written
        aged(path)
    assert sorted(store.sweep({named})) == sorted([old, "abandoned"])
    assert store.path(named)
    assert store.path(new)
    assert busy.is_dir()


def test_the_files_of_a_result_are_kept_with_it_and_not_swept(settings: Settings) -> None:
    world = make_world(settings)
    client = world.client
    job_id = run_here(client, client.audits.queue("tiny", "random", quick_spec()))
    files = client.ledger.result_files(job_id)
    assert files
    for path in settings.blobs.glob("??/*"):
        aged(path)
    assert client.blobs.sweep(client.backend.registry.referenced_blobs()) == []
    assert not list((settings.blobs / "staging").iterdir()), "nothing half-written stays"
    result = client.audits.result(job_id)
    for index, record in enumerate(result.records):
        if record.role == "headline":
            assert client.audits.examples(job_id, index).positions.tolist() == record.positions
