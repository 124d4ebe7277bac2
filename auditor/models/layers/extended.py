"""Extended: an architecture that is another one with blocks after some of its layers."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SerializeAsAny, WithJsonSchema
from torch import nn

from auditor.kit.series import Names
from auditor.models.architecture import ARCHITECTURES, Architecture
from auditor.models.classifier import Classifier
from auditor.models.layers.insertion import insert

MOST_DEEP = 3
"""Extensions within extensions."""


def _architecture(value: Any) -> Any:
    if isinstance(value, str):
        return ARCHITECTURES.parse(value)
    if isinstance(value, dict) and isinstance(value.get("kind"), str):
        return ARCHITECTURES.build(value["kind"], {name: item for name, item in value.items() if name != "kind"})
    return value


Base = Annotated[
    SerializeAsAny[Architecture],
    BeforeValidator(_architecture),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "object"}]}),
]


class Extended(Architecture):
    """Another architecture, with blocks. Images and classes are this one's, whatever the other one says."""

    base: Base = Field("sequential", validate_default=True, description="The network without the blocks.")
    layers: Names = Field((), max_length=100, description="Modules that blocks come after; empty for the usual ones.")

    def model_post_init(self, context: Any) -> None:
        depth, inside = 0, self.base
        while isinstance(inside, Extended):
            depth, inside = depth + 1, inside.base
        if depth >= MOST_DEEP:
            raise ValueError(f"base: expected at most {MOST_DEEP} extensions within each other, got more")

    @abstractmethod
    def places(self, classifier: Classifier) -> tuple[str, ...]:
        """The modules that blocks come after."""

    @abstractmethod
    def block(self) -> Callable[[int], nn.Module]:
        """What makes a block, from the number of channels."""

    def extend(self, classifier: Classifier) -> None:
        """Put the blocks into the network of a classifier, in place."""
        insert(classifier, self.places(classifier), self.block())

    def build(self) -> nn.Module:
        """See Architecture.build."""
        network = self.base.model_copy(update=frame_of(self)).build()
        self.extend(Classifier(network, input_shape=self.input_shape, num_classes=self.num_classes, copy=False))
        return network.requires_grad_(True).train()

    def describe(self) -> str:
        """As Capability.describe, the network without the blocks in brackets at the end."""
        values = self.model_dump(mode="json", exclude={"kind", "base"})
        shown = ",".join(f"{name}={value}" for name, value in values.items())
        return f"{self.kind}:{shown}({self.base.describe()})"


def frame_of(architecture: Architecture) -> dict[str, int]:
    """What an architecture says of images and classes."""
    return {name: getattr(architecture, name) for name in ("num_classes", "channels", "height", "width")}


def extended_copy(classifier: Classifier, extension: Extended) -> nn.Module:
    """A copy of the classifier's network with the blocks of an extension, whatever network that one is around."""
    other = classifier.with_network(copy.deepcopy(classifier.network))
    extension.extend(other)
    return other.network
