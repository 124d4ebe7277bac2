"""Architecture: a network that an upload may name. The upload brings weights; the shape of the network is ours."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from pydantic import BeforeValidator, Field
from torch import nn

from auditor import plugins
from auditor.capability import Capability, Catalog


def _number_from_text(value: Any) -> Any:
    return int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 10 else value


NUMBER_CHOICE = BeforeValidator(_number_from_text)
"""Annotation of a ``Literal`` of numbers: takes "16" for 16, as the compact text form of a capability gives it."""


class Architecture(Capability):
    """A network described by data: its kind and its parameters. ``build`` makes it, with random weights."""

    num_classes: int = Field(10, ge=2, le=100_000, description="Number of classes, i.e. logits.")
    channels: int = Field(3, ge=1, le=16, description="Channels of an image (1 for grey, 3 for colour).")
    height: int = Field(32, ge=4, le=1024, description="Height of an image in pixels.")
    width: int = Field(32, ge=4, le=1024, description="Width of an image in pixels.")

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return self.channels, self.height, self.width

    @abstractmethod
    def build(self) -> nn.Module:
        """The network: (B, C, H, W) -> logits (B, num_classes).

        Raises SpecError when the parameters do not make a network (an image too small for its pools, say). Made under
        ``torch.device("meta")`` it costs no memory; intake compares shapes that way.
        """


ARCHITECTURES: Catalog[Architecture] = Catalog(
    "auditor.architectures", Architecture, entry_points=plugins.ARCHITECTURES
)
