"""A classifier some of whose layers' outputs are changed on the way, as a classifier of its own, to be measured or attacked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

from torch import Tensor, fx, nn

from auditor.models.classifier import Classifier
from auditor.models.defended import DefendedClassifier
from auditor.models.neurons import altered


class AlteredNetwork(nn.Module):
    """A network (shared, not copied) with changes to the outputs of the layers named; see ``auditor.models.neurons.altered``."""

    def __init__(self, network: nn.Module, changes: Mapping[str, Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        self.network, self.changes = network, changes

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, fx.Proxy):
            raise TypeError("a trace would lose the changes, which are made by hooks")
        with altered(self.network, self.changes):
            return cast(Tensor, self.network(x))


def altered_classifier(classifier: Classifier, changes: Mapping[str, Callable[[Tensor], Tensor]]) -> Classifier:
    """The classifier with these changes; gradients flow through them. A defense stays in front of the changed network."""
    if isinstance(classifier, DefendedClassifier):
        return classifier.around(altered_classifier(classifier.inner, changes))
    return classifier.with_network(AlteredNetwork(classifier.network, changes))


def scaled(neurons: Tensor, factor: float) -> Callable[[Tensor], Tensor]:
    """Multiplies the outputs of some neurons of a layer by a factor. ``neurons``: bool (M,)."""

    def change(output: Tensor) -> Tensor:
        factors = output.new_ones(len(neurons)).masked_fill(neurons.to(output.device), factor)
        return output * factors.view(1, -1, *[1] * (output.dim() - 2))

    return change
