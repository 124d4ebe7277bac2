"""DefenseEvaluation: what a defense does and what is left of it under attack, as data."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from auditor.attacking.attack import ATTACKS, Attack, Budget
from auditor.attacking.threat import ThreatModel
from auditor.defending.defense import DEFENSES, Defense
from auditor.kit.capability import MemberOf
from auditor.kit.document import Data, Document
from auditor.kit.flag import Flag
from auditor.kit.statistics.estimate import Rate


class Distances(Data):
    """Norms of perturbations in the threat model's norm; None if there is none."""

    smallest: float | None
    median: float | None
    largest: float | None

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Distances:
        if len(values) == 0:
            return cls(smallest=None, median=None, largest=None)
        return cls(smallest=float(values.min()), median=float(np.median(values)), largest=float(values.max()))


class StaticRow(Data):
    """Adversarial images made for the undefended model, shown to the defended one.

    ``success``: the share of them that is classified correctly (defense success rate), as the paper counts; it is no robust
    accuracy. ``budget`` "fixed": the whole attack within epsilon; "minimal": the closest that was found, epsilon or not.
    ``quality``: PSNR in dB of what the network got against the clean images, true and as the paper prints it.
    ``consistency``: TKNC of the leading neurons of what the network got and the clean image, and that of the undefended
    adversarial image.
    """

    attack: Annotated[Attack, MemberOf(ATTACKS)]
    budget: Budget
    success: Rate
    distances: Distances
    quality: float | None
    quality_literal: float | None
    consistency: float | None
    consistency_undefended: float | None


class Reproduction(Data):
    """The level of the published code, with its oracles: no defense, and in no headline."""

    name: str
    attack: str
    budget: Budget
    success: Rate


Knowledge = Literal["static", "white box", "black box", "influence"]
"""Attacks on the undefended model; on the defended one through its approximations; on its answers; the paper's adaptive ones."""


class RobustRow(Data):
    """Accuracy of the defended model under one attack: the share of all samples that it gets right before and after.

    ``distances``: of the images that broke a sample. ``within``: whether these lie within epsilon; other rows are shown but do
    not enter the headline. ``held``: which samples are right before and after.

    For a model with random outputs, accuracy is the mean of ``share``, the share of fresh draws that are right at the image of
    each sample; ``first``: that of other draws, by which an image may be chosen among those of several rows; and ``held`` is what
    most of the fresh draws say. Else, and where all draws agreed, both are None.
    """

    name: str
    knowledge: Knowledge
    accuracy: Rate
    distances: Distances
    within: bool
    held: list[bool]
    seconds: float
    share: list[float] | None = None
    first: list[float] | None = None

    @property
    def majority(self) -> Rate:
        """Share of the samples that most draws get right before and after."""
        return Rate.of(np.array(self.held, bool))


class DefenseTable(Document):
    """One defense, or several in a row, on one model, one threat model, the same samples throughout."""

    subject: ClassVar[str] = "table of an evaluation"

    defenses: tuple[Annotated[Defense, MemberOf(DEFENSES)], ...]
    facts: tuple[dict[str, JsonValue], ...]
    threat: ThreatModel
    seed: int
    samples: list[int]
    benign_undefended: Rate
    benign: Rate
    undefended: tuple[RobustRow, ...]
    static: tuple[StaticRow, ...]
    robust: tuple[RobustRow, ...]
    reproductions: tuple[Reproduction, ...]
    seconds_per_1000: float
    seconds_per_1000_undefended: float
    flags: tuple[Flag, ...]

    @property
    def headline(self) -> RobustRow:
        """The lowest robust accuracy within epsilon; of equals the first."""
        return min((row for row in self.robust if row.within), key=lambda row: row.accuracy.value or 0.0)

    @property
    def worst(self) -> Rate:
        """Samples that hold under every one of the attacks within epsilon: at most the headline.

        For a model with random outputs, the mean over draws at the image of each sample that does worst by other draws.
        """
        rows = [row for row in self.robust if row.within]
        if not any(row.share is not None for row in rows):
            return Rate.of(np.all([row.held for row in rows], axis=0))
        first = np.array([row.held if row.first is None else row.first for row in rows], np.float64)
        share = np.array([row.held if row.share is None else row.share for row in rows], np.float64)
        return Rate.mean(np.take_along_axis(share, first.argmin(0)[None], 0)[0])

    @property
    def random(self) -> bool:
        """Whether the defended model has random outputs: accuracies are then means over draws."""
        return any(row.share is not None for row in self.robust)
