"""Architecture: a network that an upload may name. The upload brings weights; the shape of the network is ours."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from pydantic import BeforeValidator, Field
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from auditor.kit import plugins
from auditor.kit.capability import Capability, Catalog
from auditor.kit.errors import SpecError


def _number_from_text(value: Any) -> Any:
    return int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 10 else value


NUMBER_CHOICE = BeforeValidator(_number_from_text)
"""Annotation of a ``Literal`` of numbers: takes "16" for 16, as the compact text form of a capability gives it."""


class Architecture(Capability):
    """A network described by data: its kind and its parameters. ``build`` makes it, with random weights."""

    by_hand: ClassVar[bool] = True
    """Whether a person can fill in the parameters; if not, a file brings them, and forms do not offer the kind."""

    num_classes: int = Field(10, ge=2, le=100_000, description="Number of classes, i.e. logits.")
    channels: int = Field(3, ge=1, le=16, description="Channels of an image (1 for grey, 3 for colour).")
    height: int = Field(32, ge=4, le=1024, description="Height of an image in pixels.")
    width: int = Field(32, ge=4, le=1024, description="Width of an image in pixels.")

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return self.channels, self.height, self.width

    def remedy(self) -> str:
        """What to do when weights do not fit it; empty where others can say that better."""
        return ""

    @abstractmethod
    def build(self) -> nn.Module:
        """The network: (B, C, H, W) -> logits (B, num_classes).

        Raises SpecError when the parameters do not make a network (an image too small for its pools, say). Made under
        ``torch.device("meta")`` it costs no memory; intake compares shapes that way.
        """


def check_images(network: nn.Module, architecture: Architecture, name: str) -> None:
    """Send two images through a network on the meta device, where nothing is computed but shapes; leaves it in eval mode.

    For networks written elsewhere, which find out about a wrong size in the midst of their layers. Raises SpecError.
    """
    try:
        with torch.no_grad(), _WithoutBatchNorm():
            network.eval()(torch.empty(2, *architecture.input_shape, device="meta"))
    except (ValueError, AssertionError, RuntimeError, IndexError, TypeError) as error:
        raise misfit(architecture, name, error) from None


class _WithoutBatchNorm(TorchFunctionMode):
    """Passes batch normalization by: it changes no shape, and takes most of the time that shapes take on the meta device."""

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return args[0] if func is functional.batch_norm else func(*args, **(kwargs or {}))


_RANDOM = (nn.init.kaiming_normal_, nn.init.kaiming_uniform_, torch.Tensor.normal_, torch.Tensor.uniform_)


class WithoutRandomValues(TorchFunctionMode):
    """Passes random values on the meta device by: there is nothing to fill, and they take a third of the time of building."""

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _RANDOM:
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor
        return func(*args, **kwargs)


def misfit(architecture: Architecture, name: str, error: Exception) -> SpecError:
    """The refusal of a size that a network called ``name`` cannot take, with the first line of what it said."""
    reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    return SpecError(
        f"{name} cannot take images of {architecture.height}x{architecture.width} pixels ({reason[:200]}).",
        "Give the size that the network was trained on, often 224x224.",
    )


ARCHITECTURES: Catalog[Architecture] = Catalog(
    "auditor.models.architectures", Architecture, entry_points=plugins.ARCHITECTURES
)
