"""A data set is read in the sandbox without torch, but for the one way of resizing that is torch's."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode, functional

from auditor.data.intake.image_size import ImageSize
from auditor.data.intake.reading import Reading
from auditor.models.dataset import ImageDataset
from worker.reading import read_dataset
from worker.settings import Settings


def test_the_readers_of_data_sets_import_no_torch() -> None:
    program = "import sys, worker.reading, auditor.data.intake.datasets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="this system keeps no limit on memory")
def test_where_torch_resizes_its_import_is_not_paid_from_the_memory_of_the_reader(
    settings: Settings, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 20, 20, 3), np.uint8)
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for number, image in enumerate(pixels):
            Image.fromarray(image).save(stream := io.BytesIO(), "PNG")
            archive.writestr(f"{number}/1.png", stream.getvalue())
    size = ImageSize(height=8, width=8, mode="resize-crop", shorter_side=8, interpolation="bilinear", antialias=False)
    little = settings.model_copy(update={"intake_memory": 256 << 20})
    read_dataset(tmp_path / "images.zip", "images.zip", Reading(size=size), tmp_path / "stored", little)
    stored = ImageDataset.open(tmp_path / "stored")
    tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    expected = functional.resize(tensor, [8, 8], InterpolationMode.BILINEAR, antialias=False) / 255
    assert torch.allclose(stored.images([0, 1]), expected.mul(255).round() / 255, atol=0.51 / 255)
