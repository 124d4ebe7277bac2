"""Delta-values of the last layer: how far one neuron alone must move to change the prediction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from auditor.kit.flag import Flag
from auditor.kit.statistics.estimate import Rate
from auditor.neural.analysis import Analysis, NeuronMeasure, Subject, before_head
from auditor.neural.delta.tally import MARGIN, TOP, DeltaTally, LastLayerDeltas
from auditor.neural.delta.values import Feasible, activations_of, deltas_of
from auditor.neural.figures import by_value, neuron_values, value_rows
from auditor.neural.found import neuron_in, table
from auditor.neural.probes.head import head_of
from auditor.show.blocks import AnyBlock, Column, Figure, Measure, Measures, Table, Text


class DeltaValues(Analysis[LastLayerDeltas]):
    """How far one neuron of the last hidden layer must move to change the prediction (Suri and Evans 2020, arXiv 2003.09372).

    Delta (eq. 1-2) is the smallest change of one neuron's output that leaves the predicted class: low Delta, high
    sensitivity. It has a closed form, because only the last linear layer follows. Values are divided by the neuron's
    standard deviation over the clean images, which makes neurons comparable.
    """

    title: ClassVar[str] = "Delta-values"
    heading: ClassVar[str] = "Delta-values of the last layer"
    passes: ClassVar[float] = 2.0
    kind: Literal["delta_values"] = "delta_values"
    feasible: Feasible = Field(
        "auto",
        description="Outputs that a neuron may be moved to: any, nonnegative (behind a ReLU), or auto: nonnegative where no "
        "clean image ever gave a negative one.",
    )

    def find(self, subject: Subject) -> LastLayerDeltas:
        head = head_of(subject.classifier)
        activations = activations_of(subject.classifier, head, subject.pairs)
        tally = DeltaTally(head, activations, activations.floor(self.feasible))
        for pair in self.each(subject, 2, of=2):
            tally.add(*deltas_of(subject.classifier, head, pair.x, tally.floor))
        return tally.found()

    def doubts(self, found: LastLayerDeltas) -> Iterator[Flag]:
        if found.unverified:
            yield Flag(
                name="delta not verified",
                severity="warning",
                message="Some Delta-values do not mark the point where the prediction changes.",
                evidence=f"{found.unverified} failures at Delta (1 ± {MARGIN:g}).",
                remedy="The head's weights are too large or too close together for float64.",
            )
        if found.tied:
            yield Flag(
                name="tied predictions",
                severity="warning",
                message="Some images have two equal highest logits: there is no prediction that could change.",
                evidence=f"{found.tied} of {found.tied + found.images} images.",
                remedy="The network may saturate or round its outputs.",
            )

    def blocks(self, found: LastLayerDeltas) -> Iterator[AnyBlock]:
        space = "any output" if found.floor is None else "outputs of at least 0"
        yield Text(
            text=f"The smallest change of one input of {found.layer} that changes the prediction, for each of "
            f"{found.neurons} neurons on {found.images} clean images, among {space}. No attack is involved. "
            f"{found.tied} images with two equal highest logits are left out."
        )
        most_sensitive = found.median.measure(
            "Most sensitive neuron: median |Δ| / σ",
            higher_is_better=True,
            explanation="On half of the images some neuron changes the prediction by moving at most this many of its "
            "standard deviations.",
        )
        infinite = Rate.count(found.infinite, found.images * found.neurons).measure(
            "No change suffices",
            explanation="Share of (image, neuron) pairs where no feasible change of that neuron alone changes the prediction. "
            "The interval treats pairs as independent.",
        )
        yield Measures(items=(most_sensitive, infinite))
        yield _histogram(found, "scaled", "Distribution of the scaled Delta-values", "|Δ| / σ")
        yield _histogram(found, "raw", "Distribution of the Delta-values", "|Δ| (units of the neuron's output)")
        yield neuron_values(
            "Neurons, most sensitive first",
            value_rows(by_value(enumerate(found.by_neuron.scaled)), TOP),
            "mean |Δ| / σ",
            f"{TOP} most sensitive",
            reading="Each point is one neuron: its mean over the images where a change suffices. Low is sensitive. "
            "Neurons that never vary, or that no change suffices for, are left out.",
            log=True,
        )
        yield table(
            found.quantiles,
            "what", "n", "q05", "q25", "q50", "q75", "q95",
            title="Quantiles",
            caption="Infinite values are left out; n counts what is left.",
        )  # fmt: skip
        yield _orderings(found)

    def detail(self, found: LastLayerDeltas, path: tuple[str, ...]) -> Iterator[AnyBlock]:
        """One neuron in numbers."""
        neuron, each = neuron_in(path[0], found.neurons), found.by_neuron
        if neuron is None:
            return
        target, finite = each.target[neuron], each.finite[neuron]
        reached = "" if target < 0 else f" Most often it reaches class {target} ({each.reached[neuron]} images)."
        yield Text(
            text=f"Neuron {neuron} of {found.neurons}: a change suffices on {finite} of {found.images} images.{reached}"
        )
        yield Measures(
            items=(
                Measure(title="Mean |Δ| / σ", value=each.scaled[neuron], n=finite, higher_is_better=True),
                Measure(title="Mean |Δ|", value=each.raw[neuron], n=finite, higher_is_better=True),
                Rate.count(each.raised[neuron], finite).measure(
                    "Must rise", explanation="Share of those images where the neuron must rise, not fall."
                ),
                Rate.count(each.nearest[neuron], found.images).measure(
                    "Most sensitive of its image", explanation="Share of images on which its |Δ| / σ is the lowest."
                ),
                Measure(title="Mean output", value=each.mean[neuron], n=found.images + found.tied),
                Measure(title="Standard deviation σ", value=each.std[neuron], n=found.images + found.tied),
            )
        )

    def neuron_measures(self, found: LastLayerDeltas) -> Iterator[NeuronMeasure]:
        marked = [neuron for neuron, _ in by_value(enumerate(found.by_neuron.scaled))[:TOP]]
        yield NeuronMeasure(
            "delta", self.title, "mean |Δ| / σ",
            "Small: a small change of this neuron alone changes the prediction, on the images where any change does.",
            f"among the {TOP} most sensitive", (before_head(found.layer, found.by_neuron.scaled, marked),),
        )  # fmt: skip


def _histogram(found: LastLayerDeltas, scale: str, title: str, axis: str) -> Figure:
    return Figure(
        chart="histogram",
        title=title,
        rows=tuple(row for name, bins in found.bins[scale].items() for row in bins.rows(name)),
        options={"x": axis, "y": "share of the values", "log": True},
        reading="'All' counts every neuron of every image, 'lowest of each image' only its most sensitive neuron. Further "
        "left is more sensitive. Shares are of all values; the rest up to 100 % is infinite.",
    )


def _orderings(found: LastLayerDeltas) -> Table:
    return table(
        found.orderings,
        Column(key="ordering", title="Ordering"),
        Column(key="compared", title="Compared with"),
        "n", "spearman", "spearman_std",
        Column(key="overlap", title=f"Overlap of the top {min(TOP, found.neurons)}", format=".1%"),
        "overlap_std", "chance",
        title="Agreement of the orderings",
        caption="Means over the images, with the standard deviation between images: the paper, its code and this tool rank "
        "neurons by different scores.",
    )  # fmt: skip
