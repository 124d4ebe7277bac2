"""The shipped sample: 2,000 test images and 6,000 training images of Fashion-MNIST (MIT licence), and two small networks of ours,
plain and robust."""

from __future__ import annotations

from pathlib import Path

from auditor.architecture import ARCHITECTURES, Architecture

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
"""Both networks' shape; pixels in [0, 1], no normalisation."""
