"""The shipped sample: what it holds, and that nothing is in both of its parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from auditor.data.samples import CLASS_NAMES, IMAGES, SAMPLES, TRAINING_IMAGES, TRAINING_SAMPLES

PARTS = {"test": (IMAGES, SAMPLES), "train": (TRAINING_IMAGES, TRAINING_SAMPLES)}


@pytest.mark.parametrize("part", PARTS)
def test_images_and_labels(part: str, shared: Path) -> None:
    path, count = PARTS[part]
    with np.load(path) as arrays, np.load(shared / "data" / f"fashion-mnist-{part}.npz") as whole:
        assert arrays["images"].shape == (count, 28, 28)
        assert tuple(arrays["class_names"]) == CLASS_NAMES
        assert np.array_equal(arrays["images"], whole["images"][:count].reshape(-1, 28, 28))
        assert np.array_equal(arrays["labels"], whole["labels"][:count])


def test_no_image_is_in_both_parts() -> None:
    with np.load(IMAGES) as test, np.load(TRAINING_IMAGES) as train:
        seen = {image.tobytes() for image in train["images"]}
        assert not any(image.tobytes() in seen for image in test["images"])
