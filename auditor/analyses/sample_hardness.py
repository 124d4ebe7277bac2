"""Adversarial hardness of each image, from gradients on the critical attacking route; does it tell more than the margin?"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from auditor.analysis import Analysis, Finding, Subject
from auditor.flag import Flag
from auditor.influence.hardness import SCORES, Attacked, Scores, attack, gradients_by_outcome, list_ends, score, tenths
from auditor.influence.routes import Mode
from auditor.influence.selection import route_frequency
from auditor.metrics import Rate
from auditor.progress import part_of
from auditor.report.blocks import Column, Figure, Measure, Measures, Section, Table, Text
from auditor.statistics.association import Discrimination, Estimate, discrimination, partial_spearman, spearman
from auditor.threat import show_epsilon

FEW = 10
"""Fewer attacks that succeed, or that fail, cannot tell scores apart."""
ALIKE = 0.9
"""From this rank correlation with the margin on, hardness is the margin in other words."""


class SampleHardness(Analysis):
    """How hard each image is to attack, by gradients on the critical attacking route (Li et al. 2021, Information Sciences).

    In each layer the images are ranked by the gradient of the loss on the model-level route's channels (eq. 16, 17: the
    largest gradient gets rank 1); the sum of an image's ranks is its hardness V (eq. 18). Gradients of the loss are small
    where the network is sure. So V is compared with the margin and the loss, and with V on random and on all channels: by
    how they go with success under FGSM (Fig. 6) and with the smallest epsilon at which an attack succeeds.
    """

    title: ClassVar[str] = "Sample hardness"
    kind: Literal["sample_hardness"] = "sample_hardness"
    levels: float = Field(
        1.0,
        gt=0,
        le=255,
        description="Epsilon of FGSM (L∞) in levels of 255; hardness is to tell its success beforehand.",
    )
    steps: int = Field(
        100, ge=0, le=1000, description="Steps of FMN (L∞) in search of the smallest epsilon; 0 leaves it out."
    )
    extreme: float = Field(
        0.1, gt=0, le=0.5, description="Share of the images that count as the hardest or the easiest."
    )
    width: float = Field(0.2, gt=0, le=1, description="Share of each layer's channels on the route of one image.")
    model_width: float = Field(0.3, gt=0, le=1, description="Share of each layer's channels on the model-level route.")
    mode: Mode = Field("serial", description="How routes pass residual blocks: as one chain, or along every edge.")

    @property
    def cost(self) -> float:
        return 3.0 + 3.0 + 4.0 + (3.0 * self.steps + 1 if self.steps else 0)

    def measure(self, subject: Subject) -> tuple[tuple[str, ...], Scores, Attacked]:
        """The route's layers, the scores of all images, and the attacks on those that are classified correctly."""
        report = subject.on_progress
        found = route_frequency(subject, width=self.width, mode=self.mode, on_progress=part_of(report, 0.0, 0.1))
        scores = score(subject, found, self.model_width, part_of(report, 0.1, 0.2))
        ids, labels = scores.ids[scores.correct], scores.labels[scores.correct]
        return (
            found.layers,
            scores,
            attack(subject, ids, labels, self.levels / 255, self.steps, part_of(report, 0.2, 1.0)),
        )

    def run(self, subject: Subject) -> Finding:
        layers, scores, attacked = self.measure(subject)
        right = {name: item[scores.correct] for name, item in scores.scores.items()}
        told = discrimination([right[name] for name in SCORES], ~attacked.fooled)
        vote = scores.scores["hardness"]
        data = {
            "images": len(vote),
            "correct": int(scores.correct.sum()),
            "fooled": int(attacked.fooled.sum()),
            "unreached": int(np.isinf(attacked.smallest).sum()),
            "silent": int((scores.gradient == 0).all(1).sum()),
            "margin": spearman(vote, scores.scores["margin"])._asdict(),
            "loss": spearman(vote, scores.scores["loss"])._asdict(),
            "scores": [self._row(name, place, right, attacked, told) for place, name in enumerate(SCORES)],
            "layers": gradients_by_outcome(layers, scores, attacked, self.extreme, subject.seed),
            "tenths": [row for name in SCORES for row in tenths(name, right[name], ~attacked.fooled)],
            "extremes": list_ends(scores, attacked, self.extreme),
        }
        return Finding(kind=self.kind, settings=self.settings(), data=data, flags=_doubts(data))

    def _row(
        self, name: str, place: int, right: dict[str, NDArray[np.float64]], attacked: Attacked, told: Discrimination
    ) -> dict[str, Any]:
        """How one score goes with the attacks, by itself and among images of the same margin."""
        nothing = Estimate(None, None, None, len(attacked.fooled))
        values, margin, apart = right[name], right["margin"], name != "margin"
        found = {
            "area": told.areas[place],
            "hardness_minus_this": told.first_minus[place],
            "standing_at_margin": partial_spearman(values, ~attacked.fooled, margin) if apart else nothing,
            "smallest": spearman(values, attacked.smallest) if self.steps else nothing,
            "smallest_at_margin": (
                partial_spearman(values, attacked.smallest, margin) if self.steps and apart else nothing
            ),
        }
        return {"score": name} | {key: item._asdict() for key, item in found.items()}

    def section(self, finding: Finding) -> Section:
        data = finding.data
        fgsm = f"FGSM, L∞ ε = {show_epsilon(self.levels / 255)}"
        stands = Rate.count(data["correct"] - data["fooled"], data["correct"])
        rows = {row["score"]: row for row in data["scores"]}
        search = f", and with the smallest ε that FMN finds in {self.steps} steps" if self.steps else ""
        chance = "Chance that an image on which FGSM fails scores higher than one on which it succeeds; 50 % is a coin."
        return Section(
            key=self.kind,
            title="Which images are hard to attack",
            blocks=(
                Text(
                    text=f"Hardness V of {data['images']} images, from one backward pass each; the route is that of the same "
                    f"images with their true labels. V is compared with success under {fgsm}{search}, on the {data['correct']} "
                    "images that are classified correctly. Rank correlation of V with the margin (the label's logit minus the "
                    f"best other): {Estimate(**data['margin'])}; with minus the loss: {Estimate(**data['loss'])}."
                ),
                Measures(
                    items=(
                        stands.measure(f"Still correct under {fgsm}", higher_is_better=True),
                        _area("Hardness tells failure from success (AUC)", rows["hardness"]["area"], chance),
                        _area("The margin does (AUC)", rows["margin"]["area"], chance),
                        _area(
                            "Hardness minus margin (AUC)",
                            rows["margin"]["hardness_minus_this"],
                            "Below or around 0: hardness tells no more than the margin.",
                        ),
                    )
                ),
                Figure(
                    chart="lines",
                    title=f"Still correct under {fgsm}, by score",
                    rows=tuple({**row, "series": SCORES[row["score"]]} for row in data["tenths"]),
                    options={
                        "x": "tenth of the images, from easy to hard",
                        "y": "still correct",
                        "share": True,
                        "legend": "ordered by",
                    },
                    reading="The images are put in order by each score and cut into tenths; bands are 95 % intervals. The better "
                    "a score, the steeper its line. Where the margin's rises as steeply, V only says how sure the network is.",
                ),
                _what_they_tell(data),
                _by_layer(data, fgsm),
                _listed(data),
            ),
        )


def _doubts(data: dict[str, Any]) -> tuple[Flag, ...]:
    flags = []
    if data["silent"] > 0.01 * data["images"]:
        flags.append(
            Flag(
                name="no gradient",
                severity="warning",
                message="For some images no gradient reaches the route: hardness cannot tell them apart.",
                evidence=f"{data['silent']} of {data['images']} images have a gradient of exactly zero in every layer.",
                remedy="Look at the checks on gradients: the network may hide them from attacks as well.",
            )
        )
    tested = min(data["fooled"], data["correct"] - data["fooled"]) >= FEW
    if not tested:
        flags.append(
            Flag(
                name="attack says little",
                severity="warning",
                message="FGSM succeeds on nearly all images or on nearly none, so that no score can be tested by it.",
                evidence=f"It succeeds on {data['fooled']} of {data['correct']}.",
                remedy="Set another epsilon, or take more images.",
            )
        )
    return (*flags, *_restates(data, tested=tested))


def _restates(data: dict[str, Any], *, tested: bool) -> list[Flag]:
    """Is hardness the margin in other words, or tells no more than it? Would random channels do?"""
    rows = {row["score"]: row for row in data["scores"]}
    alike = data["margin"]["value"]
    gains = {"smallest ε, rank correlation at equal margin": rows["hardness"]["smallest_at_margin"]}
    if tested:
        gains["AUC, hardness minus margin"] = rows["margin"]["hardness_minus_this"]
    known = {name: item for name, item in gains.items() if item["low"] is not None}
    adds = any(item["low"] > 0 for item in known.values())
    flags = []
    if (alike is not None and alike >= ALIKE) or (known and not adds):
        flags.append(
            Flag(
                name="hardness restates confidence",
                severity="info" if adds else "warning",
                message="Hardness orders the images nearly as the margin does, which needs no route and no gradient."
                if adds
                else "Hardness tells no more about the attack than the margin does, which needs no route and no gradient.",
                evidence=f"Rank correlation of hardness and margin: {Estimate(**data['margin'])}"
                + "".join(f"; {name}: {Estimate(**item)}" for name, item in known.items()),
                remedy="Rank the images by their margin instead.",
            )
        )
    random = rows["random"]["hardness_minus_this"]
    if tested and random["low"] <= 0:
        flags.append(
            Flag(
                name="random channels do as well",
                severity="info",
                message="Hardness on as many random channels tells as much about the attack as on the route.",
                evidence=f"AUC, route minus random: {Estimate(**random)}.",
            )
        )
    return flags


def _what_they_tell(data: dict[str, Any]) -> Table:
    titles = {
        "area": "AUC",
        "hardness_minus_this": "Hardness minus this (AUC)",
        "standing_at_margin": "FGSM fails, at equal margin",
        "smallest": "Smallest ε",
        "smallest_at_margin": "Smallest ε, at equal margin",
    }
    unreached = f" FMN found nothing for {data['unreached']} images; they rank as the hardest." * (
        data["unreached"] > 0
    )
    return Table(
        title="What each score tells about the attacks",
        columns=(Column(key="score", title="Score"), *(Column(key=key, title=title) for key, title in titles.items())),
        rows=tuple(
            {"score": SCORES[row["score"]]} | {key: str(Estimate(**row[key])) for key in titles}
            for row in data["scores"]
        ),
        caption=f"Over the {data['correct']} images classified correctly, with 95 % intervals. AUC: chance that an image on "
        "which FGSM fails scores higher than one on which it succeeds (0.5: a coin). The other columns are rank correlations; at "
        f"equal margin: with the margin held fixed, so what a score adds to it.{unreached}",
    )


def _by_layer(data: dict[str, Any], fgsm: str) -> Table:
    groups = {"failed": "Attack failed", "succeeded": "Attack succeeded", "hardest": "Hardest", "easiest": "Easiest"}
    counts = {name: data["layers"][0][name]["n"] for name in groups}
    return Table(
        title="Loss gradient on the route, layer by layer (mean over images)",
        columns=(
            Column(key="layer", title="Layer"),
            *(Column(key=name, title=f"{title} (n = {counts[name]})") for name, title in groups.items()),
        ),
        rows=tuple({"layer": row["layer"]} | {name: _mean(row[name]) for name in groups} for row in data["layers"]),
        caption=f"Sum of |∂L/∂Z| over the route's channels, with 95 % intervals (bootstrap). Attack: {fgsm}, on images "
        "classified correctly. The hardest and the easiest are so by these very gradients; the first two columns are "
        "the independent comparison.",
    )


def _listed(data: dict[str, Any]) -> Table:
    return Table(
        title="The hardest and the easiest images",
        columns=(
            Column(key="end", title="End"),
            Column(key="sample", title="Sample"),
            Column(key="hardness", title="Hardness V", format=".1f"),
            Column(key="margin", title="Margin", format=".3f"),
            Column(key="loss", title="Loss", format=".3g"),
            Column(key="fooled", title="Fooled by FGSM"),
            Column(key="smallest", title="Smallest ε", format=".4f"),
        ),
        rows=tuple(data["extremes"]),
        caption="A high V means small gradients, so an image that should be hard to attack. Images that are misclassified anyway "
        "were not attacked.",
    )


def _area(title: str, estimate: dict[str, Any], explanation: str) -> Measure:
    return Measure(title=title, unit="%", higher_is_better=True, explanation=explanation, **estimate)


def _mean(estimate: dict[str, Any]) -> str:
    if estimate["value"] is None:
        return "–"
    bounds = "" if estimate["low"] is None else f" [{estimate['low']:.3g}, {estimate['high']:.3g}]"
    return f"{estimate['value']:.3g}{bounds}"
