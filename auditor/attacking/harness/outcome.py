"""Outcome: what one attack did to each of its samples; Finished: some samples whose verdict has just come in."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class Finished(NamedTuple):
    """Some samples whose verdict is in: their positions, clean and final images, and whether they were fooled.

    ``chosen``: as in an outcome.
    """

    position: NDArray[np.int64]
    x: Tensor
    x_adv: Tensor
    fooled: NDArray[np.bool_]
    chosen: NDArray[np.float64] | None = None


class Outcome(NamedTuple):
    """One attack on N samples; every array has one entry per sample, in the order in which they were given.

    ``fooled``: the attacker has what they wanted within epsilon. ``prediction``, ``confidence``: at the final image, which is
    the closest adversarial one where any was found. ``distance``: norm of the final perturbation. ``closest``: the same where
    an adversarial image was found, within epsilon or not, else infinite. ``forwards``, ``backwards``: images that the model
    was asked about, without and with a gradient. ``blind``: a gradient was exactly zero or not finite, so the attack
    could not see where to go; of an ensemble, in every stage that asked for one.

    For a model with random outputs, ``share``: of fresh draws at the final image, how many gave the attacker what they want
    (wherever that image lies), and ``fooled``, ``prediction``, ``closest`` follow from the majority of these draws; ``chosen``:
    the same share of other draws, by which that image may be chosen among those of several attacks, -1 where an attack within
    epsilon left it. Else both are None.
    """

    fooled: NDArray[np.bool_]
    prediction: NDArray[np.int64]
    confidence: NDArray[np.float64]
    distance: NDArray[np.float64]
    closest: NDArray[np.float64]
    forwards: NDArray[np.int64]
    backwards: NDArray[np.int64]
    blind: NDArray[np.bool_]
    seconds: float
    share: NDArray[np.float64] | None = None
    chosen: NDArray[np.float64] | None = None

    @property
    def won(self) -> NDArray[np.float64]:
        """How far each sample was fooled within epsilon, (N,): 0 or 1, or the share of draws."""
        if self.share is None or self.chosen is None:
            return self.fooled.astype(np.float64)
        return np.where(self.chosen >= 0, self.share, 0.0)
