"""Channels of the critical attacking route switched off, and the connections between them weakened; and controls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from auditor.kit.flag import Flag
from auditor.kit.statistics.estimate import Rate
from auditor.kit.statistics.paired import in_points
from auditor.neural.analysis import Analysis, Subject
from auditor.neural.found import SIDES, Side, Sides
from auditor.neural.routes.deactivation import (
    SHOWN,
    Deactivation,
    DeactivationCondition,
    Intervention,
    InterventionChart,
    connected,
    deactivation_rows,
    outcomes,
)
from auditor.neural.routes.routes import Mode
from auditor.neural.routes.selection import CHOICES, Choice, route_frequency
from auditor.show.blocks import AnyBlock, Column, Figure, Measures, Table, Text

CONTROLS: dict[Choice, str] = {"outside": "outside it", "random": "at random", "norm": "by the size of their filters"}


class RouteDeactivation(Analysis[Deactivation]):
    """How far a network depends on its critical attacking route (Li et al. 2021, Information Sciences).

    More and more of every layer's channels put out zero (Fig. 4a), or the weights between the model-level route's channels of
    neighbouring layers are multiplied by a factor (Fig. 4b), on clean and adversarial images. Controls touch as many channels,
    or connect as many, outside the route, at random, and with the largest filters.
    """

    title: ClassVar[str] = "Route deactivation"
    heading: ClassVar[str] = "Deactivating the critical attacking route"
    kind: Literal["route_deactivation"] = "route_deactivation"
    widths: int = Field(5, ge=0, le=20, description="Evenly spaced shares of every layer's channels that are silenced.")
    largest: float = Field(0.3, gt=0, le=1, description="Largest share of every layer's channels that is silenced.")
    betas: int = Field(4, ge=0, le=20, description="Evenly spaced factors of the weakened connections, down to 0.")
    width: float = Field(0.2, gt=0, le=1, description="Share of each layer's channels on the route of one image.")
    model_width: float = Field(0.3, gt=0, le=1, description="Share of each layer's channels on the model-level route.")
    mode: Mode = Field("serial", description="How routes pass residual blocks: as one chain, or along every edge.")

    def cost(self, images: int) -> float:
        return (7 + 2 * (self.widths + 2 * self.betas) * (1 + len(CONTROLS))) * images

    @property
    def conditions(self) -> list[DeactivationCondition]:
        """Every intervention, the route's before its controls."""
        amounts: list[tuple[Intervention, float]] = [
            ("silence", self.largest * (step + 1) / self.widths) for step in range(self.widths)
        ]
        amounts += [("weaken", 1 - (step + 1) / self.betas) for step in range(self.betas)]
        return [
            DeactivationCondition(what, choice, amount) for what, amount in amounts for choice in ("route", *CONTROLS)
        ]

    def find(self, subject: Subject) -> Deactivation:
        classifier = subject.classifier
        found = route_frequency(subject.during(0.0, 0.05), width=self.width, mode=self.mode)
        pairs = self.each(subject.during(0.05, 1.0))
        tally = outcomes(classifier, pairs, found, self.conditions, self.model_width, subject.seed)
        return Deactivation(
            images=found.images,
            pairs=subject.pairs_from,
            untouched=Sides[Rate].of(lambda side: tally.rate((side, None))),
            layers=found.named,
            edges=len(connected(classifier.network, found)),
            rows=tuple(deactivation_rows(tally, self.conditions)),
        )

    def doubts(self, found: Deactivation) -> Iterator[Flag]:
        """Connections that were left out, and controls that hurt clean accuracy as much as the route does, at every amount."""
        pairs = len(found.layers) - 1
        if found.edges < pairs:
            yield Flag(
                name="connections left out",
                severity="info",
                message="Some neighbouring layers of the route are not connected channel by channel; they were not weakened.",
                evidence=f"{pairs - found.edges} of {pairs} pairs of layers.",
            )
        for what, shown in SHOWN.items():
            for control, chosen in CONTROLS.items():
                differences = [row.route_minus_this for row in found.of(what, "clean", control) if row.route_minus_this]
                if differences and all(item.high >= 0 for item in differences):
                    yield Flag(
                        name=f"{what}: route no worse than {control}",
                        severity="warning",
                        message=f"{shown.title}: the route hurts clean accuracy no more than as many channels chosen {chosen}.",
                        evidence=f"Route minus this, at each of {len(differences)} amounts: "
                        + "; ".join(map(in_points, differences)),
                        remedy="Do not read the loss of accuracy as evidence that the route is special.",
                    )

    def blocks(self, found: Deactivation) -> Iterator[AnyBlock]:
        yield Text(
            text=f"Accuracy on {found.images} images and their twins ({found.pairs}) while channels of all "
            f"{len(found.layers)} layers of the route are switched off, or the connections between them weakened. The "
            "route is that of the clean images with their true labels."
        )
        rates = ((f"Accuracy, {side} images", found.untouched[side]) for side in SIDES)
        yield Measures(items=tuple(rate.measure(title, higher_is_better=True) for title, rate in rates))
        for what, shown in SHOWN.items():
            if any(row.what == what for row in found.rows):
                yield from (_figure(what, shown, side, found) for side in SIDES)
                yield _table(what, shown, found)


def _figure(what: Intervention, shown: InterventionChart, side: Side, found: Deactivation) -> Figure:
    """One line per way to choose, from the network as it is on."""
    untouched = (shown.whole, found.untouched[side])
    return Figure(
        chart="lines",
        title=f"{shown.title}: {side} images",
        rows=tuple(
            {"x": x, "series": CHOICES[choice], **rate.model_dump()}
            for choice in ("route", *CONTROLS)
            for x, rate in (untouched, *((row.amount, row.accuracy) for row in found.of(what, side, choice)))
        ),
        options={"x": shown.amount, "y": "accuracy", "x_format": ".0%", "share": True, "legend": "channels"},
        reading=shown.reading,
    )


def _table(what: Intervention, shown: InterventionChart, found: Deactivation) -> Table:
    """One row per amount and kind of images; the controls side by side."""
    minus = {
        (row.amount, row.images, row.choice): in_points(row.route_minus_this) for row in found.rows if row.what == what
    }
    return Table(
        title=f"{shown.title}: the route against its controls",
        columns=(
            Column(key="amount", title=shown.amount.split(" (")[0].capitalize(), format=".0%"),
            Column(key="images", title="Images"),
            Column(key="route", title="Accuracy, route"),
            *(Column(key=control, title=f"Route minus {CHOICES[control]}") for control in CONTROLS),
        ),
        rows=tuple(
            {"amount": row.amount, "images": row.images, "route": str(row.accuracy)}
            | {control: minus.get((row.amount, row.images, control)) for control in CONTROLS}
            for row in found.rows
            if (row.what, row.choice) == (what, "route")
        ),
        caption="Differences of accuracy in percentage points on the same images, intervals at 95 %: below 0 the network "
        "suffers more from what is done to the route. No difference where too few channels lie outside the route.",
    )
