"""What a torch pickle would build, found by reading its opcodes as data: nothing is imported, called or allocated.

torch.load(weights_only=True) runs afterwards, on a stream that can only make tensors within their storages. This scan
is narrower than torch's own list on purpose. Measured with torch 2.15: ``bytearray(n)`` in 60 bytes fills gigabytes;
a tuple nested a million deep, used as a key, overflows the C stack and ends the process; a legacy storage that is not
in the file is accepted and shows what the memory held; with mmap, a storage may reach beyond its record.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Final, NamedTuple

from auditor.errors import IntakeError
from auditor.intake.wording import printable, shown

RECIPE = (
    'Where the model is defined, run: import torch; torch.save(model.state_dict(), "weights.pt") and upload that file.'
)
"""What to do with a file that holds a model instead of its weights."""

_BESIDE = re.compile(
    r"numpy(\._?core)*\.(multiarray\.(scalar|_reconstruct)|dtype|ndarray)|numpy\.dtypes\.\w+|_codecs\.encode|argparse\.Namespace|"
    r"pathlib(\._local)?\.(Pure)?(Posix|Windows)?Path|datetime\.(date|time|datetime|timedelta|timezone)|"
    r"collections\.(defaultdict|deque)|copyreg\._reconstructor|builtins\.(object|list|dict|tuple|set|int|float|str|bool|bytearray)"
)
"""What training scripts keep beside weights, and what can be loaded without running anything of the file's."""


def extraction(name: str) -> str:
    """What to do with a file that holds weights and harmless values beside them, or another protocol: it needs no model."""
    return (
        "If you trust the file, take its tensors out where it was made: "
        f'import torch; d = torch.load({printable(name)!r}, map_location="cpu", weights_only=False); '
        "w = next(v for v in (d, *d.values()) if isinstance(v, dict) and any(map(torch.is_tensor, v.values()))); "
        'torch.save({k: v for k, v in w.items() if torch.is_tensor(v)}, "weights.pt")'
    )


ELEMENT_BYTES: Final = {
    "BoolStorage": 1,
    "ByteStorage": 1,
    "CharStorage": 1,
    "ShortStorage": 2,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "IntStorage": 4,
    "FloatStorage": 4,
    "LongStorage": 8,
    "DoubleStorage": 8,
    "ComplexFloatStorage": 8,
    "ComplexDoubleStorage": 16,
}
_TENSOR_CALLS = frozenset({"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"})
_SET_CALLS = frozenset({"builtins.set", "collections.Counter"})
_OTHER_CALLS = frozenset({"builtins.complex", "torch.Size", "torch.device", "torch.serialization._get_layout"})
_PARAMETER = "torch._utils._rebuild_parameter"
_ORDERED_DICT = "collections.OrderedDict"
_UNSUPPORTED_TENSORS = {
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils._rebuild_qtensor": "a quantised tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "a meta tensor, which has no values",
    "torch._utils._rebuild_tensor_v3": "a tensor of an unusual type (8-bit float or unsigned integer)",
}
_INTEGERS = ("bool", "uint8", "int8", "int16", "int32", "int64", "short", "int", "long")
_FLOATS = ("float16", "bfloat16", "float32", "float64", "half", "float", "double", "complex64", "complex128")
_KNOWN = (
    _TENSOR_CALLS
    | _SET_CALLS
    | _OTHER_CALLS
    | {_PARAMETER, _ORDERED_DICT}
    | {f"torch.{name}" for name in (*_INTEGERS, *_FLOATS, *ELEMENT_BYTES)}
)
_MAX_DEPTH = 100
"""Tuples within tuples: a storage's name is two deep; Python hashes and compares tuples on the C stack."""

_MAX_ODD_KEYS = 10_000
"""Keys other than strings and small integers: those can be made to collide, and n of them take n**2 comparisons."""

_MAX_CALLS = 300_000
"""Objects made by a call, three for each of 100,000 tensors; five bytes ask for one, half a kilobyte holds it."""


class Storage(NamedTuple):
    """A claimed storage: its key in the file, its type by torch's name (``FloatStorage``), its number of elements."""

    key: str
    kind: str
    numel: int

    @property
    def nbytes(self) -> int:
        return self.numel * ELEMENT_BYTES[self.kind]


class _Global(NamedTuple):
    path: str


class _Tuple(NamedTuple):
    items: tuple[object, ...]
    depth: int


class _Thing:
    """A value of which only the sort matters."""


_DICT, _ORDERED, _TENSOR, _OPAQUE = _Thing(), _Thing(), _Thing(), _Thing()


class Scanner:
    """Reads pickles of one file; ``storages`` are those that their tensors stand on, by key. ``name`` is for errors."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.storages: dict[str, Storage] = {}
        self._odd_keys = 0
        self._calls = 0
        self._harmless = False

    def read(self, stream: BinaryIO) -> object:
        """Read one pickle, up to and with its STOP. Returns a number or a string as itself, a list as a list.

        Raises IntakeError for objects other than tensors in plain containers, and for a stream that is no pickle.
        """
        try:
            return self._run(stream)
        except IntakeError:
            raise
        except Exception as error:  # opcodes in a senseless order fail in any way there is
            raise self.damaged(type(error).__name__) from None

    def damaged(self, what: str) -> IntakeError:
        """The refusal of a stream that torch did not write."""
        return IntakeError(
            f"{shown(self.name)} is damaged or not written by torch.save: its list of tensors cannot be read "
            f"({printable(what)}).",
            "Save it again with torch.save.",
        )

    def objects(self, path: str) -> IntakeError:
        """The refusal of a pickle that names something else than tensors."""
        return IntakeError(
            f"{shown(self.name)} holds Python objects ({printable(path)}), not only weights.",
            extraction(self.name) if self._harmless else RECIPE,
        )

    def _run(self, stream: BinaryIO) -> object:
        stack: list[object] = []
        marks: list[list[object]] = []
        memo: dict[int, object] = {}
        newer = False
        opcodes = pickletools.genops(stream)
        for opcode, argument, _ in opcodes:
            match opcode.name:
                case "PROTO" | "FRAME":
                    pass
                case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "NONE":
                    stack.append(argument)
                case "BINUNICODE" | "SHORT_BINSTRING" | "SHORT_BINUNICODE" | "BINBYTES" | "SHORT_BINBYTES":
                    stack.append(argument)
                case "NEWTRUE" | "NEWFALSE":
                    stack.append(opcode.name == "NEWTRUE")
                case "BINGET" | "LONG_BINGET":
                    stack.append(memo[_int(argument)])
                case "BINPUT" | "LONG_BINPUT":
                    memo[_int(argument)] = stack[-1]
                case "MEMOIZE":
                    memo[len(memo)] = stack[-1]
                case "GLOBAL":
                    path = str(argument).replace(" ", ".")
                    # It is refused in any case; whether it may be loaded elsewhere, the rest of the file says.
                    self._harmless = bool(_BESIDE.fullmatch(path)) and path not in _KNOWN and _all_harmless(opcodes)
                    stack.append(self._global(path))
                case "STACK_GLOBAL":  # torch.load(weights_only=True) refuses it; it is read to say what the file holds
                    newer = True
                    stack[-2:] = [self._global(f"{stack[-2]}.{stack[-1]}")]
                case "MARK":
                    marks.append(stack)
                    stack = []
                case "EMPTY_TUPLE":
                    stack.append(_Tuple((), 0))
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    count = int(opcode.name[-1])
                    stack[-count:] = [self._tuple(stack[-count:])]
                case "TUPLE":
                    items, stack = stack, marks.pop()
                    stack.append(self._tuple(items))
                case "EMPTY_LIST":
                    stack.append([])
                case "APPEND":
                    item = stack.pop()
                    _list(stack[-1]).append(item)
                case "APPENDS":
                    items, stack = stack, marks.pop()
                    _list(stack[-1]).extend(items)
                case "EMPTY_DICT":
                    stack.append(_DICT)
                case "SETITEM":
                    self._hash(stack[-2:-1])
                    del stack[-2:]
                case "SETITEMS":
                    items, stack = stack, marks.pop()
                    self._hash(items[::2])
                case "BINPERSID":
                    stack.append(self._storage(stack.pop()))
                case "REDUCE":
                    arguments = stack.pop()
                    stack.append(self._call(stack.pop(), arguments))
                case "BUILD":
                    stack.pop()
                    if stack[-1] is not _ORDERED:
                        raise self.damaged("BUILD")
                case "NEWOBJ":
                    raise self.objects(_path(stack[-2]))
                case "STOP" if newer:
                    raise IntakeError(
                        f"{shown(self.name)} was saved with pickle protocol 4 or later; expected protocol 2, torch.save's own.",
                        extraction(self.name),
                    )
                case "STOP":
                    return stack.pop()
                case other:
                    raise self.damaged(other)
        raise self.damaged("no end")

    def _global(self, path: str) -> _Global:
        path = re.sub(r"^__builtin__\.", "builtins.", path)  # as Python 2 called it
        if path in _UNSUPPORTED_TENSORS:
            raise IntakeError(
                f"{shown(self.name)} holds {_UNSUPPORTED_TENSORS[path]}; expected dense floating point tensors.",
                "Convert the model to ordinary float32 weights, then: torch.save(model.state_dict(), 'weights.pt')",
            )
        if path not in _KNOWN:
            raise self.objects(path)
        return _Global(path)

    def _call(self, function: object, arguments: object) -> object:
        path = _path(function)
        items = _items(arguments)
        self._calls += 1
        if self._calls > _MAX_CALLS:
            raise self.damaged(f"more than {_MAX_CALLS:,} objects")
        if path in _TENSOR_CALLS:
            self._check_tensor(items)
            return _TENSOR
        if path == _PARAMETER and items[0] is _TENSOR:
            return _TENSOR
        if path == _ORDERED_DICT:  # Python 2 gave its items as a list of pairs
            for pair in _elements(items[0]) if items else ():
                self._hash(_elements(pair)[:1])
            return _ORDERED
        if path in _SET_CALLS:
            for item in items:
                self._hash(_elements(item))
            return _OPAQUE
        if path in _OTHER_CALLS:
            return _OPAQUE
        raise self.objects(path)

    def _storage(self, claim: object) -> Storage:
        sort, kind, key, _, numel, *view = _items(claim)
        # The sixth item is None in legacy files; it made views of storages until torch 0.3.
        if sort != "storage" or view not in ([], [None]) or not isinstance(key, str):
            raise self.damaged("a storage")
        storage = Storage(key, _path(kind).removeprefix("torch."), _int(numel))
        if storage.kind not in ELEMENT_BYTES or storage.numel < 0:
            raise self.damaged("the type of a storage")
        if self.storages.setdefault(key, storage) != storage:
            raise self.damaged("two storages of one name")
        return storage

    def _check_tensor(self, items: Sequence[object]) -> None:
        """A tensor must lie within its storage: torch grows some storages, and leaves there what the memory held."""
        storage, offset, shape, strides = items[0], _int(items[1]), _sizes(items[2]), _sizes(items[3])
        if not isinstance(storage, Storage) or len(shape) != len(strides) or min((offset, *shape, *strides)) < 0:
            raise self.damaged("a tensor")
        if len(items) > 6:  # conjugate and negative views, which state dicts do not have
            raise self.damaged("a tensor with metadata")
        reach = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1
        if 0 not in shape and reach > storage.numel:
            raise self.damaged(f"a tensor of {reach:,} elements in a storage of {storage.numel:,}")

    def _tuple(self, items: list[object]) -> _Tuple:
        depth = 1 + max((item.depth for item in items if isinstance(item, _Tuple)), default=0)
        if depth > _MAX_DEPTH:
            raise self.damaged(f"tuples more than {_MAX_DEPTH} deep")
        return _Tuple(tuple(items), depth)

    def _hash(self, keys: Sequence[object]) -> None:
        for key in keys:
            small = isinstance(key, str) or (isinstance(key, int) and abs(key) < 2**31)
            self._odd_keys += not small
        if self._odd_keys > _MAX_ODD_KEYS:
            raise self.damaged(f"more than {_MAX_ODD_KEYS:,} unusual dictionary keys")


def _all_harmless(opcodes: Iterator[tuple[pickletools.OpcodeInfo, object, int | None]]) -> bool:
    """Do the rest of these name nothing but tensors and harmless values?"""
    for opcode, argument, _ in opcodes:
        path = re.sub(r"^__builtin__\.", "builtins.", str(argument).replace(" ", "."))
        if opcode.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
            return False
        if opcode.name == "GLOBAL" and path not in _KNOWN and not _BESIDE.fullmatch(path):
            return False
    return True


def _int(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError("integer")
    return value


def _items(value: object) -> tuple[object, ...]:
    if not isinstance(value, _Tuple):
        raise TypeError("tuple")
    return value.items


def _sizes(value: object) -> tuple[int, ...]:
    return tuple(_int(item) for item in _items(value))


def _elements(value: object) -> Sequence[object]:
    return value.items if isinstance(value, _Tuple) else value if isinstance(value, list) else ()


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError("list")
    return value


def _path(value: object) -> str:
    if not isinstance(value, _Global):
        raise TypeError("global")
    return value.path
