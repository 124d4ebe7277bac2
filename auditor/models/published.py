"""What the makers of a network publish with its weights: mean and deviation, image size, accuracy, names of the classes."""

from __future__ import annotations

from typing import Any, NamedTuple

from auditor.kit.errors import SpecError
from auditor.models.architecture import Architecture
from auditor.models.architectures.timm_models import TimmModel, timm_library
from auditor.models.architectures.torchvision_models import TorchvisionModel
from auditor.models.classifier import Normalization


class Published(NamedTuple):
    """The configuration of one set of published weights.

    ``resize``: side that the shorter edge is brought to before ``crop``, (height, width) of the centre that is cut out, both in
    pixels. ``accuracy``: top-1 share of ImageNet's validation images that the publisher states, in [0, 1].
    """

    source: str
    normalization: Normalization
    resize: int
    crop: tuple[int, int]
    interpolation: str
    accuracy: float | None = None
    class_names: tuple[str, ...] | None = None


def published(architecture: Architecture) -> list[Published]:
    """What is published of an architecture of torchvision or timm, the default weights first; empty for any other.

    Sources: ``torchvision.models.get_model_weights``, ``timm.get_pretrained_cfg``, as installed; nothing is fetched.
    """
    try:
        if isinstance(architecture, TorchvisionModel):
            return _of_torchvision(architecture.model)
        if isinstance(architecture, TimmModel):
            return _of_timm(architecture.model)
    except SpecError:  # the library is not installed
        return []
    return []


def _of_torchvision(name: str) -> list[Published]:
    from torchvision.models import get_model_weights

    weights = get_model_weights(name)
    default = getattr(weights, "DEFAULT", None)
    found = [_entry(member) for member in sorted(weights, key=lambda member: member is not default)]
    return [entry for entry in found if entry is not None]


def _entry(member: Any) -> Published | None:
    preset = member.transforms()
    if not hasattr(preset, "resize_size"):
        return None
    side = preset.crop_size[0]
    accuracy = member.meta.get("_metrics", {}).get("ImageNet-1K", {}).get("acc@1")
    return Published(
        f"torchvision {member}",
        Normalization(mean=tuple(preset.mean), std=tuple(preset.std)),
        preset.resize_size[0],
        (side, side),
        preset.interpolation.value,
        None
        if accuracy is None or accuracy != accuracy
        else accuracy / 100,  # not a number for weights of features alone
        tuple(member.meta.get("categories") or ()) or None,
    )


def _of_timm(name: str) -> list[Published]:
    timm = timm_library()
    base = name.partition(".")[0]
    names = [name] if "." in name else [base, *timm.list_pretrained(f"{base}.*")]
    found: list[Published] = []
    for entry in names:
        configuration = timm.get_pretrained_cfg(entry)
        if configuration is None:
            continue
        crop = configuration.test_input_size or configuration.input_size
        share = configuration.test_crop_pct or configuration.crop_pct
        height, width = crop[1:]
        tag = configuration.tag
        found.append(
            Published(
                f"timm {base}.{tag}" if tag else f"timm {base}",
                Normalization(mean=tuple(configuration.mean), std=tuple(configuration.std)),
                int(height / share),
                (height, width),
                configuration.interpolation,
            )
        )
    return list({entry.source: entry for entry in found}.values())


def published_normalization(architecture: Architecture) -> tuple[Normalization | None, str]:
    """What published weights of an architecture expect, and a sentence that says so; (None, "") where nothing is published.

    It is given for the published number of classes and colour images alone, and None with a sentence otherwise: a network that
    was trained further may have kept mean and deviation, and may not.
    """
    entries = [
        entry for entry in published(architecture) if len(entry.normalization.mean) in (1, architecture.channels)
    ]
    if not entries:
        return None, ""
    first = entries[0]
    others = [entry for entry in entries if entry.normalization != first.normalization]
    said = f"{first.source} expects {first.normalization}"
    if others:
        said += f"; {others[0].source} expects {others[0].normalization}"
    if architecture.num_classes != type(architecture).model_fields["num_classes"].default:
        return (
            None,
            f"No normalization was given, and none was taken. {said}: declare it if training started from there.",
        )
    chosen = (
        f"{said}: the first was taken, declare the other if the file is of those weights"
        if others
        else f"{said}: taken"
    )
    return first.normalization, f"No normalization was given. {chosen}."
