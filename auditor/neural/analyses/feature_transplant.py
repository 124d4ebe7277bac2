"""Clean features transplanted into adversarial passes: on the critical attacking route, and as many outside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from auditor.kit.flag import Flag
from auditor.kit.statistics.paired import in_points
from auditor.neural.analysis import Analysis, Subject
from auditor.neural.found import Stored
from auditor.neural.routes.channel_ranks import RANKED
from auditor.neural.routes.routes import Mode
from auditor.neural.routes.selection import CHOICES, route_frequency
from auditor.neural.routes.transplant import RoutePlaces, Transplantation, TransplantCondition, Transplants
from auditor.neural.routes.transplant_blocks import transplant_blocks
from auditor.show.blocks import AnyBlock, Text

FEW = 30
"""Fewer images that the attack broke say little about how many a transplant restores."""
UNUSUAL = 0.05
"""If more than this share of sets of channels restores as many images, the route is nothing special."""


class FeatureTransplant(Analysis[Transplants]):
    """How far clean features on the critical attacking route restore predictions (Li et al. 2021, Information Sciences).

    The adversarial image runs through the network, and some channels of a convolution are overwritten with their output
    for the clean image: more and more of one layer's channels (Fig. 3a), or a fixed share of the first layers (Fig.
    3b). Controls overwrite as many channels: outside the route, at random among all of the layer's (separately for each
    image), with the largest filters, with the strongest output. Because most sets of channels restore nothing, the
    route is also ranked among all sets of as many channels of the first layers, or a random sample of them.
    """

    title: ClassVar[str] = "Feature transplant"
    heading: ClassVar[str] = "Feature transplant on the critical attacking route"
    kind: Literal["feature_transplant"] = "feature_transplant"
    layers: int = Field(3, ge=1, le=50, description="Layers to transplant alone, evenly spread over the route.")
    widths: int = Field(5, ge=1, le=20, description="Evenly spaced shares of a layer's channels, up to all of them.")
    first: int = Field(3, ge=0, le=50, description="Maximum number of first layers to transplant together.")
    width: float = Field(0.2, gt=0, le=1, description="Share of each layer's channels on the route of one image.")
    model_width: float = Field(0.3, gt=0, le=1, description="Share of each layer's channels on the model-level route.")
    sets: int = Field(
        100,
        ge=0,
        le=100_000,
        description="Number of same-sized sets of channels of the first layers to rank the route among: all sets if "
        "there are no more, otherwise a random sample.",
    )
    ranked_images: int = Field(
        100,
        ge=1,
        le=1_000_000,
        description="Maximum broken images on which to rank sets of channels.",
    )
    mode: Mode = Field("serial", description="How routes pass residual blocks: as one chain, or along every edge.")

    def cost(self, images: int) -> float:
        alone = self.layers * (len(self.shares) * len(CHOICES) + 1)
        ranked = (self.sets + len(RANKED)) * min(images, self.ranked_images) if self.sets else 0
        return (6 + alone + self.first * len(CHOICES)) * images + self.first * ranked

    @property
    def shares(self) -> list[float]:
        """Shares of a layer's channels, ascending; that of the model-level route among them."""
        return sorted({(index + 1) / self.widths for index in range(self.widths)} | {self.model_width})

    def together(self, layers: int) -> list[RoutePlaces]:
        """The first layers of a route of so many: one, two, ..."""
        return [tuple(range(count)) for count in range(1, min(self.first, layers) + 1)]

    def conditions(self, layers: int) -> list[TransplantCondition]:
        """Every transplant that is made in a route of so many layers."""
        alone = [(place,) for place in spread_places(self.layers, layers)]
        together = self.together(layers)
        made = [TransplantCondition(choice, at, share) for at in alone for share in self.shares for choice in CHOICES]
        made += [TransplantCondition(choice, at, self.model_width) for at in together for choice in CHOICES]
        return list(dict.fromkeys(made))

    def find(self, subject: Subject) -> Transplants:
        route = route_frequency(subject.during(0.0, 0.05), width=self.width, mode=self.mode)
        layers = len(route.layers)
        transplants = Transplantation(
            subject, route, self.conditions(layers), self.model_width,
            together=self.together(layers) if self.sets else (), sets=self.sets, images=self.ranked_images,
        )  # fmt: skip
        for pair in self.each(subject.during(0.05, 1.0)):
            transplants.add(pair)
        return transplants.found(subject.pairs_from, spread_places(self.layers, layers))

    @classmethod
    def lift(cls, data: Stored, revision: int) -> Stored:
        return Transplants.lifted(data)

    def doubts(self, found: Transplants) -> Iterator[Flag]:
        """What too few images say, or else where the route is beaten: by a control at the first layer, or by other sets."""
        if found.broken < FEW:
            yield Flag(
                name="few broken images",
                severity="warning",
                message="The attack broke too few images to tell what a transplant restores.",
                evidence=f"{found.broken} of {found.images} images were correct when clean and wrong when attacked.",
                remedy="Use more images, or a stronger attack for the analyses.",
            )
            return
        remedy = "Do not read the transplant as evidence that perturbations travel along the route."
        first = [row for row in found.firsts(self.model_width) if row.layers == (0,)]
        equal = [row for row in first if row.restored_minus_this and row.restored_minus_this.low <= 0]
        if equal:
            said = (f"{row.title}: route minus this {in_points(row.restored_minus_this)} points" for row in equal)
            yield Flag(
                name="route no better than a control",
                severity="warning",
                message="At the first layer the route restores no more images than the same number of channels chosen "
                "in another way.",
                evidence=f"Of the {found.broken} broken images: {'; '.join(said)}",
                remedy=remedy,
            )
        usual = [item for item in found.ranks if item.rows[0].p > UNUSUAL]
        if usual:
            yield Flag(
                name="route no better than many sets of channels",
                severity="warning",
                message="Many sets with the same number of channels restore at least as many images as the route does.",
                evidence="; ".join(f"{found.names(item.layers)}: rank {item.rows[0].rank}" for item in usual),
                remedy=remedy,
            )

    def blocks(self, found: Transplants) -> Iterator[AnyBlock]:
        yield Text(
            text=f"Clean features put into the passes of {found.images} adversarial images ({found.pairs}), of which the "
            f"attack broke {found.broken}. The route is that of the same images' clean versions with their true labels."
        )
        yield from transplant_blocks(found, self.model_width)


def spread_places(count: int, size: int) -> list[int]:
    """At most ``count`` places among ``size``, evenly spread, the first and the last among them (the first alone if one)."""
    return sorted({round(place) for place in np.linspace(0, size - 1, min(count, size)).tolist()})
