"""The reader of pickles: each instruction and each limit, against Python's own unpickler; and that nothing ever runs."""

from __future__ import annotations

import argparse
import collections
import contextlib
import datetime
import enum
import io
import os
import pathlib
import pickle
import pickletools
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from auditor.data.intake.pickle_values import Named, Skipped
from auditor.data.intake.pickles import PlainReader, read_plain_pickle
from auditor.kit.errors import IntakeError
from auditor.kit.limits import KIB, MIB, Limits

REFUSED = {"EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER", "PERSID"}
"""What refers to something outside the file."""

TEXT = {"LONG", "STRING", "UNICODE", "FLOAT", "GET", "PUT"}
"""What only protocol 0 writes, which Python has not used by default since 2003."""


def read(content: bytes, *, text: bool = True, memory: int = 64 * MIB) -> Any:
    return PlainReader(content, "x.pkl", memory=memory, text=text).read()


def outcome(content: bytes) -> str:
    """Whether it reads, or is refused in the one sentence for what is no pickle."""
    try:
        read(content, memory=MIB)
    except IntakeError as error:
        return "a sentence" if "cannot be read" in str(error) else str(error)
    return "a value"


def refused(content: bytes, words: str, **options: Any) -> None:
    with pytest.raises(IntakeError, match=words):
        read(content, **options)


# Each instruction.

M = b"("
STREAMS: dict[str, bytes] = {
    "PROTO": b"\x80\x05N.",
    "FRAME": b"\x80\x04\x95" + struct.pack("<Q", 2) + b"N.",
    "INT": b"I-123456789012\n.",
    "BININT": b"J" + struct.pack("<i", -5) + b".",
    "BININT1": b"K\xff.",
    "BININT2": b"M\xff\xff.",
    "LONG1": b"\x8a\x09" + (2**70 - 1).to_bytes(9, "little", signed=True) + b".",
    "LONG4": b"\x8b" + struct.pack("<i", 2) + b"\xff\xff.",
    "BINFLOAT": b"G" + struct.pack(">d", 0.1) + b".",
    "NONE": b"N.",
    "NEWTRUE": b"\x88.",
    "NEWFALSE": b"\x89.",
    "SHORT_BINSTRING": b"U\x03abc.",
    "BINSTRING": b"T" + struct.pack("<i", 3) + b"abc.",
    "SHORT_BINBYTES": b"C\x02\x00\xff.",
    "BINBYTES": b"B" + struct.pack("<I", 2) + b"\x00\xff.",
    "BINBYTES8": b"\x8e" + struct.pack("<Q", 2) + b"\x00\xff.",
    "BYTEARRAY8": b"\x96" + struct.pack("<Q", 2) + b"\x00\xff.",
    "SHORT_BINUNICODE": b"\x8c\x02\xc3\xa9.",
    "BINUNICODE": b"X" + struct.pack("<I", 2) + b"\xc3\xa9.",
    "BINUNICODE8": b"\x8d" + struct.pack("<Q", 2) + b"\xc3\xa9.",
    "EMPTY_TUPLE": b").",
    "TUPLE1": b"K\x01\x85.",
    "TUPLE2": b"K\x01K\x02\x86.",
    "TUPLE3": b"K\x01K\x02K\x03\x87.",
    "TUPLE": M + b"K\x01K\x02K\x03K\x04t.",
    "MARK": M + b"t.",
    "EMPTY_LIST": b"].",
    "APPEND": b"]K\x01a.",
    "APPENDS": b"]" + M + b"K\x01K\x02e.",
    "LIST": M + b"K\x01K\x02l.",
    "EMPTY_DICT": b"}.",
    "SETITEM": b"}K\x01K\x02s.",
    "SETITEMS": b"}" + M + b"K\x01K\x02K\x03K\x04u.",
    "DICT": M + b"K\x01K\x02d.",
    "EMPTY_SET": b"\x8f.",
    "ADDITEMS": b"\x8f" + M + b"K\x01K\x02\x90.",
    "FROZENSET": M + b"K\x01K\x02\x91.",
    "BINPUT": b"]q\x07h\x07a.",
    "BINGET": b"K\x01q\x07h\x07\x86.",
    "LONG_BINPUT": b"K\x01r" + struct.pack("<I", 70_000) + b"j" + struct.pack("<I", 70_000) + b"\x86.",
    "LONG_BINGET": b"K\x01q\x07j" + struct.pack("<I", 7) + b"\x86.",
    "MEMOIZE": b"K\x01\x94h\x00\x86.",
    "POP": b"K\x01K\x020.",
    "POP_MARK": b"K\x01" + M + b"K\x021.",
    "DUP": b"K\x012\x86.",
    "STOP": b"N.",
    "REDUCE": b"ccollections\nOrderedDict\n)R.",
}
"""An instruction, and a pickle that uses it and that Python's own unpickler reads to the same value."""

OBJECTS: dict[str, bytes] = {
    "GLOBAL": b"cos\nmkdir\n.",
    "STACK_GLOBAL": b"\x8c\x02os\x8c\x05mkdir\x93.",
    "NEWOBJ": b"cos\nmkdir\nX\x01\x00\x00\x00a\x85\x81.",
    "NEWOBJ_EX": b"cos\nmkdir\nX\x01\x00\x00\x00a\x85}\x92.",
    "INST": M + b"X\x01\x00\x00\x00aios\nmkdir\n.",
    "OBJ": M + b"cos\nmkdir\nX\x01\x00\x00\x00ao.",
    "BUILD": b"cos\nmkdir\n)\x81}X\x01\x00\x00\x00aK\x01sb.",
}
"""What makes objects: each leaves a name."""


def test_every_instruction_of_python_is_accounted_for() -> None:
    known = {opcode.name for opcode in pickletools.opcodes}
    assert known == STREAMS.keys() | OBJECTS.keys() | REFUSED | TEXT | {"BINPERSID"}


@pytest.mark.parametrize("name", STREAMS)
def test_an_instruction_that_makes_data(name: str) -> None:
    content = STREAMS[name]
    assert name in {opcode.name for opcode, _, _ in pickletools.genops(content)}
    value, expected = read(content), pickle.loads(content)
    if name == "BINPUT":
        assert value[0] is value, "a list that holds itself"
    else:
        assert value == expected
        plain: dict[type, type] = {collections.OrderedDict: dict, bytearray: bytes}
        assert type(value) is plain.get(type(expected), type(expected))


@pytest.mark.parametrize("name", OBJECTS)
def test_an_instruction_that_makes_an_object_leaves_its_name(name: str) -> None:
    value = read(OBJECTS[name])
    assert isinstance(value, Skipped)
    assert value.path == "os.mkdir"
    assert isinstance(value, Named) == (name in ("GLOBAL", "STACK_GLOBAL"))
    assert value.state == ({"a": 1} if name == "BUILD" else None)


@pytest.mark.parametrize("name", sorted(REFUSED | TEXT))
def test_an_instruction_that_is_refused(name: str) -> None:
    code = next(opcode.code for opcode in pickletools.opcodes if opcode.name == name).encode("latin-1")
    refused(b"N" + code + b"\x01\n\x00\x00\x00\x00.", f"the instruction {code.hex()}")


def test_references_to_something_outside() -> None:
    refused(b"X\x01\x00\x00\x00aQ.", "a reference to something outside it")


@pytest.mark.parametrize(
    "code", [code for code in range(256) if chr(code) not in {o.code for o in pickletools.opcodes}]
)
def test_bytes_that_are_no_instruction(code: int) -> None:
    refused(bytes([code]), "cannot be read")


@pytest.mark.parametrize("name", [name for name in (*STREAMS, *OBJECTS) if name not in ("STOP", "PROTO")])
def test_every_cut_and_every_instruction_alone_is_refused_in_a_sentence(name: str) -> None:
    content = {**STREAMS, **OBJECTS}[name]
    for length in range(len(content)):
        refused(content[:length], "it cannot be read|cannot be read")
    for start in range(1, len(content)):
        assert outcome(content[start:]) in ("a value", "a sentence")


# Whole pickles, against Python's own.

ARRAYS = [
    np.arange(6, dtype="u1").reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(4, dtype=">i2"),
    np.zeros((0, 5)),
    np.array([True, False]),
    np.array([1 + 2j]),
    np.array(["ab", "c"]),
    np.array([b"ab", b"c"]),
    np.array(3.5),
]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_are_what_python_reads(protocol: int) -> None:
    shared = ["x", 1]
    value = {
        "numbers": [0, -1, 255, 256, 65_536, -(2**31), 2**31, 2**200, 0.5, float("inf"), 1j, True, False, None],
        "strings": ["", "a", "é", "\U0001f600", "x" * 1000, b"", b"\x00\xff", b"y" * 70_000],
        (1, "t", (2.5, None)): (),
        "nested": {"a": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)], 5: {"set": {1, 2}, "frozen": frozenset("ab")}},
        "twice": [shared, shared],
        "ordered": collections.OrderedDict(a=1),
        "counter": collections.Counter("aab"),
        "scalars": [np.float64(91.2), np.float32(0.5), np.int64(-3), np.bool_(True), np.str_("word")],
    }
    found: Any = read_plain_pickle(io.BytesIO(pickle.dumps(value, protocol)), "x.pkl", Limits())
    assert found == value
    assert found["twice"][0] is found["twice"][1]
    assert [type(item) for item in found["scalars"]] == [float, float, int, bool, str]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}{array.shape}")
def test_arrays_are_what_numpy_reads(array: np.ndarray, protocol: int) -> None:
    first, second = read(pickle.dumps([array, array], protocol))
    assert first is second
    assert (first.dtype, first.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(first, array)


def test_arrays_of_objects_are_skipped() -> None:
    for array in (np.array([{}, None]), np.zeros(2, "i4,f4"), np.zeros(2, "M8[s]"), np.zeros(2, "V3")):
        for protocol in (2, 5):
            (value,) = read(pickle.dumps([array], protocol))
            assert isinstance(value, Skipped)
            assert value.path.startswith("numpy.")


def python2_batch(labels: str = "labels") -> bytes:
    """A batch as Python 2.7's cPickle wrote those of CIFAR: byte strings, NumPy 1's names, a memo by number."""
    rows = bytes(range(256)) * 24  # two images of 3,072 bytes

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value

    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85U\x01b\x87Rq\x04"
        + b"(K\x01K\x02M\x00\x0c\x86cnumpy\ndtype\nq\x05U\x02u1K\x00K\x01\x87Rq\x06"
        + b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + text(rows)
        + b"tb"
    )
    return (
        b"\x80\x02}q\x01(" + text(b"batch_label") + b"q\x07" + text(b"training batch 1 of 5")
        + text(labels.encode()) + b"]q\x08(K\x06K\x09e" + text(b"data") + array
        + text(b"filenames") + b"]q\x09(" + text(b"leptodactylus_pentadactylus_s_000004.png") + text(b"b\xe9.png") + b"eu."
    )  # fmt: skip


def test_a_batch_of_python_2_as_cifar_has_it() -> None:
    content = python2_batch()
    expected = pickle.loads(content, encoding="bytes")  # the oracle
    found: Any = read_plain_pickle(io.BytesIO(content), "data_batch_1", Limits())
    assert found.keys() == expected.keys() == {b"batch_label", b"labels", b"data", b"filenames"}
    np.testing.assert_array_equal(found[b"data"], expected[b"data"])
    assert (found[b"data"].dtype, found[b"data"].shape) == (np.dtype("u1"), (2, 3072))
    assert {key: found[key] for key in found if key != b"data"} == {
        key: expected[key] for key in found if key != b"data"
    }


def test_strings_of_python_2_in_a_torch_file_are_text_where_they_can_be() -> None:
    assert read(b"(U\x02\xc3\xa9U\x01\xe9t.") == ("é", b"\xe9")


class Color(enum.Enum):
    RED = 1


class Mine:
    def __init__(self) -> None:
        self.weights = [1, 2]


class Slots:
    __slots__ = ("a",)

    def __init__(self) -> None:
        self.a = 1


class Keywords:
    def __new__(cls, *, a: int) -> Keywords:
        return super().__new__(cls)

    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, int]]:
        return (), {"a": 1}


class Listed(list[int]):
    pass


class Mapped(dict[str, int]):
    pass


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    ("value", "path"),
    [
        (argparse.Namespace(a=1), "argparse.Namespace"),
        (datetime.date(2026, 1, 2), "datetime.date"),
        (datetime.timedelta(1), "datetime.timedelta"),
        (pathlib.PurePosixPath("a"), "pathlib.PurePosixPath"),
        (pathlib.PureWindowsPath("a"), "pathlib.PureWindowsPath"),
        (collections.deque([1, 2], 5), "collections.deque"),
        (Color.RED, f"{__name__}.Color"),
        (Mine(), f"{__name__}.Mine"),
        (Slots(), f"{__name__}.Slots"),
        (Keywords(a=1), f"{__name__}.Keywords"),
        (Listed([1, 2]), f"{__name__}.Listed"),
        (Mapped(a=1), f"{__name__}.Mapped"),
        (slice(3), "builtins.slice"),
        (print, "builtins.print"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_other_object_is_skipped_by_its_name(value: Any, path: str, protocol: int) -> None:
    # A class that takes keywords is called through functools.partial before protocol 4.
    path = "functools.partial" if isinstance(value, Keywords) and protocol < 4 else path
    found = read(pickle.dumps([value, "after"], protocol))
    assert isinstance(found[0], Skipped)
    assert found[0].path == path
    assert found[1] == "after"
    if isinstance(value, Mine):
        assert found[0].state == {"weights": [1, 2]}


# Nothing runs.


class Asks:
    """Asks, when it is loaded the trusting way, for a call."""

    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> Any:
        return self.reduced


def active(marker: Path) -> dict[str, bytes]:
    """Pickles that make the folder ``marker`` when they are loaded, one for each way in which a pickle gets to run."""
    place = str(marker).encode()
    text = b"X" + struct.pack("<I", len(place)) + place
    found = {f"REDUCE {protocol}": pickle.dumps(Asks(os.mkdir, (str(marker),)), protocol) for protocol in (2, 3, 4, 5)}
    found["STACK_GLOBAL"] = b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93" + text + b"\x85R."
    found["INST"] = M + text + b"ios\nmkdir\n."
    found["OBJ"] = M + b"cos\nmkdir\n" + text + b"o."
    found["BUILD, __setstate__"] = (
        b"cargparse\nNamespace\n)\x81}X\x0c\x00\x00\x00__setstate__cos\nmkdir\nsb" + text + b"b."
    )
    found["NEWOBJ"] = b"c" + __name__.encode() + b"\nMakes\n" + text + b"\x85\x81."
    found["NEWOBJ_EX"] = b"c" + __name__.encode() + b"\nMakes\n" + text + b"\x85}\x92."
    found["a key"] = b"}(cos\nmkdir\n" + text + b"\x85RK\x01u."
    found["deep in arguments"] = b"cargparse\nNamespace\n(cos\nmkdir\n" + text + b"\x85RtR."
    return found


class Makes:
    """Its making makes a folder."""

    def __new__(cls, place: str) -> Makes:
        Path(place).mkdir()
        return super().__new__(cls)


WAYS = sorted(active(Path("x")))


@pytest.mark.parametrize("way", WAYS)
def test_nothing_runs(way: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    content = active(marker)[way]
    before = set(sys.modules)
    with contextlib.suppress(IntakeError):
        read(content)
    assert not marker.exists()
    assert set(sys.modules) == before
    try:
        pickle.loads(content)
    except TypeError:
        assert way == "deep in arguments", "Namespace takes no arguments; its own were made before"
    assert marker.exists(), "the marker would have shown"


def test_nothing_is_imported() -> None:
    assert "this" not in sys.modules
    value = read(b"cthis\ns\n.")
    assert value.path == "this.s"
    assert "this" not in sys.modules


# Limits.


def test_the_memory_that_is_built_is_limited() -> None:
    for content in (
        b"]" * 20_000,
        b"}" * 20_000,
        b"\x8f" * 20_000,
        b"(" * 20_000,
        b"N\x94" + b"\x94" * 20_000,
        b"N\x85" * 20_000,
        b"}" + b"K\x01Ns" * 10_000,
        b"](" + b"N" * 70_000 + b"e",
        b"X" + struct.pack("<I", 4 * MIB) + b"a" * (4 * MIB),
        b"B" + struct.pack("<I", 4 * MIB) + b"a" * (4 * MIB),
        b"c_codecs\nencode\nq\x00X" + struct.pack("<I", 100_000) + b"a" * 100_000
        + b"X\x06\x00\x00\x00latin1\x86q\x010" + b"h\x00h\x01R" * 20,
        b"cnumpy.core.multiarray\nscalar\nq\x00cnumpy\ndtype\nX\x06\x00\x00\x00S99999\x85RB" + struct.pack("<I", 99_999)
        + b"a" * 99_999 + b"\x86q\x01" + b"h\x00h\x01R" * 20,
        b"cbuiltins\nset\nq\x00]q\x01(" + b"".join(b"M" + struct.pack("<H", i) for i in range(5000)) + b"eh\x01\x85q\x02"
        + b"h\x00h\x02R" * 20,
        b"ccollections\nCounter\nq\x00}q\x01(" + b"".join(b"M" + struct.pack("<H", i) + b"N" for i in range(3000))
        + b"uh\x01\x85q\x02" + b"h\x00h\x02R" * 20,
    ):  # fmt: skip
        refused(content + b".", "describes objects of more than 1 MiB, which is the limit", memory=MIB)


def test_what_the_limit_allows_fits_into_it() -> None:
    """The costs that are counted are no less than what Python takes."""
    import tracemalloc

    for opcodes in (
        b"]",
        b"}",
        b"\x8f",
        b"(",
        b"N\x94",
        b"N\x85",
        b"}K\x01Ns",
        b"](NNe",
        b"K\x01\x88\x86",
        b"cab\nc\n",
    ):
        content = b"N" + opcodes * 5000
        tracemalloc.start()
        reader = PlainReader(content + b"", "x", memory=MIB)
        with pytest.raises(IntakeError):
            reader.read()  # without an end
        taken, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert taken <= 1.35 * (MIB - reader._left) + 9 * len(content) + 100 * KIB, opcodes


def test_keys_and_members_that_are_not_hashable_data() -> None:
    deep = b"}" + b")" + b"\x85" * 200 + b"Ns."
    refused(deep, "tuples more than 100 deep")
    refused(b"}(" + b"N" * 1001 + b"tNs.", "a key of more than 1,000 items")
    refused(b"}(\x91Ns.", "a set as a key")
    refused(b"\x8f((\x91t\x90.", "a set as a key|senseless")
    refused(b"}]Ns.", "senseless order")
    refused(b"}(]tNs.", "senseless order")
    many = b"".join(b"\x8a\x05" + (2**33 + i).to_bytes(5, "little") + b"N" for i in range(10_001))
    refused(b"}(" + many + b"u.", "more than 10,000 unusual dictionary keys")
    assert len(read(b"}(" + many[:-8] + b"u.")) == 10_000


def test_a_key_counts_its_parts_as_often_as_they_repeat() -> None:
    """A tuple of one tuple twice, twelve levels deep: its hash visits 4,096 parts, and counts them."""
    refused(b"})" + b"2\x86" * 12 + b"Ns.", "a key of more than 1,000 items")
    assert len(read(b"})" + b"2\x86" * 8 + b"Ns.")) == 1


def test_the_number_of_calls_is_limited() -> None:
    refused(b"ca\nb\nq\x00" + b"h\x00)R0" * 300_001 + b".", "more than 300,000 objects")


def test_integers_and_names_have_a_length() -> None:
    assert read(b"\x8b" + struct.pack("<i", 1024) + b"\x01" * 1024 + b".") == int.from_bytes(b"\x01" * 1024, "little")
    refused(b"\x8b" + struct.pack("<i", 1025) + b"\x01" * 1025 + b".", "an integer of 1,025 bytes")
    refused(b"I" + b"1" * 5000 + b"\n.", "a name without an end")
    refused(b"c" + b"a" * 1001 + b"\nb\n.", "a name without an end")
    refused(b"X" + struct.pack("<I", 900) + b"a" * 900 + b"\x8c\xc8" + b"b" * 200 + b"\x93.", "senseless")
    refused(b"\x80\x06N.", "pickle protocol 6")


def test_a_length_beyond_the_file() -> None:
    for opcode, form in ((b"X", "<I"), (b"B", "<I"), (b"T", "<I"), (b"\x8d", "<Q"), (b"\x8e", "<Q"), (b"\x96", "<Q")):
        refused(opcode + struct.pack(form, 2**32 - 1) + b"abc.", "it ends early")


def test_deep_containers_are_built_and_taken_down() -> None:
    value = read(b"]" * 200_000 + b"a" * 199_999 + b".")
    assert isinstance(value[0][0], list)
    del value


def test_the_size_of_a_plain_pickle_is_limited() -> None:
    content = pickle.dumps(b"a" * 2000)
    with pytest.raises(IntakeError, match="'x' has more than 1000 bytes, which is the limit"):
        read_plain_pickle(io.BytesIO(content), "x", Limits(batch_bytes=1000))
    assert read_plain_pickle(io.BytesIO(content), "x", Limits(batch_bytes=len(content))) == b"a" * 2000


def test_arrays_that_do_not_fit_their_bytes() -> None:
    good = pickle.dumps(np.arange(4, dtype="u1"), 2)
    assert read(good).tolist() == [0, 1, 2, 3]
    longer = good.replace(b"K\x04\x85", b"K\x05\x85")  # the shape (4,) as (5,)
    assert longer != good
    refused(longer, "senseless")


@pytest.mark.parametrize("content", [b"", b"abc", b"\x80", b"\x89PNG\r\n", b"PK\x03\x04"])
def test_files_that_are_no_pickle(content: bytes) -> None:
    with pytest.raises(IntakeError, match="is damaged or not a pickle"):
        read_plain_pickle(io.BytesIO(content), "batch", Limits())


def test_random_instructions_end_in_a_value_or_in_a_sentence() -> None:
    draw = np.random.default_rng(0)
    codes = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]
    ended: collections.Counter[str] = collections.Counter()
    for _ in range(3000):
        content = b"".join(
            codes[draw.integers(len(codes))] + draw.integers(0, 4, draw.integers(0, 3), np.uint8).tobytes()
            for _ in range(draw.integers(1, 30))
        )
        ended[outcome(content + b".")] += 1
    assert ended.keys() == {"a value", "a sentence"}
