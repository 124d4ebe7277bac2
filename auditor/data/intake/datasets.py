"""take_dataset: uploaded images and labels become our own data set file, or one sentence on why not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from auditor.data.intake.arrays import ArrayReader
from auditor.data.intake.arrow import ArrowReader, is_arrow
from auditor.data.intake.cifar import CifarReader, is_cifar
from auditor.data.intake.exclusion import Exclusion
from auditor.data.intake.faults import Unusable
from auditor.data.intake.files import Entry, Files, one_file, tarred, tarred_stream, zipped
from auditor.data.intake.folders import FolderReader
from auditor.data.intake.image_size import ImageSize
from auditor.data.intake.magic import EMPTY_ZIP, ZIP, kind_of, read_head
from auditor.data.intake.parquet import ParquetReader
from auditor.data.intake.reading import Choice, Reading, Undecided, unknown
from auditor.data.intake.stored_arrays import StoredArray, idx, idx_key, is_idx, npy
from auditor.data.intake.survey import Samples, Survey
from auditor.data.intake.upload import replacing, sha256_of
from auditor.data.intake.webdataset import WebDatasetReader, is_webdataset
from auditor.kit.errors import IntakeError
from auditor.kit.limits import Limits
from auditor.kit.wording import shown, source_name
from auditor.models.dataset import write_dataset

_STORED = {"uint8": "U8", "float32": "F32"}
_EXPECTED = "expected an .npz file with images and labels, or a zip with one folder of images for each class"

_WEIGHTS = "If it holds weights, it is a model: add it under Models, or with `auditor models add`."

Format = Literal["npz", "npy", "idx", "image folders", "parquet", "arrow", "webdataset", "cifar batches"]


class GroupCount(BaseModel):
    """Images of a data set that carry one corruption."""

    model_config = ConfigDict(frozen=True)

    corruption: str = Field(description="Name of the corruption.")
    severity: int = Field(description="Severity from 1 to 5; 0 where it is not known.")
    samples: int = Field(description="Number of images.")


class DatasetManifest(BaseModel):
    """What was accepted: the stored data set, and what the upload was like. Sizes in bytes, hashes in hex."""

    model_config = ConfigDict(frozen=True)

    sha256: str = Field(description="SHA-256 of the stored file.")
    size: int = Field(description="Bytes of the stored file.")
    samples: int = Field(description="Number of images.")
    shape: tuple[int, int, int] = Field(description="(C, H, W) of every image.")
    dtype: Literal["uint8", "float32"] = Field(description="Type of the stored pixels; float32 is in [0, 1].")
    num_classes: int = Field(description="Number of class names, or one more than the largest label.")
    class_names: tuple[str, ...] | None = Field(description="Names of the classes, where the upload has some.")
    class_counts: tuple[int, ...] = Field(description="Images of each class.")
    format: Format = Field(description="Format of the upload.")
    source_sha256: str = Field(description="SHA-256 of the upload.")
    source_name: str = Field(description="What the uploader called the file.")
    notes: tuple[str, ...] = Field(description="What the user should know about how the file was read.")
    warnings: tuple[str, ...] = Field(description="Doubts about the data.")
    resized: ImageSize | None = Field(description="Size to which the images were brought, if one was asked for.")
    labels_from: Literal["integers", "names", "numbers", ""] = Field(
        "",
        description="What the labels were made of: integers, names in sorted order, or names that are numbers; empty where this "
        "was not yet recorded.",
    )
    groups: tuple[GroupCount, ...] = Field((), description="Corruptions that the images carry, as in CIFAR-10-C.")


class Contents(BaseModel):
    """What an upload offers, before it is read: its format, and what can be chosen."""

    model_config = ConfigDict(frozen=True)

    format: Format
    choices: tuple[Choice, ...]


class Reader(Protocol):
    """Reads one format: what can be chosen, and the labelled images."""

    @property
    def format(self) -> str: ...

    def choices(self) -> list[Choice]: ...
    def samples(self, reading: Reading) -> Samples: ...
    def leave_out(self, found: Unusable) -> None: ...


def take_dataset(
    source: Path,
    filename: str,
    destination: Path,
    *,
    reading: Reading | None = None,
    limits: Limits | None = None,
) -> DatasetManifest:
    """Read uploaded images and labels and store them at ``destination``; ``filename`` is only shown.

    ``reading``: what the user chose. Memory does not grow with the number of pixels. Raises IntakeError, and leaves nothing
    behind.
    """
    limits, reading = limits or Limits(), reading or Reading()
    name = source_name(filename)
    exclusion = Exclusion(reading.exclude)
    with _reader(source, name, reading.inside, limits, exclusion) as reader, replacing(destination) as temporary:
        samples, survey = _written(reader, reading, exclusion.notes(name), temporary)
        count, height, width, channels = samples.shape
        return DatasetManifest(
            sha256=sha256_of(temporary),
            size=temporary.stat().st_size,
            samples=count,
            shape=(channels, height, width),
            dtype=samples.dtype,
            num_classes=samples.num_classes,
            class_names=samples.class_names,
            class_counts=tuple(samples.class_counts.tolist()),
            format=reader.format,
            source_sha256=sha256_of(source),
            source_name=name,
            notes=tuple(samples.notes),
            warnings=tuple(survey.warnings()),
            resized=reading.size,
            labels_from=samples.labels_from,
            groups=tuple(
                GroupCount(
                    corruption=group.corruption,
                    severity=group.severity,
                    samples=int(np.count_nonzero(samples.group_of == at)),
                )
                for at, group in enumerate(samples.groups)
            ),
        )


def look_into(source: Path, filename: str, *, inside: str = "", limits: Limits | None = None) -> Contents:
    """What can be chosen of an upload, of ``inside`` in it; no pixel is read. Raises IntakeError."""
    limits = limits or Limits()
    try:
        with _reader(source, source_name(filename), inside, limits, Exclusion(())) as reader:
            return Contents(format=reader.format, choices=tuple(reader.choices()))
    except Undecided as error:
        return Contents(format="image folders", choices=error.open)


def _written(reader: Reader, reading: Reading, notes: list[str], path: Path) -> tuple[Samples, Survey]:
    """The images at ``path``; what cannot be used is left out where that was asked for, and the rest is read again."""
    while True:
        try:
            samples = reader.samples(reading)
            samples.notes += notes + _read_of(reading)
            survey = Survey(samples)
            write_dataset(
                path, survey.watch(), samples.shape, _STORED[samples.dtype], samples.labels,
                class_names=samples.class_names, names=samples.names, notes=samples.notes,
                groups=samples.groups, group_of=samples.group_of,
            )  # fmt: skip
            return samples, survey
        except Unusable as error:
            if not reading.leave_out:
                raise
            reader.leave_out(error)


def _read_of(reading: Reading) -> list[str]:
    """What is said of the choice of a part of the file."""
    notes = [f"Read from {shown(reading.inside)} in the file, as asked."] if reading.inside else []
    if reading.parts:
        notes.append(f"Parts read, in this order, as asked: {', '.join(map(shown, reading.parts))}.")
    return notes


@contextmanager
def _reader(source: Path, name: str, inside: str, limits: Limits, exclusion: Exclusion) -> Iterator[Reader]:
    """The reader that fits the upload. Raises IntakeError when there is none."""
    head = read_head(source, name, limits)
    kind = kind_of(head)
    with ExitStack() as stack:
        if head.startswith((ZIP, EMPTY_ZIP)):
            files = exclusion.apply(stack.enter_context(zipped(source, name, limits)))
        elif kind in ("a tar archive", "a gzip archive") and not is_idx(name):
            files = exclusion.apply(
                stack.enter_context(tarred(source, name, limits, compressed=kind == "a gzip archive"))
            )
            if not inside and is_webdataset(files):
                yield WebDatasetReader([(name, files)], name, limits)
                return
        elif kind in ("a Parquet file", "an Arrow stream"):
            files = stack.enter_context(one_file(source, name, limits))
            reader = ParquetReader if kind == "a Parquet file" else ArrowReader
            yield reader(files, files.entries, limits, stack)
            return
        else:
            raise IntakeError(f"{shown(name)} is not a data set but {kind}; {_EXPECTED}.", _remedy(kind))
        yield _of_files(files, inside, limits, stack, exclusion)


def _of_files(files: Files, inside: str, limits: Limits, stack: ExitStack, exclusion: Exclusion) -> Reader:
    """The reader of an archive's files, or of what is ``inside``."""
    if not files.entries and not files.folders:
        raise IntakeError(
            f"{shown(files.name)} is an empty archive; {_EXPECTED}.", "Make it again, with what it should hold."
        )
    if any(entry.path.endswith("/data.pkl") for entry in files.entries):
        raise IntakeError(f"{shown(files.name)} holds a torch model, not a data set; {_EXPECTED}.", _WEIGHTS)
    if inside:
        entry = next((entry for entry in files.entries if entry.path == inside.strip("/")), None)
        if entry is not None:
            return _of_entry(files, entry, limits, stack)
        below = files.under(inside)
        if not below.entries:
            tops = sorted({entry.parts[0] for entry in files.entries if len(entry.parts) > 1})
            raise unknown("inside", inside, tops, files.name)
        files = below
    if any(_suffix(entry) == ".npy" and len(entry.parts) == 1 for entry in files.entries):
        form: Literal["npz", "npy"] = "npz" if files.name.lower().endswith(".npz") else "npy"
        return _arrays(files, [entry for entry in files.entries if len(entry.parts) == 1], limits, form)
    data = [entry for entry in files.entries if not _is_beside(entry)]
    if len(data) == 1 and _suffix(data[0]) == ".npz":
        return _of_entry(files, data[0], limits, stack)
    if data and all(_suffix(entry) == ".npy" for entry in data):
        return _arrays(files, data, limits, "npy")
    if is_cifar(files):
        return CifarReader(files, limits)
    if tables := [entry for entry in data if _suffix(entry) == ".parquet"]:
        return ParquetReader(files, tables, limits, stack)
    if streams := [entry for entry in data if is_arrow(entry)]:
        return ArrowReader(files, streams, limits, stack)
    if data and all(_suffix(entry) == ".tar" for entry in data):
        shards = {entry.path: stack.enter_context(files.seekable(entry)) for entry in data}
        return WebDatasetReader(
            [(path, exclusion.apply(tarred_stream(shard, path, limits))) for path, shard in shards.items()],
            files.name,
            limits,
        )
    if data and all(is_idx(entry.path) for entry in data):
        arrays: dict[str, Callable[[], StoredArray]] = {
            idx_key(entry.path): partial(idx, files, entry, idx_key(entry.path), limits) for entry in data
        }
        return ArrayReader(arrays, files.name, limits, "idx")
    return FolderReader(files, limits)


def _of_entry(files: Files, entry: Entry, limits: Limits, stack: ExitStack) -> Reader:
    """The reader of an .npz file in the archive."""
    if _suffix(entry) != ".npz":
        raise IntakeError(
            f"{shown(entry.path)} of {shown(files.name)} is not an archive of arrays (.npz) that can be read by itself.",
            "Name a folder or an .npz file.",
        )
    path = stack.enter_context(files.copied(entry))
    inner = stack.enter_context(zipped(path, PurePosixPath(entry.path).name, limits))
    return _arrays(inner, inner.entries, limits, "npz")


def _arrays(files: Files, entries: list[Entry], limits: Limits, form: Literal["npz", "npy"]) -> ArrayReader:
    """The reader of the .npy files among the entries."""
    found: dict[str, Callable[[], StoredArray]] = {}
    for entry in entries:
        if _suffix(entry) == ".npy":
            key = entry.path[: -len(".npy")]
            found[key] = partial(npy, files, entry, key)
    return ArrayReader(found, files.name, limits, form)


def _suffix(entry: Entry) -> str:
    return PurePosixPath(entry.path).suffix.lower()


def _is_beside(entry: Entry) -> bool:
    """A hidden file, a text: nothing that holds images."""
    junk = any(part.startswith((".", "__MACOSX")) for part in entry.parts)
    return junk or _suffix(entry) in (".txt", ".md", ".rst", ".csv", ".json", ".pdf", ".html", ".py")


def _remedy(kind: str) -> str:
    """What to do about a file that is no zip, by what ``kind_of`` calls it."""
    if "safetensors" in kind or "pickle" in kind:
        return _WEIGHTS
    if kind.endswith(" archive"):
        return "Unpack it, and make a zip of the folders of images."
    if kind.endswith(" image"):
        return "Put every image into the folder of its class, and make a zip of the folders."
    if kind == "a single NumPy array (.npy)":
        return (
            "Add it with its labels: `--labels-file labels.npy` on the command line, both files on the page. Or save them as "
            "one: np.savez_compressed('data.npz', images=images, labels=labels)"
        )
    return "Save images and labels with numpy: np.savez_compressed('data.npz', images=images, labels=labels)"
