"""Pruning curves of the last layer: accuracy without its most sensitive, least sensitive or random neurons."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from pydantic import Field

from auditor.kit.flag import Flag
from auditor.neural.analysis import Analysis, Subject
from auditor.neural.delta.pruning import (
    SERIES,
    PrunedOn,
    Pruning,
    PruningRow,
    kept,
    mean_scaled,
    orders_of,
    right_without,
)
from auditor.neural.delta.values import Feasible, activations_of
from auditor.neural.found import table
from auditor.neural.probes.head import head_of
from auditor.show.blocks import AnyBlock, Figure, Text

SHOWN = 0.2
"""Share pruned at which the ranking is compared with chance: the share that the paper names."""
ALPHA = 0.05


class NeuronPruning(Analysis[Pruning]):
    """Accuracy as last-layer neurons are removed in the order of their Delta (Suri and Evans 2020, arXiv 2003.09372).

    Columns of the last layer's weights are set to zero for the N neurons with the lowest, the highest or random mean
    |Delta| / σ over the images. Neurons without one, which never vary or have no finite Delta, go last in every order: random
    ones among them would make any order look harmful. If sensitive neurons carried the vulnerability and not the accuracy,
    removing them would help; the paper finds that it does not.
    """

    title: ClassVar[str] = "Neuron pruning"
    heading: ClassVar[str] = "Pruning the last layer"
    changes: ClassVar[tuple[str, ...]] = (
        "Neurons that never vary or have no finite Delta counted as the least sensitive, and random orders drew them, too, which "
        "made the control weaker where there are any. Audit again for the right numbers.",
    )
    passes: ClassVar[float] = 4.0
    kind: Literal["neuron_pruning"] = "neuron_pruning"
    steps: int = Field(
        10, ge=1, le=1000, description="Points of the curve after the first: shares 1/steps, 2/steps, ... 1."
    )
    draws: int = Field(
        20, ge=1, le=1000, description="Random orders, the control; 20 can tell an order from chance at 5 %."
    )
    feasible: Feasible = Field(
        "auto",
        description="Outputs that Delta may move a neuron to: any, nonnegative (behind a ReLU), or auto: nonnegative where no "
        "clean image ever gave a negative one.",
    )

    def find(self, subject: Subject) -> Pruning:
        classifier, head = subject.classifier, head_of(subject.classifier)
        activations = activations_of(classifier, head, subject.pairs)
        floor = activations.floor(self.feasible)
        sensitivity = mean_scaled(classifier, head, subject.pairs, activations, floor)
        neurons = len(sensitivity)
        counts = [round(neurons * step / self.steps) for step in range(self.steps + 1)]
        orders = orders_of(sensitivity, self.draws, subject.seed)
        keep = torch.stack([kept(order, counts) for order in orders.values()])
        hits = torch.zeros(2, *keep.shape[:2], dtype=torch.int64, device=keep.device)
        for pair in self.each(subject, 2, of=2):
            for row, x in enumerate((pair.x, pair.x_adv)):
                hits[row] += right_without(classifier, head, x, pair.labels, keep)
        return Pruning(
            layer=head.name,
            neurons=neurons,
            images=activations.images,
            twins=subject.pairs_from,
            unranked=int(sensitivity.isinf().sum()),
            pruned=tuple(counts),
            clean=dict(zip(orders, hits[0].tolist(), strict=True)),
            attacked=dict(zip(orders, hits[1].tolist(), strict=True)),
        )

    def doubts(self, found: Pruning) -> Iterator[Flag]:
        """The control: at the share that the paper names, does the order matter? If it did not, it would be the worst of so many
        random ones with probability 1 / (draws + 1)."""
        point = min(range(len(found.pruned)), key=lambda place: abs(found.pruned[place] / found.neurons - SHOWN))
        most, random = (100 * (found.rate("clean", order, point).value or 0.0) for order in ("most", "random"))
        as_bad = sum(
            hits[point] <= found.clean["most"][point] for name, hits in found.clean.items() if name.startswith("random")
        )
        chance = (1 + as_bad) / (1 + found.draws)
        if chance >= ALPHA:
            yield Flag(
                name="pruning order does not matter",
                severity="info",
                message="Removing the most sensitive neurons does not clearly cost more accuracy than removing random ones.",
                evidence=f"{found.pruned[point]} of {found.neurons} neurons: {most:.1f} % against {random:.1f} %, "
                f"n = {found.images}; {as_bad} of {found.draws} random orders cost as much (p = {chance:.2f}).",
                remedy="Do not read Δ as a ranking of the neurons that the predictions rest on, or measure on more "
                "images.",
            )

    def blocks(self, found: Pruning) -> Iterator[AnyBlock]:
        yield Text(
            text=f"Inputs of {found.layer} ({found.neurons} neurons) are removed in the order of their mean |Δ| / σ "
            f"over {found.images} images, and accuracy is taken on the same images. {found.unranked} neurons never "
            f"vary or have no finite Δ, and come last in every order. The attacked images were made for the whole "
            f"network and are only shown to the pruned one (transfer): {found.twins}."
        )
        yield _figure(found, "clean", "Accuracy on clean images")
        yield _figure(found, "attacked", "Accuracy on images attacked for the whole network")
        caption = f"n = {found.images}. Random: mean of {found.draws} orders."
        yield table(found.rows(), *PruningRow.model_fields, title="Accuracy by neurons pruned", caption=caption)


def _figure(found: Pruning, images: PrunedOn, title: str) -> Figure:
    return Figure(
        chart="lines",
        title=title,
        rows=tuple(
            {"x": pruned / found.neurons, "series": series}
            | found.rate(images, order, point).model_dump(exclude={"hits"})
            for order, series in SERIES.items()
            for point, pruned in enumerate(found.pruned)
        ),
        options={"x": "share of the neurons pruned", "y": "accuracy", "x_format": ".0%", "share": True},
        reading="Where 'most sensitive first' falls faster than 'random order', Δ finds neurons that the predictions rest on. "
        f"Bands are 95 % Wilson intervals; the random band goes from the worst to the best of {found.draws} orders.",
    )
