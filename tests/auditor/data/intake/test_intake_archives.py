"""The walls around zip archives, each with an archive that was made to climb it."""

from __future__ import annotations

import functools
import io
import stat
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest
from PIL import Image

from auditor.data.intake import archive
from auditor.kit.limits import Limits
from tests.auditor.data.intake.conftest import Door, Zipped


def png(colour: tuple[int, int, int] = (10, 20, 30)) -> bytes:
    image = Image.new("RGB", (8, 8), colour)
    image.putpixel((0, 0), (255, 255, 255))
    image.save(stream := io.BytesIO(), "PNG")
    return stream.getvalue()


GOOD = {"cat/1.png": png(), "dog/1.png": png((90, 0, 0))}


def rewritten(content: bytes, old: bytes, new: bytes) -> bytes:
    """Names as they are, since zipfile itself would clean them."""
    assert len(old) == len(new)
    assert content.count(old) == 2  # local header and directory
    return content.replace(old, new)


def test_the_good_archive_is_good(door: Door, zipped: Zipped) -> None:
    assert door.dataset(zipped(GOOD), "a.zip").samples == 2


@pytest.mark.parametrize(
    "name",
    ["../../evil1.png", "cat/../../e.png", "/etc/cron.d/x.png", "C:/windows/x.png", "..", "cat/..", "c:evil.png"],
)
def test_names_that_leave_the_archive(door: Door, zipped: Zipped, name: str) -> None:
    door.refuse_dataset(zipped({**GOOD, name: png()}), f"'{name}' leaves the archive")
    assert sorted(path.name for path in door.inbox.parent.iterdir()) == ["inbox", "stored"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("cat\\..\\evil.png", r"cat\\..\\evil.png"),
        ("cat/a\nb.png", r"cat/a\nb.png"),
        ("cat/\x1b[31m.png", r"cat/\x1b[31m.png"),
        ("cat/\u202egnp.exe", r"cat/\u202egnp.exe"),
        ("cat/a\u200bb.png", r"cat/a\u200bb.png"),
        ("cat//a.png", "cat//a.png"),
        ("cat/./a.png", "cat/./a.png"),
    ],
)
def test_names_that_cannot_be_shown(door: Door, zipped: Zipped, name: str, shown: str) -> None:
    door.refuse_dataset(zipped({**GOOD, name: png()}), "unsupported name", f"'{shown}'")


def test_a_nul_in_a_name(door: Door, zipped: Zipped) -> None:
    content = rewritten(zipped({**GOOD, "cat/aXb.png": png()}), b"cat/aXb.png", b"cat/a\x00b.png")
    door.refuse_dataset(content, "unsupported name", r"'cat/a\x00b.png'")


def test_long_names(door: Door, zipped: Zipped) -> None:
    door.refuse_dataset(zipped({**GOOD, "cat/" + "a" * 500: png()}), "504 characters, the limit is 500", "aaa...aaa")
    door.refuse_dataset(zipped({**GOOD, "a/" * 10_000 + "x.png": png()}), "characters, the limit is 500")


def test_links_and_devices(door: Door, zipped: Zipped) -> None:
    for mode in (stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK):
        content = zipped({"cat/1.png": b"/etc/passwd"}, create_system=3, external_attr=(mode | 0o777) << 16)
        door.refuse_dataset(content, "'cat/1.png'", "links are not allowed")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_links_and_devices_are_left_out_by_choice_and_never_followed(door: Door, tmp_path: Path, kind: str) -> None:
    """What they lead to is an image that would be accepted: outside of the archive, and in it."""
    (tmp_path / "outside.png").write_bytes(png())
    good = {"cat/1.png": png(), "dog/1.png": png((3, 4, 5))}
    links = {"cat/2.png": str(tmp_path / "outside.png"), "cat/3.png": "1.png", "dog/classes.txt": "/etc/hostname"}
    stream = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(stream, "w") as file:
            for name, content in good.items():
                file.writestr(name, content)
            for name, target in links.items():
                link = zipfile.ZipInfo(name)
                link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
                file.writestr(link, target)
    else:
        with tarfile.open(fileobj=stream, mode="w") as tar:
            for name, content in good.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            for name, target in links.items():
                info = tarfile.TarInfo(name)
                info.type, info.linkname = tarfile.SYMTYPE, target
                tar.addfile(info)
            for name, odd in (("dog/2.png", tarfile.LNKTYPE), ("dog/3.png", tarfile.CHRTYPE)):
                info = tarfile.TarInfo(name)
                info.type, info.linkname = odd, "dog/1.png"
                tar.addfile(info)
    content = stream.getvalue()
    error = door.refuse_dataset(content, "'cat/2.png'", "'cat/3.png'", "links are not allowed")
    assert "--leave-out" in error.hint
    manifest = door.dataset(content, leave_out=True)
    assert manifest.class_counts == (1, 1)
    (note,) = [note for note in manifest.notes if "cannot be used" in note]
    odd_ones = ["cat/2.png", "cat/3.png", *(["dog/2.png", "dog/3.png"] if kind == "tar" else [])]
    assert note.endswith(f"left out, since they cannot be used: {', '.join(repr(name) for name in odd_ones)}.")
    assert "'dog/classes.txt'" in " ".join(manifest.notes), "named as a stray"


def test_duplicates(door: Door) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name in ("cat/1.png", "dog/1.png"):
            file.writestr(name, png())
        with pytest.warns(UserWarning, match="Duplicate"):
            file.writestr("cat/1.png", png())
    door.refuse_dataset(stream.getvalue(), "'cat/1.png' appears twice")


@pytest.mark.parametrize("bit", [0x1, 0x40, 0x2000])
def test_passwords(door: Door, zipped: Zipped, bit: int) -> None:
    content = bytearray(zipped(GOOD))
    place = content.index(b"PK\x01\x02") + 8
    content[place : place + 2] = struct.pack("<H", struct.unpack_from("<H", content, place)[0] | bit)
    door.refuse_dataset(bytes(content), "password protected")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compression(door: Door, zipped: Zipped, method: int) -> None:
    door.refuse_dataset(zipped(GOOD, method), "expected stored or deflated")


def test_an_unknown_compression(door: Door, zipped: Zipped) -> None:
    content = bytearray(zipped(GOOD))
    place = content.index(b"PK\x01\x02") + 10
    content[place : place + 2] = struct.pack("<H", 99)
    door.refuse_dataset(bytes(content), "method 99")


@functools.cache
def zeros(expanded: int) -> tuple[bytes, int]:
    """So many zeros deflated, in no time: one compressed block, repeated; and their checksum."""
    block = 1 << 20
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = packer.compress(bytes(block)) + packer.flush(zlib.Z_FULL_FLUSH)
    crc = 0
    for _ in range(expanded // block):
        crc = zlib.crc32(bytes(block), crc)
    return piece * (expanded // block) + packer.flush(), crc


def bomb(expanded: int, name: bytes = b"cat/1.png") -> bytes:
    """An archive with one member of zeros."""
    data, crc = zeros(expanded)
    common = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 0, crc, len(data), expanded, len(name), 0)
    local = b"PK\x03\x04" + common + name + data
    directory = b"PK\x01\x02" + struct.pack("<H", 20) + common + struct.pack("<HHHII", 0, 0, 0, 0, 0) + name
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(directory), len(local), 0)
    return local + directory + end


def test_bombs(door: Door) -> None:
    content = bomb(64 << 20)
    assert len(content) < 100_000
    with zipfile.ZipFile(io.BytesIO(content)) as file:  # an honest archive, to zipfile
        assert file.testzip() is None
    door.refuse_dataset(content, "'cat/1.png'", "expands from", "to 64 MiB, more than the limit of 200:1")
    limits = Limits(ratio=5000, expanded_bytes=10 << 20)
    door.refuse_dataset(content, "expands to 64 MiB, more than the limit of 10 MiB", limits=limits)
    limits = Limits(ratio=5000, image_bytes=1 << 20)
    door.refuse_dataset(content, "has 64 MiB, the limit for it is 1 MiB", limits=limits)


def test_small_members_may_exceed_the_ratio(door: Door, zipped: Zipped) -> None:
    """A million sorted labels do: 8 MB that compress 800 times."""
    import numpy as np

    np.savez_compressed(
        stream := io.BytesIO(),
        images=np.arange(1_000_000, dtype=np.uint32).view(np.uint8).reshape(-1, 2, 2)[:500_000],
        labels=np.arange(500_000) // 50_000,
    )
    with zipfile.ZipFile(stream) as file:
        member = file.getinfo("labels.npy")
        assert member.file_size > 400 * member.compress_size
    assert door.dataset(stream.getvalue()).samples == 500_000


def test_sizes_that_lie(door: Door, zipped: Zipped) -> None:
    content = zipped(GOOD)
    size = len(GOOD["cat/1.png"])
    for stated in (size - 10, size + 10, 2**31):
        lying = bytearray(content)
        for magic, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
            place = lying.index(magic) + offset
            lying[place : place + 4] = struct.pack("<I", stated)
        door.refuse_dataset(bytes(lying))
    door.refuse_dataset(
        bytes(lying), "damaged", "'cat/1.png'", limits=Limits(ratio=2**40, image_bytes=2**32, ratio_from_bytes=2**40)
    )


def test_a_wrong_checksum(door: Door, zipped: Zipped) -> None:
    content = bytearray(zipped(GOOD, zipfile.ZIP_STORED))
    content[content.index(b"IDAT") + 8] ^= 1
    door.refuse_dataset(bytes(content), "damaged: the entry 'cat/1.png' cannot be read (wrong checksum)")


def test_overlapping_entries(door: Door, zipped: Zipped) -> None:
    """David Fifield's bomb: many entries of the directory share one piece of data."""
    content = zipped({"cat/1.png": png(), "cat/2.png": png(), "dog/1.png": png()})
    first = content.index(b"PK\x01\x02")
    second = content.index(b"PK\x01\x02", first + 1)
    overlapping = bytearray(content)
    overlapping[second + 42 : second + 46] = struct.pack("<I", 0)
    door.refuse_dataset(bytes(overlapping), "damaged", "overlap")
    beyond = bytearray(content)
    beyond[first + 20 : first + 24] = struct.pack("<I", 10_000)
    door.refuse_dataset(bytes(beyond), "damaged")


def test_truncated(door: Door, zipped: Zipped) -> None:
    content = zipped(GOOD)
    for kept in (4, 30, 100, len(content) // 2, len(content) - 40):
        door.refuse_dataset(content[:kept], "damaged: it ends early")
    door.refuse_dataset(content[:-1], "damaged: it ends early")


def test_a_directory_that_is_none(door: Door, zipped: Zipped) -> None:
    content = zipped(GOOD)
    end = content.rindex(b"PK\x05\x06")
    for length in (0xFFFFFF00, 10, len(content)):
        door.refuse_dataset(content[: end + 12] + struct.pack("<I", length) + content[end + 16 :], "damaged")
    broken = bytearray(content)
    broken[content.index(b"PK\x01\x02")] = 0
    door.refuse_dataset(bytes(broken), "damaged: its directory cannot be read")


def test_too_many_members(door: Door, zipped: Zipped) -> None:
    content = zipped({f"cat/{i}.png": b"" for i in range(300)})
    door.refuse_dataset(content, "more than 299 entries, which is the limit", limits=Limits(members=299))
    # The stated number of entries lies; what counts is how many there are.
    end = content.rindex(b"PK\x05\x06")
    lying = content[: end + 8] + struct.pack("<HH", 1, 1) + content[end + 12 :]
    door.refuse_dataset(lying, "more than 299 entries", limits=Limits(members=299))
    door.refuse_dataset(content, "The directory of", "need at most", limits=Limits(members=10))


def test_zip64_directories_are_counted(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for i in range(66_000):
            file.writestr(f"cat/{i}.png", b"")
    path = tmp_path / "many.zip"
    path.write_bytes(stream.getvalue())
    with archive.opened(path, "many.zip", Limits()) as file:
        assert len(file.infolist()) == 66_000
    with pytest.raises(Exception, match=r"more than 65,999 entries"), archive.opened(path, "m", Limits(members=65_999)):
        pass


def test_an_archive_within_an_archive(door: Door, zipped: Zipped) -> None:
    door.refuse_dataset(zipped({**GOOD, "cat/2.zip": zipped(GOOD)}), "'cat/2.zip'", "it is a zip archive")


def test_members_are_read_to_their_stated_size_only(tmp_path: Path, zipped: Zipped) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(zipped({"a": bytes(100_000)}))
    with archive.opened(path, "a.zip", Limits()) as file, archive.member_stream(file, file.infolist()[0], "a") as read:
        sizes = []
        while part := read(30_000):
            sizes.append(len(part))
    assert sizes == [30_000, 30_000, 30_000, 10_000]
