"""Zips of Hugging Face folders that are damaged or too large: one clear error, and nothing left over."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from auditor.data.intake.weights import take_model
from auditor.kit.errors import IntakeError
from auditor.kit.limits import Limits
from tests.auditor.data.intake.conftest import Door
from tests.auditor.data.intake.test_intake_huggingface import saved

__all__ = ["saved"]  # a fixture


class Fault(NamedTuple):
    """What is done to the entries of a good zip, or to its bytes, and what is said of it."""

    said: str
    entries: Callable[[dict[str, bytes]], dict[str, bytes]] = dict
    content: Callable[[bytes], bytes] = bytes
    limits: Limits = Limits()


def with_entry(name: str, change: Callable[[bytes], bytes]) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    return lambda entries: entries | {name: change(entries.get(name, b""))}


def flipped(content: bytes) -> bytes:
    """One bit of the weights, which lie in the middle of the file."""
    at = len(content) // 2
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


WEIGHTS = "model.safetensors"
FAULTS = {
    "cut in half": Fault("damaged", content=lambda content: content[: len(content) // 2]),
    "a bit of the weights": Fault("damaged", content=flipped),
    "weights that end early": Fault("model.safetensors", with_entry(WEIGHTS, lambda old: old[:-100])),
    "a header that promises more": Fault(
        "model.safetensors", with_entry(WEIGHTS, lambda old: (1 << 40).to_bytes(8, "little") + old[8:])
    ),
    "weights of nothing": Fault("model.safetensors", with_entry(WEIGHTS, lambda old: b"")),
    "a configuration that is none": Fault("not a JSON object", with_entry("config.json", lambda old: b"[1, 2]")),
    "a configuration cut short": Fault("not a JSON object", with_entry("config.json", lambda old: old[:-3])),
    "a huge configuration": Fault(
        "config.json", with_entry("config.json", lambda old: old + b" " * 4_000_000), limits=Limits(header_bytes=1 << 20)
    ),
    "deep nesting": Fault("not a JSON object", with_entry("config.json", lambda old: b"[" * 200_000)),
    "a bomb": Fault("expands", with_entry(WEIGHTS, lambda old: old + bytes(64 << 20)), limits=Limits(ratio_from_bytes=1 << 20)),
    "more than is allowed": Fault("limit", limits=Limits(expanded_bytes=10_000)),
    "more entries than are allowed": Fault(
        "limit", lambda entries: entries | {f"{number}.txt": b"" for number in range(50)}, limits=Limits(members=20)
    ),
    "more tensors than are allowed": Fault("limit", limits=Limits(tensors=3)),
    "two configurations": Fault("holds 2 files called config.json", lambda entries: entries | {"b/config.json": b"{}"}),
}  # fmt: skip


@pytest.mark.parametrize("kind", FAULTS)
def test_a_damaged_or_huge_zip_is_one_error_and_leaves_nothing(
    kind: str, saved: Any, door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault, temporary = FAULTS[kind], tmp_path / "temporary"
    source, _, _ = saved("resnet")
    with zipfile.ZipFile(source) as file:
        entries = fault.entries({name: file.read(name) for name in file.namelist()})
    with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in entries.items():
            file.writestr(name, content)
    source.write_bytes(fault.content(source.read_bytes()))
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    with pytest.raises(IntakeError) as raised:
        take_model(source, source.name, None, door.destination, limits=fault.limits)
    assert fault.said in raised.value.message
    assert raised.value.hint or fault.limits != Limits()
    assert "Error" not in raised.value.message
    assert list(temporary.iterdir()) == []
    assert list(door.stored.iterdir()) == []
