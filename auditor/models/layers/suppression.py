"""Channel-wise activation suppressing (Bai et al. 2021, arXiv 2103.08307): a classifier on a layer's channels weights them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from torch import Tensor, nn


class ChannelSuppression(nn.Module):
    """Each channel times its weight for one class in a linear classifier of the map's mean.

    The class is the one that this classifier predicts; ``chosen`` (B,), where it is set, is taken instead.
    """

    chosen: Tensor | None = None

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits = cast(Tensor, self.fc(x.mean((2, 3))))
        classes = logits.argmax(1) if self.chosen is None else self.chosen
        return x * self.fc.weight[classes][:, :, None, None]


@contextmanager
def auxiliary(network: nn.Module, labels: Tensor | None = None) -> Iterator[list[Tensor]]:
    """While inside, the list holds the logits (B, K) of every such classifier in the last pass, in the order of execution; with
    ``labels`` (B,) channels are weighted for these classes."""
    blocks = [module for module in network.modules() if isinstance(module, ChannelSuppression)]
    logits: list[Tensor] = []
    handles = [
        block.fc.register_forward_hook(lambda _module, _inputs, output: logits.append(output)) for block in blocks
    ]
    handles.append(network.register_forward_pre_hook(lambda _module, _inputs: logits.clear()))
    for block in blocks:
        block.chosen = labels
    try:
        yield logits
    finally:
        for block in blocks:
            block.chosen = None
        for handle in handles:
            handle.remove()
