"""Channels of the critical attacking route switched off, and the connections between them weakened; controls beside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from auditor.analysis import Analysis, Finding, Pair, Subject
from auditor.flag import Flag
from auditor.influence.routes import Mode
from auditor.influence.selection import (
    CHOICES,
    Choice,
    RouteFrequency,
    Selector,
    largest_filters,
    route_frequency,
    silent_filters,
)
from auditor.metrics import Rate
from auditor.probes.intervention import Connections, connects, silenced, weakened
from auditor.progress import part_of
from auditor.report.blocks import AnyBlock, Column, Figure, Measures, Section, Table, Text
from auditor.statistics.tally import Tally, show_difference

CONTROLS: tuple[Choice, ...] = ("outside", "random", "norm")
IMAGES = {"clean": "clean images", "adversarial": "adversarial images"}


class Condition(NamedTuple):
    """``what``: "silence" a share ``amount`` of every layer's channels, or "weaken" connections to the factor ``amount``."""

    what: Literal["silence", "weaken"]
    choice: Choice
    amount: float


class RouteDeactivation(Analysis):
    """How far a network depends on its critical attacking route (Li et al. 2021, Information Sciences).

    More and more of every layer's channels put out zero (Fig. 4a), or the weights between the model-level route's channels of
    neighbouring layers are multiplied by a factor (Fig. 4b), on clean and adversarial images. Controls touch as many channels,
    or connect as many, outside the route, at random, and with the largest filters.
    """

    title: ClassVar[str] = "Route deactivation"
    kind: Literal["route_deactivation"] = "route_deactivation"
    widths: int = Field(5, ge=0, le=20, description="Evenly spaced shares of every layer's channels that are silenced.")
    largest: float = Field(0.3, gt=0, le=1, description="Largest share of every layer's channels that is silenced.")
    betas: int = Field(4, ge=0, le=20, description="Evenly spaced factors of the weakened connections, down to 0.")
    width: float = Field(0.2, gt=0, le=1, description="Share of each layer's channels on the route of one image.")
    model_width: float = Field(0.3, gt=0, le=1, description="Share of each layer's channels on the model-level route.")
    mode: Mode = Field("serial", description="How routes pass residual blocks: as one chain, or along every edge.")

    @property
    def cost(self) -> float:
        return 7.0 + 2 * (self.widths + 2 * self.betas) * (1 + len(CONTROLS))

    @property
    def conditions(self) -> list[Condition]:
        """Every intervention, the route's before its controls."""
        amounts: list[tuple[Literal["silence", "weaken"], float]] = [
            ("silence", self.largest * (step + 1) / self.widths) for step in range(self.widths)
        ]
        amounts += [("weaken", 1 - (step + 1) / self.betas) for step in range(self.betas)]
        return [Condition(what, choice, amount) for what, amount in amounts for choice in ("route", *CONTROLS)]

    def measure(self, subject: Subject) -> tuple[RouteFrequency, Tally]:
        """Outcome of every image, by (images, condition); the condition None is the network as it is."""
        found = route_frequency(
            subject, width=self.width, mode=self.mode, on_progress=part_of(subject.on_progress, 0.0, 0.05)
        )
        orders = {"route": found.order, "norm": largest_filters(subject.classifier, found.layers)}
        silent = silent_filters(subject.classifier, found.layers)
        selector = Selector(orders, self.model_width, subject.seed, silent)
        tally, done = Tally(), 0
        for pair in subject.pairs:
            both = torch.cat([pair.x, pair.x_adv]).to(subject.classifier.dtype)
            labels = pair.labels.repeat(2)
            for condition, intervention in self._interventions(subject, pair, found, selector):
                with intervention:
                    hits = subject.classifier.logits(both).argmax(1) == labels
                for images, part in zip(IMAGES, hits.chunk(2), strict=True):
                    tally.add((images, condition), part)
            done += len(pair.sample)
            subject.on_progress(0.05 + 0.95 * done / len(subject.pairs), self.title)
        return found, tally

    def _interventions(
        self, subject: Subject, pair: Pair, found: RouteFrequency, selector: Selector
    ) -> Iterator[tuple[Condition | None, AbstractContextManager[None]]]:
        network = subject.classifier.network
        yield None, silenced(network, {})
        for condition in self.conditions:
            width = condition.amount if condition.what == "silence" else self.model_width
            masks = selector.masks(condition.choice, range(len(found.layers)), width, pair.sample, pair.x.device)
            if not masks:
                continue
            chosen = dict(zip(found.layers, (_for_both(mask) for mask in masks), strict=True))
            if condition.what == "silence":
                yield condition, silenced(network, chosen)
            elif edges := connected(network, found):
                connections = {layer: Connections(chosen[before], chosen[layer]) for before, layer in edges}
                yield condition, weakened(network, connections, condition.amount)

    def run(self, subject: Subject) -> Finding:
        found, tally = self.measure(subject)
        rows = [
            self._row(images, condition, tally)
            for condition in self.conditions
            for images in IMAGES
            if (images, condition) in tally
        ]
        edges = connected(subject.classifier.network, found)
        data = {
            "images": found.images,
            "pairs": subject.pairs_from,
            "untouched": {images: tally.rate((images, None)) for images in IMAGES},
            "layers": [{"name": name, "channels": size} for name, size in zip(found.layers, found.sizes, strict=True)],
            "edges": len(edges),
            "rows": rows,
        }
        return Finding(
            kind=self.kind, settings=self.settings(), data=data, flags=(*_unconnected(found, edges), *_doubts(rows))
        )

    def _row(self, images: str, condition: Condition, tally: Tally) -> dict[str, Any]:
        route = condition._replace(choice="route")
        return condition._asdict() | {
            "images": images,
            "accuracy": tally.rate((images, condition)),
            "route_minus_this": tally.difference((images, route), (images, condition)) if condition != route else None,
        }

    def section(self, finding: Finding) -> Section:
        data = finding.data
        untouched = {images: Rate.model_validate(rate) for images, rate in data["untouched"].items()}
        blocks: list[AnyBlock] = [
            Text(
                text=f"Accuracy on {data['images']} images and their twins ({data['pairs']}) while channels of all "
                f"{len(data['layers'])} layers of the route are switched off, or the connections between them weakened. The "
                "route is that of the clean images with their true labels."
            ),
            Measures(
                items=tuple(
                    rate.measure(f"Accuracy, {IMAGES[images]}", higher_is_better=True)
                    for images, rate in untouched.items()
                )
            ),
        ]
        for what, title, x, whole in _FIGURES:
            rows = [row for row in data["rows"] if row["what"] == what]
            if not rows:
                continue
            for images, name in IMAGES.items():
                blocks.append(
                    Figure(
                        chart="lines",
                        title=f"{title}: {name}",
                        rows=_curves(rows, images, data["untouched"][images], whole),
                        options={"x": x, "y": "accuracy", "x_format": ".0%", "share": True, "legend": "channels"},
                        reading=_READING[what],
                    )
                )
            blocks.append(_table(title, rows, x))
        return Section(key=self.kind, title="Deactivating the critical attacking route", blocks=tuple(blocks))


_FIGURES = (
    ("silence", "Channels switched off", "share of every layer's channels switched off", 0.0),
    ("weaken", "Connections weakened", "factor on the weights (100 %: the network as it is)", 1.0),
)
_READING = {
    "silence": "Accuracy when that share of every layer's channels puts out zero. The network depends on the route more than on "
    "other channels only where the route's line lies below the others; bands are 95 % intervals.",
    "weaken": "Accuracy when the weights from the chosen channels of each layer to those of the next are multiplied by the "
    "factor. The connections matter only where the route's line lies below the others; bands are 95 % intervals.",
}


def connected(network: torch.nn.Module, found: RouteFrequency) -> list[tuple[str, str]]:
    """Neighbouring layers of the route of which the second has one group of weights for each channel of the first."""
    neighbours = zip(found.layers, found.layers[1:], found.sizes, strict=False)
    return [(before, layer) for before, layer, size in neighbours if connects(network, layer, size)]


def _for_both(mask: Tensor) -> Tensor:
    """For clean and adversarial images side by side."""
    return mask if len(mask) == 1 else mask.repeat(2, 1)


def _curves(
    rows: list[dict[str, Any]], images: str, untouched: dict[str, Any], whole: float
) -> tuple[dict[str, Any], ...]:
    """One line per way to choose, from the network as it is on."""
    return tuple(
        {"x": x, "series": CHOICES[choice], **rate}
        for choice in ("route", *CONTROLS)
        for x, rate in [
            (whole, untouched),
            *((row["amount"], row["accuracy"]) for row in rows if (row["choice"], row["images"]) == (choice, images)),
        ]
    )


def _table(title: str, rows: list[dict[str, Any]], amount: str) -> Table:
    """One row per amount and kind of images; the controls side by side."""
    found = {(row["amount"], row["images"], row["choice"]): row for row in rows}
    return Table(
        title=f"{title}: the route against its controls",
        columns=(
            Column(key="amount", title=amount.split(" (")[0].capitalize(), format=".0%"),
            Column(key="images", title="Images"),
            Column(key="route", title="Accuracy, route"),
            *(Column(key=control, title=f"Route minus {CHOICES[control]}") for control in CONTROLS),
        ),
        rows=tuple(
            {
                "amount": row["amount"],
                "images": row["images"],
                "route": str(Rate.model_validate(row["accuracy"])),
                **{
                    control: show_difference(found[row["amount"], row["images"], control]["route_minus_this"])
                    for control in CONTROLS
                    if (row["amount"], row["images"], control) in found
                },
            }
            for row in rows
            if row["choice"] == "route"
        ),
        caption="Differences of accuracy in percentage points on the same images, intervals at 95 %: below 0 the network "
        "suffers more from what is done to the route. No difference where too few channels lie outside the route.",
    )


def _doubts(rows: list[dict[str, Any]]) -> tuple[Flag, ...]:
    """A control that hurts clean accuracy as much as the route does, at every amount."""
    flags = []
    for what, title, _, _ in _FIGURES:
        for control in CONTROLS:
            differences = [
                row["route_minus_this"]
                for row in rows
                if (row["what"], row["choice"], row["images"]) == (what, control, "clean")
            ]
            if differences and not any(item["high"] < 0 for item in differences):
                flags.append(
                    Flag(
                        name=f"{what}: route no worse than {control}",
                        severity="warning",
                        message=f"{title}: the route hurts clean accuracy no more than as many channels chosen "
                        f"{_CHOSEN[control]}.",
                        evidence=f"Route minus this, at each of {len(differences)} amounts: "
                        + "; ".join(show_difference(item) for item in differences),
                        remedy="Do not read the loss of accuracy as evidence that the route is special.",
                    )
                )
    return tuple(flags)


_CHOSEN = {"outside": "outside it", "random": "at random", "norm": "by the size of their filters"}


def _unconnected(found: RouteFrequency, edges: list[tuple[str, str]]) -> tuple[Flag, ...]:
    missing = len(found.layers) - 1 - len(edges)
    if missing <= 0:
        return ()
    return (
        Flag(
            name="connections left out",
            severity="info",
            message="Some neighbouring layers of the route are not connected channel by channel; they were not weakened.",
            evidence=f"{missing} of {len(found.layers) - 1} pairs of layers.",
        ),
    )
