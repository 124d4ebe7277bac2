"""Several images per row: what a row's criterion and ball say of each of them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from auditor.attacking.attack import Loss, Rows
from auditor.attacking.threat import Ball

BLOCK = 20
"""Images per row that are made at once: with all of a population's, memory would run out before the batch is large."""


def blocks(images: int) -> Iterator[int]:
    """How many images to make at a time; never dependent on the batch, for the random numbers depend on it."""
    for first in range(0, images, BLOCK):
        yield min(BLOCK, images - first)


def losses(loss: Loss, rows: Rows, logits: Tensor) -> Tensor:
    """The loss of each image, (B, S), from logits (B, S, K)."""
    criterion = rows.criterion[_owner(rows, logits.shape[1])]
    return loss(criterion, logits.flatten(0, 1)).view(logits.shape[:2])


def adversarial(rows: Rows, logits: Tensor) -> Tensor:
    """Which images have what the attacker wants, bool (B, S), from logits (B, S, K)."""
    criterion = rows.criterion[_owner(rows, logits.shape[1])]
    return criterion.is_adversarial(logits.flatten(0, 1)).view(logits.shape[:2])


def projected(rows: Rows, points: Tensor, radius: Tensor | None = None) -> Tensor:
    """Each image's nearest point in its row's ball, (B, S, C, H, W); ``radius`` (B, S) replaces epsilon."""
    owner = _owner(rows, points.shape[1])
    epsilon = rows.epsilon[owner] if radius is None else radius.flatten()
    ball = Ball(rows.norm, epsilon.view(-1, 1, 1, 1))
    return ball.project(points.flatten(0, 1), rows.x[owner]).view_as(points)


def distances(rows: Rows, points: Tensor) -> Tensor:
    """How far each image is from its row's clean one, (B, S)."""
    return rows.ball.distance(points.flatten(0, 1), rows.x[_owner(rows, points.shape[1])]).view(points.shape[:2])


def _owner(rows: Rows, images: int) -> Tensor:
    return torch.arange(len(rows), device=rows.x.device).repeat_interleave(images)
