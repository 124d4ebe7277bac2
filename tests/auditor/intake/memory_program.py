"""Hands bombs to the intake and measures the memory: python memory_program.py FOLDER MOST_MIB."""

import io
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch
from conftest import Tiny
from PIL import Image, PngImagePlugin
from test_intake_archives import bomb
from test_intake_arrays import described, member
from test_intake_hostile_weights import Call, Stored, archive, legacy, pickled, tensor

from auditor.errors import IntakeError
from auditor.intake.datasets import take_dataset
from auditor.intake.images import ImageSize
from auditor.intake.limits import GIB, Limits
from auditor.intake.reading import Reading
from auditor.intake.weights import take_model

folder = Path(sys.argv[1])
source, stored = folder / "source", folder / "stored"
architecture = Tiny(height=8, width=8)
wide = Limits(ratio=10**6, image_bytes=4 * GIB)


def status(field):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def growth(act):
    # MiB by which the largest resident size during the act exceeds the one before it.
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the largest size so far is forgotten
    act()
    return status("VmHWM") - before


assert growth(lambda: bytes(range(250)) * (1 << 20)) > 240, "this measure does not measure"


def attempt(name, content, take, *arguments, refused=True, most=float(sys.argv[2]), **options):
    if content is not None:
        source.write_bytes(content)
    outcome = []

    def act():
        try:
            take(source, "file", *arguments, stored, **options)
        except IntakeError as error:
            outcome.append(str(error))

    grown = growth(act)
    print(f"{name}: {grown:.0f} MiB, {outcome}")
    assert bool(outcome) == refused, name
    assert grown < most, name


def npz(images, count, method=zipfile.ZIP_STORED):
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
print("done")
