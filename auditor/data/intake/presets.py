"""Presets: the sizes with which published weights were evaluated, asked of the installed library by the weights' name."""

from __future__ import annotations

from typing import Any

from auditor.data.intake.image_size import ImageSize
from auditor.kit.errors import SpecError, meant

_FORM = "Write torchvision:resnet50.IMAGENET1K_V2, or timm:resnet18.a1_in1k."


def size_of_preset(name: str) -> ImageSize:
    """The sizes of weights: ``torchvision:MODEL.WEIGHTS`` or ``timm:MODEL.TAG``. Nothing is downloaded.

    Normalization is no part of it: it belongs to the model. Raises SpecError for a name that the library does not know, and
    where it is not installed.
    """
    library, _, weights = name.partition(":")
    if library == "torchvision" and weights:
        return _torchvision(weights)
    if library == "timm" and weights:
        return _timm(weights)
    raise SpecError(f"There is no preset {name!r}.", _FORM)


def _torchvision(name: str) -> ImageSize:
    from torchvision import models

    model, _, wanted = name.partition(".")
    try:
        weights = models.get_model_weights(model)
    except ValueError:
        raise SpecError(f"torchvision has no model {model!r}.", meant(model, models.list_models()) or _FORM) from None
    names = list(weights.__members__)
    if wanted not in names:
        raise SpecError(
            f"torchvision has no weights {wanted!r} of {model}.",
            f"It has {', '.join(f'`--preset torchvision:{model}.{item}`' for item in names)}.",
        )
    transform = weights[wanted].transforms()
    try:
        (shorter,), (crop,) = transform.resize_size, transform.crop_size
        interpolation, antialias = transform.interpolation.value, transform.antialias is not False
    except (AttributeError, ValueError, TypeError):
        raise SpecError(f"The weights {name} are not of an image classifier.", _FORM) from None
    return ImageSize.model_validate(
        {
            "height": crop,
            "width": crop,
            "mode": "resize-crop",
            "shorter_side": shorter,
            "interpolation": interpolation,
            "antialias": antialias,
        }
    )


def _timm(name: str) -> ImageSize:
    try:
        import timm
        from timm.data.config import resolve_data_config
    except ImportError:
        raise SpecError("timm is not installed.", "Install it with the extra `timm`.") from None
    known = timm.list_models(pretrained=True)
    if name not in known:
        raise SpecError(f"timm has no weights {name!r}.", meant(name, known) or _FORM)
    found: Any = timm.models.get_pretrained_cfg(name)
    config = resolve_data_config(pretrained_cfg=found.to_dict(), use_test_size=True)
    _, height, width = config["input_size"]
    wanted: dict[str, object] = {"height": height, "width": width, "interpolation": config["interpolation"]}
    mode, share = config["crop_mode"], config["crop_pct"]
    if mode == "center" and height == width:
        wanted |= {"mode": "resize-crop", "shorter_side": int(height / share)}
    elif share == 1.0 and mode == "squash":
        wanted |= {"mode": "resize"}
    else:
        raise SpecError(
            f"The preprocessing of {name} (crop mode {mode}, share {share:g}, {height}x{width}) cannot be said as a resize and a "
            "crop of the centre.",
            "Prepare the images yourself, or say a size that is near: `--resize 256 --crop 224x224`.",
        )
    return ImageSize.model_validate(wanted)
