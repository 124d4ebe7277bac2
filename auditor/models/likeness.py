"""Whether one network may stand in for another: the same logits, and the same derivative by the input."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from auditor.models.classifier import Classifier, input_gradient

LOGITS, SLOPE, USUAL_SLOPE = 1e-3, 0.1, 0.01
"""Largest differences, image by image: of the logits as a share of their range, of the input gradient as a share of its length;
the last one is for the middle of all images. Where rounding tips a ReLU over, the gradient of an image jumps: by 3 % at most in
the untrained networks of our catalogue, and by less than 1e-5 for most images. A lost backward changes nearly all of it."""

SCALES = (1.0, 1e-3, 1e3)
"""Lengths of the vectors that are sent backwards: a hand-written backward may clip them, or depend on their size otherwise."""

NOISE = 0.1
"""Share of noise in the probes made from images, so no two neighbours are equal: of a tie, a max-pool may pick either."""

Network = Callable[[Tensor], Tensor]


def probes(like: Classifier, images: Tensor | None = None) -> Tensor:
    """Images to compare networks on, (6 or more, C, H, W): noise, patterns, and ``images`` (B, C, H, W) with some noise."""
    generator = torch.Generator().manual_seed(0)
    channels, height, width = like.input_shape
    noise = torch.rand(3, *like.input_shape, generator=generator)
    coarse = torch.rand(3, channels, min(4, height), min(4, width), generator=generator)
    smooth = interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
    parts = [noise, (1 - NOISE) * smooth + NOISE * torch.rand(noise.shape, generator=generator)]
    if images is not None:
        given = images.detach().float().cpu()
        parts.append((1 - NOISE) * given + NOISE * torch.rand(given.shape, generator=generator))
    return torch.cat(parts).to(like.device, like.dtype)


def stands_in(replica: Network, original: Network, points: Tensor, *, proven: bool = True) -> bool:
    """Whether ``replica`` gives the logits and input gradients of ``original`` at these points, alone and in a batch.

    False where the original draws random numbers, or the replica fails; with ``proven`` also where nothing can be told, since
    the original's gradient is zero or not finite on most of the points.
    """
    with undisturbed(points.device) as untouched:
        expected = _answers(original, points)
        again = original(points.detach()).detach()
        if not untouched() or not bool(_close(expected[0], again).all()):
            return False
        telling = expected[1].flatten(1).isfinite().all(1) & (expected[1].flatten(1) != 0).any(1)
        if proven and not bool(telling.double().mean() >= 0.5):
            return False
        first = points[:1].contiguous(memory_format=torch.channels_last)
        try:
            same = _same(expected, _answers(replica, points))
        except Exception:  # a view that channels last does not allow; a branch that a trace cannot hold
            return False
        try:
            wanted = _answers(original, first)
        except Exception:  # the original views what channels last does not allow, so nobody asks it that
            return same
        try:
            return same and _same(wanted, _answers(replica, first))
        except Exception:
            return False


def _answers(network: Network, x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (B, K), and the gradient of a random mixture of each image's logits by that image, (B, C, H, W)."""
    points = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        logits = network(points)
        mixture = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        mixture *= torch.tensor(SCALES, dtype=torch.float64).repeat(len(x))[: len(x), None]
        gradient = input_gradient((logits * mixture.to(logits)).sum(), points)
    return logits.detach(), gradient.detach()


def _same(expected: tuple[Tensor, Tensor], got: tuple[Tensor, Tensor]) -> bool:
    slope, other = (item[1].double().flatten(1) for item in (expected, got))
    apart, length = (slope - other).norm(dim=1), slope.norm(dim=1)
    usual = (apart <= USUAL_SLOPE * length).double().mean() >= 0.5
    return bool((_close(expected[0], got[0]) & (apart <= SLOPE * length)).all() & usual)


def _close(expected: Tensor, got: Tensor) -> Tensor:
    """For which rows two sets of logits are the same but for rounding, bool (B,); never where one is not finite."""
    spread = expected.amax(1) - expected.amin(1)
    return (expected - got).abs().amax(1) <= LOGITS * spread.clamp_min(1e-6)


@contextmanager
def undisturbed(device: torch.device) -> Iterator[Callable[[], bool]]:
    """Leaves the global random generators as they were, whatever is drawn inside. Yields a question: was nothing drawn so far?"""
    devices = [device] if device.type == "cuda" else []
    python, numpy = random.getstate(), np.random.get_state(legacy=False)
    with torch.random.fork_rng(devices=devices):
        before = _states(device)
        try:
            yield lambda: _states(device) == before
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def _states(device: torch.device) -> tuple[Any, ...]:
    numpy: Any = np.random.get_state(legacy=False)
    cuda = torch.cuda.get_rng_state(device).numpy().tobytes() if device.type == "cuda" else b""
    return (
        torch.get_rng_state().numpy().tobytes(), cuda, random.getstate(),
        numpy["state"]["key"].tobytes(), numpy["state"]["pos"],
    )  # fmt: skip
