"""Augmentation: random crops and flips that belong to the sample and the epoch."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from auditor.kit.randomness import derive_seed

Augmentation = Literal["none", "crop", "crop_flip"]


def crop_padding(side: int) -> int:
    """Pixels of black around an image of this side before it is cropped: 4 for 32 (He et al. 2016), 4 for 28."""
    return max(1, (side + 4) // 8)


class Augmenter:
    """Crops of the image in a black frame, and flips from left to right of half of the images, by the seed and the epoch.

    Row r of an epoch has the same crop and flip in whatever batch it comes.
    """

    def __init__(self, kind: Augmentation, rows: int, seed: int) -> None:
        self.kind, self.rows, self.seed = kind, rows, seed
        self._epoch = -1
        self._draws = torch.empty(0, 3)

    def __call__(self, x: Tensor, rows: NDArray[np.int64], epoch: int) -> Tensor:
        """Images (B, C, H, W) of these rows, augmented."""
        if self.kind == "none":
            return x
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "augment", epoch))
            self._epoch, self._draws = epoch, torch.rand(self.rows, 3, generator=generator)
        draws = self._draws[torch.from_numpy(rows)].to(x.device)
        x = shifted(x, draws[:, :2])
        return x if self.kind == "crop" else torch.where((draws[:, 2] < 0.5).view(-1, 1, 1, 1), x.flip(3), x)


def shifted(x: Tensor, draws: Tensor) -> Tensor:
    """Images (B, C, H, W) cropped from a frame, by draws (B, 2) in [0, 1) for rows and columns; 0.5 leaves them in the middle."""
    height, width = x.shape[2:]
    frame = crop_padding(height), crop_padding(width)
    framed = pad(x, (frame[1], frame[1], frame[0], frame[0]))
    offsets = (draws * draws.new_tensor([2 * frame[0] + 1, 2 * frame[1] + 1])).long()
    down = offsets[:, :1] + torch.arange(height, device=x.device)
    right = offsets[:, 1:] + torch.arange(width, device=x.device)
    image = torch.arange(len(x), device=x.device)
    return framed[image[:, None, None], :, down[:, :, None], right[:, None, :]].permute(0, 3, 1, 2).contiguous()
