"""Top-k neuron consistency and coverage of every layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from auditor.kit.errors import EvaluationError
from auditor.kit.flag import Flag
from auditor.neural.analysis import Analysis, Subject
from auditor.neural.figures import layer_lines, profile
from auditor.neural.found import OfPairs, interval_columns, lowest, some_of, table
from auditor.neural.influence.leading import Covered, CoveredLayer, LeadingBy, LeadingNeurons
from auditor.show.blocks import AnyBlock, Measure, Measures, Text


class Consistency(OfPairs):
    """Every layer with more than k neurons, but not the logits; ``overall`` is the mean over them, image by image."""

    layers: tuple[CoveredLayer, ...]
    overall: Covered


class TopKConsistency(Analysis[Consistency]):
    """Whether the k leading neurons of a layer stay the same under attack, TKNC (Chen et al. 2021, arXiv 2112.13060, eq. 13).

    Consistency is the number of neurons that lead on an image and on its twin, over the number that lead on either. The paper
    ranks by neuron influence on each image's own predicted class. It is reported with top-k neuron coverage (Ma et al.
    2018, arXiv 1803.07519), which shares the abbreviation: the share of a layer's neurons that ever lead, over all
    images.
    """

    title: ClassVar[str] = "Top-k neuron consistency"
    heading: ClassVar[str] = "Leading neurons under attack"
    changes: ClassVar[tuple[str, ...]] = (
        "Which of several equal neurons lead went by index: where fewer than k neurons speak for the class, neurons without any "
        "influence counted as consistent. Audit again for the right numbers.",
    )
    passes: ClassVar[float] = 4.0  # a pass and a gradient that ends at the first layer, on the image and on its twin
    kind: Literal["top_k_consistency"] = "top_k_consistency"
    k: int = Field(5, ge=1, le=1000, description="How many neurons of a layer lead.")
    by: LeadingBy = Field(
        "influence", description="Neurons lead by their influence on the predicted class, or by their mean output."
    )

    def find(self, subject: Subject) -> Consistency:
        leading = LeadingNeurons(subject.classifier, self.k, self.by, subject.seed)
        for pair in self.each(subject):
            leading.add(pair)
        layers = leading.layers()
        if not layers:
            raise EvaluationError(
                f"No layer before the logits has more than {self.k} neurons, so all of them lead.", "Lower k."
            )
        overall = leading.overall()
        return Consistency(images=overall.consistency.n, pairs=subject.pairs_from, layers=layers, overall=overall)

    def doubts(self, found: Consistency) -> Iterator[Flag]:
        """Layers where k is so large that any two sets share most of their neurons."""
        narrow = [layer for layer in found.layers if layer.random > 0.5]
        if narrow:
            yield Flag(
                name="k close to the width",
                severity="info",
                message="In some layers random sets of leading neurons would be more than half the same.",
                evidence=f"{some_of(narrow, found.layers)}.",
                remedy="Lower k, or compare these layers only with the random value.",
            )

    def blocks(self, found: Consistency) -> Iterator[AnyBlock]:
        led = "influence on the predicted class" if self.by == "influence" else "mean output"
        rows = profile(
            found.layers,
            consistency="consistency.value", random="random", covered_clean="share_clean", covered_twin="share_twin",
        )  # fmt: skip
        overall = found.overall
        yield Text(
            text=f"The {self.k} neurons of each layer that lead by their {led}, on {found.images} clean images and on "
            f"their twins: {found.pairs}. Layers of {self.k} neurons or fewer, and the logits, are left out."
        )
        ever = f"Share of the {overall.neurons} neurons that lead on at least one image; it grows with the number of images."
        yield Measures(
            items=(
                overall.consistency.measure(
                    "Consistency (TKNC), mean over the layers",
                    unit="%",
                    higher_is_better=True,
                    explanation="Share of the leading neurons that an image and its twin have in common; random sets of "
                    f"{self.k} neurons would have {100 * overall.random:.1f} %.",
                ),
                Measure(title="Coverage by the clean images", unit="%", value=overall.share_clean, explanation=ever),
                Measure(title="Coverage by the twins", unit="%", value=overall.share_twin, explanation=ever),
            )
        )
        yield layer_lines(
            "Consistency of the leading neurons by layer",
            rows,
            {"consistency": "image and twin", "random": "random neurons"},
            "|both| / |either|",
            reading="1: the same neurons lead on an image and on its twin; the lower points are what two random sets of "
            "neurons would have in common. Where the line comes down to them, the attack has replaced the neurons "
            "that decide.",
        )
        yield layer_lines(
            "Coverage of the neurons by layer",
            rows,
            {"covered_clean": "clean images", "covered_twin": "twins"},
            "share of neurons that ever lead",
            reading="If twins make neurons lead that lead on no clean image, their line lies above the other.",
        )
        yield table(
            lowest(found.layers, "consistency.value"),
            "name", "neurons", *interval_columns("consistency", "Consistency", ".1%"), "random",
            title="Layers, least consistent first",
            caption=f"95 % intervals of the mean over {found.images} images.",
        )  # fmt: skip
