"""Zips of image folders: layouts, kinds of images, hostile images; Pillow itself is the outside reader."""

from __future__ import annotations

import io
import struct
import threading
import zlib
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, PngImagePlugin

from auditor.data.intake import images as images_module
from auditor.data.intake.image_size import ImageSize
from auditor.data.intake.images import Header, decode, read_header
from auditor.kit.errors import IntakeError
from auditor.kit.limits import Limits
from auditor.models.dataset import ImageDataset
from tests.auditor.data.intake.conftest import Door, Zipped
from tests.narrow import known

RNG = np.random.default_rng(0)


def pixels(height: int = 8, width: int = 6, channels: int = 3) -> NDArray[np.uint8]:
    return RNG.integers(0, 256, (height, width, channels) if channels > 1 else (height, width), np.uint8)


def encoded(image: Image.Image | NDArray[Any], kind: str = "PNG", **options: Any) -> bytes:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(stream := io.BytesIO(), kind, **options)
    return stream.getvalue()


def folders(*images: bytes, name: str = "{}/{}.png") -> dict[str, bytes]:
    """One class for each image."""
    return {name.format("abcdefghij"[i], i): image for i, image in enumerate(images)}


def test_a_good_archive(door: Door, zipped: Zipped) -> None:
    images = {f"{kind}/{i}.png": pixels() for kind in ("dog", "cat") for i in (10, 9)}
    manifest = door.dataset(zipped({name: encoded(image) for name, image in images.items()}), "pets.zip")
    assert manifest.format == "image folders"
    assert (manifest.samples, manifest.shape, manifest.dtype) == (4, (3, 8, 6), "uint8")
    assert (manifest.class_names, manifest.class_counts) == (("cat", "dog"), (2, 2))
    assert (manifest.notes, manifest.warnings, manifest.resized) == ((), (), None)
    dataset = ImageDataset.open(door.destination)
    order = sorted(images)
    assert [dataset.sample_name(i) for i in range(4)] == order
    np.testing.assert_array_equal(door.pixels(), np.stack([images[name] for name in order]))
    np.testing.assert_array_equal(dataset.labels, [0, 0, 1, 1])


@pytest.mark.parametrize(("kind", "exact"), [("PNG", True), ("BMP", True), ("WEBP", True), ("JPEG", False)])
def test_every_format(door: Door, zipped: Zipped, kind: str, exact: bool) -> None:
    images = [pixels(), pixels()]
    files = [encoded(image, kind, **({"lossless": True} if kind == "WEBP" else {})) for image in images]
    door.dataset(zipped(folders(*files, name="{}/{}.data")))
    expected = images if exact else [np.asarray(Image.open(io.BytesIO(file))) for file in files]
    np.testing.assert_array_equal(door.pixels(), np.stack(expected))


def test_the_order_of_the_archive_does_not_matter(door: Door, zipped: Zipped) -> None:
    files = folders(*(encoded(pixels()) for _ in range(6)))
    first = door.dataset(zipped(files)).sha256
    assert door.dataset(zipped(dict(reversed(files.items())))).sha256 == first


def test_one_top_folder_is_taken_off(door: Door, zipped: Zipped) -> None:
    door.dataset(zipped({"pets/": b"", "pets/cat/1.png": encoded(pixels()), "pets/dog/1.png": encoded(pixels())}))
    dataset = ImageDataset.open(door.destination)
    assert (dataset.class_names, dataset.sample_names) == (("cat", "dog"), ("cat/1.png", "dog/1.png"))


def test_litter_is_ignored_and_told(door: Door, zipped: Zipped) -> None:
    litter = [
        "__MACOSX/cat/._1.png",
        "cat/.DS_Store",
        ".git/config",
        "dog/Thumbs.db",
        "README.md",
        "LICENSE",
        "cat/desktop.ini",
    ]
    files = {"cat/1.png": encoded(pixels()), "dog/1.png": encoded(pixels())} | dict.fromkeys(litter, b"x")
    manifest = door.dataset(zipped(files))
    assert manifest.samples == 2
    assert manifest.notes[0].startswith("7 files ignored: ")
    with_top = {f"top/{name}" if "MACOSX" not in name else name: content for name, content in files.items()}
    assert door.dataset(zipped(with_top)).class_names == ("cat", "dog")


def test_empty_classes(door: Door, zipped: Zipped) -> None:
    manifest = door.dataset(zipped({"cat/1.png": encoded(pixels()), "dog/1.png": encoded(pixels()), "eel/": b""}))
    assert manifest.class_counts == (1, 1, 0)
    assert manifest.warnings == ("1 class has no images: 'eel'.",)


def labels_of(door: Door) -> dict[str, int]:
    return dict(
        zip(
            known(ImageDataset.open(door.destination).sample_names),
            ImageDataset.open(door.destination).labels,
            strict=True,
        )
    )


def test_a_folder_called_by_a_number_is_that_class(door: Door, zipped: Zipped) -> None:
    files = {f"{i}/1.png": encoded(pixels()) for i in (0, 10, 2, 1, 4)}
    manifest = door.dataset(zipped(files))
    assert labels_of(door) == {"0/1.png": 0, "1/1.png": 1, "2/1.png": 2, "4/1.png": 4, "10/1.png": 10}
    assert manifest.class_names == tuple(map(str, range(11)))
    assert manifest.class_counts == (1, 1, 1, 0, 1, 0, 0, 0, 0, 0, 1)
    assert manifest.warnings == ("6 classes have no images: '3', '5', '6', '7', '8', ....",)
    assert manifest.labels_from == "numbers"
    door.dataset(zipped({f"{i:03}/1.png": encoded(pixels()) for i in (0, 10, 2)}))
    assert labels_of(door) == {"000/1.png": 0, "002/1.png": 2, "010/1.png": 10}


def test_folders_may_count_from_one(door: Door, zipped: Zipped) -> None:
    files = {f"{i}/1.png": encoded(pixels()) for i in range(1, 11)}
    assert door.dataset(zipped(files)).num_classes == 11
    manifest = door.dataset(zipped(files), first_label=1)
    assert labels_of(door) == {f"{i}/1.png": i - 1 for i in range(1, 11)}
    assert (manifest.num_classes, known(manifest.class_names)[0], manifest.warnings) == (10, "1", ())
    error = door.refuse_dataset(
        zipped({f"{i}/1.png": encoded(pixels()) for i in range(3)}), "'0' lies before", first_label=1
    )
    assert error.hint == "Let the labels count from 0."


def test_folders_called_by_numbers_may_be_sorted_as_text(door: Door, zipped: Zipped) -> None:
    manifest = door.dataset(zipped({f"{i}/1.png": encoded(pixels()) for i in range(11)}), folders="sorted")
    assert known(manifest.class_names)[:3] == ("0", "1", "10")
    assert labels_of(door)["10/1.png"] == 2
    assert "sorted as text, as torchvision does: class 2 is the folder '10'" in manifest.warnings[0]


@pytest.mark.parametrize("names", [("1440764", "1443537"), ("01", "1"), ("1", "a"), ("-1", "2"), ("１", "２")])
def test_names_that_are_not_the_numbers_of_classes_are_sorted(
    door: Door, zipped: Zipped, names: tuple[str, ...]
) -> None:
    manifest = door.dataset(zipped({f"{name}/1.png": encoded(pixels()) for name in names}))
    assert (manifest.class_names, manifest.labels_from) == (tuple(sorted(names)), "names")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["1.png", "2.png"], "'1.png' of 'data.npz' lies outside of the class folders"),
        (["cat/1.png", "dog/1.png", "x.png"], "'x.png' of 'data.npz' lies outside"),
        (["top/cat/1.png", "top/dog/1.png", "top/x.png"], "'top/x.png' of 'data.npz' lies outside"),
        (["cat/1.png", "dog/1.png", "dog/a/1.png"], "'dog/a/1.png' of 'data.npz' lies too deep"),
        (["a/c/x/1.png", "b/d/x/1.png"], "folders within folders ('a', 'b'). Choose `--inside a` or `--inside b`"),
        (["train/cat/1.png", "test/cat/1.png"], "several parts: 'train' (1 file), 'test' (1 file)"),
        (["cat/", "dog/"], "holds no images"),
        ([".hidden/1.png"], "holds no images"),
    ],
)
def test_other_layouts(door: Door, zipped: Zipped, names: list[str], words: str) -> None:
    door.refuse_dataset(zipped({name: b"" if name.endswith("/") else encoded(pixels()) for name in names}), words)


# Kinds of images.


def test_grey_images_have_one_channel(door: Door, zipped: Zipped) -> None:
    grey = [pixels(channels=1), pixels(channels=1)]
    bits = Image.fromarray(pixels(channels=1)).convert("1")
    manifest = door.dataset(zipped(folders(*(encoded(image) for image in grey), encoded(bits))))
    assert (manifest.shape, manifest.notes) == ((1, 8, 6), ())
    np.testing.assert_array_equal(door.pixels()[:2, ..., 0], grey)
    np.testing.assert_array_equal(door.pixels()[2, ..., 0], np.asarray(bits) * np.uint8(255))


def test_one_colour_image_makes_all_colour(door: Door, zipped: Zipped) -> None:
    grey, colour = pixels(channels=1), pixels()
    manifest = door.dataset(zipped(folders(encoded(grey), encoded(colour))))
    assert manifest.shape == (3, 8, 6)
    assert "Grey and colour images are mixed" in manifest.notes[0]
    np.testing.assert_array_equal(door.pixels(), [np.stack([grey] * 3, -1), colour])


def test_sixteen_bits_are_scaled_not_clipped(door: Door, zipped: Zipped) -> None:
    values = np.array([[0, 100, 1000], [40000, 65535, 32896]], np.uint16)
    manifest = door.dataset(zipped(folders(encoded(values), encoded(values))))
    assert "2 images had 16 bits per channel, scaled to 8 (first: 'a/0.png')." in manifest.notes
    # 65535 / 255 = 257: 1000/257 = 3.9, 40000/257 = 155.6, 32896/257 = 128
    np.testing.assert_array_equal(door.pixels()[0, ..., 0], [[0, 0, 4], [156, 255, 128]])


def test_sixteen_bit_colour_is_scaled(door: Door, zipped: Zipped) -> None:
    values = np.array([[[0, 40000, 65535]]], ">u2")
    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    content = png_of((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" + values.tobytes())), (b"IEND", b""))
    manifest = door.dataset(zipped(folders(content, content)))
    assert "16 bits per channel" in manifest.notes[0]
    assert abs(door.pixels()[0, 0, 0].astype(int) - [0, 156, 255]).max() <= 1


def png_of(*chunks: tuple[bytes, bytes]) -> bytes:
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("mode", "kind", "words"),
    [
        ("RGBA", "PNG", "had an alpha channel, which was dropped"),
        ("LA", "PNG", "had an alpha channel, which was dropped"),
        ("P", "PNG", "had a palette, converted to RGB"),
        ("CMYK", "JPEG", "were CMYK, converted to RGB"),
        ("RGBA", "WEBP", "had an alpha channel, which was dropped"),
    ],
)
def test_other_modes(door: Door, zipped: Zipped, mode: str, kind: str, words: str) -> None:
    source = Image.fromarray(pixels(8, 8)).convert("RGB").convert("RGB" if mode != "LA" else "L").convert(mode)
    if "A" in mode:
        source.putalpha(Image.fromarray(pixels(8, 8, 1)))
    content = encoded(source, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    manifest = door.dataset(zipped(folders(content, content)))
    assert f"2 images {words} (first: 'a/0.png')." in manifest.notes
    grey = mode == "LA"
    assert manifest.shape == (1 if grey else 3, 8, 8)
    oracle = np.asarray(Image.open(io.BytesIO(content)).convert("L" if grey else "RGB"))
    np.testing.assert_array_equal(door.pixels()[1], oracle[..., None] if grey else oracle)


def test_transparent_colours_count_as_alpha(door: Door, zipped: Zipped) -> None:
    content = encoded(Image.fromarray(pixels()), transparency=(1, 2, 3))
    assert "alpha channel" in door.dataset(zipped(folders(content))).notes[0]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation(door: Door, zipped: Zipped, orientation: int, kind: str) -> None:
    image = Image.fromarray(pixels(8, 16))
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(image, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    manifest = door.dataset(zipped(folders(content, content)))
    assert manifest.shape == ((3, 8, 16) if orientation < 5 else (3, 16, 8))
    assert any("were turned" in note for note in manifest.notes) == (orientation != 1)
    oracle = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    np.testing.assert_array_equal(door.pixels()[0], oracle)


@pytest.mark.parametrize("exif", [b"Exif\x00\x00garbage", b"Exif\x00\x00II*\x00\xff\xff\xff\xff", b""])
def test_damaged_exif_is_passed_over(door: Door, zipped: Zipped, exif: bytes) -> None:
    content = encoded(Image.fromarray(pixels()), "JPEG", exif=exif)
    assert door.dataset(zipped(folders(content))).notes == ()


def test_animations_give_their_first_frame(door: Door, zipped: Zipped) -> None:
    frames = [Image.fromarray(pixels()) for _ in range(3)]
    for kind in ("PNG", "WEBP"):
        options = {"lossless": True} if kind == "WEBP" else {}
        content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        manifest = door.dataset(zipped(folders(content)))
        assert "1 image had several frames; the first was taken (first: 'a/0.png')." in manifest.notes
        np.testing.assert_array_equal(door.pixels()[0], np.asarray(frames[0]))


def test_polyglots_are_stored_as_pixels_only(door: Door, zipped: Zipped) -> None:
    image = Image.fromarray(pixels())
    content = encoded(image, "JPEG", comment=b"<script>alert(1)</script>") + b"<html><script>alert(2)</script>"
    door.dataset(zipped(folders(content)))
    assert b"script" not in door.destination.read_bytes()


# Sizes.


def test_sizes_that_differ(door: Door, zipped: Zipped) -> None:
    files = folders(encoded(pixels(8, 6)), encoded(pixels(8, 7)))
    error = door.refuse_dataset(zipped(files), "'a/0.png' is 8x6", "'b/1.png' is 8x7")
    assert "size" in error.hint
    manifest = door.dataset(zipped(files), size=ImageSize(height=5, width=5))
    assert (manifest.shape, manifest.resized) == ((3, 5, 5), ImageSize(height=5, width=5, mode="resize"))


def test_a_turned_image_differs(door: Door, zipped: Zipped) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(pixels(8, 16))
    files = folders(encoded(image, "JPEG"), encoded(image, "JPEG", exif=exif))
    door.refuse_dataset(zipped(files), "'a/0.png' is 8x16", "'b/1.png' is 16x8")


@pytest.mark.parametrize("mode", ["resize", "resize-crop"])
@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (7, 5), (13, 13), (100, 3)])
def test_resizing_is_that_of_pillow(
    door: Door, zipped: Zipped, mode: Literal["resize", "resize-crop"], shape: tuple[int, int]
) -> None:
    image = Image.fromarray(pixels(*shape))
    door.dataset(zipped(folders(encoded(image))), size=ImageSize(height=6, width=9, mode=mode))
    if mode == "resize":
        oracle = image.resize((9, 6), Image.Resampling.BILINEAR)
    else:
        oracle = ImageOps.fit(image, (9, 6), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(door.pixels()[0].astype(int), np.asarray(oracle).astype(int), atol=1)


def test_one_pixel(door: Door, zipped: Zipped) -> None:
    assert door.dataset(zipped(folders(encoded(pixels(1, 1))))).shape == (3, 1, 1)


# Hostile images.


def header_only(width: int, height: int) -> bytes:
    return png_of((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b"")))


@pytest.mark.parametrize(("side", "megapixels"), [(20_000, "400 MP"), (8_000, "64 MP")])
def test_huge_images_by_their_header(door: Door, zipped: Zipped, side: int, megapixels: str) -> None:
    content = zipped(folders(header_only(side, side)))
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    door.refuse_dataset(content, "'a/0.png'", megapixels, "the limit is 50 MP")
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)


def test_pillows_own_settings_do_not_matter(door: Door, zipped: Zipped, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    door.refuse_dataset(zipped(folders(encoded(pixels(100, 100))[:5000])), "truncated or damaged")
    door.refuse_dataset(zipped(folders(header_only(20_000, 20_000))), "400 MP")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True
    assert Image.MAX_IMAGE_PIXELS is None


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9])
def test_truncated_images(door: Door, zipped: Zipped, kind: str, kept: float) -> None:
    good, content = encoded(pixels(50, 50), kind), encoded(pixels(50, 50), kind)
    door.refuse_dataset(zipped(folders(good, content[: int(kept * len(content))])), "'b/1.png'")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is an empty file"),
        (b"just a text, really", "it is a text"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>', "it is a web page"),
        (b"<!DOCTYPE html><html></html>", "it is a web page"),
        (b"GIF89a" + bytes(50), "it is a GIF image"),
        (b"II*\x00" + bytes(50), "it is a TIFF image"),
        (b"%PDF-1.7\n", "it is a PDF document"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(x) print\n", "it is a PostScript document"),
        (b"SIMPLE  =                    T" + bytes(50), "it is of an unknown format"),
        (b"8BPS\x00\x01" + bytes(50), "it is of an unknown format"),
        (b"PK\x03\x04" + bytes(50), "it is a zip archive"),
    ],
)
def test_files_that_are_no_images(door: Door, zipped: Zipped, content: bytes, words: str) -> None:
    door.refuse_dataset(zipped(folders(encoded(pixels()), content)), "'b/1.png' is not a readable PNG, JPEG", words)


def test_an_image_without_pixels(door: Door, zipped: Zipped) -> None:
    for width, height in ((0, 0), (0, 5), (5, 0)):
        door.refuse_dataset(zipped(folders(header_only(width, height))), "'a/0.png'")


def test_text_bombs(door: Door, zipped: Zipped) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("bomb", "a" * (100 << 20), zip=True)
    content = encoded(Image.fromarray(pixels()), pnginfo=info)
    assert len(content) < 200_000
    door.refuse_dataset(zipped(folders(content)), "'a/0.png' is truncated or damaged.")


def test_a_large_image_file(door: Door, zipped: Zipped) -> None:
    door.refuse_dataset(
        zipped(folders(encoded(pixels(100, 100)))), "the limit for it is 9.77 KiB", limits=Limits(image_bytes=10_000)
    )


def test_too_many_images_and_pixels(door: Door, zipped: Zipped) -> None:
    files = folders(encoded(pixels()), encoded(pixels()))
    door.refuse_dataset(zipped(files), "2 images, the limit is 1", limits=Limits(samples=1))
    door.refuse_dataset(
        zipped(files),
        "expands to 58.6 KiB of pixels",
        limits=Limits(expanded_bytes=10_000),
        size=ImageSize(height=100, width=100),
    )
    door.refuse_dataset(zipped(files), "2 class names, the limit is 1", limits=Limits(classes=1))


def test_names_are_left_out_when_they_are_too_long_together(
    door: Door, zipped: Zipped, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("auditor.data.intake.pictures._MAX_NAMES_BYTES", 10)
    manifest = door.dataset(zipped(folders(encoded(pixels()))))
    assert "called by number" in manifest.notes[0]
    assert ImageDataset.open(door.destination).sample_name(0) == "#0"


def test_threads_do_not_leak_pillows_limits() -> None:
    content = encoded(pixels(20, 20))
    before = Image.MAX_IMAGE_PIXELS

    def work(pixels: int) -> None:
        for _ in range(50):
            read_header(content, "x", Limits(image_pixels=pixels))
            decode(content, "x", Limits(image_pixels=pixels), grey=False, size=None)

    threads = [threading.Thread(target=work, args=(1000 + i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert before == Image.MAX_IMAGE_PIXELS


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file of these chunks, each with its checksum."""
    packed = (struct.pack(">I", len(data)) + kind + data for kind, data in chunks)
    sums = (struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(part + check for part, check in zip(packed, sums, strict=True))


def png_headers() -> list[bytes]:
    """PNG files of every kind, good and bad: what is in the header, what follows it, and where the file ends."""
    modes = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
    good = [encoded(Image.new(mode, (5, 4))) for mode in modes]
    good += [
        encoded(Image.new("RGB", (5, 4)), **options) for options in ({"dpi": (72, 72)}, {"icc_profile": b"x" * 200})
    ]
    grey = Image.new("L", (5, 4))
    good += [encoded(grey, transparency=0), encoded(grey, save_all=True, append_images=[Image.new("L", (5, 4), 9)])]
    bodies = [
        struct.pack(">IIBBBBB", width, height, depth, colour, packing, filters, interlace)
        for width, height in ((5, 4), (0, 4), (5, 0), (2**31, 2**31), (101, 100), (100, 100))
        for depth in (0, 8, 16)
        for colour in (0, 2, 3, 7)
        for packing, filters, interlace in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
    ]
    data = (b"IDAT", zlib.compress(bytes(64)))
    made = [png((b"IHDR", body), data, (b"IEND", b"")) for body in bodies]
    made += [png((b"IHDR", body), data) for body in (bodies[17] + b"\0", bodies[17][:-1])]
    made += [
        png((b"IHDR", bodies[16]), (kind, b"12345678"), data) for kind in (b"tEXt", b"tRNS", b"IHDR", b"IEND", b"1DAT")
    ]
    whole = good[4]
    cut = [whole[:length] for length in range(60)]
    changed = [whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :] for place in range(45)]
    return good + made + cut + changed


def test_the_short_way_to_a_png_header_says_what_pillow_says(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(image_pixels=10_000)

    def read(content: bytes) -> Header | str:
        try:
            return read_header(content, "x.png", limits)
        except IntakeError as error:
            return str(error)

    files = png_headers()
    short = sum(images_module._plain_png(content, limits) is not None for content in files)
    found = [read(content) for content in files]
    monkeypatch.setattr(images_module, "_plain_png", lambda data, limits: None)
    assert found == [read(content) for content in files]
    assert 5 < short < len(files) / 2  # neither way stands alone


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "RGBA", "LA"])
@pytest.mark.parametrize("grey", [True, False])
def test_an_image_decoded_at_once_and_by_strips_is_the_same(
    mode: str, grey: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = Image.fromarray(pixels(9, 7)).convert(mode)
    content, limits = encoded(image), Limits()
    at_once = decode(content, "x", limits, grey=grey, size=None).pixels
    monkeypatch.setattr(images_module, "_STRIP_PIXELS", 14)
    np.testing.assert_array_equal(at_once, decode(content, "x", limits, grey=grey, size=None).pixels)
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("L" if grey else "RGB"))
    np.testing.assert_array_equal(at_once, expected.reshape(9, 7, -1))
