"""Pruning curves of the last layer: accuracy without its most sensitive, least sensitive or random neurons."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from auditor.analysis import Analysis, Finding, Subject
from auditor.classifier import finite
from auditor.delta.values import Activations, Feasible, activations_of, deltas_of, ordered
from auditor.flag import Flag
from auditor.metrics import Rate
from auditor.probes.head import Head, head_of, penultimate
from auditor.randomness import derive_seed
from auditor.report.blocks import Column, Figure, Section, Table, Text

SHOWN = 0.2
"""Share pruned at which the ranking is compared with chance: the share that the paper names."""
ALPHA = 0.05


class NeuronPruning(Analysis):
    """Accuracy as last-layer neurons are removed in the order of their Delta (Suri and Evans 2020, arXiv 2003.09372).

    Columns of the last layer's weights are set to zero for the N neurons with the lowest, the highest or random mean
    |Delta| / σ over the images. Neurons without one, which never vary or have no finite Delta, go last in every order: random
    ones among them would make any order look harmful. If sensitive neurons carried the vulnerability and not the accuracy,
    removing them would help; the paper finds that it does not.
    """

    title: ClassVar[str] = "Neuron pruning"
    changes: ClassVar[tuple[str, ...]] = (
        "Neurons that never vary or have no finite Delta counted as the least sensitive, and random orders drew them, too, which "
        "made the control weaker where there are any. Audit again for the right numbers.",
    )
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

    @property
    def cost(self) -> float:
        return 4.0

    def run(self, subject: Subject) -> Finding:
        classifier, head = subject.classifier, head_of(subject.classifier)
        activations = activations_of(classifier, head, subject.pairs)
        sensitivity = self._sensitivity(subject, head, activations)
        neurons = len(sensitivity)
        counts = [round(neurons * step / self.steps) for step in range(self.steps + 1)]
        most = ordered(sensitivity)
        ranked, rest = most.split([int(sensitivity.isfinite().sum()), int(sensitivity.isinf().sum())])
        orders = {"most": most, "least": torch.cat([ranked.flip(0), rest])} | {
            f"random {draw}": torch.cat([ranked.sort().values[_shuffled(len(ranked), subject.seed, draw)], rest])
            for draw in range(1, self.draws + 1)
        }
        keep = torch.stack([_kept(order, counts) for order in orders.values()])
        hits = torch.zeros(2, *keep.shape[:2], dtype=torch.int64, device=keep.device)
        done = 0
        for pair in subject.pairs:
            for row, x in enumerate((pair.x, pair.x_adv)):
                hits[row] += _right(subject, head, x, pair.labels, keep)
            done += len(pair.sample)
            subject.on_progress(0.5 + 0.5 * done / len(subject.pairs), self.title)
        data = {
            "layer": head.name,
            "neurons": neurons,
            "images": activations.images,
            "twins": subject.pairs_from,
            "unranked": len(rest),
            "pruned": counts,
            "clean": dict(zip(orders, hits[0].tolist(), strict=True)),
            "attacked": dict(zip(orders, hits[1].tolist(), strict=True)),
        }
        return Finding(kind=self.kind, settings=self.settings(), data=data, flags=_doubts(data), revision=self.revision)

    def section(self, finding: Finding) -> Section:
        data = finding.data
        return Section(
            key=self.kind,
            title="Pruning the last layer",
            blocks=(
                Text(
                    text=f"Inputs of {data['layer']} ({data['neurons']} neurons) are removed in the order of their mean |Δ| / σ "
                    f"over {data['images']} images, and accuracy is taken on the same images. {data['unranked']} neurons never "
                    f"vary or have no finite Δ, and come last in every order. The attacked images were made for the whole "
                    f"network and are only shown to the pruned one (transfer): {data['twins']}."
                ),
                _figure(data, "clean", "Accuracy on clean images"),
                _figure(data, "attacked", "Accuracy on images attacked for the whole network"),
                _table(data),
            ),
        )

    def _sensitivity(self, subject: Subject, head: Head, activations: Activations) -> Tensor:
        """Mean |Delta| / σ of each neuron over the images where it is finite, (M,); inf where it nowhere is or σ = 0."""
        total, finite_ = torch.zeros_like(activations.mean), torch.zeros_like(activations.mean)
        floor = activations.floor(self.feasible)
        for pair in subject.pairs:
            _, deltas = deltas_of(subject.classifier, head, pair.x, floor)
            known = deltas.value.isfinite()
            total += deltas.value.abs().masked_fill(~known, 0.0).sum(0)
            finite_ += known.sum(0)
        return torch.where((finite_ > 0) & (activations.std > 0), total / finite_ / activations.std, torch.inf)


def _shuffled(count: int, seed: int, draw: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(derive_seed(seed, "pruning", draw)))


def _kept(order: Tensor, counts: list[int]) -> Tensor:
    """Which neurons stay when the first so many of an order go, bool (counts, M)."""
    rank = order.argsort()
    return rank >= torch.tensor(counts, device=order.device)[:, None]


def _right(subject: Subject, head: Head, x: Tensor, labels: Tensor, keep: Tensor) -> Tensor:
    """Images classified as labelled, int64 (orders, counts): zero features do what zero columns of the weights would."""
    with torch.no_grad():
        features, logits = penultimate(subject.classifier, head, x.to(subject.classifier.dtype))
        finite(logits)
        rows = [
            torch.stack(
                [
                    (functional.linear(features * kept, head.weight, head.bias).argmax(1) == labels).sum()
                    for kept in order
                ]
            )
            for order in keep
        ]
    return torch.stack(rows)


_SERIES = {"most": "most sensitive first", "least": "least sensitive first", "random": "random order"}


def _rates(data: dict[str, Any], images: str, point: int) -> dict[str, dict[str, Any]]:
    """Value and interval at a point of each curve; of the random orders the mean, and the lowest and the highest."""
    hits = {name: each[point] for name, each in data[images].items()}
    shares = [each / data["images"] for name, each in hits.items() if name.startswith("random")]
    return {
        "most": Rate.count(hits["most"], data["images"]).model_dump(exclude={"hits"}),
        "least": Rate.count(hits["least"], data["images"]).model_dump(exclude={"hits"}),
        "random": {
            "value": sum(shares) / len(shares), "low": min(shares), "high": max(shares), "n": data["images"],
        },
    }  # fmt: skip


def _figure(data: dict[str, Any], images: str, title: str) -> Figure:
    return Figure(
        chart="lines",
        title=title,
        rows=tuple(
            {"x": pruned / data["neurons"], "series": series} | _rates(data, images, point)[name]
            for name, series in _SERIES.items()
            for point, pruned in enumerate(data["pruned"])
        ),
        options={"x": "share of the neurons pruned", "y": "accuracy", "x_format": ".0%", "share": True},
        reading="Where 'most sensitive first' falls faster than 'random order', Δ finds neurons that the predictions rest on. "
        f"Bands are 95 % Wilson intervals; the random band goes from the worst to the best of {_draws(data)} orders.",
    )


def _table(data: dict[str, Any]) -> Table:
    rows = []
    for point, pruned in enumerate(data["pruned"]):
        rates = {images: _rates(data, images, point) for images in ("clean", "attacked")}
        rows.append(
            {"pruned": pruned, "share": pruned / data["neurons"]}
            | {f"{images} {name}": rates[images][name]["value"] for images in rates for name in _SERIES}
        )
    columns = tuple(
        Column(key=f"{images} {name}", title=f"{images}, {series}", format=".1%")
        for images in ("clean", "attacked")
        for name, series in _SERIES.items()
    )
    return Table(
        title="Accuracy by neurons pruned",
        columns=(Column(key="pruned", title="Pruned"), Column(key="share", title="Share", format=".0%"), *columns),
        rows=tuple(rows),
        caption=f"n = {data['images']}. Random: mean of {_draws(data)} orders.",
    )


def _draws(data: dict[str, Any]) -> int:
    return sum(name.startswith("random") for name in data["clean"])


def _doubts(data: dict[str, Any]) -> tuple[Flag, ...]:
    """The control: at the share that the paper names, does the order matter? If it did not, it would be the worst of so many
    random ones with probability 1 / (draws + 1)."""
    point = min(range(len(data["pruned"])), key=lambda place: abs(data["pruned"][place] / data["neurons"] - SHOWN))
    most = data["clean"]["most"][point]
    as_bad = sum(hits[point] <= most for name, hits in data["clean"].items() if name.startswith("random"))
    chance = (1 + as_bad) / (1 + _draws(data))
    if chance < ALPHA:
        return ()
    rates = _rates(data, "clean", point)
    return (
        Flag(
            name="pruning order does not matter",
            severity="info",
            message="Removing the most sensitive neurons does not clearly cost more accuracy than removing random ones.",
            evidence=f"{data['pruned'][point]} of {data['neurons']} neurons: {100 * rates['most']['value']:.1f} % against "
            f"{100 * rates['random']['value']:.1f} %, n = {data['images']}; {as_bad} of {_draws(data)} random orders cost as "
            f"much (p = {chance:.2f}).",
            remedy="Do not read Δ as a ranking of what the predictions rest on; or measure on more images.",
        ),
    )
