"""Evidence for every ranking of neurons: what happens when its first neurons are silenced or restored, compared with
random ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from auditor.kit.errors import EvaluationError
from auditor.kit.flag import Flag
from auditor.kit.statistics.estimate import Rate
from auditor.neural.analysis import Analysis, Subject
from auditor.neural.found import Found
from auditor.neural.ranking.ablation import unablated
from auditor.neural.ranking.evidence import JudgedLayer, judge_layer
from auditor.neural.ranking.methods import rank_all
from auditor.neural.ranking.verdicts import judged_layer_blocks
from auditor.neural.twins.rows import Picked, evenly_spaced
from auditor.show.blocks import AnyBlock, Text

FEW = 30
"""Below so many judging images the result says that they are few."""
CHEAPER = 10
"""So many times more random sets of the last features: each costs a matrix product, not a pass."""


class Evidence(Found):
    """Every layer; ``clean``, ``twin``: accuracy on the judging pairs with nothing ablated; ``failures``: those that are right on
    the clean image and wrong on its twin, unknown in old findings."""

    ranked_on: int
    judged_on: int
    pairs: str
    clean: Rate
    twin: Rate
    failures: int | None = Field(None, exclude_if=lambda failures: failures is None)
    layers: tuple[JudgedLayer, ...]


class RankingEvidence(Analysis[Evidence]):
    """Whether the neurons that a ranking puts first matter more than random ones of the same number and layer.

    The pairs are split: every second one ranks the neurons, the others judge. On those, the first neurons of each ranking are
    set to zero, on the clean image and on its twin, and restored: set on the twin to what they are on the clean image, which
    asks whether these neurons carry the failure (Li et al. 2021 transplant features in this way). A ranking is better than
    random neurons if no more than 5 % of random sets do as well, counting the ranking itself among them (a permutation test),
    and the 95 % interval of the paired difference over the images leaves zero out. Random sets take dead neurons last.
    """

    title: ClassVar[str] = "Evidence for rankings"
    heading: ClassVar[str] = "Do rankings find the neurons that matter?"
    changes: ClassVar[tuple[str, ...]] = (
        "Random sets drew from all neurons, dead ones too, which made the control weaker where there are any. Audit "
        "again for the right numbers.",
    )
    kind: Literal["ranking_evidence"] = "ranking_evidence"
    top: float = Field(
        0.4,
        gt=0,
        le=0.9,
        description="Largest share of a layer's neurons to ablate; a quarter and a sixteenth of it are ablated as "
        "well.",
    )
    draws: int = Field(
        20,
        ge=19,
        le=1000,
        description="Random sets of neurons for each inner layer, and ten times as many for the last features; 19 sets "
        "can just reach p = 5 %.",
    )
    inner: int = Field(
        2, ge=0, le=50, description="Layers to look at in addition to the last features, spread over the depth."
    )
    images: int = Field(200, ge=4, le=100_000, description="Maximum pairs to use; half of them rank, half judge.")

    def cost(self, images: int) -> float:
        """Three passes for each set of neurons of an inner layer, on half of the pairs; the last features cost little."""
        return (8 + self.inner * 3 * 3 * (4 + self.draws) / 2) * min(images, self.images)

    def find(self, subject: Subject) -> Evidence:
        chosen = np.flatnonzero(evenly_spaced(len(subject.pairs), self.images))
        if len(chosen) < 2:
            raise EvaluationError("Evidence for rankings needs at least two pairs, one to rank and one to judge.")
        ranks, judges = (np.isin(np.arange(len(subject.pairs)), chosen[half::2]) for half in (0, 1))
        by_layer = rank_all(subject.classifier, Picked(subject.pairs, ranks), self.inner)
        judging = replace(subject, pairs=Picked(subject.pairs, judges))
        layers = [
            judge_layer(
                subject.classifier, name, rankings, self.each(judging, part, len(by_layer)),
                counts=self.counts(len(rankings[0].values)), draws=self.draws if name else CHEAPER * self.draws,
                seed=subject.seed,
            )
            for part, (name, rankings) in enumerate(by_layer.items(), 1)
        ]  # fmt: skip
        clean, twin = unablated(subject.classifier, judging.pairs)
        return Evidence(
            ranked_on=ranks.sum(),
            judged_on=judges.sum(),
            pairs=subject.pairs_from,
            clean=Rate.of(clean.cpu().numpy()),
            twin=Rate.of(twin.cpu().numpy()),
            failures=int((clean & ~twin).sum()),
            layers=tuple(layers),
        )

    def counts(self, neurons: int) -> list[int]:
        """How many neurons to ablate: at least one, ascending."""
        return sorted({max(1, int(neurons * share)) for share in (self.top / 16, self.top / 4, self.top)})

    def doubts(self, found: Evidence) -> Iterator[Flag]:
        if found.failures == 0:
            yield Flag(
                name="nothing to restore",
                severity="warning",
                message="The attack fooled none of the images that judge the rankings, so none can be shown to carry a failure.",
                evidence=f"{found.clean.hits} of {found.judged_on} images are right, and so are their twins.",
                remedy="Use a larger epsilon or a stronger attack for the analyses.",
            )
        if found.judged_on < FEW:
            yield Flag(
                name="few images",
                severity="warning",
                message="Few images judge the rankings; only large differences can be seen.",
                evidence=f"{found.judged_on} images.",
                remedy=f"Give the analyses at least {2 * FEW} samples.",
            )

    def blocks(self, found: Evidence) -> Iterator[AnyBlock]:
        dead = [layer.dead for layer in found.layers if layer.dead is not None]
        drawn = f", of those that put out anything (dead: {', '.join(map(str, dead))})" if any(dead) else ""
        yield Text(
            text=f"Neurons ranked on {found.ranked_on} pairs and judged on {found.judged_on} others. Twins: {found.pairs}. With "
            f"nothing ablated the network is right on {found.clean} of the clean images and on {found.twin} of the twins. "
            "Silenced: output set to zero. Restored: set to its value on the clean image. Random: sets of neurons of the same "
            f"number and layer{drawn}."
        )
        for layer in found.layers:
            yield from judged_layer_blocks(layer)
