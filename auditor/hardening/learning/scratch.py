"""From scratch: a network with new weights."""

from __future__ import annotations

from torch import nn

from auditor.kit.errors import SpecError


def draw_anew(network: nn.Module) -> None:
    """Give every module new weights, in place, as PyTorch draws them by default; running statistics are reset too.

    Raises SpecError for a module whose weights PyTorch cannot draw.
    """
    before = {name: value._version for name, value in network.named_parameters()}
    for module in network.modules():
        reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
        if callable(reset):
            reset()
    for name, value in network.named_parameters():
        if value._version == before[name]:
            raise SpecError(
                f"The weights {name} cannot be drawn again: their module has no method to reset them.",
                "Start from the model's own weights (from_scratch = false).",
            )
