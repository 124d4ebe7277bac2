"""Delta-values of interior neurons: how far one channel must move to change the prediction, searched and verified."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from auditor.kit.flag import Flag
from auditor.neural.analysis import Analysis, NeuronMeasure, Subject
from auditor.neural.delta.crossings import MARGIN
from auditor.neural.delta.search import InteriorDeltas, InteriorSearch
from auditor.neural.delta.summary import SearchedLayer, SearchedNeuron
from auditor.neural.delta.survey import Choose, layers_to_search
from auditor.neural.figures import layer_lines, neuron_values, value_rows
from auditor.neural.found import table
from auditor.show.blocks import AnyBlock, Column, Measure, Measures, Text

LAYERS = 6
"""Layers that are looked at, at most, unless they are named."""
PRECISE = 7 * 8
"""What narrowing a value down and verifying it costs: seven passes in float64, each as long as eight in float32."""
CHOICE: dict[Choose, str] = {"evenly": "evenly spaced", "gradient": "smallest first-order estimate"}


class InteriorDelta(Analysis[InteriorDeltas]):
    """How far one interior neuron must move to change the prediction (after Suri and Evans 2020, arXiv 2003.09372).

    Delta, which the paper defines for any neuron and computes for the last layer, is searched for in any layer: a number is
    added to all of a channel's output map until the prediction changes. The first crossing on a geometric grid, in both
    directions, is narrowed down and verified in float64: Delta (1 + 1e-4) changes the prediction, Delta (1 - 1e-4) does not.
    """

    title: ClassVar[str] = "Delta-values of interior neurons"
    kind: Literal["interior_delta"] = "interior_delta"
    layers: str = Field(
        "",
        description="Names of the layers, separated by +; empty: the last activation at each size of map, at most 6.",
    )
    neurons: int = Field(16, ge=1, le=4096, description="Maximum neurons of each layer.")
    choose: Choose = Field(
        "evenly",
        description="Which neurons: evenly spaced over the layer, or those with the smallest first-order estimate of Delta.",
    )
    images: int = Field(32, ge=1, le=10_000, description="Maximum images, evenly spaced over the samples.")
    bound: float = Field(
        10.0, gt=0, le=1e6, description="Largest change that is tried, in the neuron's standard deviations."
    )
    points: int = Field(
        20,
        ge=2,
        le=10_000,
        description="Changes tried in each direction, in equal ratios over two decades; a change of prediction below those is "
        "found too, unless the prediction has changed back before the first of them.",
    )

    def cost(self, images: int) -> float:
        each = LAYERS * self.neurons * (2 * self.points + PRECISE)
        return images + each * min(images, self.images)

    def find(self, subject: Subject) -> InteriorDeltas:
        search = InteriorSearch(self.images, self.neurons, self.choose, self.bound, self.points)
        return search(subject, layers_to_search(subject.classifier, self.layers, LAYERS), self.title)

    def doubts(self, found: InteriorDeltas) -> Iterator[Flag]:
        failed = sum(layer.failed for layer in found.layers)
        if failed:
            values = sum(layer.pairs - layer.infinite for layer in found.layers)
            yield Flag(
                name="interior delta not verified",
                severity="warning",
                message="Some interior Delta-values do not mark a clean change of the prediction.",
                evidence=f"{failed} failures at Delta (1 ± {MARGIN:g}) among {values} values.",
                remedy="The prediction changes and changes back within that margin there; read these values as approximate.",
            )

    def blocks(self, found: InteriorDeltas) -> Iterator[AnyBlock]:
        yield Text(
            text=f"The smallest number that, added to all of one neuron's output map, changes the prediction: on "
            f"{found.images} clean images, for at most {self.neurons} neurons of each layer ({CHOICE[self.choose]}), up to "
            f"{self.bound:g} standard deviations (σ) of the neuron's output in either direction. No attack is involved. "
            f"{found.tied} images with two equal highest logits are left out."
        )
        yield layer_lines(
            "Delta-values of each layer",
            [layer.model_dump(exclude={"chosen"}) for layer in found.layers],
            {"median": "all neurons (median)", "nearest": "most sensitive of each image (median)"},
            "|Δ| / σ",
            reading="Each point is one layer. Low means that a small change of a single neuron there changes the "
            f"prediction. A point is missing where more than half of the values lie beyond {self.bound:g} σ.",
            select="layer",
        )
        yield table(
            found.layers,
            "layer", "pairs", Column(key="beyond", title=f"Beyond {self.bound:g} σ"), "q25", "median", "q75",
            Column(key="rises", title="Rises, not falls"), "spearman",
            Column(key="within", title="First order within a factor 2"), Column(key="failed", title="Not verified"),
            title="What the search found",
            caption="A value is one neuron on one image; intervals treat values as independent. 'First order' is what "
                    "the "
            "gradient alone predicts, compared where both it and the search give a value. 'Not verified' counts values where "
            f"Δ (1 + {MARGIN:g}) does not change the prediction or Δ (1 − {MARGIN:g}) does.",
        )  # fmt: skip

    def detail(self, found: InteriorDeltas, path: tuple[str, ...]) -> Iterator[AnyBlock]:
        """The neurons of a layer, most sensitive first; or one of these neurons."""
        for layer in (item for item in found.layers if item.layer == path[0]):
            if len(path) > 1:
                yield from (self._neuron(layer, row) for row in layer.chosen if str(row.neuron) == path[1])
            else:
                yield from self._neurons(layer)

    def _neurons(self, layer: SearchedLayer) -> Iterator[AnyBlock]:
        yield Text(
            text=f"{layer.layer}: {layer.type}, {layer.neurons} neurons, {len(layer.chosen)} of them searched; "
            f"{layer.still} never vary on these images and have no σ to search by. {len(layer.ranked)} have a median within "
            f"{self.bound:g} σ."
        )
        yield neuron_values(
            f"Neurons of {layer.layer}, most sensitive first",
            value_rows(layer.ranked, layer.tenth),
            "median |Δ| / σ",
            "most sensitive tenth",
            reading="Each point is one neuron: the median over the images, values beyond the bound counting as the largest.",
            log=True,
        )

    def _neuron(self, layer: SearchedLayer, row: SearchedNeuron) -> Measures:
        median = f"beyond {self.bound:g}" if layer.median is None else f"{layer.median:.4g}"
        return Measures(
            items=(
                Measure(
                    title=f"Median |Δ| / σ of neuron {row.neuron}",
                    value=row.median,
                    n=row.images,
                    higher_is_better=True,
                    explanation=f"The layer's median is {median}.",
                ),
                Measure(title="Lowest |Δ| / σ", value=row.lowest, n=row.images, higher_is_better=True),
                row.beyond.measure(f"Beyond {self.bound:g} σ", higher_is_better=True),
                row.rises.measure("Rises, not falls"),
                Measure(
                    title="First-order estimate, median",
                    value=row.first_order,
                    n=row.images,
                    explanation="What the gradient alone predicts.",
                ),
                Measure(title="Standard deviation σ", value=row.std),
            )
        )

    def neuron_measures(self, found: InteriorDeltas) -> Iterator[NeuronMeasure]:
        yield NeuronMeasure(
            "delta", self.title, "median |Δ| / σ",
            "Small: a small change of this neuron alone changes the prediction. No value: not searched, or beyond "
            f"{self.bound:g} σ on half of the images.",
            "most sensitive tenth of those searched", tuple(layer.measured() for layer in found.layers),
        )  # fmt: skip
