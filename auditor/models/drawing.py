"""How a model with random outputs is asked: in which view, with which random numbers; and the mean of several answers."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from auditor.kit.randomness import derive_seed, seeded

DRAWS = 20
"""Draws that an attacker averages over, and on which an image is judged, where nothing else is said (AutoAttack's number)."""


@dataclass(frozen=True)
class View:
    """How a model is looked at.

    ``adaptive``: as an attacker does, with its own random numbers, and backwards through a defense with the approximations
    that it declares; else its true derivative, or none. ``draws``: random draws to average per answer; 0 for as many as are
    deployed. ``nearest``: candidates to look at, for a defense that picks one of several: their mean probability, or, with
    ``against`` given, the answer of the one that is surest of this class, so all must be fooled.
    """

    adaptive: bool = False
    draws: int = 0
    nearest: int = 1
    against: int | None = None


@dataclass(frozen=True)
class Sampling:
    """Where the random numbers of a network come from that draws its own (dropout, noise, random resizing).

    They belong to the seed, the number of the draw and the bytes of the batch: the same batch gets the same answer, whatever ran
    before in the process, and whoever uses torch's, NumPy's or Python's global generators finds them as they were. ``fixed``: the
    same numbers for every batch, so one draw of the network is one function. ``usual``: draws that attacks average over and
    images are judged by, unless told otherwise.
    """

    seed: int
    draws: int = 1
    fixed: bool = False
    usual: int = DRAWS

    def answer(self, network: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W): of the mean probability over all draws."""
        key = "" if self.fixed else batch_key(x)

        def drawn(x: Tensor, draw: int) -> Tensor:
            with seeded(derive_seed(self.seed, "network", draw, key), x.device):
                return network(x)

        if self.draws == 1:
            return drawn(x, 0)
        if torch.is_grad_enabled() and x.requires_grad:
            # Only one draw's graph at a time has room; the seed makes a second pass the same as the first.
            answers = [
                checkpoint(drawn, x, draw, use_reentrant=False, preserve_rng_state=False) for draw in range(self.draws)
            ]
        else:
            answers = [drawn(x, draw) for draw in range(self.draws)]
        return averaged(answers)

    def redrawn(self, *key: object) -> Sampling:
        """Other random numbers, which follow from these and the key."""
        return replace(self, seed=derive_seed(self.seed, *key), fixed=False)

    def seen(self, view: View) -> Sampling:
        sampling = replace(self, draws=view.draws or 1, fixed=False)
        return sampling.redrawn("attacker") if view.adaptive else sampling


def averaged(answers: Sequence[Tensor]) -> Tensor:
    """Logits of the mean probability of several answers, (B, K) each; a single one stays as it is."""
    if len(answers) == 1:
        return answers[0]
    return torch.stack([answer.log_softmax(1) for answer in answers]).logsumexp(0) - math.log(len(answers))


def image_keys(x: Tensor) -> list[int]:
    """A number for each image, from its float32 bytes."""
    rows = x.detach().float().cpu().contiguous().numpy()
    return [int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=7).digest(), "big") for row in rows]


def batch_key(x: Tensor) -> str:
    """A text for a batch, from its float32 bytes."""
    return hashlib.blake2b(x.detach().float().cpu().contiguous().numpy().tobytes(), digest_size=16).hexdigest()
