"""A torch checkpoint (.pt, .pth, .th, .ckpt, .bin) to plain tensors: read as data by our own reader, never unpickled."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from torch import Tensor

from auditor.data.intake import archive
from auditor.data.intake.magic import is_tar
from auditor.data.intake.pickle_machine import RECIPE
from auditor.data.intake.pickle_values import Skipped
from auditor.data.intake.sets import beside_notes, choose, contents, objects
from auditor.data.intake.storages import Storage, Storages, TorchReader
from auditor.kit.errors import IntakeError
from auditor.kit.limits import Limits
from auditor.kit.wording import listed, shown, size_text

_LEGACY = re.compile(rb"\x80[\x02-\x05](\x95.{8})?\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19\.", re.DOTALL)
"""The first pickle of every file that torch.save wrote before version 1.6: one long number, in any protocol."""

_LEGACY_VERSION = 1001
_LEGACY_COUNT_BYTES = 8
_BYTE_ORDER, _BYTE_ORDER_BYTES = "byteorder", 100
_CODE_MARKS = ("constants.pkl", "code/", "model.json")
DATA = "If it holds images, it is a data set: add it under Data sets, or with `auditor datasets add`."
_DATA_SUFFIXES = (".npy", ".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm")
_EXPORT_MARKS = ("archive_format", "models/", "data/weights/", "serialized_exported_program.json")

WeightsFormat = Literal["safetensors", "torch zip", "torch legacy", "ONNX", "Hugging Face folder"]
WEIGHTS_ALONE = ("safetensors", "torch zip", "torch legacy")
"""The formats that do not say the architecture."""


class Checkpoint(NamedTuple):
    """What a weights file holds: tensors by name (not yet copied), where they were found, and what to tell the user."""

    tensors: dict[str, Tensor]
    format: WeightsFormat
    wrapper: str | None = None
    notes: tuple[str, ...] = ()


def is_legacy(head: bytes) -> bool:
    """Whether a file with these first bytes is in torch's format before 1.6."""
    return _LEGACY.match(head) is not None


def load_zip(source: Path, name: str, limits: Limits, choice: str = "") -> Checkpoint:
    """A checkpoint in torch's zip format. ``choice``: the set of weights, by the keys that lead to it. Raises IntakeError.

    The directory, the checksums and the pickle are judged before a tensor is made, so each shows what its record holds.
    """
    with archive.opened(source, name, limits) as file:
        top = _check_records(file, source, name, limits)
        reader = TorchReader(
            archive.read_member(file, file.getinfo(f"{top}/data.pkl"), name, limits.pickle_bytes), name, limits
        )
        root = reader.read()
        with source.open("rb") as raw:
            places = {
                key: _check_record(file, raw, f"{top}/data/{key}", storage, name)
                for key, storage in reader.storages.items()
            }
            archive.verify_checksums(file, raw, name)
        swapped = _is_big_endian(file, top, name)
    storages = Storages(source, places, name, mapped=True, swapped=swapped)
    return _checkpoint(root, reader, storages, "torch zip", limits, choice)


def load_legacy(source: Path, name: str, limits: Limits, choice: str = "") -> Checkpoint:
    """A checkpoint in torch's format before 1.6: five pickles, then the storages. Raises IntakeError."""
    with source.open("rb") as file:
        head = file.read(limits.pickle_bytes)
        if is_tar(head):  # torch would try it as a tar archive first
            raise IntakeError(f"{shown(name)} is a tar archive and a pickle at once.", RECIPE)
        reader = TorchReader(head, name, limits)
        try:
            root, keys = _legacy_pickles(reader)
        except IntakeError:
            if not reader.cut or len(head) < limits.pickle_bytes:
                raise
            raise IntakeError(
                f"{shown(name)} holds more than {size_text(limits.pickle_bytes)} of descriptions, which is the limit.",
                RECIPE,
            ) from None
        # A storage that is not on the list would keep what the memory held.
        order = [key for key in keys if isinstance(key, str)] if isinstance(keys, list) else []
        if order != keys or sorted(order) != sorted(reader.storages):
            raise reader.damaged("its list of storages")
        position, size = reader.position, source.stat().st_size
        places = {}
        for key in order:
            storage = reader.storages[key]
            file.seek(position)
            if int.from_bytes(file.read(_LEGACY_COUNT_BYTES), "little") != storage.numel and position < size:
                raise reader.damaged(f"the size of the storage {key}")
            places[key] = position + _LEGACY_COUNT_BYTES
            position = places[key] + storage.nbytes
        if position > size:
            raise IntakeError(
                f"{shown(name)} is truncated: its tensors need {position:,} bytes, it has {size:,}.",
                "Upload it again.",
            )
    return _checkpoint(root, reader, Storages(source, places, name, mapped=False), "torch legacy", limits, choice)


def _legacy_pickles(reader: TorchReader) -> tuple[object, object]:
    """What the file holds, and the keys of its storages; before them come a magic number, a version, and the system."""
    reader.read()
    for expected, what in ((_LEGACY_VERSION, "its version"), (None, "its system")):
        value = reader.read()
        if isinstance(value, Skipped):
            raise objects(value.path, reader.name)
        if value != expected if expected is not None else not isinstance(value, dict):
            raise reader.damaged(what)
    root, keys = reader.read(), reader.read()
    if isinstance(keys, Skipped):
        raise objects(keys.path, reader.name)
    return root, keys


def _checkpoint(
    root: object,
    reader: TorchReader,
    storages: Storages,
    file_format: WeightsFormat,
    limits: Limits,
    choice: str,
) -> Checkpoint:
    """The tensors of the set of weights that is meant."""
    found = contents(root, reader.name)
    taken, notes = choose(found, choice, reader.name)
    if len(taken.tensors) > limits.tensors:
        raise IntakeError(f"{shown(reader.name)} has {len(taken.tensors):,} tensors, the limit is {limits.tensors:,}.")
    tensors = {key: storages.tensor(stored) for key, stored in taken.tensors.items()}
    return Checkpoint(tensors, file_format, taken.name or None, (*notes, *beside_notes(found, reader.named)))


def _check_records(file: zipfile.ZipFile, source: Path, name: str, limits: Limits) -> str:
    """The folder that holds the records. A zip may be read in two ways; only files that read alike in both pass."""
    members = file.infolist()
    names = [member.orig_filename for member in members]
    top = names[0].partition("/")[0] if names else ""
    inner = [entry.removeprefix(f"{top}/") for entry in names]
    if any(entry.startswith(_CODE_MARKS) for entry in inner) or ".data/extern_modules" in inner:
        raise IntakeError(f"{shown(name)} is a TorchScript or torch.package archive, which holds a program.", RECIPE)
    if any(entry.startswith(_EXPORT_MARKS) for entry in inner):
        raise IntakeError(f"{shown(name)} is an exported program (.pt2), not weights alone.", RECIPE)
    if "data.pkl" not in inner:
        raise IntakeError(
            f"{shown(name)} is a zip archive without weights: torch.save did not write it, "
            f"it holds {listed([shown(entry) for entry in names]) or 'nothing'}.",
            DATA if any(entry.lower().endswith(_DATA_SUFFIXES) for entry in names) else RECIPE,
        )
    size = source.stat().st_size
    for member, record in zip(members, inner, strict=True):
        if not record.startswith("data/") and member.file_size > limits.pickle_bytes:  # torch reads it whole
            raise IntakeError(
                f"The record {shown(record)} of {shown(name)} has {size_text(member.file_size)}, "
                f"the limit for it is {size_text(limits.pickle_bytes)}.",
                RECIPE,
            )
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
            raise IntakeError(
                f"The record {shown(member.orig_filename)} of {shown(name)} is compressed; torch stores weights as "
                "they are.",
                "Save it again with torch.save.",
            )
    if sum(member.file_size for member in members) > size:
        raise archive.damaged(name, f"its records add up to more than its {size_text(size)}")
    with source.open("rb") as raw:
        raw.seek(-22, io.SEEK_END)
        ends_well = raw.read(4) == b"PK\x05\x06"
    alike = len({entry.lower() for entry in names}) == len(names) and all(n.startswith(f"{top}/") for n in names)
    if not ends_well or not alike or min(member.header_offset for member in members) != 0:
        raise archive.damaged(name, "its records are not laid out as torch.save does")
    return top


def _check_record(file: zipfile.ZipFile, raw: BinaryIO, record: str, storage: Storage, name: str) -> int:
    """Where a storage begins; it must be exactly its record, or its tensors would show what lies behind the record."""
    try:
        member = file.getinfo(record)
    except KeyError:
        raise archive.damaged(name, f"the record {shown(record)} is missing") from None
    if member.file_size != storage.nbytes:
        expected = f"has {member.file_size:,} bytes, expected {storage.nbytes:,}"
        raise archive.damaged(name, f"the record {shown(record)} {expected}")
    return archive.data_offset(file, raw, member, name)


def _is_big_endian(file: zipfile.ZipFile, top: str, name: str) -> bool:
    """Whether the machine that wrote the storages puts the first byte of a number first."""
    record = f"{top}/{_BYTE_ORDER}"
    if record not in file.NameToInfo:
        return False
    order = archive.read_member(file, file.getinfo(record), name, _BYTE_ORDER_BYTES)
    if order not in (b"little", b"big"):
        raise archive.damaged(name, f"the record {shown(record)} is neither 'little' nor 'big'")
    return order == b"big"
