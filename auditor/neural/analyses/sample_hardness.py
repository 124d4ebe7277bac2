"""Adversarial hardness of each image, from gradients on the critical attacking route; does it tell more than the margin?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from auditor.attacking.threat import show_epsilon
from auditor.kit.flag import Flag
from auditor.kit.statistics.estimate import Rate
from auditor.neural.analysis import Analysis, Subject
from auditor.neural.found import table
from auditor.neural.routes.hardness import MeasuredHardness, Scores, attack, hardness_scores
from auditor.neural.routes.hardness_outcomes import Hardness, hardness_found, layer_table, tenths_figure
from auditor.neural.routes.routes import Mode
from auditor.neural.routes.selection import route_frequency
from auditor.show.blocks import AnyBlock, Column, Measures, Text

ALIKE = 0.9
"""From this rank correlation with the margin on, hardness is the margin in other words."""


class SampleHardness(Analysis[Hardness]):
    """How hard each image is to attack, by gradients on the critical attacking route (Li et al. 2021, Information Sciences).

    In each layer the images are ranked by the gradient of the loss on the model-level route's channels (eq. 16, 17: the
    largest gradient gets rank 1); the sum of an image's ranks is its hardness V (eq. 18). Gradients of the loss are small
    where the network is sure. So V is compared with the margin and the loss, and with V on random and on all channels:
    by how they relate to success under FGSM (Fig. 6) and to the smallest epsilon at which an attack succeeds.
    """

    title: ClassVar[str] = "Sample hardness"
    heading: ClassVar[str] = "Which images are hard to attack"
    kind: Literal["sample_hardness"] = "sample_hardness"
    levels: float = Field(
        1.0,
        gt=0,
        le=255,
        description="Epsilon of FGSM (L∞) in levels of 255; hardness should predict its success.",
    )
    steps: int = Field(
        100, ge=0, le=1000, description="Steps of FMN (L∞) in search of the smallest epsilon; 0 leaves it out."
    )
    extreme: float = Field(
        0.1, gt=0, le=0.5, description="Share of the images that count as the hardest or the easiest."
    )
    width: float = Field(0.2, gt=0, le=1, description="Share of each layer's channels on the route of one image.")
    model_width: float = Field(0.3, gt=0, le=1, description="Share of each layer's channels on the model-level route.")
    mode: Mode = Field("serial", description="How routes pass residual blocks: as one chain, or along every edge.")

    def cost(self, images: int) -> float:
        return (3 + 3 + 4 + (3 * self.steps + 1 if self.steps else 0)) * images

    def measure(self, subject: Subject) -> tuple[tuple[str, ...], Scores, MeasuredHardness]:
        """The route's layers, the scores of all images, and the attacks on those that are classified correctly."""
        found = route_frequency(subject.during(0.0, 0.1), width=self.width, mode=self.mode)
        scores = hardness_scores(subject.during(0.1, 0.2), found, self.model_width)
        ids, labels = scores.ids[scores.correct], scores.labels[scores.correct]
        attacked = attack(subject.during(0.2, 1.0), ids, labels, self.levels / 255, self.steps)
        return found.layers, scores, attacked

    def find(self, subject: Subject) -> Hardness:
        layers, scores, attacked = self.measure(subject)
        return hardness_found(layers, scores, attacked, self.extreme, subject.seed, searched=self.steps > 0)

    def doubts(self, found: Hardness) -> Iterator[Flag]:
        if found.silent > 0.01 * found.images:
            yield Flag(
                name="no gradient",
                severity="warning",
                message="For some images no gradient reaches the route: hardness cannot tell them apart.",
                evidence=f"{found.silent} of {found.images} images have a gradient of exactly zero in every layer.",
                remedy="Look at the checks on gradients: the network may hide them from attacks as well.",
            )
        if not found.tested:
            yield Flag(
                name="attack says little",
                severity="warning",
                message="FGSM succeeds on nearly all images or on nearly none, so no score can be tested by it.",
                evidence=f"It succeeds on {found.fooled} of {found.correct}.",
                remedy="Set another epsilon, or use more images.",
            )
        yield from _restates(found)
        random = found.of("random").hardness_minus_this
        if found.tested and random.low is not None and random.low <= 0:
            yield Flag(
                name="random channels do as well",
                severity="info",
                message="Hardness on the same number of random channels tells as much about the attack as on the "
                "route.",
                evidence=f"AUC, route minus random: {random:.3f}.",
            )

    def blocks(self, found: Hardness) -> Iterator[AnyBlock]:
        fgsm = f"FGSM, L∞ ε = {show_epsilon(self.levels / 255)}"
        search = f", and with the smallest ε that FMN finds in {self.steps} steps" if self.steps else ""
        yield Text(
            text=f"Hardness V of {found.images} images, from one backward pass each; the route is that of the same "
            f"images with their true labels. V is compared with success under {fgsm}{search}, on the {found.correct} "
            "images that are classified correctly. Rank correlation of V with the margin (the label's logit minus the "
            f"best other): {found.margin:.3f}; with minus the loss: {found.loss:.3f}."
        )
        chance = "Chance that an image on which FGSM fails scores higher than one on which it succeeds; 50 % is a coin."
        more = "Below or around 0: hardness tells no more than the margin."
        areas = (
            ("Hardness tells failure from success (AUC)", found.of("hardness").area, chance),
            ("The margin does (AUC)", found.of("margin").area, chance),
            ("Hardness minus margin (AUC)", found.of("margin").hardness_minus_this, more),
        )
        yield Measures(
            items=(
                Rate.count(found.stands, found.correct).measure(f"Still correct under {fgsm}", higher_is_better=True),
                *(area.measure(name, unit="%", higher_is_better=True, explanation=said) for name, area, said in areas),
            )
        )
        yield tenths_figure(found.tenths, fgsm)
        unreached = f" FMN found nothing for {found.unreached} images; they rank as the hardest." * (
            found.unreached > 0
        )
        yield table(
            found.scores,
            Column(key="called", title="Score"),
            "area", "hardness_minus_this", "standing_at_margin", "smallest", "smallest_at_margin",
            title="What each score tells about the attacks",
            caption=f"Over the {found.correct} images classified correctly, with 95 % intervals. AUC: chance that an image on "
            "which FGSM fails scores higher than one on which it succeeds (0.5: a coin). The other columns are rank "
            f"correlations; at equal margin: with the margin held fixed, so what a score adds to it.{unreached}",
        )  # fmt: skip
        yield layer_table(
            found.layers,
            caption=f"Sum of |∂L/∂Z| over the route's channels, with 95 % intervals (bootstrap). Attack: {fgsm}, on images "
            "classified correctly. The hardest and the easiest are so by these very gradients; the first two columns are "
            "the independent comparison.",
        )
        yield table(
            found.extremes,
            "end", "sample", "hardness", "margin", "loss", "fooled", "smallest",
            title="The hardest and the easiest images",
            caption="A high V means small gradients, so an image that should be hard to attack. Images that are misclassified "
            "anyway were not attacked.",
        )  # fmt: skip


def _restates(found: Hardness) -> Iterator[Flag]:
    """Is hardness the margin in other words, or does it tell no more?"""
    alike = found.margin.value is not None and found.margin.value >= ALIKE
    adds = any(item.low is not None and item.low > 0 for item in found.gains.values())
    if alike or (found.gains and not adds):
        yield Flag(
            name="hardness restates confidence",
            severity="info" if adds else "warning",
            message="Hardness orders the images nearly as the margin does, which needs no route and no gradient."
            if adds
            else "Hardness tells no more about the attack than the margin does, which needs no route and no gradient.",
            evidence=f"Rank correlation of hardness and margin: {found.margin:.3f}"
            + "".join(f"; {name}: {item:.3f}" for name, item in found.gains.items()),
            remedy="Rank the images by their margin instead.",
        )
