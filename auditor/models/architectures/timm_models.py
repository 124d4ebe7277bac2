"""The image classifiers of timm, by name; needs the optional extra ``timm``."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import nn

from auditor.kit.errors import SpecError, nearest
from auditor.models.architecture import Architecture, WithoutRandomValues, check_images

REMEDY = "Install the extra: pip install 'neuron-auditor[timm]'"


def timm_library() -> Any:
    """The package timm. Raises SpecError when it is not installed."""
    try:
        import timm
    except ImportError:
        raise SpecError("The networks of timm need the package timm, which is not installed here.", REMEDY) from None
    return timm


@cache
def _names() -> tuple[str, ...]:
    return tuple(timm_library().list_models())


class TimmModel(Architecture):
    """A classifier of timm (Wightman 2019, PyTorch Image Models), exactly as timm builds it; its state dicts fit.

    A name may carry timm's tag of pretrained weights, such as ``resnet18.a1_in1k``: it changes nothing in the network, and tells
    which mean, deviation and image size the weights expect. Needs the extra ``neuron-auditor[timm]``.
    """

    kind: Literal["timm"] = "timm"
    title: ClassVar[str] = "timm"
    num_classes: int = Field(1000, ge=2, le=100_000, description="Number of classes, i.e. logits.")
    height: int = Field(224, ge=4, le=1024, description="Height of an image in pixels.")
    width: int = Field(224, ge=4, le=1024, description="Width of an image in pixels.")
    model: str = Field(
        "resnet18",
        max_length=200,
        description="Name of the network in timm, such as convnext_tiny or resnet18.a1_in1k.",
    )

    @field_validator("model")
    @classmethod
    def _is_known(cls, value: str) -> str:
        try:
            names = _names()
        except SpecError as error:
            raise ValueError(f"{error.message} {error.hint}") from None
        name, _, tag = value.partition(".")
        if name not in names:  # also what timm would fetch from a hub or read from a folder: "hf-hub:..."
            close = nearest(name, names, cutoff=0.5)
            hint = f"close to it: {', '.join(close)}" if close else f"it has {len(names):,}"
            raise ValueError(f"timm has no classifier {value[:60]!r} ({hint})")
        tags = [entry.partition(".")[2] for entry in timm_library().list_pretrained(f"{name}.*")] if tag else []
        if tag and tag not in tags:
            known = f"it has {', '.join(tags[:8])}" if tags else "it has none"
            raise ValueError(f"timm has no weights {tag[:60]!r} of {name} ({known})")
        return value

    def build(self) -> nn.Module:
        """See Architecture.build. Raises SpecError when the network cannot take images of that size."""
        with torch.device("meta"):
            with WithoutRandomValues():
                outline = self._make()
            check_images(outline, self, f"timm {self.model}")
        target = torch.get_default_device()
        return outline.train() if target.type == "meta" else self._make()

    def _make(self) -> nn.Module:
        timm = timm_library()
        name = self.model.partition(".")[0]
        options: dict[str, object] = {"num_classes": self.num_classes, "in_chans": self.channels}
        configuration = timm.get_pretrained_cfg(name)
        usual: tuple[int, ...] = configuration.input_size[1:] if configuration is not None else ()
        size = (self.height, self.width)
        try:
            if configuration is not None and configuration.fixed_input_size and size != usual:
                try:
                    return self._created(timm, name, **options, img_size=size)
                except TypeError:  # this network has no such option, and its size is what it is
                    raise SpecError(
                        f"timm {self.model} takes images of {usual[0]}x{usual[1]} pixels alone, not of {size[0]}x{size[1]}.",
                        f"Give the size {usual[0]}x{usual[1]}.",
                    ) from None
            return self._created(timm, name, **options)
        except (ValueError, AssertionError, RuntimeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            raise SpecError(f"timm {self.model} cannot be built with these values ({reason[:200]}).") from None

    @staticmethod
    def _created(timm: Any, name: str, **options: Any) -> nn.Module:
        network: nn.Module = timm.create_model(name, pretrained=False, **options)
        return network
