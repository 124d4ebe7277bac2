"""A door to the intake that checks what every refusal owes: one sentence, and nothing left behind."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from auditor.data.intake.datasets import DatasetManifest, take_dataset
from auditor.data.intake.reading import Reading
from auditor.data.intake.weights import ModelManifest, take_model
from auditor.kit.errors import IntakeError
from auditor.models.architecture import Architecture
from auditor.models.dataset import ImageDataset

_QUOTED = re.compile(r"'[^']*'|\([\w., ]+\), not only weights")
_PYTHON = re.compile(r"\b\w*(Error|Exception|Exit)\b|Traceback|NoneType|<class")


class Tiny(Architecture):
    """A convolution, a batch normalization and a linear layer."""

    kind: Literal["tiny"] = "tiny"

    def build(self) -> nn.Module:
        features = 4 * (self.height // 2) * (self.width // 2)
        return nn.Sequential(
            nn.Conv2d(self.channels, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(features, self.num_classes),
        )


class Door:
    """Hands bytes to the intake under a file name; ``refuse_*`` also check the refusal."""

    def __init__(self, folder: Path) -> None:
        self.inbox = folder / "inbox"
        self.stored = folder / "stored"
        self.inbox.mkdir()
        self.stored.mkdir()
        self.canary = folder / "canary"
        self.destination = self.stored / "accepted"

    def put(self, content: bytes, filename: str) -> Path:
        source = self.inbox / filename
        source.write_bytes(content)
        return source

    def model(
        self, content: bytes, filename: str = "weights.pt", architecture: Architecture | None = None, **options: Any
    ) -> ModelManifest:
        return take_model(
            self.put(content, filename), filename, architecture or Tiny(height=8, width=8), self.destination, **options
        )

    def dataset(self, content: bytes, filename: str = "data.npz", **options: Any) -> DatasetManifest:
        limits = options.pop("limits", None)
        return take_dataset(
            self.put(content, filename), filename, self.destination, reading=Reading(**options), limits=limits
        )

    def refuse_model(self, content: bytes, *words: str, **options: Any) -> IntakeError:
        return self._refuse(lambda: self.model(content, **options), words)

    def refuse_dataset(self, content: bytes, *words: str, **options: Any) -> IntakeError:
        return self._refuse(lambda: self.dataset(content, **options), words)

    def tensors(self) -> dict[str, Tensor]:
        """The stored weights, read by the safetensors library."""
        from safetensors.torch import load_file

        return load_file(self.destination)

    def pixels(self) -> np.ndarray:
        """The stored images as they are, (N, H, W, C)."""
        return np.asarray(ImageDataset.open(self.destination)._images)

    def _refuse(self, act: Callable[[], object], words: tuple[str, ...]) -> IntakeError:
        self.destination.unlink(missing_ok=True)
        with pytest.raises(IntakeError) as caught:
            act()
        error = caught.value
        for word in words:
            assert word in str(error), f"{word!r} not in {str(error)!r}"
        assert error.message.endswith("."), error.message
        assert "\n" not in str(error)
        assert str(error).isprintable()
        assert len(str(error)) < 1200
        said = _QUOTED.sub("", str(error))  # but for what the file itself says
        assert not _PYTHON.search(said), f"a name from Python's own errors in {said!r}"
        assert list(self.stored.iterdir()) == []
        assert not self.canary.exists()
        return error


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(tmp_path)


@pytest.fixture
def state() -> dict[str, Tensor]:
    """The state dict of a Tiny for 8x8 images, with weights that differ from their defaults."""
    torch.manual_seed(0)
    network = Tiny(height=8, width=8).build()
    content = network.state_dict()
    for key, value in content.items():
        if value.is_floating_point():
            content[key] = torch.randn_like(value).abs() if key.endswith("var") else torch.randn_like(value)
    content["1.num_batches_tracked"] = torch.tensor(17)
    return dict(content)


class Saved(Protocol):
    """torch.save to bytes."""

    def __call__(self, value: object, **options: Any) -> bytes: ...


@pytest.fixture
def saved() -> Saved:

    def save(value: object, **options: Any) -> bytes:
        stream = io.BytesIO()
        torch.save(value, stream, **options)
        return stream.getvalue()

    return save


class Zipped(Protocol):
    """A zip archive of these entries; ``changes`` of each one's ZipInfo."""

    def __call__(self, entries: Mapping[str, bytes], compression: int = ..., **changes: Any) -> bytes: ...


@pytest.fixture
def zipped() -> Zipped:

    def make(entries: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED, **changes: Any) -> bytes:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", compression) as file:
            for name, content in entries.items():
                info = zipfile.ZipInfo(name)
                info.compress_type = compression
                for key, value in changes.items():
                    setattr(info, key, value)
                file.writestr(info, content)
        return stream.getvalue()

    return make
