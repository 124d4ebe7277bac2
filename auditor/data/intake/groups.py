"""Groups: which corruption, at which severity, each image of a set such as CIFAR-10-C or ImageNet-C has."""

from __future__ import annotations

from auditor.kit.wording import listed, shown
from auditor.models.dataset import Group

SEVERITIES = 5
"""Severities of the published sets: five blocks of an array, or folders 1 to 5."""

CORRUPTIONS = frozenset(
    {
        "gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise",
        "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "gaussian_blur",
        "snow", "frost", "fog", "brightness", "spatter",
        "contrast", "elastic_transform", "pixelate", "jpeg_compression", "saturate",
    }
)  # fmt: skip
"""The corruptions of Hendrycks and Dietterich (2019), by the names of their files and folders."""

MNIST_CORRUPTIONS = frozenset(
    {
        "identity", "shot_noise", "impulse_noise", "glass_blur", "motion_blur", "shear", "scale", "rotate", "brightness",
        "translate", "stripe", "fog", "spatter", "dotted_line", "zigzag", "canny_edges",
    }
)  # fmt: skip
"""The folders of MNIST-C (Mu and Gilmer, 2019), each with arrays of its own at one severity."""


def groups_note(groups: list[Group]) -> str:
    """What is said of a data set that holds several."""
    corruptions = list(dict.fromkeys(group.corruption for group in groups))
    severities = sorted({group.severity for group in groups if group.severity})
    at = f", severities {listed([str(item) for item in severities], SEVERITIES)}" if severities else ""
    return f"The images carry their corruption: {listed([shown(item) for item in corruptions], 20)}{at}."
