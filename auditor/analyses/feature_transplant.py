"""Clean features transplanted into adversarial passes: on the critical attacking route, and as many beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from auditor.analysis import Analysis, Finding, Pair, Subject
from auditor.classifier import Classifier
from auditor.flag import Flag
from auditor.influence.channel_sets import Channels, ChannelSets, masks_of, sets_of, standing
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
    silent_filters,
)
from auditor.metrics import Rate
from auditor.probes.intervention import record, transplanted
from auditor.progress import part_of
from auditor.randomness import derive_seed
from auditor.report.blocks import Column, Figure, Measures, Section, Table, Text
from auditor.report.channel_ranks import rank_of, rank_table
from auditor.statistics.tally import Tally, show_difference

FEW = 30
"""Fewer images that the attack broke say little about how many a transplant restores."""


RANKED: tuple[Choice, ...] = ("route", "norm", "energy")
"""Ways to choose that are one set of channels, the same for every image: these have a rank among the other sets."""
UNUSUAL = 0.05
"""Where more than this share of sets of channels restores as many images, the route is none in particular."""
AUDIT = 500
"""Samples that an audit gives its analyses unless told otherwise; the cost is spread over them."""


class Condition(NamedTuple):
    """One transplant: how the channels were chosen, at which places of the route, and which share of each layer's channels."""

    choice: Choice
    layers: tuple[int, ...]
    width: float


Layers = tuple[int, ...]
"""Places on the route that are transplanted together."""


class Measured(NamedTuple):
    """``tally``: outcome of every image under "clean", "adversarial" and each condition that could be met.

    ``sets``: by the layers, the sets of channels tried beside the route. ``restored``: how many of the first ``tried`` broken
    images each set restores, the route and its controls among them. ``chosen``: the channels of these.
    """

    found: RouteFrequency
    tally: Tally
    sets: dict[Layers, ChannelSets]
    chosen: dict[tuple[Layers, Choice], Channels]
    restored: dict[Layers, Counter[Channels]]
    tried: int


class FeatureTransplant(Analysis):
    """How far clean features on the critical attacking route restore predictions (Li et al. 2021, Information Sciences).

    The adversarial image runs through the network, and some channels of a convolution are overwritten by what they put out
    for the clean image: more and more of one layer's channels (Fig. 3a), or a fixed share of the first layers (Fig. 3b).
    Controls overwrite as many channels: outside the route, at random among all of the layer's (for each image anew), with the
    largest filters, with the strongest output. As most sets of channels restore nothing, the route is also ranked among all sets
    of as many channels of the first layers, or a random sample of them.
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
    sets: int = Field(
        100,
        ge=0,
        le=100_000,
        description="Sets of as many channels of the first layers that the route is ranked among: all if there are no more, "
        "else a random sample.",
    )
    ranked_images: int = Field(
        100,
        ge=1,
        le=1_000_000,
        description="Images that the attack broke on which sets of channels are ranked, at most.",
    )
    mode: Mode = Field("serial", description="How routes pass residual blocks: as one chain, or along every edge.")

    @property
    def cost(self) -> float:
        alone = self.layers * (len(self.shares) * len(CHOICES) + 1)
        ranked = (self.sets + len(RANKED)) * min(1.0, self.ranked_images / AUDIT) if self.sets else 0.0
        return 6.0 + alone + self.first * (len(CHOICES) + ranked)

    @property
    def shares(self) -> list[float]:
        """Shares of a layer's channels, ascending; that of the model-level route among them."""
        return sorted({(index + 1) / self.widths for index in range(self.widths)} | {self.model_width})

    def together(self, layers: int) -> list[Layers]:
        """The first layers of a route of so many: one, two, ..."""
        return [tuple(range(count)) for count in range(1, min(self.first, layers) + 1)]

    def conditions(self, layers: int) -> list[Condition]:
        """Every transplant that is made in a route of so many layers."""
        alone = [(place,) for place in spread(self.layers, layers)]
        together = self.together(layers)
        made = [Condition(choice, at, share) for at in alone for share in self.shares for choice in CHOICES]
        made += [Condition(choice, at, self.model_width) for at in together for choice in CHOICES]
        return list(dict.fromkeys(made))

    def measure(self, subject: Subject) -> Measured:
        """Every transplant; sets of channels beside the route on the first images that the attack broke."""
        found = route_frequency(
            subject, width=self.width, mode=self.mode, on_progress=part_of(subject.on_progress, 0.0, 0.05)
        )
        energy = [descending(item) for item in clean_energy(subject, found.layers)]
        filters = largest_filters(subject.classifier, found.layers)
        orders: dict[str, list[NDArray[np.int64]]] = {"route": found.order, "norm": filters, "energy": energy}
        silent = silent_filters(subject.classifier, found.layers)
        selector = Selector(orders, self.model_width, subject.seed, silent)
        sets = self._sets(found, subject.seed)
        chosen = {
            (layers, choice): tuple(self._first_of(orders[choice][place]) for place in layers)
            for layers in sets
            for choice in RANKED
        }
        restored: dict[Layers, Counter[Channels]] = {layers: Counter() for layers in sets}
        tally, done, tried = Tally(), 0, 0
        for pair in subject.pairs:
            passes = _Passes.of(subject.classifier, pair, found, self._needed(found))
            clean, adversarial = passes.answers()
            tally.add("clean", clean)
            tally.add("adversarial", adversarial)
            for condition in self.conditions(len(found.layers)):
                masks = selector.masks(condition.choice, condition.layers, condition.width, pair.sample, pair.x.device)
                if masks:
                    tally.add(condition, passes.transplanted(condition.layers, masks))
            broken = (clean & ~adversarial).nonzero()[:, 0][: self.ranked_images - tried]
            tried += len(broken)
            for layers in sets if len(broken) else ():
                sizes = [found.sizes[place] for place in layers]
                wanted = {*sets[layers].sets, *(chosen[layers, choice] for choice in RANKED)}
                for channels in sorted(wanted):
                    right = passes.transplanted(layers, masks_of(channels, sizes, pair.x.device), broken)
                    restored[layers][channels] += int(right.sum())
            done += len(pair.sample)
            subject.on_progress(0.05 + 0.95 * done / len(subject.pairs), self.title)
        return Measured(found, tally, sets, chosen, restored, tried)

    def _needed(self, found: RouteFrequency) -> set[str]:
        """The layers whose clean features are transplanted."""
        return {found.layers[place] for condition in self.conditions(len(found.layers)) for place in condition.layers}

    def _first_of(self, order: NDArray[np.int64]) -> tuple[int, ...]:
        return tuple(sorted(order[: count_of(self.model_width, len(order))].tolist()))

    def _sets(self, found: RouteFrequency, seed: int) -> dict[Layers, ChannelSets]:
        sets = {}
        for layers in self.together(len(found.layers)) if self.sets else ():
            sizes = [found.sizes[place] for place in layers]
            counts = [count_of(self.model_width, size) for size in sizes]
            sets[layers] = sets_of(counts, sizes, self.sets, derive_seed(seed, "sets of channels", len(layers)))
        return sets

    def run(self, subject: Subject) -> Finding:
        seen = self.measure(subject)
        found, tally = seen.found, seen.tally
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
            "ranks": [_ranks(seen, layers) for layers in seen.sets if seen.tried],
        }
        return Finding(kind=self.kind, settings=self.settings(), data=data, flags=self._doubts(data))

    def _row(
        self, condition: Condition, found: RouteFrequency, tally: Tally, broken: NDArray[np.bool_]
    ) -> dict[str, Any]:
        route = condition._replace(choice="route")
        compared = condition != route
        return {
            "choice": condition.choice,
            "layers": list(condition.layers),
            "width": condition.width,
            "channels": sum(count_of(condition.width, found.sizes[place]) for place in condition.layers),
            "accuracy": tally.rate(condition),
            "restored": tally.rate(condition, broken),
            "route_minus_this": tally.difference(route, condition) if compared else None,
            "restored_minus_this": tally.difference(route, condition, broken) if compared and broken.any() else None,
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
                *rank_table(data, names),
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
        # Findings made before differences were taken among the broken images have those over all images alone.
        older = any("restored_minus_this" not in row for row in firsts)
        key = "route_minus_this" if older else "restored_minus_this"
        rows = tuple(
            {
                "layers": ", ".join(names[place] for place in row["layers"]),
                "choice": CHOICES[row["choice"]],
                "channels": row["channels"],
                "accuracy": str(Rate.model_validate(row["accuracy"])),
                "restored": str(Rate.model_validate(row["restored"])),
                "difference": show_difference(row[key]),
            }
            for row in sorted(firsts, key=lambda row: len(row["layers"]))
            if row["width"] == self.model_width
        )
        if not rows:
            return ()
        what = "accuracy on all images" if older else "restored"
        return (
            Table(
                title=f"Transplant of {100 * self.model_width:g} % of the channels of the first layers",
                columns=(
                    Column(key="layers", title="Layers"),
                    Column(key="choice", title="Channels"),
                    Column(key="channels", title="Count"),
                    Column(key="accuracy", title=f"Accuracy, of all {data['images']}"),
                    Column(key="restored", title=f"Restored, of the {data['broken']} broken"),
                    Column(key="difference", title=f"Route minus this, points ({what})"),
                ),
                rows=rows,
                caption="Intervals at 95 %. Broken: correct when clean and wrong when attacked; restored: correct again. The "
                f"last column compares the route with the control on the same images ({what}). At random: every image has its "
                "own draw from all channels of the layer, the route's among them. The numbers belong to these twins: other "
                "steps or another start of the attack give others.",
            ),
        )

    def _doubts(self, data: dict[str, Any]) -> tuple[Flag, ...]:
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
        return (*self._no_better(data), *_usual(data))

    def _no_better(self, data: dict[str, Any]) -> tuple[Flag, ...]:
        first = [row for row in data["rows"] if row["layers"] == [0] and row["width"] == self.model_width]
        equal = [row for row in first if row["restored_minus_this"] and row["restored_minus_this"]["low"] <= 0]
        if not equal:
            return ()
        return (
            Flag(
                name="route no better than a control",
                severity="warning",
                message="At the first layer the route restores no more images than as many channels chosen otherwise.",
                evidence=f"Of the {data['broken']} broken images: "
                + "; ".join(
                    f"{CHOICES[row['choice']]}: route minus this {show_difference(row['restored_minus_this'])} points"
                    for row in equal
                ),
                remedy="Do not read the transplant as evidence that perturbations travel along the route.",
            ),
        )


class _Passes(NamedTuple):
    """A batch of pairs in the network's own precision, with the features of its clean images."""

    classifier: Classifier
    names: tuple[str, ...]
    x: Tensor
    x_adv: Tensor
    labels: Tensor
    features: Mapping[str, Tensor]

    @classmethod
    def of(cls, classifier: Classifier, pair: Pair, found: RouteFrequency, needed: set[str]) -> _Passes:
        x, x_adv = pair.x.to(classifier.dtype), pair.x_adv.to(classifier.dtype)
        return cls(classifier, found.layers, x, x_adv, pair.labels, record(classifier, x, needed))

    def answers(self) -> tuple[Tensor, Tensor]:
        """Whether clean and adversarial images are classified correctly, bool (B,) each."""
        clean, adversarial = (
            self.classifier.logits(images).argmax(1) == self.labels for images in (self.x, self.x_adv)
        )
        return clean, adversarial

    def transplanted(self, layers: Layers, masks: list[Tensor], rows: Tensor | None = None) -> Tensor:
        """Whether adversarial images, all or these rows, are classified correctly with the masked channels clean."""
        kept = slice(None) if rows is None else rows
        chosen = {self.names[place]: mask for place, mask in zip(layers, masks, strict=True)}
        sources = {name: self.features[name][kept] for name in chosen}
        with transplanted(self.classifier.network, sources, chosen):
            return self.classifier.logits(self.x_adv[kept]).argmax(1) == self.labels[kept]


def _ranks(seen: Measured, layers: Layers) -> dict[str, Any]:
    """Where the route and the controls of one set stand among the sets of as many channels."""
    sets, hits = seen.sets[layers], seen.restored[layers]
    route = seen.chosen[layers, "route"]
    all_hits = np.array([hits[item] for item in sets.sets], np.int64)
    return {
        "layers": list(layers),
        "images": seen.tried,
        "sets": len(sets.sets),
        "possible": str(sets.possible),  # in words: more than a float holds
        "whole": sets.whole,
        "none": Rate.count(int((all_hits == 0).sum()), len(all_hits)).model_dump(),
        "median": float(np.median(all_hits)),
        "most": int(all_hits.max()),
        "rows": [
            {
                "choice": choice,
                "channels": [list(part) for part in seen.chosen[layers, choice]],
                "on_route": sum(
                    len({*mine} & {*other}) for mine, other in zip(seen.chosen[layers, choice], route, strict=True)
                ),
            }
            | standing(seen.chosen[layers, choice], sets, hits)
            for choice in RANKED
        ],
    }


def _usual(data: dict[str, Any]) -> tuple[Flag, ...]:
    usual = [item for item in data["ranks"] if item["rows"][0]["p"] > UNUSUAL]
    if not usual:
        return ()
    return (
        Flag(
            name="route no better than many sets of channels",
            severity="warning",
            message="Many sets of as many channels restore at least as many images as the route does.",
            evidence="; ".join(f"{_layers_of(item, data)}: rank {rank_of(item['rows'][0])}" for item in usual),
            remedy="Do not read the transplant as evidence that perturbations travel along the route.",
        ),
    )


def _layers_of(item: dict[str, Any], data: dict[str, Any]) -> str:
    return ", ".join(data["layers"][place]["name"] for place in item["layers"])


def spread(count: int, size: int) -> list[int]:
    """At most ``count`` places among ``size``, evenly spread, the first and the last among them (the first alone if one)."""
    return sorted({round(place) for place in np.linspace(0, size - 1, min(count, size)).tolist()})
