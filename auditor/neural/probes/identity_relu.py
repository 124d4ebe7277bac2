"""A ReLU whose gradient is that of the identity: what is dead gets a gradient, too ("fake ReLU" in the code of 2003.09372)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from auditor.models.classifier import Classifier
from auditor.models.neurons import CustomFunctions

RELUS = frozenset({functional.relu, functional.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_})


class IdentityRelu(TorchFunctionMode):
    """While on, for one forward pass: the ReLU call number ``place`` (from 1) passes gradients on as they come, for the
    ``rows`` marked (bool, (B,)). Outputs do not change; ``calls`` counts the ReLU calls seen, but for those within hand-written
    autograd functions, which have a backward of their own."""

    def __init__(self, place: int, rows: Tensor) -> None:
        super().__init__()
        self.place, self.rows, self.calls, self.custom = place, rows, 0, CustomFunctions()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in RELUS or self.custom.running():
            return func(*args, **kwargs)
        self.calls += 1
        x = args[0] if args else kwargs["input"]
        if self.calls != self.place or len(x) != len(self.rows):
            return func(*args, **kwargs)
        plain = x.relu()
        marked = self.rows.view(-1, *[1] * (x.dim() - 1))
        return torch.where(marked, x + (plain - x).detach(), plain)


def last_relu(classifier: Classifier) -> int:
    """The number of the last ReLU call of a forward pass; 0 if there is none, or where its output cannot be replaced (a
    network that relies on a ReLU working in place, say)."""
    image = torch.full((1, *classifier.input_shape), 0.5, device=classifier.device, dtype=classifier.dtype)
    nobody = torch.zeros(1, dtype=torch.bool, device=classifier.device)
    with torch.no_grad():
        plain = classifier(image)
        with IdentityRelu(0, nobody) as counter:
            classifier(image)
        with IdentityRelu(counter.calls, ~nobody):
            replaced = classifier(image)
    return counter.calls if torch.equal(plain, replaced) else 0
