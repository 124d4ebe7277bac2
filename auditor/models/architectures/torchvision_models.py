"""Every image classifier of torchvision, by name."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from pydantic.config import JsonDict
from torch import nn
from torch.overrides import TorchFunctionMode

from auditor.kit.errors import SpecError, nearest
from auditor.models.architecture import Architecture, WithoutRandomValues, check_images, misfit


def model_names() -> list[str]:
    """The names of torchvision's classifiers. Raises SpecError when torchvision is not installed."""
    models = _torchvision()
    return list(models.list_models(module=models))


def _torchvision() -> Any:
    try:
        from torchvision import models
    except ImportError:
        raise SpecError("The torchvision networks need the package torchvision.", "Install torchvision.") from None
    return models


def _name_the_choices(schema: JsonDict) -> None:
    with suppress(SpecError):
        schema["enum"] = [*model_names()]


class TorchvisionModel(Architecture):
    """A classifier of torchvision, exactly as torchvision builds it; its state dicts fit.

    For images that do not have 3 channels, the first convolution is replaced by one that takes as many as they have.
    inception_v3 and googlenet keep their auxiliary heads (so that torchvision's files fit), which only speak in
    training: in eval mode these too return plain logits.
    """

    kind: Literal["torchvision"] = "torchvision"
    title: ClassVar[str] = "torchvision"
    num_classes: int = Field(1000, ge=2, le=100_000, description="Number of classes, i.e. logits.")
    height: int = Field(224, ge=4, le=1024, description="Height of an image in pixels.")
    width: int = Field(224, ge=4, le=1024, description="Width of an image in pixels.")
    model: str = Field(
        "resnet18", description="Name of the network in torchvision.", json_schema_extra=_name_the_choices
    )
    stem: Literal["7x7", "3x3"] = Field(
        "7x7",
        description="ResNets alone: the first convolution. For small images they are often changed to 3x3 with stride 1 and no "
        "first pool.",
    )
    transform_input: bool = Field(
        True,
        description="inception_v3 and googlenet, colour only: the network turns ImageNet-normalized pixels into its "
        "own range, as with torchvision's weights.",
    )

    @field_validator("model")
    @classmethod
    def _is_known(cls, value: str) -> str:
        names = model_names()
        if value not in names:
            close = nearest(value, names, cutoff=0.5)
            hint = (
                f"close to it: {', '.join(close)}" if close else f"it has {len(names)}, such as {', '.join(names[::9])}"
            )
            raise ValueError(f"torchvision has no classifier {value[:60]!r} ({hint})")
        return value

    def build(self) -> nn.Module:
        """See Architecture.build. Raises SpecError when the network cannot take images of that size."""
        with torch.device("meta"):
            with WithoutRandomValues():
                outline = self._make()
            check_images(outline, self, f"torchvision {self.model}")
        target = torch.get_default_device()
        return outline.train() if target.type == "meta" else self._make()

    def _make(self) -> nn.Module:
        models = _torchvision()
        options: dict[str, int | bool | tuple[int, int]] = {"num_classes": self.num_classes}
        if self.model in ("inception_v3", "googlenet"):
            transform = self.transform_input and self.channels == 3
            options |= {"aux_logits": True, "init_weights": False, "transform_input": transform}
        elif self.model.startswith("vit_"):
            if self.height != self.width:
                raise SpecError(
                    f"torchvision {self.model}: expected square images, got {self.height}x{self.width}.",
                    "Resize the images to a square.",
                )
            options["image_size"] = self.height
        elif self.model.startswith("maxvit_"):
            options["input_size"] = (self.height, self.width)
        try:
            with _ListsOnCpu() if self.model.startswith("regnet_") else nullcontext():
                network: nn.Module = models.get_model(self.model, weights=None, **options)
        except (ValueError, AssertionError, RuntimeError) as error:
            raise misfit(self, f"torchvision {self.model}", error) from None
        if self.stem == "3x3":
            if not isinstance(network, models.ResNet):
                raise SpecError(
                    f"torchvision {self.model} is not a ResNet, and only ResNets have the stem 3x3.",
                    "Choose the stem 7x7, which leaves other networks as they are.",
                )
            network.conv1 = nn.Conv2d(3, network.conv1.out_channels, 3, padding=1, bias=False)
            network.maxpool = nn.Identity()
        if self.channels != 3:
            _take_channels(network, self.channels)
        return network


def _take_channels(network: nn.Module, channels: int) -> None:
    """Replace the first convolution, which takes 3 channels, by one that takes ``channels``."""
    name, old = next(
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d) and module.in_channels == 3
    )
    network.set_submodule(
        name,
        nn.Conv2d(
            channels,
            old.out_channels,
            kernel_size=old.kernel_size,  # type: ignore[arg-type]
            stride=old.stride,  # type: ignore[arg-type]
            padding=old.padding,  # type: ignore[arg-type]
            dilation=old.dilation,  # type: ignore[arg-type]
            bias=old.bias is not None,
            padding_mode=old.padding_mode,
        ),
    )


class _ListsOnCpu(TorchFunctionMode):
    """RegNet works out its widths with small tensors and reads them back, which the meta device cannot do."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.arange, torch.tensor):
            kwargs.setdefault("device", "cpu")
        return func(*args, **kwargs)
