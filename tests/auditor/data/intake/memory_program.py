"""Hands bombs to the intake and measures the memory: python -m tests.auditor.data.intake.memory_program FOLDER MOST_MIB."""

from __future__ import annotations

import io
import struct
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image, PngImagePlugin

from auditor.data.intake.datasets import take_dataset
from auditor.data.intake.image_size import ImageSize
from auditor.data.intake.reading import Reading
from auditor.data.intake.weights import take_model
from auditor.kit.errors import IntakeError
from auditor.kit.limits import GIB, Limits
from tests.auditor.data.intake.conftest import Tiny
from tests.auditor.data.intake.test_intake_archives import bomb
from tests.auditor.data.intake.test_intake_arrays import described, member
from tests.auditor.data.intake.test_intake_hostile_weights import Call, Stored, archive, legacy, pickled, tensor

folder = Path(sys.argv[1])
source, stored = folder / "source", folder / "stored"
architecture = Tiny(height=8, width=8)
wide = Limits(ratio=10**6, image_bytes=4 * GIB)


def status(field: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def growth(act: Callable[[], object]) -> float:
    # MiB by which the largest resident size during the act exceeds the one before it.
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the largest size so far is forgotten
    act()
    return status("VmHWM") - before


assert growth(lambda: bytes(range(250)) * (1 << 20)) > 240, "this measure does not measure"


def attempt(
    name: str, content: bytes | None, take: Callable[..., object], *arguments: object, refused: bool = True,
    most: float = float(sys.argv[2]), **options: Any,
) -> None:  # fmt: skip
    if content is not None:
        source.write_bytes(content)
    outcome: list[str] = []

    def act() -> None:
        try:
            take(source, "file", *arguments, stored, **options)
        except IntakeError as error:
            outcome.append(str(error))

    grown = growth(act)
    print(f"{name}: {grown:.0f} MiB, {outcome}")
    assert bool(outcome) == refused, name
    assert grown < most, name


def npz(images: Iterable[bytes], count: int, method: int = zipfile.ZIP_STORED) -> None:
    labels = io.BytesIO()
    np.save(labels, np.arange(count) % 2)
    with zipfile.ZipFile(source, "w", method) as file:
        with file.open("images.npy", "w", force_zip64=True) as stream:
            for piece in images:
                stream.write(piece)
        file.writestr("labels.npy", labels.getvalue())


stream = io.BytesIO()
torch.save(architecture.build().state_dict(), stream)
attempt("good", stream.getvalue(), take_model, architecture, refused=False)
npz([member(described("<f8", (300, 8, 8))), np.random.rand(300, 8, 8).tobytes()], 300, zipfile.ZIP_DEFLATED)
attempt("good", None, take_dataset, refused=False)

two = bomb(2 << 30)
assert len(two) < 3 << 20
attempt("zip bomb", two, take_dataset)
attempt("zip bomb within the ratio", two, take_dataset, limits=Limits(ratio=10**6, expanded_bytes=GIB))
attempt("image of 2 GiB", two, take_dataset, limits=Limits(ratio=10**6))
attempt("npz bomb", bomb(2 << 30, b"images.npy"), take_dataset, limits=wide)
attempt("checkpoint bomb", bomb(2 << 30, b"archive/data.pkl"), take_model, architecture, limits=wide)
attempt("image bomb", two, take_dataset, limits=wide.model_copy(update={"image_bytes": GIB}))

stream = io.BytesIO()
np.savez_compressed(stream, images=np.zeros((2, 8, 8), "u1"), labels=np.arange(2), class_names=np.zeros(10**7, "<U10"))
attempt("class names", stream.getvalue(), take_dataset, limits=wide)

for make in (
    lambda value: archive(pickled(value)),
    lambda value: legacy(pickled(value, True), ["0"], [(4, bytes(16))]),
):
    attempt("bytearray", make({"a": Call(bytearray, 2**31)}), take_model, architecture)
    attempt("stride 0", make({"5.weight": tensor(Stored(), 0, (10, 2**33), (0, 0))}), take_model, architecture)
    attempt("storage", make({"5.weight": tensor(Stored(numel=2**32), 0, (10, 64), (64, 1))}), take_model, architecture)

# Four megabytes of opcodes may grow 64 times: a list takes one of them.
many = b"\x80\x02]q\x00" + (b"h\x00" + b"]" * 1000) * 4000 + b"."
attempt("many objects", archive(many), take_model, architecture, most=400)
attempt("safetensors header", struct.pack("<Q", 2**40) + b'{"a":1}', take_model, architecture)

for descr, shape in (("<f8", (10**12, 8, 8)), ("|u1", (1, 2**31, 3)), ("<U500000000", (1, 1, 1))):
    npz([member(described(descr, shape)), bytes(100)], 1)
    attempt(f"npy header {shape}", None, take_dataset)

info = PngImagePlugin.PngInfo()
info.add_text("bomb", "a" * (50 << 20), zip=True)
Image.new("RGB", (8, 8)).save(stream := io.BytesIO(), "PNG", pnginfo=info)
with zipfile.ZipFile(source, "w") as file:
    file.writestr("cat/1.png", stream.getvalue())
attempt("zTXt bomb", None, take_dataset)

# A kilobyte of a picture that is 50 megapixels of one colour: it is in memory once as its file holds it, once as it is stored.
# Pillow takes four bytes for a pixel of three channels, and for one of 16 bits.
LARGE, EDGE = 450, 7000
for mode, kind in (("L", "PNG"), ("P", "PNG"), ("RGB", "PNG"), ("RGBA", "PNG"), ("I;16", "PNG"), ("CMYK", "JPEG")):
    image = Image.new(mode, (EDGE, EDGE))
    image.putpixel((0, 0), (1, 2, 3, 4)[: len(image.getbands())] if len(image.getbands()) > 1 else 1)
    image.save(stream := io.BytesIO(), kind)
    del image
    with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("cat/1.png", stream.getvalue())
        file.writestr("dog/1.png", stream.getvalue())
    attempt(f"{mode} {kind} of {source.stat().st_size >> 10} KiB", None, take_dataset, refused=False, most=LARGE)
    small = Reading(size=ImageSize(height=32, width=32))
    attempt(f"{mode} {kind}, resized", None, take_dataset, refused=False, most=LARGE, reading=small)
    stored.unlink()

# Honest and large: 400 MB of pixels pass through.
rows = np.random.default_rng(0).random((100, 64, 64, 3)).tobytes()
npz([member(described("<f8", (4000, 64, 64, 3))), *([rows] * 40)], 4000)
attempt("400 MB of floats", None, take_dataset, refused=False)
assert stored.stat().st_size > 4000 * 64 * 64 * 3 * 4
stored.unlink()
# The same of image files: row groups of 60 MB, one tar archive, plain and behind gzip.
BMP = 54 + 3 * 1000 * 1000
files = []
for number in range(120):
    Image.effect_noise((1000, 1000), number + 1).convert("RGB").save(stream := io.BytesIO(), "BMP")
    files.append(stream.getvalue())
    assert len(files[-1]) == BMP
small = Reading(size=ImageSize(height=32, width=32))
table = pa.table({"image": pa.array(files, pa.binary()), "label": np.arange(120) % 3})
pq.write_table(table, source, row_group_size=20, compression="none")
del table
pa.default_memory_pool().release_unused()  # else what is read next fills it, and seems to need nothing
# One page of 60 MB is in memory twice, and the pool may still hold the page before.
attempt("Parquet of 360 MB", None, take_dataset, refused=False, reading=small, most=320)
table = pa.table({"image": pa.array(files, pa.binary()), "label": np.arange(120) % 3})
with pa.ipc.new_stream(str(source), table.schema) as writer:
    writer.write_table(table, max_chunksize=20)
del table
pa.default_memory_pool().release_unused()
attempt("Arrow of 360 MB", None, take_dataset, refused=False, reading=small, most=320)  # its batches are as large
for zipped in (False, True):
    with tarfile.open(source, "w:gz", compresslevel=1) if zipped else tarfile.open(source, "w") as shard:
        for number, content in enumerate(files):
            for kind, data in (("bmp", content), ("cls", str(number % 3).encode())):
                entry = tarfile.TarInfo(f"{number}.{kind}")
                entry.size = len(data)
                shard.addfile(entry, io.BytesIO(data))
    attempt(f"tar of 360 MB, behind gzip: {zipped}", None, take_dataset, refused=False, reading=small)
stored.unlink()
print("done")
