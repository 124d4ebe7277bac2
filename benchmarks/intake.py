"""Reading of large files beside the libraries that wrote them: a state dict of 100 MB, and a Parquet file of 50,000 images.

    python -m benchmarks.intake --write docs/benchmarks-intake.md

Every contestant reads the file in a fresh process: once to warm up, then ROUNDS times; the two of a pair take turns. What is
compared is CPU time, so a busy machine slows down both sides alike. Memory is the largest resident size of any of these
readings, over that before it. The files lie in a temporary folder and go with it.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from auditor.kit.provenance import versions
from auditor.kit.wording import counted

if TYPE_CHECKING:
    from torch import Tensor

ROUNDS = 3
MODEL = "resnet50"
"""102 MB of float32."""

IMAGES, SIDE, CLASSES = 50_000, 32, 10
SLOWER, SPEED, MEMORY = 1.3, 0.7, 1024
"""At most so many times the time of torch.load and its company; at least so much of datasets' speed; at most so many MiB."""


class Reading(NamedTuple):
    """CPU seconds of one reading, and the MiB by which the resident size grew."""

    seconds: float
    memory: float


class Pair(NamedTuple):
    """``ours`` and ``plain``: a contestant each, of the same file."""

    title: str
    file: str
    ours: str
    plain: str


PAIRS = (
    Pair("State dict, zip", "zip.pt", "take_model", "torch.load"),
    Pair("State dict, format before torch 1.6", "legacy.pt", "take_model", "torch.load"),
    Pair("State dict, safetensors", "weights.safetensors", "take_model", "safetensors"),
    Pair(f"Parquet, {IMAGES:,} images", "images.parquet", "take_dataset", "datasets"),
)


def write_files(folder: Path, wanted: set[str]) -> None:
    """The files that are read, of those ``wanted``."""
    import torch
    from safetensors.torch import save_file

    from auditor.models.architecture import ARCHITECTURES

    torch.manual_seed(0)
    state = ARCHITECTURES.build("torchvision", {"model": MODEL}).build().state_dict()
    torch.save(state, folder / "zip.pt")
    torch.save(state, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    save_file(state, folder / "weights.safetensors")
    if "images.parquet" in wanted:
        _write_images(folder / "images.parquet")


def _write_images(path: Path) -> None:
    """Images as datasets keeps CIFAR-10: PNG files in a column, with the names of the classes in the schema."""
    import datasets  # type: ignore[import-untyped]
    from PIL import Image

    random = np.random.default_rng(0)

    def rows() -> object:
        for number in range(IMAGES):
            coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)).resize((SIDE, SIDE))
            noise = random.integers(-6, 7, (SIDE, SIDE, 3))
            pixels = np.clip(np.asarray(coarse) + noise, 0, 255).astype(
                np.uint8
            )  # as large, compressed, as a photograph
            Image.fromarray(pixels).save(stream := io.BytesIO(), "PNG")
            yield {"img": {"bytes": stream.getvalue(), "path": None}, "label": number % CLASSES}

    names = datasets.ClassLabel(names=[f"class {number}" for number in range(CLASSES)])
    features = datasets.Features({"img": datasets.Image(), "label": names})
    made = datasets.Dataset.from_generator(rows, features=features, cache_dir=str(path.parent / "cache"))
    made.to_parquet(str(path))


def take_model(file: Path, scratch: Path) -> None:
    """Reading, checking and storing weights, as it is done in the sandbox."""
    from auditor.data.intake import weights
    from auditor.models.architecture import ARCHITECTURES

    weights.take_model(file, file.name, ARCHITECTURES.build("torchvision", {"model": MODEL}), scratch / "stored")


def torch_load(file: Path, scratch: Path) -> None:
    """torch.load, one copy that is on the disk, and SHA-256 of the two files."""
    import torch

    _copied_and_hashed(torch.load(file, weights_only=True), file, scratch)


def safetensors(file: Path, scratch: Path) -> None:
    """The same of a safetensors file."""
    from safetensors.torch import load_file

    _copied_and_hashed(load_file(file), file, scratch)


def _copied_and_hashed(tensors: dict[str, Tensor], file: Path, scratch: Path) -> None:
    from safetensors.torch import save_file

    from auditor.data.intake.upload import sha256_of

    save_file(tensors, scratch / "copy")
    with (scratch / "copy").open("rb") as copy:
        os.fsync(copy.fileno())
    sha256_of(file)
    sha256_of(scratch / "copy")


def take_dataset(file: Path, scratch: Path) -> None:
    """Reading, checking, decoding and storing images, as it is done in the sandbox."""
    from auditor.data.intake import datasets

    taken = datasets.take_dataset(file, file.name, scratch / "stored")
    assert (taken.samples, taken.shape) == (IMAGES, (3, SIDE, SIDE))


def hugging_face(file: Path, scratch: Path) -> None:
    """Every image decoded to an array, and its label; the table was made before."""
    import datasets

    table = datasets.load_dataset("parquet", data_files=str(file), split="train", cache_dir=str(scratch / "cache"))
    start = time.process_time()
    count = 0
    for row in table:
        count += np.asarray(row["img"]).shape == (SIDE, SIDE, 3) and row["label"] >= 0
    assert count == IMAGES
    decoding.append(time.process_time() - start)


decoding: list[float] = []
"""Seconds of datasets' loop alone."""

CONTESTANTS: dict[str, Callable[[Path, Path], None]] = {
    "take_model": take_model,
    "torch.load": torch_load,
    "safetensors": safetensors,
    "take_dataset": take_dataset,
    "datasets": hugging_face,
}


def read_once(name: str, file: Path, rounds: int) -> list[Reading]:
    """The readings of one contestant in this process, after one to warm up."""
    found = []
    for _ in range(1 + rounds):
        with tempfile.TemporaryDirectory(dir=file.parent) as scratch:
            before = _resident("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # the largest size so far is forgotten
            decoding.clear()
            start = time.process_time()
            CONTESTANTS[name](file, Path(scratch))
            seconds = decoding[0] if decoding else time.process_time() - start
            found.append(Reading(seconds, _resident("VmHWM") - before))
    return [reading._replace(memory=max(each.memory for each in found)) for reading in found[1:]]


def _resident(field: str) -> float:
    """A size of this process, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def measured(name: str, file: Path) -> Reading:
    """One reading in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.intake", "--one", name, "--file", str(file)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    seconds, memory = json.loads(done.stdout.splitlines()[-1])
    return Reading(seconds, memory)


def row(pair: Pair, folder: Path, rounds: int) -> str:
    """A line of the table: medians, and the median of the ratios within a turn."""
    file = folder / pair.file
    turns = [(measured(pair.ours, file), measured(pair.plain, file)) for _ in range(rounds)]
    ours, plain = ([turn[side].seconds for turn in turns] for side in (0, 1))
    ratio = statistics.median(turn[0].seconds / turn[1].seconds for turn in turns)
    memory = [max(turn[side].memory for turn in turns) for side in (0, 1)]
    compared = f"{1 / ratio:.2f} × as fast" if pair.ours == "take_dataset" else f"{ratio:.2f} × the time"
    target = f"≥ {SPEED}" if pair.ours == "take_dataset" else f"≤ {SLOWER}"
    line = (
        f"| {pair.title} | {file.stat().st_size / 1e6:.0f} MB | {_span(ours)} | {_span(plain)} | {compared} | {target} | "
        f"{memory[0]:.0f} | {memory[1]:.0f} |"
    )
    print(line, flush=True)
    return line


def _span(seconds: list[float]) -> str:
    spread = f" ({min(seconds):.2f} to {max(seconds):.2f})" if len(seconds) > 1 else ""
    return f"{statistics.median(seconds):.2f}{spread}"


def page(rows: list[str], rounds: int) -> str:
    known = versions()
    named = ", ".join(f"{name} {version}" for name, version in (("torch", known["torch"]), *_library_versions()))
    return "\n".join(
        [
            "# Benchmark of reading files",
            "",
            f"Machine: {platform.machine()}, {os.cpu_count()} cores, OMP_NUM_THREADS 1, Python {platform.python_version()}, "
            f"{named}. CPU seconds: median (smallest to largest) of {counted(rounds, 'reading')}, each in a process of its own "
            "after one to warm up, the two sides in turn. Memory: MiB by which the resident size grew at most.",
            "",
            "| file | size | ours | plain | ratio | target | memory, ours | memory, plain |",
            "|---|---|---|---|---|---|---|---|",
            *rows,
            "",
            f"Ours is all that intake does with the file: for weights ({MODEL}), every record's checksum, names and shapes "
            "against the architecture, a look for NaN, our safetensors file, and the SHA-256 of both files; for images, every "
            "header, every pixel, a search for duplicates, our file of pixels, and the SHA-256 of both. Plain is, for weights, "
            "torch.load (or safetensors' load_file), one copy by safetensors' save_file, synced to the disk, and the same two "
            "passes of SHA-256; for images, a loop over datasets' rows that decodes each to an array, without the time in which "
            f"datasets makes its table. The images are {SIDE}x{SIDE} PNG files. Target of memory: {MEMORY} MiB and one batch.",
            "",
        ]
    )


def _library_versions() -> list[tuple[str, str]]:
    from importlib.metadata import version

    return [(name, version(name)) for name in ("safetensors", "datasets", "pyarrow", "pillow", "numpy")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument(
        "--pairs", nargs="*", type=int, default=range(len(PAIRS)), help="which lines of the table, from 0"
    )
    parser.add_argument("--write", type=Path, help="Markdown file to write")
    parser.add_argument("--one", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(read_once(arguments.one, arguments.file, 1)[0]))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), {PAIRS[at].file for at in arguments.pairs})
        text = page([row(PAIRS[at], Path(folder), arguments.rounds) for at in arguments.pairs], arguments.rounds)
    if arguments.write is not None:
        arguments.write.write_text(text)


if __name__ == "__main__":
    main()
