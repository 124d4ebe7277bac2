"""Expectation over transformation, for rotations."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from auditor.attacking.attack import Attack, Query, Rows


class EOT(Attack):
    """Expectation over transformation (Athalye et al. 2018, arXiv 1707.07397): steps along the mean gradient over
    random rotations.

    Each step rotates the image by new random angles, uniform up to ``degrees`` either way (bilinear, black corners), and
    pulls the gradients back through the rotations. The paper minimizes a loss with a penalty on the distance in LAB colours;
    this is the projected form, with the steps of PGD. An image counts as soon as it fools the model without a rotation,
    the only success that the harness knows; one more forward pass per step judges it.
    """

    title: ClassVar[str] = "EOT"
    kind: Literal["eot"] = "eot"
    steps: int = Field(10, ge=1, le=10_000, description="Gradient steps.")
    step_size: float = Field(0.25, gt=0, le=10, description="Length of one step, as a fraction of epsilon.")
    samples: int = Field(10, ge=1, le=1000, description="Random rotations for each gradient.")
    degrees: float = Field(45.0, ge=0, le=180, description="Largest rotation either way, in degrees.")

    @property
    def iterations(self) -> int:
        return self.steps

    @property
    def cost(self) -> float:
        return self.steps * (3.0 * self.samples + 1) + 1

    def step(self, rows: Rows, query: Query) -> Tensor:
        query.logits()
        share = 2 * rows.random("angles").uniform(rows.x.new_empty(len(rows), self.samples)) - 1
        with torch.enable_grad():
            x_adv = rows.x_adv.detach().requires_grad_()
            rotated = rotate(x_adv, math.radians(self.degrees) * share)
            slopes = query.gradient(rotated).value
            (gradient,) = torch.autograd.grad(rotated, x_adv, slopes / self.samples)
        return rows.x_adv + self.step_size * rows.ball.epsilon * rows.ball.steepest(gradient, rows.x_adv)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Images (B, C, H, W) rotated about their centre by angles (B, S) in radians: (B, S, C, H, W), black outside."""
    count, (height, width) = angles.shape[1], x.shape[2:]
    cosine, sine, zero = angles.flatten().cos(), angles.flatten().sin(), torch.zeros_like(angles).flatten()
    # The grid's coordinates run from -1 to 1 along both sides, however long they are.
    across = torch.stack([cosine, -sine * height / width, zero], 1)
    down = torch.stack([sine * width / height, cosine, zero], 1)
    images = x.repeat_interleave(count, 0)
    grid = affine_grid(torch.stack([across, down], 1), list(images.shape), align_corners=False)
    rotated = grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return rotated.view(len(x), count, *x.shape[1:])
