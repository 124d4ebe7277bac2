"""The machine that reads a pickle: its stack, its memo, numbers, strings and containers, and their limits.

What is left to a hostile file is time and memory, so these have limits, each with its reason.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence
from typing import ClassVar

from auditor.data.intake.pickle_values import NumpyArray, Skipped
from auditor.kit.errors import IntakeError
from auditor.kit.wording import printable, shown, size_text

RECIPE = (
    'Where the model is defined, run: import torch; torch.save(model.state_dict(), "weights.pt") and upload that file.'
)
"""What to do with a file from which no weights can be read."""

_MAX_KEY_DEPTH = 100
_MAX_KEY_ITEMS = 1000
"""Of a tuple as a key: Python takes its hash on the C stack, and anew for each of its parts, however often they repeat."""

_MAX_ODD_KEYS = 10_000
"""Keys other than strings and small integers: those can be made to collide, and n of them take n**2 comparisons."""

_MAX_LONG_BYTES = 1024
"""Bytes of an integer; Python's own need eight, and work on longer ones grows with the square of their length."""

MAX_NAME = 1000
"""Characters of the name of a class."""

_MARK_BYTES, _MEMO_BYTES, CALL_BYTES = 64, 136, 100
_LIST_BYTES, DICT_BYTES, _PAIR_BYTES, _SET_BYTES, _MEMBER_BYTES = 64, 96, 136, 216, 64
"""What these take in memory: CPython 3.11, 64 bits, with the share of the table that grew for them."""


def by_code(table: dict[int | str, str]) -> dict[bytes, str]:
    """A table of instructions, some of them given as letters."""
    return {bytes([ord(code) if isinstance(code, str) else code]): name for code, name in table.items()}


PLAIN = by_code({
    0x80: "proto", 0x95: "frame", "(": "mark", "0": "pop", "1": "pop_mark", "2": "dup",
    "N": "none", 0x88: "newtrue", 0x89: "newfalse", "I": "int", "J": "binint", "K": "binint1",
    "M": "binint2", 0x8A: "long1", 0x8B: "long4", "G": "binfloat",
    "U": "short_binstring", "T": "binstring", "C": "short_binbytes", "B": "binbytes",
    0x8E: "binbytes8", 0x96: "binbytes8", 0x8C: "short_binunicode", "X": "binunicode", 0x8D: "binunicode8",
    ")": "empty_tuple", "t": "tuple", 0x85: "tuple1", 0x86: "tuple2", 0x87: "tuple3",
    "]": "empty_list", "l": "list", "a": "append", "e": "appends",
    "}": "empty_dict", "d": "dict", "s": "setitem", "u": "setitems",
    0x8F: "empty_set", 0x90: "additems", 0x91: "frozenset",
    "h": "binget", "j": "long_binget", "q": "binput", "r": "long_binput", 0x94: "memoize",
})  # fmt: skip
"""The instructions of protocols 1 to 5 for plain values; those that look something up outside the file (EXT, buffers) have no
place here."""


class PickleMachine:
    """Reads the pickles that follow each other in ``content``, those of plain values. ``name`` is for errors.

    ``text``: strings of Python 2 become strings where they are UTF-8, as torch reads them; otherwise they stay bytes.
    ``memory``: bytes that all that is built may take.
    """

    instructions: ClassVar[dict[bytes, str]] = PLAIN
    """Instruction -> name of the method that follows it, without its underscore."""

    def __init__(self, content: bytes, name: str, *, memory: int, text: bool = True) -> None:
        self.name = name
        self.position = 0
        self.named: dict[str, None] = {}
        """Every class and function that was named, in order."""
        self.cut = False
        """Whether the content ended within a pickle."""
        self._content = content
        self._text = text
        self._memory = self._left = memory
        self._odd_keys = self._calls = 0
        self._stack: list[object] = []
        self._marks: list[list[object]] = []
        self._memo: dict[int, object] = {}
        self._actions = {opcode: getattr(self, f"_{name}") for opcode, name in self.instructions.items()}

    def read(self) -> object:
        """Read one pickle, up to and with its STOP. Raises IntakeError for what is none, and over the limits."""
        self._stack, self._marks, self._memo = [], [], {}
        try:
            while True:
                opcode = self._take(1)
                if opcode == b".":
                    return self._stack.pop()
                action = self._actions.get(opcode)
                if action is None:
                    raise self.damaged(f"the instruction {opcode.hex()}")
                action()
        except (IntakeError, MemoryError):
            raise
        except Exception:  # instructions in a senseless order fail in any way there is
            raise self.damaged("instructions in a senseless order") from None

    def damaged(self, what: str) -> IntakeError:
        """The refusal of a pickle that no pickler wrote."""
        return IntakeError(
            f"{shown(self.name)} is damaged or not written by torch.save: its list of tensors cannot be read "
            f"({printable(what)}).",
            "Save it again with torch.save.",
        )

    # What a file may do without limits otherwise.

    def _spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise IntakeError(
                f"{shown(self.name)} describes objects of more than {size_text(self._memory)}, which is the limit.",
                RECIPE,
            )

    def _keyed(self, key: object) -> object:
        """The key of a dictionary or the member of a set, checked before its hash is taken."""
        if isinstance(key, str | bytes | Skipped) or (isinstance(key, int) and -(2**31) < key < 2**31):
            return key
        self._odd_keys += 1
        if self._odd_keys > _MAX_ODD_KEYS:
            raise self.damaged(f"more than {_MAX_ODD_KEYS:,} unusual dictionary keys")
        waiting, seen = [(key, 1)], 0
        while waiting:
            item, depth = waiting.pop()
            if isinstance(item, frozenset):
                raise self.damaged("a set as a key")
            if isinstance(item, tuple):
                seen += len(item)
                if depth > _MAX_KEY_DEPTH:
                    raise self.damaged(f"a key of tuples more than {_MAX_KEY_DEPTH} deep")
                if seen > _MAX_KEY_ITEMS:
                    raise self.damaged(f"a key of more than {_MAX_KEY_ITEMS:,} items")
                waiting += [(part, depth + 1) for part in item]
        return key

    # The bytes.

    def _take(self, count: int) -> bytes:
        end = self.position + count
        if end > len(self._content):
            self.cut = True
            raise self.damaged("it ends early")
        part = self._content[self.position : end]
        self.position = end
        return part

    def _unsigned(self, count: int) -> int:
        return int.from_bytes(self._take(count), "little")

    def _line(self) -> bytes:
        end = self._content.find(b"\n", self.position, self.position + MAX_NAME)
        if end < 0:
            self.cut = len(self._content) < self.position + MAX_NAME
            raise self.damaged("a name without an end")
        line = self._content[self.position : end]
        self.position = end + 1
        return line

    def _push(self, value: object) -> None:
        self._stack.append(value)

    def _marked(self) -> list[object]:
        """What was pushed since the last mark."""
        items, self._stack = self._stack, self._marks.pop()
        return items

    # Numbers, strings.

    def _bytes_of(self, count: int) -> None:
        value = self._take(count)
        self._spend(sys.getsizeof(value))
        self._push(value)

    def _unicode_of(self, count: int) -> None:
        value = self._take(count).decode("utf-8", "surrogatepass")
        self._spend(sys.getsizeof(value))
        self._push(value)

    def _string_of(self, count: int) -> None:
        self._bytes_of(count)
        if self._text:
            value = self._stack.pop()
            try:
                self._push(value.decode())  # type: ignore[attr-defined]
            except UnicodeDecodeError:
                self._push(value)

    def _short_binstring(self) -> None:
        self._string_of(self._unsigned(1))

    def _binstring(self) -> None:
        self._string_of(self._unsigned(4))

    def _short_binbytes(self) -> None:
        self._bytes_of(self._unsigned(1))

    def _binbytes(self) -> None:
        self._bytes_of(self._unsigned(4))

    def _binbytes8(self) -> None:
        self._bytes_of(self._unsigned(8))

    def _short_binunicode(self) -> None:
        self._unicode_of(self._unsigned(1))

    def _binunicode(self) -> None:
        self._unicode_of(self._unsigned(4))

    def _binunicode8(self) -> None:
        self._unicode_of(self._unsigned(8))

    def _none(self) -> None:
        self._push(None)

    def _newtrue(self) -> None:
        self._push(True)

    def _newfalse(self) -> None:
        self._push(False)

    def _int(self) -> None:
        text = self._line()
        self._push({b"00": False, b"01": True}[text] if text in (b"00", b"01") else int(text))

    def _binint(self) -> None:
        self._push(int.from_bytes(self._take(4), "little", signed=True))

    def _binint1(self) -> None:
        self._push(self._unsigned(1))

    def _binint2(self) -> None:
        self._push(self._unsigned(2))

    def _long_of(self, count: int) -> None:
        if count > _MAX_LONG_BYTES:
            raise self.damaged(f"an integer of {count:,} bytes")
        self._push(int.from_bytes(self._take(count), "little", signed=True))

    def _long1(self) -> None:
        self._long_of(self._unsigned(1))

    def _long4(self) -> None:
        self._long_of(self._unsigned(4))

    def _binfloat(self) -> None:
        self._push(struct.unpack(">d", self._take(8))[0])

    # Containers.

    def _mark(self) -> None:
        self._spend(_MARK_BYTES)
        self._marks.append(self._stack)
        self._stack = []

    def _tuple_of(self, items: Sequence[object]) -> None:
        self._spend(48 + 8 * len(items))
        self._push(tuple(items))

    def _empty_tuple(self) -> None:
        self._push(())

    def _tuple(self) -> None:
        self._tuple_of(self._marked())

    def _last(self, count: int) -> list[object]:
        if len(self._stack) < count:
            raise IndexError
        items = self._stack[-count:]
        del self._stack[-count:]
        return items

    def _tuple1(self) -> None:
        self._tuple_of(self._last(1))

    def _tuple2(self) -> None:
        self._tuple_of(self._last(2))

    def _tuple3(self) -> None:
        self._tuple_of(self._last(3))

    def _empty_list(self) -> None:
        self._spend(_LIST_BYTES)
        self._push([])

    def _list(self) -> None:
        self._spend(_LIST_BYTES)
        self._push(self._marked())

    def _extend(self, items: list[object]) -> None:
        target = self._stack[-1]
        if isinstance(target, list):
            self._spend(16 * len(items))
            target.extend(items)
        elif not isinstance(target, Skipped):  # what a skipped object holds is dropped
            raise TypeError

    def _append(self) -> None:
        self._extend(self._last(1))

    def _appends(self) -> None:
        self._extend(self._marked())

    def _empty_dict(self) -> None:
        self._spend(DICT_BYTES)
        self._push({})

    def _dict(self) -> None:
        items = self._marked()
        self._empty_dict()
        self._update(items)

    def _update(self, items: list[object]) -> None:
        target = self._stack[-1]
        if len(items) % 2:
            raise TypeError
        if isinstance(target, dict):
            self._put_pairs(target, list(zip(items[::2], items[1::2], strict=True)))
        elif not isinstance(target, Skipped):
            raise TypeError

    def _put_pairs(self, target: dict[object, object], pairs: Sequence[tuple[object, object]]) -> None:
        self._spend(_PAIR_BYTES * len(pairs))
        for key, value in pairs:
            target[self._keyed(key)] = value

    def _setitem(self) -> None:
        self._update(self._last(2))

    def _setitems(self) -> None:
        self._update(self._marked())

    def _set_of(self, items: Sequence[object]) -> set[object]:
        self._spend(_SET_BYTES + _MEMBER_BYTES * len(items))
        return {self._keyed(item) for item in items}

    def _empty_set(self) -> None:
        self._push(self._set_of(()))

    def _additems(self) -> None:
        items = self._marked()
        target = self._stack[-1]
        if isinstance(target, set):
            target |= self._set_of(items)
        elif not isinstance(target, Skipped):
            raise TypeError

    def _frozenset(self) -> None:
        self._push(frozenset(self._set_of(self._marked())))

    # The memo, the stack.

    def _get(self, index: int) -> None:
        self._push(self._memo[index])

    def _binget(self) -> None:
        self._get(self._unsigned(1))

    def _long_binget(self) -> None:
        self._get(self._unsigned(4))

    def _put(self, index: int) -> None:
        self._spend(_MEMO_BYTES)
        value = self._memo[index] = self._stack[-1]
        if isinstance(value, NumpyArray):
            value.places.append(index)

    def _binput(self) -> None:
        self._put(self._unsigned(1))

    def _long_binput(self) -> None:
        self._put(self._unsigned(4))

    def _memoize(self) -> None:
        self._put(len(self._memo))

    def _pop(self) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._marked()

    def _pop_mark(self) -> None:
        self._marked()

    def _dup(self) -> None:
        self._push(self._stack[-1])

    def _proto(self) -> None:
        if (protocol := self._unsigned(1)) > 5:
            raise self.damaged(f"pickle protocol {protocol}")

    def _frame(self) -> None:
        self._take(8)
