"""Files as their libraries write them are added as they are, and answer as the library does: logits and input gradients.

``python -m tests.auditor.data.intake.test_intake_kinds`` prints the table of docs/formats.md anew.
"""

from __future__ import annotations

import re
import sys
import tempfile
import warnings
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from auditor.data.intake.weights import ModelManifest, load_weights, take_model
from auditor.models.architecture import ARCHITECTURES
from auditor.models.classifier import Classifier, Normalization, parse_normalization
from tests.auditor.data.intake.library_files import KINDS, LibraryFile, PixelsToLogits

FORMATS = Path(__file__).parents[4] / "docs" / "formats.md"
QUICK = (
    "torchvision references, with EMA",
    "torch.nn.utils.prune",
    "timm CheckpointSaver with ModelEmaV3",
)
"""With every `make test`; the rest goes the same ways and is thorough."""


class Deviation(NamedTuple):
    """From the library's, relative to the largest value: of logits, and of the gradient by the pixels."""

    logits: float
    gradient: float


def take(file: LibraryFile, destination: Path) -> tuple[ModelManifest, Classifier]:
    """The file added as it is, with what the user says of it, as a classifier of pixels."""
    given = ARCHITECTURES.parse(file.architecture) if file.architecture else None
    manifest = take_model(file.path, file.path.name, given, destination)
    values = dict(manifest.architecture or {})
    architecture = ARCHITECTURES.build(values.pop("kind"), values)
    network = architecture.build()
    load_weights(network, destination)
    said = manifest.normalization or (
        parse_normalization(file.normalization) if file.normalization else Normalization()
    )
    return manifest, Classifier(
        network, input_shape=architecture.input_shape, num_classes=architecture.num_classes, normalization=said
    )


def answers(logits: PixelsToLogits, x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient of the sum of their squares by the pixels."""
    points = x.clone().requires_grad_()
    found = logits(points)
    (gradient,) = torch.autograd.grad(found.square().sum(), points)
    return found.detach(), gradient


def deviation(ours: PixelsToLogits, theirs: PixelsToLogits, shape: tuple[int, int, int], images: int = 3) -> Deviation:
    """Of ours from theirs, on images of 8 bits."""
    x = torch.randint(0, 256, (images, *shape), generator=torch.Generator().manual_seed(1)) / 255
    (logits, gradient), (expected, expected_gradient) = answers(ours, x), answers(theirs, x)
    assert expected.std(0).max() > 1e-6
    return Deviation(difference(logits, expected), difference(gradient, expected_gradient))


def difference(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in QUICK else [pytest.mark.thorough]) for kind in KINDS]
)
def test_a_file_answers_as_its_library_does(kind: str, tmp_path: Path) -> None:
    try:
        file = KINDS[kind](tmp_path)
    except ImportError as error:
        pytest.skip(f"{kind}: {error}")
    manifest, classifier = take(file, tmp_path / "stored")
    found = deviation(classifier, file.logits, file.shape)
    assert found.logits < 1e-5
    assert found.gradient < 1e-4
    if "ModelEma" in kind or "with EMA" in kind:
        assert "ema" in str(manifest.wrapper)


def test_the_table_of_formats_has_every_kind() -> None:
    rows = re.findall(r"^\| ([^|]+) \| \d", FORMATS.read_text(), re.MULTILINE)
    assert [row for row in rows if row in KINDS] == list(KINDS)
    assert len(KINDS) >= 20


def main() -> None:
    """Print the table."""
    print("| made by | logits | gradient |\n|---|---|---|")
    for kind, write in KINDS.items():
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                file = write(Path(folder))
            except ImportError as error:
                print(f"| {kind} | {error} | |", file=sys.stderr)
                continue
            _, classifier = take(file, Path(folder) / "stored")
            found = deviation(classifier, file.logits, file.shape)
        print(f"| {kind} | {found.logits:.1e} | {found.gradient:.1e} |", flush=True)


if __name__ == "__main__":
    main()
