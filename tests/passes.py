"""Passes of a network, counted by the arithmetic of its convolutions: whatever copy of it runs, and however far."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from auditor.models.classifier import Classifier

FORWARDS = {torch.ops.aten.convolution, torch.ops.aten._convolution, torch.ops.aten.convolution_overrideable}
BACKWARDS = {torch.ops.aten.convolution_backward}


class Operations(TorchDispatchMode):
    """Floating point operations of all convolutions that run inside, forwards and backwards, by the formulas of PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.forwards = self.backwards = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        packet = func._overloadpacket
        if packet in FORWARDS:
            self.forwards += flop_registry[packet](*args, **kwargs, out_val=out)
        elif packet in BACKWARDS:
            self.backwards += flop_registry[packet](*args, **kwargs, out_val=out)
        return out


class PassCounter:
    """Counts passes of single images through a network of convolutions while it is entered: part of a network counts in part."""

    def __init__(self, classifier: Classifier, x: Tensor) -> None:
        """``x``: some images, (B, C, H, W)."""
        self.once, self._running = Operations(), Operations()
        one = x[:1].to(classifier.dtype, copy=True).requires_grad_()
        with self.once:
            torch.autograd.grad(classifier(one).sum(), one)

    def __enter__(self) -> PassCounter:
        self._running = Operations()
        self._running.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._running.__exit__(*error)

    @property
    def forwards(self) -> float:
        return self._running.forwards / self.once.forwards

    @property
    def backwards(self) -> float:
        return self._running.backwards / self.once.backwards

    @property
    def cost(self) -> float:
        """In forward passes; a backward pass counts as two."""
        return self.forwards + 2 * self.backwards
