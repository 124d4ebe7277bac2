"""Hostile weights files, made here for real: each is refused in one sentence, none runs a line of its own."""

from __future__ import annotations

import argparse
import io
import json
import pickle
import struct
import sys
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save as save_safetensors
from torch import Tensor

from auditor.data.intake.checkpoints import is_legacy
from tests.auditor.data.intake.conftest import Door, Saved, Tiny, Zipped

LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


class Command:
    """Runs a shell command when a pickle of it is loaded the trusting way."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, ...]:
        import os

        return os.system, (self.command,)


class Call:
    """Whatever call a pickle of it should ask for."""

    def __init__(self, function: Callable[..., object], *arguments: object, state: object = None) -> None:
        self.value = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple[object, ...]:
        return self.value


class Stored:
    """A storage by its claimed type, key and number of elements, as torch writes it."""

    def __init__(self, key: object = "0", numel: int = 4, kind: type = torch.FloatStorage) -> None:
        self.claim = ("storage", kind, key, "cpu", numel)


def tensor(storage: object, offset: int, size: tuple[float, ...], stride: tuple[int, ...]) -> Call:
    return Call(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, OrderedDict())


def pickled(value: object, legacy: bool = False) -> bytes:
    class Pickler(pickle.Pickler):
        def persistent_id(self, item: object) -> object:
            return (item.claim + (None,) * legacy) if isinstance(item, Stored) else None

    stream = io.BytesIO()
    Pickler(stream, protocol=2).dump(value)
    return stream.getvalue()


def archive(
    data_pkl: bytes,
    records: Iterable[tuple[str, bytes]] = (("data/0", bytes(16)),),
    compression: int = zipfile.ZIP_STORED,
    top: str = "archive",
) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as file:
        for name, content in (("data.pkl", data_pkl), *records, ("version", b"3\n")):
            file.writestr(f"{top}/{name}" if top else name, content)
    return stream.getvalue()


def legacy(data_pkl: bytes, keys: object, storages: Iterable[tuple[int, bytes]]) -> bytes:
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    parts = [pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2), pickle.dumps(system, 2)]
    tail = b"".join(struct.pack("<q", numel) + content for numel, content in storages)
    return b"".join(parts) + data_pkl + pickle.dumps(keys, 2) + tail


def test_the_builders_build_what_torch_reads() -> None:
    value = {"a": tensor(Stored(), 1, (3,), (1,))}
    content = struct.pack("<4f", 1, 2, 3, 4)
    for made in (archive(pickled(value), [("data/0", content)]), legacy(pickled(value, True), ["0"], [(4, content)])):
        loaded = torch.load(io.BytesIO(made), weights_only=True)
        assert loaded["a"].tolist() == [2, 3, 4]
    assert is_legacy(legacy(b"", [], []))


# Code.


def test_the_canary_sings(door: Door, tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Command(f"touch {door.canary}"), 2))
    assert door.canary.exists()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_pickles_that_run_a_command(door: Door, protocol: int) -> None:
    door.refuse_model(
        pickle.dumps(Command(f"touch {door.canary}"), protocol), "Python objects (posix.system)", "state_dict()"
    )


def test_checkpoints_that_run_a_command(door: Door, state: dict[str, Tensor]) -> None:
    evil = pickled({"state_dict": Command(f"touch {door.canary}")})
    door.refuse_model(archive(evil), "Python objects (posix.system), not only weights", "torch.save(model.state_dict()")
    door.refuse_model(legacy(evil, [], []), "Python objects (posix.system)")


def test_a_command_in_any_of_the_legacy_pickles(door: Door) -> None:
    evil = pickle.dumps(Command(f"touch {door.canary}"), 2)
    magic, version, system = (pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2), pickle.dumps({}, 2))
    for content in (magic + evil, magic + version + evil, magic + version + system + pickle.dumps({}, 2) + evil):
        door.refuse_model(content, "Python objects (posix.system)")


@pytest.mark.parametrize(
    "call",
    [
        Call(eval, "1"),
        Call(getattr, "x", "load"),
        Call(torch.load, "x"),
        Call(bytearray, 2**40),
        Call(torch.FloatTensor, 2**40),
        Call(argparse.Namespace, 1),
        Call(np.float64, 1.0),
    ],
)
def test_calls_that_are_not_needed_for_weights(door: Door, call: Call) -> None:
    door.refuse_model(archive(pickled({"a": call})), "Python objects (")
    door.refuse_model(legacy(pickled({"a": call}), [], []), "Python objects (")


def test_encoding_that_doubles_its_argument(door: Door) -> None:
    import _codecs

    call: str | Call = "a" * 100
    for _ in range(5):
        call = Call(_codecs.encode, call, "hex")
    door.refuse_model(archive(pickled({"a": call})), "Python objects (_codecs.encode)")


def test_objects_alone(door: Door, saved: Saved) -> None:
    error = door.refuse_model(saved({"args": argparse.Namespace(lr=0.1)}), "Python objects (argparse.Namespace)")
    assert 'torch.save(model.state_dict(), "weights.pt")' in error.hint


def test_parameters_as_objects(door: Door, saved: Saved, state: dict[str, Tensor]) -> None:
    expected = dict(state)
    state["5.bias"] = torch.nn.Parameter(state["5.bias"])
    for key, value in (("5.bias", 1), ("1.weight", Command(f"touch {door.canary}"))):
        setattr(state[key], "extra", value)  # noqa: B010  # a tensor has no such attribute
    door.model(saved(state))
    assert all(torch.equal(door.tensors()[key], value) for key, value in expected.items())
    assert not door.canary.exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("constants.pkl", "TorchScript"),
        ("code/__torch__.py", "TorchScript"),
        ("archive_format", "exported program (.pt2)"),
        ("models/model.json", "exported program (.pt2)"),
        ("data/weights/weight_0", "exported program (.pt2)"),
        (".data/extern_modules", "torch.package"),
    ],
)
def test_archives_that_hold_a_program(door: Door, name: str, words: str) -> None:
    door.refuse_model(archive(pickled({}), [(name, b"x")]), words, "torch.save(model.state_dict()")


def test_torchscript_for_real(door: Door) -> None:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and files with it exist
        torch.jit.save(torch.jit.trace(Tiny(height=8, width=8).build().eval(), torch.zeros(1, 3, 8, 8)), stream)
    door.refuse_model(stream.getvalue(), "TorchScript", "torch.save(model.state_dict()")


def test_exported_program_for_real(door: Door) -> None:
    stream = io.BytesIO()
    torch.export.save(torch.export.export(Tiny(height=8, width=8).build().eval(), (torch.zeros(1, 3, 8, 8),)), stream)
    door.refuse_model(stream.getvalue(), "exported program (.pt2)", filename="model.pt2")


# Memory.


def test_a_tensor_larger_than_its_storage(door: Door) -> None:
    value = pickled({"a": tensor(Stored(), 0, (10,), (1,))})
    door.refuse_model(archive(value), "a tensor of 10 elements in a storage of 4")
    door.refuse_model(archive(pickled({"a": tensor(Stored(), 4, (1,), (1,))})), "a tensor of 5 elements")
    door.refuse_model(
        legacy(pickled({"a": tensor(Stored(), 0, (10,), (1,))}, True), ["0"], [(4, bytes(16))]),
        "a tensor of 10 elements",
    )


@pytest.mark.parametrize(
    "bad",
    [
        tensor(Stored(), -1, (1,), (1,)),
        tensor(Stored(), 0, (-1,), (1,)),
        tensor(Stored(), 3, (2,), (-1,)),
        tensor(Stored(), 0, (1, 1), (1,)),
        tensor(Stored(), 0, (1.0,), (1,)),
        tensor("no storage", 0, (1,), (1,)),
        tensor(Stored(numel=-4), 0, (1,), (1,)),
        tensor(Stored(key=5), 0, (1,), (1,)),
        tensor(Stored(numel=True), 0, (1,), (1,)),
        Call(torch._utils._rebuild_parameter, 5, True, OrderedDict()),
        Call(torch._utils._rebuild_tensor_v2, Stored(), 0, (4,), (1,), False, OrderedDict(), {"neg": True}),
        Call(torch._utils._rebuild_tensor_v2, Stored(), 0, (4,), (1,), "x", OrderedDict()),
    ],
)
def test_senseless_tensors(door: Door, bad: Call) -> None:
    for content in (archive(pickled({"a": bad})), legacy(pickled({"a": bad}, True), ["0"], [(4, bytes(16))])):
        door.refuse_model(content)


def test_a_stride_of_zero_makes_a_huge_tensor(door: Door, state: dict[str, Tensor]) -> None:
    for content in (
        archive(pickled({"5.weight": tensor(Stored(), 0, (10, 2**40), (0, 0))})),
        legacy(pickled({"5.weight": tensor(Stored(), 0, (10, 2**40), (0, 0))}, True), ["0"], [(4, bytes(16))]),
    ):
        door.refuse_model(content, "'5.weight' is 10x1099511627776, expected 10x64")


def test_storages_that_are_not_their_records(door: Door) -> None:
    value = pickled({"a": tensor(Stored(numel=5), 0, (5,), (1,))})
    # With mmap, torch 2.15 accepts this one and shows what follows the record.
    door.put(archive(value), "x.pt")
    assert torch.load(door.inbox / "x.pt", weights_only=True, mmap=True)["a"].shape == (5,)
    door.refuse_model(archive(value), "the record 'archive/data/0' has 16 bytes, expected 20")
    door.refuse_model(archive(value, []), "the record 'archive/data/0' is missing")
    other = {"a": tensor(Stored(), 0, (4,), (1,)), "b": tensor(Stored(kind=torch.HalfStorage), 0, (4,), (1,))}
    door.refuse_model(archive(pickled(other)), "two storages of one name")


def test_legacy_storages_that_are_not_there(door: Door) -> None:
    value = pickled({"a": tensor(Stored(numel=2**40), 0, (4,), (1,))}, True)
    door.refuse_model(legacy(value, ["0"], [(2**40, bytes(16))]), "is truncated", "4,398,046,511,")
    door.refuse_model(legacy(value, ["0"], [(4, bytes(16))]), "the size of the storage 0")
    small = pickled({"a": tensor(Stored(), 0, (4,), (1,))}, True)
    # torch 2.15 accepts this one: the tensor shows what the memory held.
    assert torch.load(io.BytesIO(legacy(small, [], [])), weights_only=True)["a"].shape == (4,)
    for keys in ([], ["0", "0"], ["1"], [["0"]], ["0", ["0"]], {"0": 1}, 5):
        door.refuse_model(legacy(small, keys, [(4, bytes(16))]), "its list of")


def test_a_compressed_record(door: Door, state: dict[str, Tensor], saved: Saved) -> None:
    with zipfile.ZipFile(io.BytesIO(saved(state))) as file:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as copy:
            for member in file.infolist():
                copy.writestr(member.filename, file.read(member))
    door.refuse_model(stream.getvalue(), "is compressed", "torch.save")


def test_deeply_nested_lists_load_and_are_never_shown(door: Door, state: dict[str, Tensor]) -> None:
    nested = b"\x80\x02}X\x01\x00\x00\x00a" + b"]" * 200_000 + b"a" * 199_999 + b"s."
    door.refuse_model(archive(nested), "holds no weights", "it has 'a'")
    door.refuse_model(legacy(nested, [], []), "holds no weights")


def test_deeply_nested_tuples_as_a_key(door: Door) -> None:
    nested = b"\x80\x02})" + b"\x85" * 200 + b"Ns."
    door.refuse_model(archive(nested), "tuples more than 100 deep")
    door.refuse_model(legacy(nested, [], []), "tuples more than 100 deep")


def test_keys_made_to_collide(door: Door) -> None:
    modulus = sys.hash_info.modulus
    door.refuse_model(archive(pickled({modulus * i: None for i in range(1, 10_100)})), "unusual dictionary keys")
    door.refuse_model(
        archive(pickled(Call(set, [float(modulus) * i for i in range(1, 10_100)]))), "unusual dictionary keys"
    )
    # Python 2 wrote an ordered dictionary as a list of pairs.
    door.refuse_model(
        archive(pickled(Call(OrderedDict, [[modulus * i, 0] for i in range(1, 10_100)]))), "unusual dictionary keys"
    )


def test_python_2_dictionaries_load(door: Door, state: dict[str, Tensor]) -> None:
    pairs = Call(OrderedDict, [["5.bias", tensor(Stored(), 0, (4,), (1,))]])
    door.refuse_model(archive(pickled(pairs)), "'5.bias' is 4, expected 10")


def test_a_dictionary_whose_methods_are_overwritten(door: Door, state: dict[str, Tensor], saved: Saved) -> None:
    value = Call(OrderedDict, state={"items": 5, "keys": 6, "values": 7, "__class__": 8, "get": 9})
    door.refuse_model(archive(pickled({"state_dict": value})), "holds no weights")
    door.refuse_model(archive(pickled(value)), "holds no weights")


def test_a_very_large_pickle(door: Door) -> None:
    large = b"\x80\x02X" + struct.pack("<I", 5 * 2**20) + b"a" * (5 * 2**20) + b"."
    door.refuse_model(legacy(large, [], []), "more than 4 MiB of descriptions, which is the limit", "state_dict()")
    door.refuse_model(archive(large), "'data.pkl'", "has 5 MiB, the limit for it is 4 MiB", "state_dict()")
    many = archive(pickled([Call(OrderedDict) for _ in range(300_001)]))
    door.refuse_model(many, "more than 300,000 objects")


# Archives that may be read in two ways.


def layout_of(content: bytes) -> tuple[bytes, bytes]:
    """A good archive and where its parts are."""
    end = content.rindex(b"PK\x05\x06")
    return content[:end], content[end:]


def test_archives_that_torch_and_zipfile_could_read_differently(door: Door) -> None:
    good = archive(pickled({"a": tensor(Stored(), 0, (4,), (1,))}))
    body, end = layout_of(good)
    words = "not laid out as torch.save does"
    door.refuse_model(body + end[:-2] + b"\x05\x00hello", words)  # a comment
    door.refuse_model(b"PK\x03\x04" + bytes(60) + good, "damaged")  # something before it
    door.refuse_model(archive(pickled({}), [("DATA.PKL", b"x")]), words)  # torch looks names up without case
    door.refuse_model(archive(pickled({}), [("../other/x", b"x")]), "leaves the archive")
    stream = io.BytesIO(good)
    with zipfile.ZipFile(stream, "a") as file:
        file.writestr("other/data.pkl", pickled({}))
    door.refuse_model(stream.getvalue(), words)


def test_records_without_a_folder(door: Door) -> None:
    door.refuse_model(archive(pickled({}), [], top=""), "not laid out as torch.save does")


# Files that are something else.


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "a PNG image"),
        (b"\xff\xd8\xff\xe0" + bytes(100), "a JPEG image"),
        (b"conv1.weight = 1, 2, 3\n" * 10, "a text"),
        ("Gewichte für später\n".encode() * 10, "a text"),
        (b"<!DOCTYPE html><html>404</html>", "a web page"),
        (b'  <?xml version="1.0"?><a/>', "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        (b"\x1f\x8b\x08" + bytes(100), "a gzip archive"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file"),
        (b"\x7fELF" + bytes(100), "a program"),
        (bytes(1000), "a block of zeros"),
        (bytes(range(1, 256)) * 4, "unknown format"),
        (b"PK\x05\x06" + bytes(18), "zip archive without weights"),
        (pickle.dumps({"a": [1, 2]}, 2), "a Python pickle"),
        (pickle.dumps({"a": [1, 2]}, 4), "a Python pickle"),
        (b"\x80\x02", "unknown format"),
        (b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f", "damaged"),
    ],
)
def test_other_files(door: Door, content: bytes, words: str) -> None:
    door.refuse_model(content, words)


def test_numpy_arrays_and_zips_of_images(door: Door, zipped: Zipped) -> None:
    stream = io.BytesIO()
    np.savez(stream, images=np.zeros((2, 8, 8), np.uint8), labels=np.zeros(2, int))
    door.refuse_model(stream.getvalue(), "zip archive without weights", "'images.npy', 'labels.npy'")
    np.save(stream := io.BytesIO(), np.zeros(3))
    door.refuse_model(stream.getvalue(), "a single NumPy array")
    door.refuse_model(zipped({"cat/1.png": b"\x89PNG"}), "zip archive without weights", "'cat/1.png'")
    np.save(stream := io.BytesIO(), np.array([Command(f"touch {door.canary}")]), allow_pickle=True)
    door.refuse_model(stream.getvalue(), "a single NumPy array")


def test_the_old_tar_format(door: Door) -> None:
    import tarfile

    with tarfile.open(fileobj=(stream := io.BytesIO()), mode="w") as file:
        for name in ("storages", "tensors", "pickle"):
            file.addfile(tarfile.TarInfo(name), io.BytesIO())
    door.refuse_model(stream.getvalue(), "a tar archive")
    # A pickle that is a tar archive at once: the checksum is made to fit.
    block = bytearray(LEGACY_MAGIC + bytes(512 - len(LEGACY_MAGIC)))
    block[148:156] = b"%06o\0 " % (sum(block) + 8 * 32)
    door.refuse_model(bytes(block) + bytes(1024), "a tar archive and a pickle at once")


@pytest.mark.parametrize("kept", [1, 3, 20, 100, 0.3, 0.7, 0.95, 0.999])
def test_truncated_files(door: Door, state: dict[str, Tensor], saved: Saved, kept: float) -> None:
    for content in (saved(state), saved(state, _use_new_zipfile_serialization=False), save_safetensors(state)):
        door.refuse_model(content[: int(kept if kept >= 1 else kept * len(content))])


def test_a_truncated_file_says_so(door: Door, state: dict[str, Tensor], saved: Saved) -> None:
    door.refuse_model(saved(state)[:-100], "damaged: it ends early")
    door.refuse_model(saved(state, _use_new_zipfile_serialization=False)[:-100], "is truncated")
    door.refuse_model(save_safetensors(state)[:-100], "safetensors file", "damaged")


@pytest.mark.parametrize("value", [[1, 2], "text", 5, None, {}, {"epoch": 3}, {"model": {}}, {"model": [1]}])
def test_checkpoints_without_tensors(door: Door, saved: Saved, value: object) -> None:
    door.refuse_model(saved(value), "expected")


def test_a_tensor_alone(door: Door, saved: Saved) -> None:
    door.refuse_model(saved(torch.zeros(3)), "holds a single tensor; expected a dictionary")


# safetensors.


def safe(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    "content",
    [
        safe({"a": entry([4], 0, 16)}, bytes(16), length=2**60),
        safe({"a": entry([4], 0, 16)}, bytes(16), length=10_000),
        safe({"a": entry([4], 0, 16)}, bytes(15)),
        safe({"a": entry([4], 0, 16)}, bytes(20)),
        safe({"a": entry([4], 0, 2**63)}, bytes(16)),
        safe({"a": entry([2**62, 4], 0, 16)}, bytes(16)),
        safe({"a": entry([4], 0, 16), "b": entry([4], 8, 24)}, bytes(24)),
        safe({"a": entry([4], 0, 16), "b": entry([4], 20, 36)}, bytes(36)),
        safe({"a": entry([4], 0, 16, "OBJECT")}, bytes(16)),
        safe({"a": entry([-4], 0, 16)}, bytes(16)),
        safe({"a": entry([5], 0, 16)}, bytes(16)),
        safe({"a": [1, 2]}, bytes(16)),
        safe({"a": {"dtype": "F32"}}, bytes(16)),
        safe(b"{" * 50_000 + b'"a":1' + b"}" * 50_000),
        safe(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        safe(b'{"a":1'),
        safe(b'{"\xff\xfe": 1}'),
        safe({"__metadata__": {"a": 5}}),
    ],
)
def test_malformed_safetensors(door: Door, content: bytes) -> None:
    door.refuse_model(content, "safetensors", "damaged")


def test_safetensors_without_tensors(door: Door) -> None:
    door.refuse_model(safe({}), "holds no tensors")


def test_a_name_twice_in_a_safetensors_header(door: Door) -> None:
    one = json.dumps(entry([4], 0, 16))
    header = f'{{"a": {one}, "a": {one}}}'.encode()
    door.refuse_model(safe(header, bytes(16)), "the name 'a' appears twice")


def test_names_are_shown_escaped(door: Door, saved: Saved, state: dict[str, Tensor]) -> None:
    names = {"a\x00b": torch.zeros(1), "\u202egnp.exe": torch.zeros(1), "<b>\n": torch.zeros(1)}
    door.refuse_model(saved(state | names), r"'a\x00b'", r"'\u202egnp.exe'", r"'<b>\n'")
    door.refuse_model(saved(state | {"x" * 100_000: torch.zeros(1)}), "xxx...xxx")


def test_the_file_name_is_shown_and_nothing_more(door: Door, saved: Saved, state: dict[str, Tensor]) -> None:
    from auditor.data.intake.weights import take_model

    source = door.put(saved(state), "x")
    manifest = take_model(source, "../../etc/pass\u202ewd\n.pt", Tiny(height=8, width=8), door.destination)
    assert manifest.source_name == r"pass\u202ewd\n.pt"
    assert take_model(source, "C:\\models\\a.pt", Tiny(height=8, width=8), door.destination).source_name == "a.pt"
    assert take_model(source, "", Tiny(height=8, width=8), door.destination).source_name == "upload"
