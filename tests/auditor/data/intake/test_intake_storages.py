"""Tensors of torch's files, to the bit, against torch.load(weights_only=True) as an outside reader."""

from __future__ import annotations

import io
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from auditor.data.intake.archive import data_offset
from auditor.data.intake.checkpoints import is_legacy, load_legacy, load_zip
from auditor.kit.errors import IntakeError
from auditor.kit.limits import Limits
from tests.auditor.data.intake.test_intake_hostile_weights import Stored, archive, legacy, pickled, tensor

DTYPES = (
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16, torch.float32,
    torch.float64, torch.complex64, torch.complex128,
)  # fmt: skip


def drawn(generator: torch.Generator, size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Random bits, so also NaNs of every kind; truth values are 0 and 1."""
    count = int(np.prod(size)) * dtype.itemsize
    bits = torch.randint(0, 2 if dtype == torch.bool else 256, (count,), dtype=torch.uint8, generator=generator)
    return bits.view(dtype).reshape(size)


def bits(tensor: Tensor) -> Tensor:
    """The bytes of its elements, in their order."""
    flat = torch.empty(tensor.numel(), dtype=tensor.dtype)
    flat.copy_(tensor.detach().reshape(-1))
    return flat.view(torch.uint8)


def random_state(seed: int) -> dict[str, Any]:
    """A state dict, nested as trainings nest it, with every type, empty, 0-d, strided, overlapping and shared tensors."""
    generator = torch.Generator().manual_seed(seed)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    state: OrderedDict[str, Any] = OrderedDict()
    for i, dtype in enumerate(DTYPES):
        size = tuple(number(1, 5) for _ in range(number(0, 5)))
        whole = drawn(generator, (*size, 6), dtype)
        state[f"{i}.whole"] = whole
        state[f"{i}.scalar"] = drawn(generator, (1,), dtype)[0].clone()
        state[f"{i}.empty"] = torch.empty((number(0, 3), 0, 2), dtype=dtype)
        state[f"{i}.view"] = whole[..., number(0, 3) : number(3, 6) : number(1, 3)]
        state[f"{i}.transposed"] = whole.movedim(-1, 0)
        state[f"{i}.expanded"] = whole[..., :1].expand(*size, 3)
        state[f"{i}.end"] = whole.flatten()[-1:]
        state[f"{i}.parameter"] = (
            torch.nn.Parameter(drawn(generator, (2, 3), dtype)) if dtype.is_floating_point else whole.flatten()[1:]
        )
    return {"model": state, "epoch": seed, "rng": torch.get_rng_state(), "history": {"loss": [0.5]}}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_random_state_dicts_are_what_torch_loads(tmp_path: Path, seed: int, zipped: bool, protocol: int) -> None:
    state = random_state(seed)
    file = tmp_path / "state.pt"
    torch.save(state, file, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    read = (load_zip if zipped else load_legacy)(file, "state.pt", Limits())
    assert read.wrapper == "model"
    # torch refuses protocols from 3 on: then what was saved is the oracle.
    expected = torch.load(file, weights_only=True)["model"] if protocol == 2 else state["model"]
    assert list(read.tensors) == list(expected)
    for key, value in expected.items():
        found = read.tensors[key]
        assert (found.dtype, found.shape) == (value.dtype, value.shape), key
        assert bits(found).equal(bits(value)), key
        if found.numel():
            assert found.stride() == value.stride(), key
    for i in range(len(DTYPES)):
        whole, end = read.tensors[f"{i}.whole"], read.tensors[f"{i}.end"]
        assert end.data_ptr() == whole.data_ptr() + (whole.numel() - 1) * whole.element_size(), (
            "one storage, as in the file"
        )


def test_a_zip_is_mapped_and_not_copied(tmp_path: Path) -> None:
    file = tmp_path / "large.pt"
    torch.save({"a": torch.ones(1000), "b": torch.zeros(1000)}, file)
    maps = Path("/proc/self/maps")
    read = load_zip(file, "large.pt", Limits()).tensors
    place = read["a"].data_ptr()
    ranges = [line.split() for line in maps.read_text().splitlines() if line.endswith(str(file))]
    spans = [tuple(int(end, 16) for end in fields[0].split("-")) for fields in ranges]
    assert any(start <= place < end for start, end in spans)
    read["a"].fill_(7)  # privately: the file stays as it is
    assert torch.load(file, weights_only=True)["a"].eq(1).all()


@pytest.mark.parametrize("shift", range(16))
def test_records_that_begin_anywhere(tmp_path: Path, shift: int) -> None:
    """torch aligns its records; the same content, moved by an extra field or a longer name, reads alike."""
    content = struct.pack("<4d", 1, 2, 3, 4)
    value = {"a": tensor(Stored(kind=torch.DoubleStorage), 1, (3,), (1,))}
    file = tmp_path / "moved.pt"
    file.write_bytes(archive(pickled(value), [("data/0", content)], top="a" * (1 + shift)))
    read = load_zip(file, "moved.pt", Limits()).tensors["a"]
    assert read.tolist() == torch.load(file, weights_only=True)["a"].tolist() == [2, 3, 4]
    assert read.data_ptr() % 8 == 0


def test_files_of_a_big_endian_machine(tmp_path: Path) -> None:
    content = struct.pack(">4f", 1, 2, 3, 4)
    value = {"a": tensor(Stored(), 0, (4,), (1,))}
    for order, words in ((b"big", None), (b"middle", "neither 'little' nor 'big'")):
        file = tmp_path / "big.pt"
        file.write_bytes(archive(pickled(value), [("data/0", content), ("byteorder", order)]))
        if words is None:
            read = load_zip(file, "big.pt", Limits()).tensors["a"]
            assert read.tolist() == torch.load(file, weights_only=True)["a"].tolist() == [1, 2, 3, 4]
        else:
            with pytest.raises(IntakeError, match=words):
                load_zip(file, "big.pt", Limits())


def test_the_storages_of_a_legacy_file_need_not_be_aligned(tmp_path: Path) -> None:
    for padding in range(8):
        value = {"a": tensor(Stored(), 1, (3,), (1,)), "x" * padding: 1}
        file = tmp_path / "legacy.pt"
        file.write_bytes(legacy(pickled(value, True), ["0"], [(4, struct.pack("<4f", 1, 2, 3, 4))]))
        assert is_legacy(file.read_bytes())
        assert load_legacy(file, "legacy.pt", Limits()).tensors["a"].tolist() == [2, 3, 4]


def test_a_local_header_that_points_elsewhere(tmp_path: Path) -> None:
    """The directory says where a record's header is; the header says where its bytes are, and zipfile believes it."""
    content = archive(pickled({"a": tensor(Stored(), 0, (4,), (1,))}))
    with zipfile.ZipFile(io.BytesIO(content)) as whole:
        member = whole.getinfo("archive/data/0")
        start = data_offset(whole, io.BytesIO(content), member, "x")
        assert content[start : start + 16] == bytes(16) == whole.read(member)
        changed = bytearray(content)
        changed[member.header_offset + 28 : member.header_offset + 30] = b"\xff\xff"  # 65,535 bytes of an extra field
        with pytest.raises(IntakeError, match="is not where the directory says"):
            data_offset(whole, io.BytesIO(bytes(changed)), member, "x")
    file = tmp_path / "x.pt"
    file.write_bytes(bytes(changed))
    with pytest.raises(IntakeError, match="damaged"):
        load_zip(file, "x.pt", Limits())


@pytest.mark.parametrize(
    ("shape", "strides"), [((2**31, 2**31, 2), (0, 0, 0)), ((1,) * 65, (1,) * 65), ((0, 2**63), (1, 1))]
)
def test_shapes_that_torch_cannot_count(tmp_path: Path, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    file = tmp_path / "x.pt"
    file.write_bytes(archive(pickled({"a": tensor(Stored(), 0, shape, strides)})))
    with pytest.raises(IntakeError, match="the shape of a tensor"):
        load_zip(file, "x.pt", Limits())


def test_other_tensors_beside_the_weights_do_no_harm(tmp_path: Path) -> None:
    beside = {
        "sparse": torch.ones(3).to_sparse(),
        "small": torch.ones(3).to(torch.float8_e4m3fn),
        "unsigned": torch.ones(3).to(torch.uint16),
        "meta": torch.empty(3, device="meta"),
    }
    file = tmp_path / "x.pt"
    torch.save({"model": {"a": torch.arange(3.0)}, "optimizer": beside}, file)
    read = load_zip(file, "x.pt", Limits())
    assert read.tensors["a"].tolist() == [0, 1, 2]
    assert read.wrapper == "model"


def test_checksums_are_those_of_zipfile(tmp_path: Path) -> None:
    """A changed byte of any record, and a local header that calls its record otherwise than the directory does."""
    content = archive(pickled({"a": tensor(Stored(), 0, (4,), (1,))}), [("data/0", bytes(range(16))), ("data/1", b"")])
    file = tmp_path / "x.pt"
    file.write_bytes(content)
    load_zip(file, "x.pt", Limits())
    with zipfile.ZipFile(file) as whole:
        members = [(member, data_offset(whole, io.BytesIO(content), member, "x")) for member in whole.infolist()]
    for member, start in members:
        for place in {start, start + member.file_size - 1} if member.file_size else ():
            changed = bytearray(content)
            changed[place] ^= 1
            file.write_bytes(changed)
            with zipfile.ZipFile(file) as whole:
                assert whole.testzip() == member.filename
            with pytest.raises(IntakeError, match="damaged"):
                load_zip(file, "x.pt", Limits())
        changed = bytearray(content)
        changed[start - 1] ^= 1
        file.write_bytes(changed)
        with zipfile.ZipFile(file) as whole, pytest.raises(zipfile.BadZipFile, match="differ"):
            whole.open(member)
        with pytest.raises(IntakeError, match="damaged"):
            load_zip(file, "x.pt", Limits())
