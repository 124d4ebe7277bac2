"""ImageDataset: labelled images in one file, streamed in batches, each sample with an id that never changes.

torch is imported with the first images: who reads or writes a file needs none, and waits for none.
"""

from __future__ import annotations

import copy
import json
import mmap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, Json

from auditor.kit.errors import IntakeError
from auditor.models.class_numbers import class_numbers, number_names
from auditor.models.labelled_arrays import checked_arrays

if TYPE_CHECKING:
    from torch import Tensor

_DTYPES: dict[str, np.dtype[Any]] = {"U8": np.dtype("u1"), "F32": np.dtype("<f4"), "I64": np.dtype("<i8")}


class Batch(NamedTuple):
    """Some samples: ids (B,), images float32 (B, C, H, W) in [0, 1], labels int64 (B,)."""

    ids: NDArray[np.int64]
    images: Tensor
    labels: Tensor


class Group(NamedTuple):
    """What was done to some of the images: a corruption, and its severity from 1 to 5; 0 where that is not known."""

    corruption: str
    severity: int


class ImageDataset:
    """Labelled images. A sample's id is its position in the stored file; the file is named by its content.

    ``images``: uint8 or float32 in [0, 1], shape (N, H, W, C), usually memory-mapped: only what is asked for is read.
    ``labels``: int64 in [0, K), shape (N,). ``notes``: what a reader of its numbers should know of how it was read.
    ``groups``: the corruptions of a set such as CIFAR-10-C, and ``group_of`` the index of each sample's, int64 (N,).

    Arrays of your own pass the checks of an upload: other float types, NxHxW, NxCxHxW where only that fits, and labels that
    are whole numbers, names or one-hot rows are read, with a note; torch tensors are taken, too. Raises IntakeError, which
    names every fault.
    """

    def __init__(
        self,
        images: ArrayLike,
        labels: ArrayLike,
        class_names: Sequence[str] | None = None,
        *,
        names: Sequence[str] | None = None,
        sha256: str = "",
        name: str = "dataset",
        notes: Sequence[str] = (),
    ) -> None:
        checked = checked_arrays(images, labels, class_names, names)
        self._images = checked.images
        self.labels = checked.labels
        self.class_names = checked.class_names
        self.sample_names = tuple(names) if names is not None else None
        self.sha256 = sha256
        self.name = name
        self.notes = (*notes, *checked.notes)
        self.order_of_classes: tuple[int, ...] = ()
        self.groups: tuple[Group, ...] = ()
        self.group_of: NDArray[np.int64] | None = None

    @classmethod
    def open(cls, path: Path, *, sha256: str = "", name: str = "") -> ImageDataset:
        """A stored data set, memory-mapped. Raises IntakeError when the file is not one of ours."""
        tensors, metadata = _read_header(path)
        images, labels = (tensors[key] for key in ("images", "labels"))
        try:
            pixels = np.memmap(path, images.dtype, "r", images.offset, images.shape)
            classes = np.fromfile(path, labels.dtype, labels.shape[0], offset=labels.offset)
        except ValueError:
            raise IntakeError(f"{path.name} is cut short.", "Add the data set anew.") from None
        # The content was checked when it was stored; to look at every pixel again would read the whole file.
        data = cls.__new__(cls)
        data._images, data.labels = pixels, classes
        data.class_names, data.sample_names = metadata.class_names, metadata.names
        data.sha256, data.name, data.notes = sha256, name or path.stem, metadata.notes or ()
        data.order_of_classes, data.groups, data.group_of = (), metadata.groups or (), None
        if data.groups:
            entry = tensors["groups"]
            data.group_of = np.fromfile(path, entry.dtype, entry.shape[0], offset=entry.offset)
        return data

    def __getstate__(self) -> dict[str, object]:
        """For another process: a file that is memory-mapped whole goes by its name, not by its content."""
        state, images = dict(self.__dict__), self._images
        if isinstance(images, np.memmap) and isinstance(images.base, mmap.mmap) and images.filename is not None:
            state["_images"] = _Mapped(Path(images.filename), images.dtype, images.offset, images.shape)
        return state

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        if isinstance(self._images, _Mapped):
            self._images = np.memmap(
                self._images.path, self._images.dtype, "r", self._images.offset, self._images.shape
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        _, height, width, channels = self._images.shape
        return channels, height, width

    @property
    def num_classes(self) -> int:
        """Number of classes: of the names where there are names, else one more than the largest label."""
        return len(self.class_names) if self.class_names is not None else int(self.labels.max(initial=-1)) + 1

    @property
    def class_counts(self) -> NDArray[np.int64]:
        """Images of each class, int64 (K,)."""
        return np.bincount(self.labels[self.labels >= 0], minlength=self.num_classes)

    def relabelled(self, index: NDArray[np.int64], class_names: Sequence[str] | None) -> ImageDataset:
        """The same samples with the label ``index[label]`` each, and these names of the classes; those whose label becomes -1 are
        never drawn. ``order_of_classes`` keeps the index, since the content's hash knows nothing of it."""
        other = copy.copy(self)
        other.labels = np.asarray(index, np.int64)[self.labels]
        other.class_names = tuple(class_names) if class_names is not None else None
        other.order_of_classes = tuple(np.asarray(index).tolist())
        return other

    def with_notes(self, notes: Sequence[str]) -> ImageDataset:
        """The same samples with more ``notes``."""
        more = [note for note in notes if note not in self.notes]
        if not more:
            return self
        other = copy.copy(self)
        other.notes = (*self.notes, *more)
        return other

    def by_number(self) -> ImageDataset:
        """The same samples, where every class name is a number: with that number as their label. Else the data set itself."""
        numbers = class_numbers(self.class_names or ())
        if numbers is None or numbers == list(range(len(numbers))):
            return self
        return self.relabelled(np.array(numbers, np.int64), number_names(numbers))

    def sample_name(self, sample: int) -> str:
        """What the uploader called this image (its path in the archive), or its number."""
        return self.sample_names[sample] if self.sample_names is not None else f"#{sample}"

    def images(self, ids: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """The images of these samples: float32, (B, C, H, W), in [0, 1]."""
        import torch

        stored = np.asarray(self._images[np.asarray(ids, np.int64)])
        pixels = torch.from_numpy(stored.copy() if not stored.flags.writeable else stored).permute(0, 3, 1, 2)
        pixels = pixels.to(torch.float32).contiguous()
        return pixels / 255 if stored.dtype == np.uint8 else pixels

    def batches(self, ids: Sequence[int] | NDArray[np.int64], batch_size: int) -> Iterator[Batch]:
        """These samples in order, ``batch_size`` at a time."""
        import torch

        ids = np.asarray(ids, np.int64)
        for start in range(0, len(ids), batch_size):
            part = ids[start : start + batch_size]
            yield Batch(part, self.images(part), torch.from_numpy(self.labels[part]))

    def order(self, seed: int) -> NDArray[np.int64]:
        """All ids in a random order that depends on the seed and the size of the data set alone; without those of no class."""
        from auditor.kit.randomness import derive_seed

        ids = np.random.default_rng(derive_seed(seed, "order", len(self))).permutation(len(self)).astype(np.int64)
        return ids[self.labels[ids] >= 0]

    def select(self, count: int | None, seed: int) -> NDArray[np.int64]:
        """``count`` samples drawn without replacement (all when None or too many), ids ascending.

        A larger count contains a smaller one of the same seed.
        """
        return np.sort(self.order(seed)[:count])


class _Mapped(NamedTuple):
    path: Path
    dtype: np.dtype[Any]
    offset: int
    shape: tuple[int, ...]


class _Entry(NamedTuple):
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int


class _Metadata(BaseModel):
    """What a stored data set says besides its arrays; each entry is JSON in a string."""

    class_names: Json[tuple[str, ...] | None] = None
    names: Json[tuple[str, ...] | None] = None
    notes: Json[tuple[str, ...] | None] = None
    groups: Json[tuple[Group, ...] | None] = None


def write_dataset(
    path: Path,
    images: Iterable[NDArray[np.uint8] | NDArray[np.float32]],
    shape: tuple[int, int, int, int],
    dtype: str,
    labels: NDArray[np.int64],
    *,
    class_names: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    notes: Sequence[str] = (),
    groups: Sequence[Group] = (),
    group_of: NDArray[np.int64] | None = None,
) -> None:
    """Write a data set as one safetensors file, image batch by image batch, so memory does not grow with N.

    ``images`` yields arrays (B, H, W, C) that add up to ``shape`` = (N, H, W, C); ``dtype`` is "U8" or "F32"; ``group_of``:
    int64 (N,), for each image the index of its group.
    """
    n_bytes = int(np.prod(shape)) * _DTYPES[dtype].itemsize
    metadata = {
        "format": "neuron-auditor.dataset.1",
        "class_names": json.dumps(list(class_names) if class_names is not None else None),
    }
    if names is not None:
        metadata["names"] = json.dumps(list(names))
    if notes:
        metadata["notes"] = json.dumps(list(notes))
    # The labels come first: their size is a multiple of 8, so all arrays are aligned.
    numbers = {"labels": labels}
    if groups:
        assert group_of is not None
        metadata["groups"] = json.dumps([list(group) for group in groups])
        numbers["groups"] = group_of
    tensors: dict[str, dict[str, str | list[int]]] = {}
    start = 0
    for key, values in numbers.items():
        end = start + 8 * len(values)
        tensors[key] = {"dtype": "I64", "shape": [len(values)], "data_offsets": [start, end]}
        start = end
    tensors["images"] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, start + n_bytes]}
    header = json.dumps({"__metadata__": metadata, **tensors}).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for values in numbers.values():
            file.write(np.ascontiguousarray(values, "<i8").tobytes())
        written = 0
        for part in images:
            written += file.write(np.ascontiguousarray(part, _DTYPES[dtype]).reshape(-1).view(np.uint8).data)
            del part  # the next one may be as large
        if written != n_bytes:
            raise IntakeError(f"The images end early: expected {n_bytes} bytes, got {written}.")


def _read_header(path: Path) -> tuple[dict[str, _Entry], _Metadata]:
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > min(path.stat().st_size, 100_000_000):
                raise ValueError("header longer than the file")
            header = json.loads(file.read(size))
        metadata = _Metadata.model_validate(header["__metadata__"])
        entries = {
            key: _Entry(_DTYPES[entry["dtype"]], tuple(entry["shape"]), 8 + size + entry["data_offsets"][0])
            for key, entry in header.items()
            if key != "__metadata__"
        }
        _ = entries["images"], entries["labels"]
    except FileNotFoundError:
        raise IntakeError(f"The file {path.name} of the data set is missing.", "Add the data set anew.") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise IntakeError(
            f"{path.name} is damaged or not a data set that was stored here: its header cannot be read.",
            "Add the data set anew.",
        ) from None
    return entries, metadata
