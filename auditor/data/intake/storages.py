"""Tensors that a torch pickle describes: each is checked against its storage before anything of the storage is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import torch
from torch import Tensor

from auditor.data.intake.pickle_values import Named, Skipped
from auditor.data.intake.pickles import GROWTH, PickleReader
from auditor.kit.errors import IntakeError
from auditor.kit.limits import Limits
from auditor.kit.wording import AGAIN, shown

_DTYPES: Final = {
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ShortStorage": torch.int16,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "IntStorage": torch.int32,
    "FloatStorage": torch.float32,
    "LongStorage": torch.int64,
    "DoubleStorage": torch.float64,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
_OTHER_STORAGES: Final = {"UntypedStorage": 1, "QInt8Storage": 1, "QUInt8Storage": 1, "QInt32Storage": 4}
"""Bytes of an element. No dense tensor stands on them; other tensors do, which may lie beside the weights."""

_TENSOR_CALLS = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2")
_PARAMETER_CALLS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
_SUBCLASS_CALL = "torch._tensor._rebuild_from_type_v2"
_ODD_TENSORS: Final = {
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils._rebuild_qtensor": "a quantized tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "a meta tensor, which has no values",
    "torch._utils._rebuild_tensor_v3": "a tensor of an unusual type (8-bit float or unsigned integer)",
}
_QUIET_CALLS = frozenset({"torch.device", "torch.serialization._get_layout"})
_MAX_DIMENSIONS = 64
_MAX_ELEMENTS = 2**62
"""torch counts elements in 64 bits."""


class Storage(NamedTuple):
    """A claimed storage: its key in the file, its type by torch's name (``FloatStorage``), its number of elements."""

    key: str
    kind: str
    numel: int

    @property
    def element_bytes(self) -> int:
        return _DTYPES[self.kind].itemsize if self.kind in _DTYPES else _OTHER_STORAGES[self.kind]

    @property
    def nbytes(self) -> int:
        return self.numel * self.element_bytes


class StoredTensor:
    """A dense tensor within its storage, not yet read: offset and strides in elements."""

    __slots__ = ("offset", "shape", "storage", "strides")

    def __init__(self, storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    @property
    def dtype(self) -> torch.dtype:
        return _DTYPES[self.storage.kind]


class OddTensor(Skipped):
    """A tensor that is not dense, or whose type has no storage of its own. ``sort``: which, in words."""

    __slots__ = ("sort",)

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.sort = _ODD_TENSORS[path]


class TorchReader(PickleReader):
    """Reads the pickles of a file that torch.save wrote; ``storages`` are those that its tensors stand on, by key."""

    _buildable = (*PickleReader._buildable, StoredTensor)

    def __init__(self, content: bytes, name: str, limits: Limits) -> None:
        super().__init__(content, name, memory=GROWTH * limits.pickle_bytes)
        self.storages: dict[str, Storage] = {}

    def _persistent(self, claim: object) -> object:
        if not isinstance(claim, tuple):
            raise TypeError
        if claim[0] == "module" and isinstance(claim[1], Named):  # a class; torch kept its source beside it until 1.6
            return claim[1]
        sort, kind, key, _, numel, *view = claim
        # The sixth item is None in legacy files; it made views of storages until torch 0.3.
        if sort != "storage" or view not in ([], [None]) or not isinstance(key, str) or not isinstance(kind, Named):
            raise self.damaged("a storage")
        storage = Storage(key, kind.path.rpartition(".")[2], _integer(numel))
        known = storage.kind in _DTYPES or storage.kind in _OTHER_STORAGES
        if not kind.path.startswith("torch.") or not known or storage.numel < 0:
            raise self.damaged("the type of a storage")
        if self.storages.setdefault(key, storage) != storage:
            raise self.damaged("two storages of one name")
        return storage

    def _made(self, path: str, arguments: tuple[object, ...]) -> object:
        if path == _SUBCLASS_CALL and len(arguments) == 4:  # a tensor with attributes, which are dropped
            function, _, arguments, _ = arguments  # type: ignore[assignment]
            path = function.path if isinstance(function, Named) else ""
        if path in _TENSOR_CALLS:
            return self._tensor(arguments)
        if path in _PARAMETER_CALLS:
            return self._parameter(arguments)
        if path in _ODD_TENSORS:
            return OddTensor(path)
        if path == "torch.Size" and len(arguments) == 1 and isinstance(arguments[0], tuple):
            return arguments[0]
        if path in _QUIET_CALLS:
            return Named(path)
        return super()._made(path, arguments)

    def _parameter(self, arguments: tuple[object, ...]) -> object:
        value = arguments[0]
        if not isinstance(value, StoredTensor | OddTensor):
            raise self.damaged("a parameter")
        return value

    def _tensor(self, arguments: tuple[object, ...]) -> StoredTensor:
        """A tensor must lie within its storage: torch grows some storages, and leaves there what the memory held."""
        storage, offset, shape, strides = (
            arguments[0],
            _integer(arguments[1]),
            _sizes(arguments[2]),
            _sizes(arguments[3]),
        )
        if not isinstance(storage, Storage) or storage.kind not in _DTYPES or len(shape) != len(strides):
            raise self.damaged("a tensor")
        numbers = (offset, *shape, *strides)
        if min(numbers) < 0 or len(shape) > _MAX_DIMENSIONS or max(*numbers, math.prod(shape)) > _MAX_ELEMENTS:
            raise self.damaged("the shape of a tensor")
        for argument, sort in zip(arguments[4:6], (bool, dict | None), strict=False):  # requires_grad, hooks
            if not isinstance(argument, sort):
                raise self.damaged("a tensor")
        if len(arguments) > 6 and arguments[6]:  # conjugate and negative views, which state dicts do not have
            raise self.damaged("a tensor with metadata")
        reach = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1
        if 0 not in shape and reach > storage.numel:
            raise self.damaged(f"a tensor of {reach:,} elements in a storage of {storage.numel:,}")
        return StoredTensor(storage, offset, shape, strides)


class Storages:
    """The storages of a file: ``places`` has the first byte of each by its key, checked to lie in the file.

    ``mapped``: tensors share a private map with the file, so nothing is copied, but for storages that do not begin at a
    multiple of their element's size. Those are read, as are all storages of a file from a machine that has the bytes of a
    number the other way round (``swapped``). Tensors that share a storage in the file share it here.
    """

    def __init__(
        self, source: Path, places: Mapping[str, int], name: str, *, mapped: bool, swapped: bool = False
    ) -> None:
        self._source = source
        self._places = places
        self._name = name
        self._can_map = mapped and not swapped
        self._swapped = swapped
        self._map: torch.UntypedStorage | None = None
        self._opened: dict[str, torch.UntypedStorage] = {}

    def tensor(self, stored: StoredTensor | OddTensor) -> Tensor:
        """The tensor, on the CPU. Raises IntakeError for one that is not dense."""
        if isinstance(stored, OddTensor):
            raise IntakeError(
                f"{shown(self._name)} holds {stored.sort}; expected dense floating point tensors.",
                "Convert the model to ordinary float32 weights, then: torch.save(model.state_dict(), 'weights.pt')",
            )
        empty = torch.empty(0, dtype=stored.dtype)
        if 0 in stored.shape:
            return empty.as_strided(stored.shape, stored.strides)
        return empty.set_(self._storage(stored.storage), stored.offset, stored.shape, stored.strides)

    def _storage(self, storage: Storage) -> torch.UntypedStorage:
        if storage.key not in self._opened:
            start = self._places[storage.key]
            shared = self._can_map and start % storage.element_bytes == 0
            self._opened[storage.key] = self._mapped(start, storage.nbytes) if shared else self._read(start, storage)
        return self._opened[storage.key]

    def _mapped(self, start: int, size: int) -> torch.UntypedStorage:
        if self._map is None:
            self._map = torch.from_file(
                str(self._source), size=self._source.stat().st_size, dtype=torch.uint8
            ).untyped_storage()
        return self._map[start : start + size]

    def _read(self, start: int, storage: Storage) -> torch.UntypedStorage:
        content = torch.empty(storage.nbytes, dtype=torch.uint8)
        with self._source.open("rb") as file:
            file.seek(start)
            if file.readinto(content.numpy().data) != storage.nbytes:
                raise IntakeError(f"{shown(self._name)} ends early.", AGAIN)
        part = content.untyped_storage()
        if self._swapped:
            part.byteswap(_DTYPES[storage.kind])
        return part


def _integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError
    return value


def _sizes(value: object) -> tuple[int, ...]:
    if not isinstance(value, tuple):
        raise TypeError
    return tuple(_integer(item) for item in value)
