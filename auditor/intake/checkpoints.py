"""A torch checkpoint (.pt, .pth, .th, .ckpt, .bin) to plain tensors; loads with weights_only=True, or not at all."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from auditor.errors import IntakeError
from auditor.intake import archive
from auditor.intake.limits import Limits
from auditor.intake.magic import is_tar
from auditor.intake.pickles import RECIPE, Scanner, Storage
from auditor.intake.wording import listed, printable, shown, size_text

LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The first pickle of every file that torch.save wrote before version 1.6: one long number."""

WRAPPERS = (
    "state_dict_ema",
    "model_ema",
    "params_ema",
    "state_dict",
    "model",
    "model_state_dict",
    "net",
    "params",
    "weights",
    "ema",
    "last",
)
"""Keys under which training scripts put the state dict, the first one wins: averaged weights before raw, as in timm."""

_MAX_WRAPPERS = 4
_LEGACY_PICKLES = 5
_LEGACY_COUNT_BYTES = 8
_CODE_MARKS = ("constants.pkl", "code/", "model.json")
_EXPORT_MARKS = ("archive_format", "models/", "data/weights/", "serialized_exported_program.json")

Format = Literal["safetensors", "torch zip", "torch legacy"]


class Checkpoint(NamedTuple):
    """What a weights file holds: tensors by name (not yet copied), where they were found, and what to tell the user."""

    tensors: dict[str, Tensor]
    format: Format
    wrapper: str | None = None
    notes: tuple[str, ...] = ()


def load_zip(source: Path, name: str, limits: Limits) -> Checkpoint:
    """A checkpoint in torch's zip format. Raises IntakeError.

    The directory, the checksums and the pickle are judged before torch sees the file, so that what torch maps is what
    the file holds.
    """
    with archive.opened(source, name, limits) as file:
        top = _check_records(file, source, name, limits)
        pickled = archive.read_member(file, file.getinfo(f"{top}/data.pkl"), name, limits.pickle_bytes)
        scanner = Scanner(name)
        scanner.read(io.BytesIO(pickled))
        for storage in scanner.storages.values():
            _check_record(file, f"{top}/data/{storage.key}", storage, name)
        archive.verify_checksums(file, name)
    return _unwrap(_load(source, name, mmap=True), "torch zip", name, limits)


def load_legacy(source: Path, name: str, limits: Limits) -> Checkpoint:
    """A checkpoint in torch's format before 1.6: five pickles, then the storages. Raises IntakeError."""
    with source.open("rb") as file:
        head = file.read(limits.pickle_bytes)
        if is_tar(head):  # torch would try it as a tar archive first
            raise IntakeError(f"{shown(name)} is a tar archive and a pickle at once.", RECIPE)
        stream = io.BytesIO(head)
        scanner = Scanner(name)
        try:
            keys = [scanner.read(stream) for _ in range(_LEGACY_PICKLES)][-1]
        except IntakeError:
            if stream.tell() < len(head) or len(head) < limits.pickle_bytes:
                raise
            raise IntakeError(
                f"{shown(name)} holds more than {size_text(limits.pickle_bytes)} of descriptions, which is the limit.",
                RECIPE,
            ) from None
        # A storage that is not on the list would keep what the memory held.
        order = [key for key in keys if isinstance(key, str)] if isinstance(keys, list) else []
        if order != keys or sorted(order) != sorted(scanner.storages):
            raise scanner.damaged("its list of storages")
        position, size = stream.tell(), source.stat().st_size
        for key in order:
            storage = scanner.storages[key]
            file.seek(position)
            if int.from_bytes(file.read(_LEGACY_COUNT_BYTES), "little") != storage.numel and position < size:
                raise scanner.damaged(f"the size of the storage {key}")
            position += _LEGACY_COUNT_BYTES + storage.nbytes
        if position > size:
            raise IntakeError(
                f"{shown(name)} is truncated: its tensors need {position:,} bytes, it has {size:,}.",
                "Upload it again.",
            )
    return _unwrap(_load(source, name, mmap=False), "torch legacy", name, limits)


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
            f"{shown(name)} is a zip archive without weights: expected {printable(top, 30)}/data.pkl, "
            f"it holds {listed([shown(entry) for entry in names]) or 'nothing'}.",
            RECIPE,
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


def _check_record(file: zipfile.ZipFile, record: str, storage: Storage, name: str) -> None:
    """A storage must be exactly its record: torch trusts the pickle, and would map what lies behind the record."""
    try:
        stored = file.getinfo(record).file_size
    except KeyError:
        raise archive.damaged(name, f"the record {shown(record)} is missing") from None
    if stored != storage.nbytes:
        raise archive.damaged(name, f"the record {shown(record)} has {stored:,} bytes, expected {storage.nbytes:,}")


def _load(source: Path, name: str, *, mmap: bool) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if source.suffix == ".safetensors":  # torch.load goes by the suffix of a path, so it gets none
                with source.open("rb") as file:
                    return torch.load(file, map_location="cpu", weights_only=True)
            return torch.load(str(source), map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # never its text: it holds what the uploader wrote, or megabytes of it
        raise IntakeError(
            f"{shown(name)} cannot be loaded as weights (torch.load with weights_only=True: {type(error).__name__}).",
            RECIPE,
        ) from None


def _unwrap(loaded: Any, file_format: Format, name: str, limits: Limits) -> Checkpoint:
    """The state dict within what training scripts save around it."""
    path: list[str] = []
    notes: list[str] = []
    if type(loaded) in (tuple, list):
        loaded = _only_dictionary(loaded, name, notes)
    content = _entries(loaded, name)
    for _ in range(_MAX_WRAPPERS):
        found = _wrappers(content, Tensor) or _wrappers(content, dict)
        if not found and not any(isinstance(item, Tensor) for item in content.values()):
            found = _unknown_wrapper(content, name)
        if not found:
            break
        if len(found) > 1:
            notes.append(f"The file holds several sets of weights ({', '.join(found)}); '{found[0]}' was taken.")
        path.append(found[0])
        content = _entries(content[found[0]], name)
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if not tensors:
        keys = listed([_key_text(key) for key in content], 5)
        raise IntakeError(
            f"{shown(name)} holds no weights: expected tensors by name, or a dictionary of them under "
            f"'state_dict' or 'model'; it has {keys or 'nothing'}.",
            RECIPE,
        )
    if len(tensors) > limits.tensors:
        raise IntakeError(f"{shown(name)} has {len(tensors):,} tensors, the limit is {limits.tensors:,}.")
    if others := [_key_text(key) for key in content if key not in tensors]:
        notes.append(f"Beside the tensors the file holds, and we ignored: {listed(others)}.")
    return Checkpoint(tensors, file_format, ".".join(path) or None, tuple(notes))


def _wrappers(content: dict[Any, Any], sort: type) -> list[str]:
    """The wrapper keys under which there is a dictionary with at least one value of this sort."""
    return [
        key
        for key in WRAPPERS
        if isinstance(content.get(key), dict) and any(isinstance(item, sort) for item in dict.values(content[key]))
    ]


def _unknown_wrapper(content: dict[Any, Any], name: str) -> list[str]:
    """The one key under which there are tensors, whatever it is called. Raises IntakeError for several."""
    found = [
        key
        for key, value in content.items()
        if isinstance(key, str)
        and isinstance(value, dict)
        and any(isinstance(item, Tensor) for item in dict.values(value))
    ]
    if len(found) > 1:
        raise IntakeError(
            f"{shown(name)} holds several sets of weights ({listed([shown(key) for key in found], 5)}); expected one.",
            f'Save the one that you mean: import torch; d = torch.load({printable(name)!r}, map_location="cpu"); '
            f'torch.save(d[{found[0]!r}], "weights.pt")',
        )
    return found


def _only_dictionary(loaded: Any, name: str, notes: list[str]) -> Any:
    """The one dictionary of a tuple such as (state_dict, accuracy). Raises IntakeError where there is not just one."""
    found = [item for item in loaded if type(item) in (dict, OrderedDict)]
    if len(found) != 1:
        raise IntakeError(
            f"{shown(name)} holds a {type(loaded).__name__} with {len(found)} dictionaries; expected one, of tensors by name.",
            f'Save the one that holds the weights: import torch; d = torch.load({printable(name)!r}, map_location="cpu"); '
            'torch.save(d[0], "weights.pt")',
        )
    if len(loaded) > 1:
        notes.append(f"The file holds a {type(loaded).__name__}; of its {len(loaded)} items the dictionary was taken.")
    return found[0]


def _key_text(key: object) -> str:
    return shown(key) if isinstance(key, str) else f"a {type(key).__name__}"


def _entries(value: Any, name: str) -> dict[Any, Any]:
    """The items of a dictionary, whatever the file made of its methods: a pickle may overwrite ``items`` itself."""
    if type(value) not in (dict, OrderedDict):
        raise IntakeError(
            f"{shown(name)} holds a {printable(type(value).__name__, 40)}; expected a dictionary of tensors by name.",
            RECIPE,
        )
    return dict(dict.items(value))
