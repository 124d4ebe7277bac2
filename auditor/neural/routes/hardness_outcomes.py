"""What hardness and its rival scores tell about the attacks on the images: numbers for a finding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from auditor.kit.statistics.association import Discrimination, discrimination, partial_spearman, spearman
from auditor.kit.statistics.estimate import Estimate, Rate
from auditor.neural.found import Found, shown
from auditor.neural.routes.hardness import SCORES, MeasuredHardness, Scores
from auditor.show.blocks import Column, Figure, Table

End = Literal["hardest", "easiest"]

FEW = 10
"""Fewer attacks that succeed, or that fail, cannot tell scores apart."""
LISTED = 10
"""How many of the hardest, and of the easiest, images are listed."""


class ScoreRow(Found):
    """How one score goes with the attacks, by itself and among images of the same margin."""

    score: str
    area: Estimate = shown("AUC", ".3f")
    hardness_minus_this: Estimate = shown("Hardness minus this (AUC)", ".3f")
    standing_at_margin: Estimate = shown("FGSM fails, at equal margin", ".3f")
    smallest: Estimate = shown("Smallest ε", ".3f")
    smallest_at_margin: Estimate = shown("Smallest ε, at equal margin", ".3f")

    @property
    def called(self) -> str:
        """As a reader calls the score."""
        return SCORES[self.score]


class LayerOutcomes(Found):
    """Mean loss gradient on the route in one layer: of the images on which FGSM failed or succeeded, and of both ends."""

    layer: str
    failed: Estimate
    succeeded: Estimate
    hardest: Estimate
    easiest: Estimate


class Tenth(Found):
    """Share that still stands in the ``x``-th tenth of the images, put in order by a score."""

    score: str
    x: int
    hits: int
    n: int
    value: float | None
    low: float | None
    high: float | None


class Extreme(Found):
    """One of the hardest or of the easiest images; None for attacks on an image that is misclassified anyway."""

    end: End = shown("End")
    sample: int = shown("Sample")
    hardness: float = shown("Hardness V", ".1f")
    margin: float = shown("Margin", ".3f")
    loss: float = shown("Loss", ".3g")
    fooled: bool | None = shown("Fooled by FGSM")
    smallest: float | None = shown("Smallest ε", ".4f")


class Hardness(Found):
    """What hardness tells about the attacks. ``margin``, ``loss``: its rank correlation with these over all images.

    ``correct``: images that are classified correctly, and so were attacked; ``fooled`` by FGSM; ``unreached`` by FMN.
    ``silent``: images without a gradient in any layer.
    """

    images: int
    correct: int
    fooled: int
    unreached: int
    silent: int
    margin: Estimate
    loss: Estimate
    scores: tuple[ScoreRow, ...]
    layers: tuple[LayerOutcomes, ...]
    tenths: tuple[Tenth, ...]
    extremes: tuple[Extreme, ...]

    @property
    def stands(self) -> int:
        """Images that FGSM did not fool."""
        return self.correct - self.fooled

    @property
    def tested(self) -> bool:
        """Whether enough attacks succeeded, and failed."""
        return min(self.fooled, self.stands) >= FEW

    @property
    def gains(self) -> dict[str, Estimate]:
        """What hardness tells more than the margin, where that is known."""
        found = {"smallest ε, rank correlation at equal margin": self.of("hardness").smallest_at_margin}
        if self.tested:
            found["AUC, hardness minus margin"] = self.of("margin").hardness_minus_this
        return {name: item for name, item in found.items() if item.low is not None}

    def of(self, name: str) -> ScoreRow:
        return next(row for row in self.scores if row.score == name)


def hardness_found(
    layers: Sequence[str], scores: Scores, attacked: MeasuredHardness, extreme: float, seed: int, *, searched: bool
) -> Hardness:
    """``extreme``: share of the images at either end. ``searched``: whether the attacked images' smallest epsilon is known."""
    right = {name: item[scores.correct] for name, item in scores.scores.items()}
    stands = ~attacked.fooled
    told = discrimination([right[name] for name in SCORES], stands)
    vote = scores.scores["hardness"]
    return Hardness(
        images=len(vote),
        correct=int(scores.correct.sum()),
        fooled=int(attacked.fooled.sum()),
        unreached=int(np.isinf(attacked.smallest).sum()),
        silent=int((scores.gradient == 0).all(1).sum()),
        margin=spearman(vote, scores.scores["margin"]),
        loss=spearman(vote, scores.scores["loss"]),
        scores=tuple(score_row(name, right, attacked, told, searched=searched) for name in SCORES),
        layers=tuple(gradients_by_outcome(layers, scores, attacked, extreme, seed)),
        tenths=tuple(row for name in SCORES for row in tenths(name, right[name], stands)),
        extremes=tuple(list_ends(scores, attacked, extreme)),
    )


def score_row(
    name: str,
    right: Mapping[str, NDArray[np.float64]],
    attacked: MeasuredHardness,
    told: Discrimination,
    *,
    searched: bool,
) -> ScoreRow:
    """``right``: the scores of the images that are classified correctly."""
    nothing = Estimate.unknown(len(attacked.fooled))
    values, margin, apart, place = right[name], right["margin"], name != "margin", list(SCORES).index(name)
    both = searched and apart
    return ScoreRow(
        score=name,
        area=told.areas[place],
        hardness_minus_this=told.first_minus[place],
        standing_at_margin=partial_spearman(values, ~attacked.fooled, margin) if apart else nothing,
        smallest=spearman(values, attacked.smallest) if searched else nothing,
        smallest_at_margin=partial_spearman(values, attacked.smallest, margin) if both else nothing,
    )


def ends(scores: Scores, extreme: float) -> dict[End, NDArray[np.int64]]:
    """Places of the hardest and of the easiest share of the images, most extreme first, ties by the earlier image."""
    vote = scores.scores["hardness"]
    count = max(1, int(extreme * len(vote)))
    return {
        "hardest": np.argsort(-vote, kind="stable")[:count], "easiest": np.argsort(vote, kind="stable")[:count],
    }  # fmt: skip


def gradients_by_outcome(
    layers: Sequence[str], scores: Scores, attacked: MeasuredHardness, extreme: float, seed: int
) -> Iterator[LayerOutcomes]:
    """Table 4, layer by layer."""
    right = np.flatnonzero(scores.correct)
    extremes = ends(scores, extreme)
    for place, layer in enumerate(layers):

        def mean(rows: NDArray[np.int64], place: int = place) -> Estimate:
            return Estimate.of_bootstrap(scores.gradient[rows, place], seed)

        yield LayerOutcomes(
            layer=layer,
            failed=mean(right[~attacked.fooled]),
            succeeded=mean(right[attacked.fooled]),
            hardest=mean(extremes["hardest"]),
            easiest=mean(extremes["easiest"]),
        )


def list_ends(scores: Scores, attacked: MeasuredHardness, extreme: float) -> Iterator[Extreme]:
    """The first images of both ends with what is known of them."""
    place = {int(row): at for at, row in enumerate(np.flatnonzero(scores.correct))}
    for end, rows in ends(scores, extreme).items():
        for row in rows[:LISTED].tolist():
            tried = row in place
            smallest = float(attacked.smallest[place[row]]) if tried else np.inf
            yield Extreme(
                end=end,
                sample=int(scores.ids[row]),
                hardness=float(scores.scores["hardness"][row]),
                margin=float(scores.scores["margin"][row]),
                loss=-float(scores.scores["loss"][row]),
                fooled=bool(attacked.fooled[place[row]]) if tried else None,
                smallest=smallest if np.isfinite(smallest) else None,
            )


def tenths(name: str, values: NDArray[np.float64], stands: NDArray[np.bool_]) -> Iterator[Tenth]:
    """In order from easy to hard; fewer parts where there are fewer images."""
    parts = np.array_split(np.argsort(values, kind="stable"), min(10, max(1, len(values))))
    for place, part in enumerate(parts, 1):
        yield Tenth(score=name, x=place, **Rate.of(stands[part]).model_dump())


def layer_table(layers: Sequence[LayerOutcomes], caption: str) -> Table:
    """The means with their intervals, layer by layer."""
    groups = {"failed": "Attack failed", "succeeded": "Attack succeeded", "hardest": "Hardest", "easiest": "Easiest"}
    means: list[dict[str, Estimate]] = [{name: getattr(row, name) for name in groups} for row in layers]
    return Table(
        title="Loss gradient on the route, layer by layer (mean over images)",
        columns=(
            Column(key="layer", title="Layer"),
            *(Column(key=name, title=f"{title} (n = {means[0][name].n})") for name, title in groups.items()),
        ),
        rows=tuple(
            {"layer": row.layer} | {name: f"{item:.3g}" if item.n else None for name, item in found.items()}
            for row, found in zip(layers, means, strict=True)
        ),
        caption=caption,
    )


def tenths_figure(found: Sequence[Tenth], fgsm: str) -> Figure:
    """One line per score. ``fgsm``: what the attack is called."""
    return Figure(
        chart="lines",
        title=f"Still correct under {fgsm}, by score",
        rows=tuple(row.model_dump() | {"series": SCORES[row.score]} for row in found),
        options={
            "x": "tenth of the images, from easy to hard",
            "y": "still correct",
            "share": True,
            "legend": "ordered by",
        },
        reading="The images are put in order by each score and cut into tenths; bands are 95 % intervals. The better "
        "a score, the steeper its line. Where the margin's rises as steeply, V only says how sure the network is.",
    )
