"""Sensitivity of layers against the size of the perturbation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import ClassVar, Literal

from pydantic import Field

from auditor.attacking.threat import show_epsilon
from auditor.kit.errors import EvaluationError
from auditor.kit.flag import Flag
from auditor.kit.series import Multiples, Names
from auditor.kit.statistics.estimate import Estimate
from auditor.models.neurons import KIND_TITLES
from auditor.neural.analysis import Analysis, Subject
from auditor.neural.found import Found, OfPairs, shown, some_of, table
from auditor.neural.ranking.sensitivity import ImageMeans, ImageMeter, LayerSensitivity, TopShare, sensitivity_of
from auditor.neural.ranking.summaries import SensitiveLayer
from auditor.neural.twins.radii import at_radii
from auditor.neural.twins.rows import drawn_samples
from auditor.neural.twins.targeted import papers_pgd
from auditor.show.blocks import AnyBlock, Column, Figure, Text, apart

SHOWN = 8
"""Layers shown where none are named: the last four convolutions and their activations, as in the paper's Table II."""


class LayerAtEpsilon(Found):
    """One layer at one radius: means over its most sensitive neurons, and over all (``_all``)."""

    ratio: Estimate = shown("Ratio, top {}")
    ratio_all: Estimate = shown("Ratio, all")
    sensitivity: Estimate = shown("Sensitivity, top {}")
    sensitivity_all: Estimate = shown("Sensitivity, all")


class LayerByEpsilon(SensitiveLayer):
    """One layer at every radius. ``rise``: sensitivity of all neurons at the largest radius minus that at the smallest."""

    points: tuple[LayerAtEpsilon, ...]
    rise: Estimate

    @property
    def rises(self) -> bool:
        values = [point.ratio_all.value or 0.0 for point in self.points]
        return all(smaller < larger for smaller, larger in pairwise(values))


class ByEpsilon(OfPairs):
    """Every layer at every radius. ``pairs``: those on which its sensitive neurons were found."""

    attack: str
    epsilons: tuple[float, ...]
    layers: tuple[LayerByEpsilon, ...]

    @property
    def radii(self) -> tuple[str, ...]:
        return tuple(map(show_epsilon, self.epsilons))


class SensitivityByEpsilon(Analysis[ByEpsilon]):
    """How neuron sensitivity grows with the perturbation (Zhang et al. 2020, arXiv 1909.06978, Table II and Fig. 14).

    PGD twins of the same images are made at several radii; at each, neuron sensitivity (eq. 1) and sensitivity ratio
    (eq. 11) are averaged over the most sensitive neurons of each layer (eq. 2, found once, on the audit's own pairs) and
    over all of them.
    """

    title: ClassVar[str] = "Sensitivity by epsilon"
    kind: Literal["sensitivity_by_epsilon"] = "sensitivity_by_epsilon"
    multiples: Multiples = Field(
        (0.125, 0.25, 0.5, 1.0), min_length=2, max_length=16, description="Radii, as multiples of the audit's epsilon."
    )
    top: TopShare = 0.1
    images: int = Field(100, ge=1, le=100_000, description="Most images, drawn by the audit's seed.")
    steps: int = Field(10, ge=1, le=1000, description="Steps of PGD, each of length epsilon / sqrt(steps).")
    layers: Names = Field(
        (), max_length=1000, description="Layers to show; none: the last eight convolutions and activations."
    )

    def cost(self, images: int) -> float:
        return 2 * images + len(self.multiples) * (3 * self.steps + 4) * min(images, self.images)

    def find(self, subject: Subject) -> ByEpsilon:
        attack = papers_pgd(subject, self.steps)
        layers = sensitivity_of(subject)
        if missing := sorted(set(self.layers) - {layer.name for layer in layers}):
            raise EvaluationError(f"The network has no layer {missing[0]}.", "Pick layers from its list of layers.")
        part = replace(subject, ids=drawn_samples(subject, self.images, "by epsilon"))
        means: dict[float, dict[str, ImageMeans]] = {}
        for epsilon, twins in at_radii(part, attack, self.multiples):
            meter = ImageMeter(subject.classifier, layers, self.top)
            for pair in twins:
                meter.add(pair.x, pair.x_adv)
            means[epsilon] = meter.layers()
        return ByEpsilon(
            images=len(part.ids),
            attack=f"{attack.display_title()}, {self.steps} steps, {subject.threat.norm.symbol}",
            pairs=subject.pairs_from,
            epsilons=tuple(means),
            layers=tuple(self._layer(layer, [radius[layer.name] for radius in means.values()]) for layer in layers),
        )

    def _layer(self, layer: LayerSensitivity, means: list[ImageMeans]) -> LayerByEpsilon:
        points = (
            LayerAtEpsilon(**{key: Estimate.of_mean(getattr(item, key)) for key in LayerAtEpsilon.model_fields})
            for item in means
        )
        rise = Estimate.of_mean(means[-1].sensitivity_all - means[0].sensitivity_all)
        return LayerByEpsilon.of(layer, self.top, points=tuple(points), rise=rise)

    def doubts(self, found: ByEpsilon) -> Iterator[Flag]:
        flat = [row for row in found.layers if row.rise.low is not None and row.rise.low <= 0]
        if flat:
            yield Flag(
                name="sensitivity does not grow with epsilon",
                severity="warning",
                message="In some layers larger perturbations change the outputs no more than small ones.",
                evidence=f"{some_of(flat, found.layers)}, whose sensitivity grows by {flat[0].rise} "
                f"from ε = {found.radii[0]} to {found.radii[-1]}.",
                remedy="The network may round or saturate there, which also hides gradients from attacks; see its checks.",
            )

    def blocks(self, found: ByEpsilon) -> Iterator[AnyBlock]:
        rows = self._shown(found.layers)
        percent = f"{100 * self.top:g} %"
        yield Text(
            text=f"{found.images} images and their twins by {found.attack}, at {', '.join(found.radii)}. The most sensitive "
            f"{percent} of each layer's neurons are those on the audit's own pairs: {found.pairs}. In "
            f"{sum(row.rises for row in found.layers)} of {len(found.layers)} layers the mean ratio over all neurons rises at "
            "every step of epsilon."
        )
        for kind in dict.fromkeys(row.kind for row in rows):
            yield Figure(
                chart="lines",
                title=f"Sensitivity ratio against epsilon: {KIND_TITLES[kind]}",
                rows=tuple(
                    {"x": epsilon, "label": f"{row.name}, ε = {radius}", "series": row.name} | point.ratio.model_dump()
                    for row in rows
                    if row.kind == kind
                    for epsilon, radius, point in zip(found.epsilons, found.radii, row.points, strict=True)
                ),
                options={"x": "epsilon (largest perturbation)", "y": "|Δ output| / |output|", "bars": True},
                reading=f"Change relative to the clean output, over the most sensitive {percent} of each layer. A "
                "straight line through zero: the layer passes on what comes in. A line that bends down: it saturates. Bars "
                "are 95 % intervals over images. A clean output of zero counts as ratio 1.",
            )
        titles = apart(f"ε = {radius}" for radius in found.radii)
        for key, field in LayerAtEpsilon.model_fields.items():
            columns = (Column(key=f"points.{i}.{key}", title=title) for i, title in enumerate(titles))
            title = f"{str(field.title).format(percent)} [95 % interval]"
            yield table(rows, "name", "neurons", *columns, title=title)

    def _shown(self, layers: tuple[LayerByEpsilon, ...]) -> tuple[LayerByEpsilon, ...]:
        if self.layers:
            return tuple(row for row in layers if row.name in self.layers)
        return tuple(row for row in layers if row.kind in ("conv", "activation"))[-SHOWN:] or layers[-SHOWN:]
