"""Clean features transplanted into adversarial passes: on the critical attacking route, and as many beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field

from auditor.analysis import Analysis, Finding, Pair, Subject
from auditor.flag import Flag
from auditor.influence.routes import Mode, count_of
from auditor.influence.selection import (
    CHOICES,
    Choice,
    RouteFrequency,
    Selector,
    clean_energy,
    descending,
    largest_filters,
    route_frequency,
)
from auditor.metrics import Rate
from auditor.probes.intervention import record, transplanted
from auditor.progress import part_of
from auditor.report.blocks import Column, Figure, Measures, Section, Table, Text
from auditor.statistics.tally import Tally, show_difference

FEW = 30
"""Fewer images that the attack broke say little about how many a transplant restores."""


class Condition(NamedTuple):
    """One transplant: how the channels were chosen, at which places of the route, and which share of each layer's channels."""

    choice: Choice
    layers: tuple[int, ...]
    width: float


class FeatureTransplant(Analysis):
    """How far clean features on the critical attacking route restore predictions (Li et al. 2021, Information Sciences).

    The adversarial image runs through the network, and some channels of a convolution are overwritten by what they put out
    for the clean image: more and more of one layer's channels (Fig. 3a), or a fixed share of the first layers (Fig. 3b).
    Controls overwrite as many channels: outside the route, at random, with the largest filters, with the strongest output.
    """

    title: ClassVar[str] = "Feature transplant"
    kind: Literal["feature_transplant"] = "feature_transplant"
    layers: int = Field(
        3, ge=1, le=50, description="Layers, evenly spread over the route, that are transplanted alone."
    )
    widths: int = Field(5, ge=1, le=20, description="Evenly spaced shares of a layer's channels, up to all of them.")
    first: int = Field(3, ge=0, le=50, description="How many of the first layers are transplanted together, at most.")
    width: float = Field(0.2, gt=0, le=1, description="Share of each layer's channels on the route of one image.")
    model_width: float = Field(0.3, gt=0, le=1, description="Share of each layer's channels on the model-level route.")
    mode: Mode = Field("serial", description="How routes pass residual blocks: as one chain, or along every edge.")

    @property
    def cost(self) -> float:
        alone = self.layers * (len(self.shares) * len(CHOICES) + 1)
        return 6.0 + alone + self.first * len(CHOICES)

    @property
    def shares(self) -> list[float]:
        """Shares of a layer's channels, ascending; that of the model-level route among them."""
        return sorted({(index + 1) / self.widths for index in range(self.widths)} | {self.model_width})

    def conditions(self, layers: int) -> list[Condition]:
        """Every transplant that is made in a route of so many layers."""
        alone = [(place,) for place in spread(self.layers, layers)]
        together = [tuple(range(count)) for count in range(1, min(self.first, layers) + 1)]
        made = [Condition(choice, at, share) for at in alone for share in self.shares for choice in CHOICES]
        made += [Condition(choice, at, self.model_width) for at in together for choice in CHOICES]
        return list(dict.fromkeys(made))

    def measure(self, subject: Subject) -> tuple[RouteFrequency, Tally]:
        """Outcome of every image under "clean", "adversarial" and each condition that could be met."""
        found = route_frequency(
            subject, width=self.width, mode=self.mode, on_progress=part_of(subject.on_progress, 0.0, 0.05)
        )
        energy = [descending(item) for item in clean_energy(subject, found.layers)]
        filters = largest_filters(subject.classifier, found.layers)
        selector = Selector({"route": found.order, "norm": filters, "energy": energy}, self.model_width, subject.seed)
        tally, done = Tally(), 0
        for pair in subject.pairs:
            for condition, hits in self._outcomes(subject, pair, found, selector):
                tally.add(condition, hits)
            done += len(pair.sample)
            subject.on_progress(0.05 + 0.95 * done / len(subject.pairs), self.title)
        return found, tally

    def _outcomes(
        self, subject: Subject, pair: Pair, found: RouteFrequency, selector: Selector
    ) -> Iterator[tuple[Any, torch.Tensor]]:
        classifier = subject.classifier
        x, x_adv = pair.x.to(classifier.dtype), pair.x_adv.to(classifier.dtype)
        conditions = self.conditions(len(found.layers))
        needed = {found.layers[place] for condition in conditions for place in condition.layers}
        features = record(classifier, x, needed)
        yield "clean", classifier.logits(x).argmax(1) == pair.labels
        yield "adversarial", classifier.logits(x_adv).argmax(1) == pair.labels
        for condition in conditions:
            masks = selector.masks(condition.choice, condition.layers, condition.width, pair.sample, x.device)
            if not masks:
                continue
            chosen = {found.layers[place]: mask for place, mask in zip(condition.layers, masks, strict=True)}
            with transplanted(classifier.network, features, chosen):
                yield condition, classifier.logits(x_adv).argmax(1) == pair.labels

    def run(self, subject: Subject) -> Finding:
        found, tally = self.measure(subject)
        broken = tally["clean"] & ~tally["adversarial"]
        rows = [
            self._row(condition, found, tally, broken)
            for condition in self.conditions(len(found.layers))
            if condition in tally
        ]
        data = {
            "images": len(broken),
            "broken": int(broken.sum()),
            "pairs": subject.pairs_from,
            "clean": tally.rate("clean"),
            "adversarial": tally.rate("adversarial"),
            "layers": [{"name": name, "channels": size} for name, size in zip(found.layers, found.sizes, strict=True)],
            "alone": spread(self.layers, len(found.layers)),
            "rows": rows,
        }
        return Finding(kind=self.kind, settings=self.settings(), data=data, flags=self._doubts(rows, data))

    def _row(self, condition: Condition, found: RouteFrequency, tally: Tally, broken: np.ndarray) -> dict[str, Any]:
        route = condition._replace(choice="route")
        return {
            "choice": condition.choice,
            "layers": list(condition.layers),
            "width": condition.width,
            "channels": sum(count_of(condition.width, found.sizes[place]) for place in condition.layers),
            "accuracy": tally.rate(condition),
            "restored": tally.rate(condition, broken),
            "route_minus_this": tally.difference(route, condition) if condition != route else None,
        }

    def section(self, finding: Finding) -> Section:
        data = finding.data
        names = [layer["name"] for layer in data["layers"]]
        clean, adversarial = (Rate.model_validate(data[key]) for key in ("clean", "adversarial"))
        alone = tuple(
            Figure(
                chart="lines",
                title=f"Transplant at layer {place + 1}, {names[place]}",
                rows=self._curves(data, place),
                options={
                    "x": "share of the layer's channels",
                    "y": "accuracy",
                    "x_format": ".0%",
                    "share": True,
                    "legend": "channels",
                },
                reading="Accuracy on adversarial images when that share of the layer's channels puts out what it does for the "
                "clean image. The route matters only where its line lies above all the others; the band is the 95 % interval. "
                "Outside the route there are too few channels for the larger shares.",
            )
            for place in data["alone"]
        )
        return Section(
            key=self.kind,
            title="Feature transplant on the critical attacking route",
            blocks=(
                Text(
                    text=f"Clean features put into the passes of {data['images']} adversarial images ({data['pairs']}), of "
                    f"which the attack broke {data['broken']}. The route is that of the same images' clean versions with "
                    "their true labels."
                ),
                Measures(
                    items=(
                        clean.measure("Accuracy, clean", higher_is_better=True),
                        adversarial.measure("Accuracy, adversarial", higher_is_better=True),
                    )
                ),
                *alone,
                *self._together(data, names),
            ),
        )

    def _curves(self, data: dict[str, Any], place: int) -> tuple[dict[str, Any], ...]:
        """One line per way to choose, from nothing transplanted on."""
        return tuple(
            {"x": x, "series": title, **rate}
            for choice, title in CHOICES.items()
            for x, rate in [(0.0, data["adversarial"])]
            + [
                (row["width"], row["accuracy"])
                for row in data["rows"]
                if row["choice"] == choice and row["layers"] == [place]
            ]
        )

    def _together(self, data: dict[str, Any], names: list[str]) -> tuple[Table, ...]:
        firsts = [row for row in data["rows"] if row["layers"] == list(range(len(row["layers"])))]
        rows = tuple(
            {
                "layers": ", ".join(names[place] for place in row["layers"]),
                "choice": CHOICES[row["choice"]],
                "channels": row["channels"],
                "accuracy": str(Rate.model_validate(row["accuracy"])),
                "restored": str(Rate.model_validate(row["restored"])),
                "difference": show_difference(row["route_minus_this"]),
            }
            for row in sorted(firsts, key=lambda row: len(row["layers"]))
            if row["width"] == self.model_width
        )
        if not rows:
            return ()
        return (
            Table(
                title=f"Transplant of {100 * self.model_width:g} % of the channels of the first layers",
                columns=(
                    Column(key="layers", title="Layers"),
                    Column(key="choice", title="Channels"),
                    Column(key="channels", title="Count"),
                    Column(key="accuracy", title="Accuracy"),
                    Column(key="restored", title="Restored of those broken"),
                    Column(key="difference", title="Route minus this, points"),
                ),
                rows=rows,
                caption="Intervals at 95 %. Restored: correct again among the images that were correct when clean and wrong when "
                "attacked. The last column compares the route's accuracy with the control's on the same images.",
            ),
        )

    def _doubts(self, rows: list[dict[str, Any]], data: dict[str, Any]) -> tuple[Flag, ...]:
        if data["broken"] < FEW:
            return (
                Flag(
                    name="few broken images",
                    severity="warning",
                    message="The attack broke too few images to tell what a transplant restores.",
                    evidence=f"{data['broken']} of {data['images']} images were correct when clean and wrong when attacked.",
                    remedy="Take more images, or a stronger attack for the analyses.",
                ),
            )
        first = [row for row in rows if row["layers"] == [0] and row["width"] == self.model_width]
        equal = [row for row in first if row["route_minus_this"] and row["route_minus_this"]["low"] <= 0]
        if not equal:
            return ()
        return (
            Flag(
                name="route no better than a control",
                severity="warning",
                message="At the first layer the route restores no more images than as many channels chosen otherwise.",
                evidence="; ".join(
                    f"{CHOICES[row['choice']]}: route minus this {show_difference(row['route_minus_this'])} points"
                    for row in equal
                ),
                remedy="Do not read the transplant as evidence that perturbations travel along the route.",
            ),
        )


def spread(count: int, size: int) -> list[int]:
    """At most ``count`` places among ``size``, evenly spread, the first and the last among them (the first alone if one)."""
    return sorted({round(place) for place in np.linspace(0, size - 1, min(count, size)).tolist()})
