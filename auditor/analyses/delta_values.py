"""Delta-values of the last layer: how far one neuron alone must move to change the prediction."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from pydantic import Field

from auditor.analysis import Analysis, Finding, NeuronMeasure, Subject, before_head
from auditor.delta.log_bins import bin_rows
from auditor.delta.tally import QUANTILES, TOP, DeltaTally
from auditor.delta.values import ORDERINGS, Feasible, activations_of, deltas_of, leaves_prediction
from auditor.flag import Flag
from auditor.metrics import Rate
from auditor.probes.head import head_of
from auditor.report.blocks import AnyBlock, Column, Figure, Measure, Measures, Section, Table, Text

MARGIN = 1e-4
"""Every value is verified: Delta (1 + 1e-4) must change the prediction, Delta (1 - 1e-4) must not."""


class DeltaValues(Analysis):
    """How far one neuron of the last hidden layer must move to change the prediction (Suri and Evans 2020, arXiv 2003.09372).

    Delta (eq. 1-2) is the smallest change of one neuron's output that leaves the predicted class: low Delta, high
    sensitivity. It has a closed form, because only the last linear layer follows. Values are divided by the neuron's
    standard deviation over the clean images, which makes neurons comparable.
    """

    title: ClassVar[str] = "Delta-values"
    kind: Literal["delta_values"] = "delta_values"
    feasible: Feasible = Field(
        "auto",
        description="Outputs that a neuron may be moved to: any, nonnegative (behind a ReLU), or auto: nonnegative where no "
        "clean image ever gave a negative one.",
    )

    @property
    def cost(self) -> float:
        return 2.0

    def run(self, subject: Subject) -> Finding:
        classifier, head = subject.classifier, head_of(subject.classifier)
        activations = activations_of(classifier, head, subject.pairs)
        floor = activations.floor(self.feasible)
        tally = DeltaTally(activations, len(head.weight))
        unverified = 0
        for pair in subject.pairs:
            logits, deltas = deltas_of(classifier, head, pair.x, floor)
            known = deltas.value.isfinite()
            unverified += int((~leaves_prediction(logits, head.weight, deltas.value * (1 + MARGIN)) & known).sum())
            unverified += int((leaves_prediction(logits, head.weight, deltas.value * (1 - MARGIN)) & known).sum())
            tally.tied += int(deltas.tied.sum())
            tally.add(deltas.value[~deltas.tied], deltas.target[~deltas.tied])
            subject.on_progress(0.5 + 0.5 * (tally.images + tally.tied) / len(subject.pairs), self.title)
        data = {
            "layer": head.name,
            "floor": None if math.isinf(floor) else floor,
            "unverified": unverified,
        } | tally.as_data()
        return Finding(kind=self.kind, settings=self.settings(), data=data, flags=_doubts(data))

    def section(self, finding: Finding) -> Section:
        data = finding.data
        space = "any output" if data["floor"] is None else "outputs of at least 0"
        infinite = Rate.count(data["infinite"], data["images"] * data["neurons"])
        return Section(
            key=self.kind,
            title="Delta-values of the last layer",
            blocks=(
                Text(
                    text=f"The smallest change of one input of {data['layer']} that changes the prediction, for each of "
                    f"{data['neurons']} neurons on {data['images']} clean images, among {space}. No attack is involved. "
                    f"{data['tied']} images with two equal highest logits are left out."
                ),
                Measures(
                    items=(
                        Measure(
                            title="Most sensitive neuron: median |Δ| / σ",
                            **data["median"],
                            higher_is_better=True,
                            explanation="On half of the images some neuron changes the prediction by moving at most so many "
                            "of its standard deviations.",
                        ),
                        infinite.measure("No change suffices", explanation=_INFINITE),
                    )
                ),
                self._histogram(data, "scaled", "Distribution of the scaled Delta-values", "|Δ| / σ"),
                self._histogram(data, "raw", "Distribution of the Delta-values", "|Δ| (units of the neuron's output)"),
                Figure(
                    chart="neuron_values",
                    title="Neurons, most sensitive first",
                    rows=_neurons(data),
                    options={"y": "mean |Δ| / σ", "marked": f"{TOP} most sensitive", "log": True},
                    reading="Each point is one neuron: its mean over the images where a change suffices. Low is sensitive. "
                    "Neurons that never vary, or that no change suffices for, are left out.",
                    select="neuron",
                ),
                _quantile_table(data),
                _orderings(data),
            ),
        )

    def detail(self, finding: Finding, path: tuple[str, ...]) -> tuple[AnyBlock, ...]:
        """One neuron in numbers."""
        data = finding.data
        if not path[0].isdecimal() or int(path[0]) >= data["neurons"]:
            return ()
        neuron = int(path[0])
        each: dict[str, Any] = {name: values[neuron] for name, values in data["by_neuron"].items()}
        finite, images = each["finite"], data["images"]
        target = (
            "" if each["target"] < 0 else f" Most often it reaches class {each['target']} ({each['reached']} images)."
        )
        return (
            Text(
                text=f"Neuron {neuron} of {data['neurons']}: a change suffices on {finite} of {images} images.{target}"
            ),
            Measures(
                items=(
                    Measure(title="Mean |Δ| / σ", value=each["scaled"], n=finite, higher_is_better=True),
                    Measure(title="Mean |Δ|", value=each["raw"], n=finite, higher_is_better=True),
                    Rate.count(each["raised"], finite).measure(
                        "Must rise", explanation="Share of those images where the neuron must rise, not fall."
                    ),
                    Rate.count(each["nearest"], images).measure(
                        "Most sensitive of its image", explanation="Share of images on which its |Δ| / σ is the lowest."
                    ),
                    Measure(title="Mean output", value=each["mean"], n=images + data["tied"]),
                    Measure(title="Standard deviation σ", value=each["std"], n=images + data["tied"]),
                )
            ),
        )

    def neuron_measures(self, finding: Finding) -> tuple[NeuronMeasure, ...]:
        data = finding.data
        marked = [row["neuron"] for row in _neurons(data)[:TOP]]
        return (
            NeuronMeasure(
                "delta", self.title, "mean |Δ| / σ",
                "Small: a small change of this neuron alone changes the prediction, on the images where any change does.",
                f"among the {TOP} most sensitive", (before_head(data["layer"], data["by_neuron"]["scaled"], marked),),
            ),
        )  # fmt: skip

    def _histogram(self, data: dict[str, Any], scale: str, title: str, axis: str) -> Figure:
        return Figure(
            chart="histogram",
            title=title,
            rows=tuple(row for name, bins in data["bins"][scale].items() for row in bin_rows(bins, name)),
            options={"x": axis, "y": "share of the values", "log": True},
            reading="'All' counts every neuron of every image, 'lowest of each image' only its most sensitive neuron. Further "
            "left is more sensitive. Shares are of all values; what is missing to 100 % is infinite.",
        )


_INFINITE = (
    "Share of (image, neuron) pairs where no feasible change of that neuron alone changes the prediction. The interval takes "
    "pairs as independent."
)


def _neurons(data: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    values = data["by_neuron"]["scaled"]
    order = sorted((value, neuron) for neuron, value in enumerate(values) if value is not None)
    return tuple(
        {"neuron": neuron, "value": value, "marked": "yes" if rank < TOP else "no"}
        for rank, (value, neuron) in enumerate(order)
    )


def _quantile_table(data: dict[str, Any]) -> Table:
    shares = tuple(Column(key=f"{share:g}", title=f"{100 * share:g} %", format=".4g") for share in QUANTILES)
    return Table(
        title="Quantiles",
        columns=(Column(key="what", title="Of"), Column(key="n", title="n"), *shares),
        rows=tuple(data["quantiles"]),
        caption="Infinite values are left out; n counts what is left.",
    )


def _orderings(data: dict[str, Any]) -> Table:
    return Table(
        title="Agreement of the orderings",
        columns=(
            Column(key="one", title="Ordering"),
            Column(key="other", title="Compared with"),
            Column(key="n", title="Images"),
            Column(key="spearman", title="Spearman", format=".3f"),
            Column(key="spearman_std", title="Spearman: deviation", format=".3f"),
            Column(key="overlap", title=f"Overlap of the top {min(TOP, data['neurons'])}", format=".1%"),
            Column(key="overlap_std", title="Overlap: deviation", format=".1%"),
            Column(key="chance", title="Overlap by chance", format=".1%"),
        ),
        rows=tuple(
            item | {"one": ORDERINGS[item["one"]], "other": ORDERINGS[item["other"]]} for item in data["orderings"]
        ),
        caption="Means over the images, with the standard deviation between images: the paper, its code and this tool rank "
        "neurons by different scores.",
    )


def _doubts(data: dict[str, Any]) -> tuple[Flag, ...]:
    doubts = []
    if data["unverified"]:
        doubts.append(
            Flag(
                name="delta not verified",
                severity="warning",
                message="Some Delta-values do not mark the point where the prediction changes.",
                evidence=f"{data['unverified']} failures at Delta (1 ± {MARGIN:g}).",
                remedy="The head's weights are too large or too close together for float64.",
            )
        )
    if data["tied"]:
        doubts.append(
            Flag(
                name="tied predictions",
                severity="warning",
                message="Some images have two equal highest logits: there is no prediction that could change.",
                evidence=f"{data['tied']} of {data['tied'] + data['images']} images.",
                remedy="The network may saturate or round its outputs.",
            )
        )
    return tuple(doubts)
