"""Weight averages: the mean state of a network over the steps of its training."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

Averaging = Literal["none", "ema", "swa"]


class AveragedState:
    """A running mean of a network's state; parameters and running statistics alike, counters are copied.

    ``state`` is empty before the first ``update``. ``count``: updates so far.
    """

    def __init__(self) -> None:
        self.state: dict[str, Tensor] = {}
        self.count = 0

    def update(self, network: nn.Module, share: float) -> None:
        """Move ``share`` of the way from the mean to the network as it is; the first time all the way."""
        self.count += 1
        for name, value in network.state_dict().items():
            if name not in self.state:
                self.state[name] = value.detach().clone()
            elif value.is_floating_point():
                self.state[name].lerp_(value, share)
            else:
                self.state[name].copy_(value)

    def load(self, state: dict[str, Tensor], count: int) -> None:
        """Go on from a stored mean."""
        self.state, self.count = {name: value.clone() for name, value in state.items()}, count


def ema_share(decay: float, count: int) -> float:
    """Share of the newest weights in an exponential mean after ``count`` updates; more at first, when the mean is still that of
    the untrained network (the warm-up of TensorFlow's ExponentialMovingAverage)."""
    return 1 - min(decay, (1 + count) / (10 + count))
