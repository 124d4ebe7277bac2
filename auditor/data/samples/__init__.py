"""The shipped sample: 2,000 test images and 6,000 training images of Fashion-MNIST (MIT licence), and two small networks of ours,
plain and robust."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from auditor.data.intake.weights import load_weights
from auditor.models.architecture import ARCHITECTURES, Architecture
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset

FOLDER = Path(__file__).resolve().parent
IMAGES = FOLDER / "fashion-mnist-test.npz"
TRAINING_IMAGES = FOLDER / "fashion-mnist-train.npz"
WEIGHTS = {"plain": FOLDER / "fashion-plain.safetensors", "robust": FOLDER / "fashion-robust.safetensors"}

SAMPLES, TRAINING_SAMPLES = 2000, 6000
EPSILON = 0.1
"""The L∞ budget for which the robust network was trained."""

CLASS_NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip

ARCHITECTURE: Architecture = ARCHITECTURES.build(
    "sequential",
    {
        "channels": 1,
        "height": 28,
        "width": 28,
        "layers": [
            {"type": "conv", "out_channels": 16, "kernel_size": 3, "padding": 1},
            {"type": "batch_norm"},
            {"type": "relu"},
            {"type": "conv", "out_channels": 32, "kernel_size": 3, "stride": 2, "padding": 1},
            {"type": "batch_norm"},
            {"type": "relu"},
            {"type": "conv", "out_channels": 64, "kernel_size": 3, "stride": 2, "padding": 1},
            {"type": "batch_norm"},
            {"type": "relu"},
            {"type": "flatten"},
            {"type": "linear", "out_features": 64},
            {"type": "relu"},
            {"type": "linear", "out_features": 10},
        ],
    },
)
"""Both networks' shape; pixels in [0, 1], no normalization."""


class Sample(NamedTuple):
    """A small network and its data: ``dataset`` to audit it on, ``training`` to harden it or to fit a defense."""

    classifier: Classifier
    dataset: ImageDataset
    training: ImageDataset


def sample(which: Literal["plain", "robust"] = "plain") -> Sample:
    """One of the two shipped networks with the shipped images; nothing is downloaded."""
    network = ARCHITECTURE.build()
    load_weights(network, WEIGHTS[which])
    classifier = Classifier(
        network,
        input_shape=ARCHITECTURE.input_shape,
        num_classes=ARCHITECTURE.num_classes,
        class_names=CLASS_NAMES,
        name=f"Fashion {which}",
        copy=False,
    )
    return Sample(classifier, _images(IMAGES, "Fashion-MNIST sample"), _images(TRAINING_IMAGES, "training sample"))


def _images(path: Path, name: str) -> ImageDataset:
    with np.load(path) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return ImageDataset(images[..., None], labels, class_names=CLASS_NAMES, sha256=digest, name=name)
