"""Sensitivity of layers against the size of the perturbation."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from itertools import pairwise
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from auditor.analysis import Analysis, Finding, Subject
from auditor.attack import Attack
from auditor.criterion import Misclassification
from auditor.errors import EvaluationError
from auditor.flag import Flag
from auditor.neurons import KIND_TITLES
from auditor.randomness import derive_seed
from auditor.ranking.sensitivity import LayerSensitivity, SensitivityMeter, image_means
from auditor.report.blocks import Column, Figure, Section, Table, Text, apart
from auditor.series import Multiples, Names
from auditor.statistics.means import Mean
from auditor.threat import ThreatModel, show_epsilon
from auditor.twins.stored import for_now, make_twins
from auditor.twins.targeted import papers_pgd

SHOWN = 8
"""Layers shown where none are named: the last four convolutions and their activations, as in the paper's Table II."""

MEASURES = {
    "ratio": "Ratio, top {}",
    "ratio_all": "Ratio, all",
    "sensitivity": "Sensitivity, top {}",
    "sensitivity_all": "Sensitivity, all",
}


class SensitivityByEpsilon(Analysis):
    """How neuron sensitivity grows with the perturbation (Zhang et al. 2020, arXiv 1909.06978, Table II and Fig. 14).

    PGD twins of the same images are made at several radii; at each, neuron sensitivity (eq. 1) and sensitivity ratio
    (eq. 11) are averaged over the most sensitive neurons of each layer (eq. 2, found once, on the audit's own pairs) and
    over all of them.
    """

    title: ClassVar[str] = "Sensitivity by epsilon"
    kind: Literal["sensitivity_by_epsilon"] = "sensitivity_by_epsilon"
    multiples: Multiples = Field(
        (0.125, 0.25, 0.5, 1.0),
        min_length=2,
        max_length=16,
        description="Radii, as multiples of the audit's epsilon.",
    )
    top: float = Field(
        0.1, gt=0, le=1, description="Share of a layer's neurons that count as sensitive (at least one)."
    )
    images: int = Field(100, ge=1, le=100_000, description="Most images, drawn by the audit's seed.")
    steps: int = Field(10, ge=1, le=1000, description="Steps of PGD, each of length epsilon / sqrt(steps).")
    layers: Names = Field(
        (), max_length=1000, description="Layers to show; none: the last eight convolutions and activations."
    )

    @property
    def cost(self) -> float:
        return 2 + len(self.multiples) * (3.0 * self.steps + 4)

    def run(self, subject: Subject) -> Finding:
        attack = papers_pgd(subject, self.steps)
        layers = self.sensitivity(subject)
        order = np.random.default_rng(derive_seed(subject.seed, "by epsilon")).permutation(len(subject.ids))
        part = replace(subject, ids=np.sort(subject.ids[order[: self.images]]))
        threats = [
            subject.threat.model_copy(update={"epsilon": multiple * subject.threat.epsilon})
            for multiple in sorted(set(self.multiples))
        ]
        found = [
            self.measure(part, attack, threat, layers, (index / len(threats), 1 / len(threats)))
            for index, threat in enumerate(threats)
        ]
        rows = [
            {
                "name": layer.name,
                "kind": layer.kind,
                "neurons": len(layer.sensitivity),
                "count": len(layer.top(self.top)),
                "points": [
                    {key: Mean.of(values[layer.name, key]).model_dump() for key in MEASURES} for values in found
                ],
                "rise": Mean.of(
                    found[-1][layer.name, "sensitivity_all"] - found[0][layer.name, "sensitivity_all"]
                ).model_dump(),
            }
            for layer in layers
        ]
        epsilons = [threat.epsilon for threat in threats]
        data = {
            "images": len(part.ids),
            "attack": f"{attack.display_title()}, {self.steps} steps, {subject.threat.norm.symbol}",
            "pairs": subject.pairs_from,
            "epsilons": epsilons,
            "layers": rows,
        }
        return Finding(kind=self.kind, settings=self.settings(), data=data, flags=_doubts(rows, epsilons))

    def sensitivity(self, subject: Subject) -> list[LayerSensitivity]:
        """Every layer on the audit's own pairs."""
        meter = SensitivityMeter(subject.classifier)
        for pair in subject.pairs:
            meter.add(pair.x, pair.x_adv)
            subject.on_progress(0.0, "neuron sensitivity")
        layers = meter.layers()
        missing = sorted(set(self.layers) - {layer.name for layer in layers})
        if missing:
            raise EvaluationError(f"The network has no layer {missing[0]}.", "Pick layers from its list of layers.")
        return layers

    def measure(
        self,
        subject: Subject,
        attack: Attack,
        threat: ThreatModel,
        layers: list[LayerSensitivity],
        stretch: tuple[float, float] = (0.0, 1.0),
    ) -> dict[tuple[str, str], NDArray[np.float64]]:
        """Sensitivity and ratio of each of the subject's images within ``threat``, by layer and measure, (N,).

        ``stretch``: where this begins in the whole analysis and which share of it it is, for who watches.
        """
        begin, share = stretch
        sensitive = {layer.name: layer.top(self.top) for layer in layers}
        labels = torch.from_numpy(subject.dataset.labels[subject.ids]).to(subject.classifier.device)
        found: dict[tuple[str, str], list[NDArray[np.float64]]] = defaultdict(list)
        with for_now(subject) as part:
            twins = make_twins(
                part,
                attack,
                Misclassification(labels),
                threat=threat,
                on_progress=lambda done, what: subject.on_progress(begin + share * done, what),
            )
            for pair in twins:
                for item in image_means(subject.classifier, pair.x, pair.x_adv, sensitive):
                    for key in MEASURES:
                        found[item.name, key].append(getattr(item, key))
        return {key: np.concatenate(values) for key, values in found.items()}

    def section(self, finding: Finding) -> Section:
        data = finding.data
        shown = self._shown(data["layers"])
        epsilons = data["epsilons"]
        kinds = list(dict.fromkeys(row["kind"] for row in shown))
        rising = sum(_rises(row) for row in data["layers"])
        percent = f"{100 * self.top:g} %"
        return Section(
            key=self.kind,
            title=self.title,
            blocks=(
                Text(
                    text=f"{data['images']} images and their twins by {data['attack']}, at "
                    f"{', '.join(map(show_epsilon, epsilons))}. The most sensitive {percent} of each layer's neurons are those "
                    f"on the audit's own pairs: {data['pairs']}. In {rising} of {len(data['layers'])} layers the mean ratio "
                    "over all neurons rises at every step of epsilon."
                ),
                *(
                    self._figure([row for row in shown if row["kind"] == kind], KIND_TITLES[kind], epsilons)
                    for kind in kinds
                ),
                *(self._table(key, title.format(percent), shown, epsilons) for key, title in MEASURES.items()),
            ),
        )

    def _figure(self, rows: list[dict[str, Any]], kind: str, epsilons: list[float]) -> Figure:
        return Figure(
            chart="lines",
            title=f"Sensitivity ratio against epsilon: {kind}",
            rows=tuple(
                {"x": epsilon, "label": f"{row['name']}, ε = {show_epsilon(epsilon)}", "series": row["name"]}
                | point["ratio"]
                for row in rows
                for epsilon, point in zip(epsilons, row["points"], strict=True)
            ),
            options={"x": "epsilon (largest perturbation)", "y": "|Δ output| / |output|", "bars": True},
            reading=f"Change relative to the clean output, over the most sensitive {100 * self.top:g} % of each layer. A "
            "straight line through zero: the layer passes on what comes in. A line that bends down: it saturates. Bars are "
            "95 % intervals over images. A clean output of zero counts as ratio 1.",
        )

    def _shown(self, layers: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if self.layers:
            return [row for row in layers if row["name"] in self.layers]
        return [row for row in layers if row["kind"] in ("conv", "activation")][-SHOWN:] or layers[-SHOWN:]

    def _table(self, key: str, title: str, rows: list[dict[str, Any]], epsilons: list[float]) -> Table:
        titles = apart(f"ε = {show_epsilon(epsilon)}" for epsilon in epsilons)
        columns = tuple(Column(key=str(i), title=title) for i, title in enumerate(titles))
        return Table(
            title=f"{title} [95 % interval]",
            columns=(Column(key="name", title="Layer"), Column(key="neurons", title="Neurons"), *columns),
            rows=tuple(
                {"name": row["name"], "neurons": row["neurons"]}
                | {str(i): str(Mean.model_validate(point[key])) for i, point in enumerate(row["points"])}
                for row in rows
            ),
        )


def _rises(row: dict[str, Any]) -> bool:
    values = [point["ratio_all"]["value"] for point in row["points"]]
    return all(smaller < larger for smaller, larger in pairwise(values))


def _doubts(rows: list[dict[str, Any]], epsilons: list[float]) -> tuple[Flag, ...]:
    flat = [row for row in rows if row["rise"]["high"] is not None and row["rise"]["low"] <= 0]
    if not flat:
        return ()
    return (
        Flag(
            name="sensitivity does not grow with epsilon",
            severity="warning",
            message="In some layers larger perturbations change the outputs no more than small ones.",
            evidence=f"{len(flat)} of {len(rows)} layers, the first: {flat[0]['name']}, whose sensitivity grows by "
            f"{Mean.model_validate(flat[0]['rise'])} from ε = {show_epsilon(epsilons[0])} to {show_epsilon(epsilons[-1])}.",
            remedy="The network may round or saturate there, which also hides gradients from attacks; see its checks.",
        ),
    )
