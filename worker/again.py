"""A model again with other preprocessing: the same stored weights, and another normalization or size of the images."""

from __future__ import annotations

from typing import Any

from auditor.kit.errors import AuditorError, SpecError
from auditor.models.architecture import Architecture, check_images
from auditor.models.classifier import NORMALIZATIONS, Normalization
from auditor.models.own_code import OwnCode
from worker.loading import architecture_of
from worker.models import ModelRow
from worker.reading import architecture_from

_SAID_BEFORE = "The normalization is "
"""How notes on the old normalization begin."""


def prepared_anew(
    row: ModelRow, normalization: Normalization | None, size: tuple[int, int] | None, name: str = ""
) -> dict[str, Any]:
    """The values of a new row. ``size``: height and width of an image; None, as for the ``normalization``: as it was.

    Raises SpecError if nothing differs or the network cannot take images of that size, MismatchError for a normalization of
    other channels.
    """
    old, before = architecture_of(row), Normalization.model_validate(row.normalization)
    architecture = old if size is None or size == old.input_shape[1:] else _resized(old, size, row.name)
    after = before if normalization is None else normalization.for_channels(architecture.channels)
    changes = []
    if architecture is not old:
        changes.append(f"images of {_size(architecture)} instead of {_size(old)}")
    if after != before:
        changes.append(f"{after} instead of {before}")
    if not changes:
        raise SpecError(
            f"{row.name} has this preprocessing already: images of {_size(old)}, {before}.",
            "Give another normalization or another size.",
        )
    notes = [f"The weights of {row.name} ({row.id[:8]}), with other preprocessing: {'; '.join(changes)}."]
    notes += [note for note in row.manifest["notes"] if after == before or not note.startswith(_SAID_BEFORE)]
    words = [row.name, *([_size(architecture)] if architecture is not old else [])]
    words += [_title(after)] if after != before else []
    data = architecture.model_dump(mode="json")
    manifest = {**row.manifest, "notes": notes}
    if "architecture" in manifest:
        manifest["architecture"] = data
    return {
        "name": name.strip() or ", ".join(words),
        "architecture": data,
        "normalization": after.model_dump(mode="json"),
        "class_names": row.class_names,
        "declared_accuracy": row.declared_accuracy,
        "weights": row.weights,
        "manifest": manifest,
    }


def _resized(architecture: Architecture, size: tuple[int, int], name: str) -> Architecture:
    """The same network for images of another size, if every tensor keeps its shape. Raises SpecError."""
    if isinstance(architecture, OwnCode) or not architecture.by_hand:
        raise SpecError(
            f"The file of {name} says the size of its images.",
            "Add the file again with another size, or bring the images of the data set to this one.",
        )
    hint = (
        f"Bring the images to this size: add the data set again with `--resize {_size(architecture)}` ('Size of the images' on "
        "the page)."
    )
    wanted = _shapes(architecture)
    try:
        other = architecture_from({**architecture.model_dump(mode="json"), "height": size[0], "width": size[1]})
        shapes = _shapes(other)
    except AuditorError as error:
        raise SpecError(f"{name} fits images of {_size(architecture)} alone: {error.message}", hint) from None
    if odd := next((key for key, shape in shapes.items() if wanted.get(key) != shape), ""):
        raise SpecError(
            f"{name} fits images of {_size(architecture)} alone: the shape of {odd} depends on the size.", hint
        )
    return other


def _shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Of the tensors of a network that takes images of its size. Raises SpecError for one that does not."""
    from auditor.data.intake.signatures import shapes_of

    network, tensors = shapes_of(architecture)
    check_images(network, architecture, architecture.display_title())
    return {key: tuple(tensor.shape) for key, tensor in tensors.items()}


def _size(architecture: Architecture) -> str:
    return f"{architecture.height}x{architecture.width}"


def _title(normalization: Normalization) -> str:
    named = (
        key for key, known in NORMALIZATIONS.items()
        if len(normalization.mean) % len(known.mean) == 0
        and known.mean * (len(normalization.mean) // len(known.mean)) == normalization.mean
        and known.std * (len(normalization.std) // len(known.std)) == normalization.std
    )  # fmt: skip
    words = [next(named, "own normalization")]
    words += [normalization.channel_order] * (normalization.channel_order != "RGB")
    words += [normalization.value_range] * (normalization.value_range != "0-1")
    return " ".join(words)
