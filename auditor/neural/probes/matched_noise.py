"""Gaussian noise of exactly the size of a perturbation: the control for whatever a perturbation is said to do."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor.kit.randomness import RowRandom

DOUBLINGS, HALVINGS = 40, 60


def matched_noise(x: Tensor, x_adv: Tensor, samples: NDArray[np.int64], seed: int) -> Tensor:
    """Images in [0, 1] with Gaussian noise whose L2 norm, after the cut to the box, is that of ``x_adv - x``, image by image.

    ``x``, ``x_adv``: (B, C, H, W). ``samples``: ids (B,); the noise follows from them and the seed. The noise is scaled
    so that what the box leaves has the norm wanted; where even noise that is cut everywhere is smaller, it is that
    noise.
    """
    clean = x.double()
    noise = RowRandom(seed, "matched noise", [(int(sample),) for sample in samples]).normal(clean)
    wanted = (x_adv.double() - clean).flatten(1).norm(dim=1)

    def noisy(scale: Tensor) -> Tensor:
        return (clean + scale.view(-1, 1, 1, 1) * noise).clamp(0, 1)

    def falls_short(scale: Tensor) -> Tensor:
        return (noisy(scale) - clean).flatten(1).norm(dim=1) < wanted

    low = torch.zeros_like(wanted)
    high = wanted / noise.flatten(1).norm(dim=1)
    for _ in range(DOUBLINGS):
        high = torch.where(falls_short(high), 2 * high, high)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        short = falls_short(middle)
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return noisy(high).to(x.dtype)
