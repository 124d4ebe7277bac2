"""A pickle read as data: nothing is imported and nothing is called, whatever the pickle asks for.

Python's unpickler is a machine that runs the file's instructions, which may import and call anything. This one knows the
same instructions and builds numbers, strings, containers and NumPy arrays of numbers alone; every other object becomes a
`Skipped`, which has the name of what the file asked for and, at most, the attributes that it should have had. So a
Namespace, a path or a stranger's class beside the weights costs nothing and runs nothing, and neither does a command.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import ClassVar, Final, Protocol

import numpy as np

from auditor.data.intake.pickle_machine import CALL_BYTES, DICT_BYTES, MAX_NAME, PLAIN, PickleMachine, by_code
from auditor.data.intake.pickle_values import Named, NumpyArray, NumpyType, Skipped
from auditor.kit.errors import IntakeError
from auditor.kit.limits import Limits
from auditor.kit.wording import printable, shown, size_text

GROWTH = 64
"""Bytes in memory for a byte of a pickle of descriptions: an empty dictionary is one byte there and 64 in memory."""

_MAX_CALLS = 300_000
"""Objects made by a call, three for each of 100,000 tensors."""

_SCALAR = re.compile(r"numpy\.(_?core\.)?multiarray\.scalar")
_ARRAY = re.compile(r"numpy\.(_?core\.)?multiarray\._reconstruct")
_BUFFER = re.compile(r"numpy\.(_?core\.)?numeric\._frombuffer")
_RECONSTRUCTORS = tuple(
    f"{module}.{name}" for module in ("copyreg", "copy_reg") for name in ("_reconstructor", "__newobj__")
)
_PLAIN_TYPE = re.compile(r"b1|[iu][1248]|f[248]|c8|c16|[SU][1-9]\d{0,4}")
"""Types of NumPy whose arrays are numbers or texts and nothing else."""


class PickleReader(PickleMachine):
    """Reads pickles with objects in them, of which it builds NumPy's arrays and what stands for a plain value."""

    instructions: ClassVar[dict[bytes, str]] = PLAIN | by_code({
        "c": "global", 0x93: "stack_global", "Q": "binpersid", "R": "reduce", 0x81: "newobj",
        0x92: "newobj_ex", "i": "inst", "o": "obj", "b": "build",
    })  # fmt: skip

    def _name(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str) or len(module) + len(name) > MAX_NAME:
            raise TypeError
        path = re.sub(r"^__builtin__\.", "builtins.", f"{module}.{name}")  # as Python 2 called it
        self._spend(CALL_BYTES)
        self.named[path] = None
        self._push(Named(path))

    def _global(self) -> None:
        self._name(self._line().decode(), self._line().decode())

    def _stack_global(self) -> None:
        self._name(*self._last(2))

    def _binpersid(self) -> None:
        self._push(self._persistent(self._stack.pop()))

    def _persistent(self, claim: object) -> object:
        raise self.damaged("a reference to something outside it")

    def _called(self, function: object, arguments: object) -> None:
        self._calls += 1
        if self._calls > _MAX_CALLS:
            raise self.damaged(f"more than {_MAX_CALLS:,} objects")
        self._spend(CALL_BYTES)
        if not isinstance(function, Skipped) or not isinstance(arguments, tuple):
            raise TypeError
        self._push(self._made(function.path, arguments) if isinstance(function, Named) else Skipped(function.path))

    def _reduce(self) -> None:
        self._called(*self._last(2))

    def _newobj(self) -> None:
        self._called(*self._last(2))

    def _newobj_ex(self) -> None:
        function, arguments, _ = self._last(3)
        self._called(function, arguments)

    def _inst(self) -> None:
        self._global()
        function = self._stack.pop()
        self._called_with_marked(function, self._marked())

    def _obj(self) -> None:
        function, *arguments = self._marked()
        self._called_with_marked(function, arguments)

    def _called_with_marked(self, function: object, arguments: list[object]) -> None:
        self._called(function, tuple(arguments))

    def _build(self) -> None:
        state = self._stack.pop()
        target = self._stack[-1]
        if isinstance(target, NumpyArray):
            self._filled(target, state)
        elif isinstance(target, NumpyType):
            order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
            target.order = _text(order)
        elif isinstance(target, Named) or not isinstance(target, self._buildable):
            raise TypeError
        elif isinstance(target, Skipped):
            target.state = state[0] if isinstance(state, tuple) and len(state) == 2 else state  # (__dict__, __slots__)

    _buildable: tuple[type, ...] = (Skipped, dict, list, set)
    """Values that may have attributes; only those of a skipped object are kept."""

    def _made(self, path: str, arguments: tuple[object, ...]) -> object:
        """What this call makes: a plain value, or a Skipped."""
        maker = _MAKERS.get(path)
        if maker is not None:
            value = maker(self, arguments)
        elif _SCALAR.fullmatch(path):
            value = self._scalar(arguments)
        elif _ARRAY.fullmatch(path):
            return NumpyArray()
        elif _BUFFER.fullmatch(path):
            value = self._buffer(arguments)
        elif path in _RECONSTRUCTORS and arguments and isinstance(arguments[0], Named):
            return Skipped(arguments[0].path)
        else:
            return Skipped(path)
        return Skipped(path) if value is NotImplemented else value

    def _ordered(self, arguments: tuple[object, ...]) -> object:
        """An ordered dictionary; Python 2 gave its items as a list of pairs."""
        self._spend(DICT_BYTES)
        made: dict[object, object] = {}
        if arguments:
            (given,) = arguments
            pairs = list(given.items()) if isinstance(given, dict) else given
            if not isinstance(pairs, list | tuple) or any(len(_sequence(pair)) != 2 for pair in pairs):
                return NotImplemented
            self._put_pairs(made, [tuple(pair) for pair in pairs])
        return made

    def _default(self, arguments: tuple[object, ...]) -> object:
        return self._ordered(arguments[1:])

    def _members(self, arguments: tuple[object, ...]) -> object:
        return self._set_of(_sequence(arguments[0]) if arguments else ())

    def _frozen_members(self, arguments: tuple[object, ...]) -> object:
        return frozenset(self._set_of(_sequence(arguments[0]) if arguments else ()))

    def _complex(self, arguments: tuple[object, ...]) -> object:
        real, imaginary = arguments
        return complex(real, imaginary) if isinstance(real, float) and isinstance(imaginary, float) else NotImplemented

    def _encoded(self, arguments: tuple[object, ...]) -> object:
        """Bytes, as Python 3 writes them for Python 2."""
        text, encoding = arguments if len(arguments) == 2 else (None, None)
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            return NotImplemented
        self._spend(len(text))
        return text.encode("latin-1")

    def _as_bytes(self, arguments: tuple[object, ...]) -> object:
        """A copy of bytes; a number would ask for so many zeros."""
        if not arguments:
            return b""
        return arguments[0] if len(arguments) == 1 and isinstance(arguments[0], bytes) else self._encoded(arguments)

    def _type(self, arguments: tuple[object, ...]) -> object:
        code = _text(arguments[0]) if arguments else ""
        return NumpyType(code) if code else NotImplemented

    def _scalar(self, arguments: tuple[object, ...]) -> object:
        kind, content = arguments if len(arguments) == 2 else (None, None)
        array = self._array(kind, (), content)
        if array is None:
            return NotImplemented
        self._spend(array.nbytes)
        return array.item()

    def _buffer(self, arguments: tuple[object, ...]) -> object:
        content, kind, shape, order = arguments
        array = self._array(kind, shape, content, fortran=order == "F")
        return NotImplemented if array is None else array

    def _filled(self, target: NumpyArray, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            return
        _, shape, kind, fortran, content = state
        array = self._array(kind, shape, content, fortran=bool(fortran))
        if array is not None:
            self._stack[-1] = array
            for place in target.places:
                if self._memo.get(place) is target:
                    self._memo[place] = array

    def _array(self, kind: object, shape: object, content: object, *, fortran: bool = False) -> np.ndarray | None:
        """An array of numbers on these bytes, which are not copied; None where it is of objects."""
        if isinstance(content, str):  # of Python 2, and UTF-8 by chance
            content = content.encode()
        if not isinstance(kind, NumpyType) or not isinstance(content, bytes) or not isinstance(shape, tuple):
            return None
        code = kind.code.lstrip("<>=|")
        if not _PLAIN_TYPE.fullmatch(code):
            return None
        order = kind.code[0] if kind.code[0] in "<>" else kind.order if kind.order in ("<", ">") else "="
        kinds = np.dtype(order + code)
        array = np.frombuffer(content, kinds) if content else np.empty(0, kinds)
        return array.reshape(shape, order="F" if fortran else "C")


class Readable(Protocol):
    """What gives bytes: up to so many, all that are left where there are fewer."""

    def read(self, size: int, /) -> bytes: ...


def read_plain_pickle(stream: Readable, name: str, limits: Limits) -> object:
    """One pickle without tensors, such as a batch of CIFAR-10, as dictionaries, lists, tuples, sets, numbers, strings, bytes
    and NumPy arrays (read-only); every other object is a `Skipped`. Strings that Python 2 wrote are bytes.

    Raises IntakeError for what is no pickle, and over ``limits.batch_bytes``.
    """
    content = stream.read(limits.batch_bytes + 1)
    if len(content) > limits.batch_bytes:
        raise IntakeError(f"{shown(name)} has more than {size_text(limits.batch_bytes)}, which is the limit.")
    return PlainReader(content, name, memory=GROWTH * limits.pickle_bytes + len(content), text=False).read()


class PlainReader(PickleReader):
    """A pickle of data."""

    def damaged(self, what: str) -> IntakeError:
        return IntakeError(
            f"{shown(self.name)} is damaged or not a pickle: it cannot be read ({printable(what)}).",
            "Download it again, or write it again with pickle.dump.",
        )


def _text(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value if isinstance(value, str) else ""


def _sequence(value: object) -> Sequence[object]:
    if not isinstance(value, list | tuple):
        raise TypeError
    return value


_Maker = Callable[[PickleReader, tuple[object, ...]], object]
_MAKERS: Final[dict[str, _Maker]] = {
    "collections.OrderedDict": PickleReader._ordered,
    "collections.Counter": PickleReader._ordered,
    "collections.defaultdict": PickleReader._default,
    "builtins.set": PickleReader._members,
    "builtins.frozenset": PickleReader._frozen_members,
    "builtins.complex": PickleReader._complex,
    "builtins.bytes": PickleReader._as_bytes,
    "builtins.bytearray": PickleReader._as_bytes,
    "_codecs.encode": PickleReader._encoded,
    "numpy.dtype": PickleReader._type,
}
"""What the calls make that pickles hold for plain values."""
