"""The k-NS attack: gradient descent that aims at single sensitive neurons of the last hidden layer."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from auditor.analysis import Analysis, Finding, NeuronMeasure, Subject, before_head
from auditor.attack import ATTACKS
from auditor.criterion import Misclassification
from auditor.delta.neuron_attack import STEP, Best, NeuronAttack
from auditor.delta.neuron_attack_outcome import LISTS, FakeRelu, NeuronAttackOutcome, attack_images, counted
from auditor.delta.values import ORDERINGS, Feasible, Ordering, activations_of
from auditor.errors import EvaluationError
from auditor.evaluation import run_attack
from auditor.flag import Flag
from auditor.metrics import Rate
from auditor.probes.head import head_of
from auditor.report.blocks import Column, Figure, Measures, Section, Table, Text
from auditor.threat import Norm
from auditor.twins.thinned import Thinned

KS = (1, 4, 8, 16)
"""Numbers of neurons that the paper's Table 1 gives."""
AUDIT = 500
"""Samples that an audit gives its analyses unless told otherwise; the cost is spread over them."""


class KNeuronSensitivityAttack(Analysis):
    """Success of an attack that aims at the k most sensitive neurons, one at a time (Suri and Evans 2020, arXiv 2003.09372).

    For each image and each of its k neurons with the lowest Delta-value, gradient descent moves the features to where that
    neuron alone would change the prediction; one success is enough. Beside it stand the same attack on random neurons and on
    the k with the highest Delta-value, both among those that have a finite one, and PGD on the whole output in the same ball:
    a restricted attack that does better than PGD means that PGD's number overstates the robustness. An attack ends as soon as
    its success is certain: the predicted class has less than one in K of the softmax over K classes.
    """

    title: ClassVar[str] = "k-NS attack"
    changes: ClassVar[tuple[str, ...]] = (
        "Random neurons were drawn from all, those without a finite Delta too, which made the control weaker than it is. Audit "
        "again for the right numbers.",
    )
    kind: Literal["k_ns"] = "k_ns"
    neurons: int = Field(16, ge=1, le=1024, description="Neurons of each image that are attacked: the largest k.")
    iterations: int = Field(50, ge=1, le=10_000, description="Gradient steps for each neuron.")
    ordering: Ordering = Field(
        "abs_scaled",
        description="Score that ranks neurons, lowest first: |Δ|/σ, or the code's (Δ-μ)/σ, or the paper's |(Δ-μ)/σ|.",
    )
    best: Best = Field(
        "output",
        description="Which iterate counts: highest cross-entropy of the whole model (output), or lowest loss of its own (loss).",
    )
    fake_relu: FakeRelu = Field(
        "dead",
        description="When the last ReLU passes gradients on unchanged: for neurons that the image does not activate, always, "
        "or never.",
    )
    feasible: Feasible = Field(
        "auto",
        description="Outputs that a neuron may be aimed at: any, nonnegative (behind a ReLU), or auto: nonnegative where no "
        "clean image ever gave a negative one.",
    )
    images: int = Field(100, ge=1, le=1_000_000, description="Images, at most, evenly spaced over the samples.")
    pgd_steps: int = Field(100, ge=1, le=10_000, description="Steps of PGD, which the attack is compared with.")
    pgd_restarts: int = Field(4, ge=1, le=1000, description="Random starts of that PGD.")

    @property
    def cost(self) -> float:
        lists = len(LISTS) * self.neurons * (3 * self.iterations + 1)
        return 1 + (lists + 3 * self.pgd_steps * self.pgd_restarts) * self.images / AUDIT

    def run(self, subject: Subject) -> Finding:
        if subject.threat.norm not in (Norm.LINF, Norm.L2):
            raise EvaluationError(f"The k-NS attack works in L∞ and L2, not in {subject.threat.norm.symbol}.")
        classifier, pairs = subject.classifier, Thinned(subject.pairs, self.images)
        head = head_of(classifier)
        activations = activations_of(classifier, head, subject.pairs)
        attack = NeuronAttack(
            classifier,
            subject.threat,
            iterations=self.iterations,
            best=self.best,
            fake_relu=self.fake_relu != "never",
        )
        parts = list[NeuronAttackOutcome]()
        for pair in pairs:
            done = sum(len(part.correct) for part in parts)

            def hear(share: float, done: int = done, count: int = len(pair.sample)) -> None:
                subject.on_progress(0.85 * (done + share * count) / len(pairs), self.title)

            parts.append(
                attack_images(
                    attack, head, activations, pair,
                    count=min(self.neurons, len(activations.mean)), ordering=self.ordering, feasible=self.feasible,
                    fake_relu=self.fake_relu, seed=subject.seed, rows=subject.batch_size, hear=hear,
                )
            )  # fmt: skip
        seen = NeuronAttackOutcome.joined(parts)
        stopped = run_attack(
            classifier,
            ATTACKS.build(
                "pgd", {"steps": self.pgd_steps, "step_size": STEP / self.pgd_steps, "restarts": self.pgd_restarts}
            ),
            subject.threat,
            subject.dataset,
            subject.ids[pairs.positions],
            Misclassification(torch.from_numpy(seen.predicted).to(classifier.device)),
            seed=subject.seed,
            batch_size=subject.batch_size,
            on_progress=lambda share, what: subject.on_progress(0.85 + 0.15 * share, f"{self.title}: {what}"),
        )
        data = {
            "layer": head.name,
            "threat": str(subject.threat),
            "twins": subject.pairs_from,
            "identity_relu": attack.relu > 0,
            **counted(seen, stopped.fooled),
        }
        return Finding(kind=self.kind, settings=self.settings(), data=data, flags=_doubts(data), revision=self.revision)

    def section(self, finding: Finding) -> Section:
        data = finding.data
        most = len(data["sensitive"]["changed"])
        shown = sorted({k for k in KS if k <= most} | {most})
        return Section(
            key=self.kind,
            title="k-NS attack",
            blocks=(
                Text(
                    text=f"Gradient descent on {data['images']} clean images within {data['threat']}, aiming at one input of "
                    f"{data['layer']} at a time: the k with the lowest {ORDERINGS[self.ordering]} of each image, "
                    f"{self.iterations} steps each. {data['aimless']} images have no neuron that alone could change the "
                    f"prediction, and count as failures. PGD: {self.pgd_steps} steps from {self.pgd_restarts} random starts, on "
                    "the same images."
                ),
                Measures(
                    items=(
                        _rate(data, data["sensitive"]["changed"][-1]).measure(
                            f"{most}-NS changes the prediction", higher_is_better=False
                        ),
                        _rate(data, data["random"]["changed"][-1]).measure(
                            f"{most} random neurons",
                            higher_is_better=False,
                            explanation=f"A control: the same attack. {_DRAWN}"
                            if "least" in data
                            else "A control: the same attack.",
                        ),
                        *(
                            _rate(data, data["least"]["changed"][-1]).measure(
                                f"{most} least sensitive neurons",
                                higher_is_better=False,
                                explanation="A control: the same attack on the neurons whose change would have to be largest.",
                            )
                            for _ in _series(data).keys() & {"least"}
                        ),
                        _rate(data, data["pgd"]["changed"]).measure(
                            "PGD changes the prediction", higher_is_better=False
                        ),
                    )
                ),
                Figure(
                    chart="lines",
                    title="Predictions changed against the number of neurons",
                    rows=tuple(_curve(data, most)),
                    options={
                        "x": "k, neurons attacked one at a time",
                        "y": "images with a changed prediction",
                        "share": True,
                    },
                    reading="An image counts when any of its first k neurons' attacks changes the prediction, so that the lines "
                    "cannot fall. PGD aims at the whole output; where a line lies above it, PGD overstates the robustness. "
                    "Bands are 95 % Wilson intervals.",
                ),
                Figure(
                    chart="lines",
                    title="Success of each single neuron",
                    rows=tuple(_ranks(data)),
                    options={
                        "x": "rank of the neuron in its list",
                        "y": "images with a changed prediction",
                        "share": True,
                    },
                    reading="The attack on the neuron of this rank alone, rank 1 of the least sensitive being the last of all. A "
                    "falling line means that sensitive neurons are easier targets; random neurons have no rank and stay level.",
                ),
                _table(data, shown),
                Text(text=_norms(data)),
            ),
        )

    def neuron_measures(self, finding: Finding) -> tuple[NeuronMeasure, ...]:
        each = finding.data.get("by_neuron")  # findings made before it was counted lack it
        if each is None:
            return ()
        rates = [
            fell / attacked if attacked else None for attacked, fell in zip(each["attacked"], each["fell"], strict=True)
        ]
        always = [neuron for neuron, rate in enumerate(rates) if rate == 1]
        return (
            NeuronMeasure(
                "success", "Success of the attack on the neuron alone", "share of the images on which it was attacked",
                "Large: aiming at this neuron changes the prediction. Neurons are attacked where they are among the most "
                "sensitive of an image, or drawn; no value: nowhere.",
                "attacked with success every time", (before_head(finding.data["layer"], rates, always),),
            ),
        )  # fmt: skip


def _rate(data: dict[str, Any], hits: int) -> Rate:
    return Rate.count(hits, data["images"])


def _row(x: int, series: str, rate: Rate) -> dict[str, Any]:
    return {"x": x, "series": series, **rate.model_dump(exclude={"hits"})}


_SERIES = {"sensitive": "most sensitive neurons", "random": "random neurons", "least": "least sensitive neurons"}


def _series(data: dict[str, Any]) -> dict[str, str]:
    """Findings made before there was a second control lack it."""
    return {name: title for name, title in _SERIES.items() if name in data}


def _curve(data: dict[str, Any], most: int) -> list[dict[str, Any]]:
    rows = [
        _row(k, series, _rate(data, hits))
        for name, series in _series(data).items()
        for k, hits in enumerate(data[name]["changed"], 1)
    ]
    whole = {"pgd": "PGD", "audit": "the audit's attack"}
    return rows + [
        _row(k, series, _rate(data, data[name]["changed"])) for name, series in whole.items() for k in sorted({1, most})
    ]


def _ranks(data: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        _row(rank, series, _rate(data, hits))
        for name, series in _series(data).items()
        for rank, hits in enumerate(data["by_rank"][name], 1)
    ]


def _table(data: dict[str, Any], shown: list[int]) -> Table:
    lines = [
        (f"{k}-{what}", {key: hits[k - 1] for key, hits in data[name].items()})
        for name, what in (("sensitive", "NS"), ("random", "random"), ("least", "least sensitive"))
        if name in data
        for k in shown
    ]
    lines += [("PGD", data["pgd"]), (f"the audit's twins: {data['twins']}", data["audit"])]
    return Table(
        title="Success under each definition",
        columns=(
            Column(key="attack", title="Attack"),
            Column(key="changed", title="Prediction changed"),
            Column(key="error", title="Wrong, of all"),
            Column(key="error_correct", title="Wrong, of those right before"),
        ),
        rows=tuple(
            {
                "attack": name,
                "changed": str(_rate(data, hits["changed"])),
                "error": str(_rate(data, hits["error"])),
                "error_correct": str(Rate.count(hits["error_correct"], data["correct"])),
            }
            for name, hits in lines
        ),
        caption=f"'Changed': another class than for the clean image, of all {data['images']} images. 'Wrong, of all': not the "
        "label, the clean image being one of the attacker's choices (1 - accuracy). The two versions of the paper use one each. "
        f"'Of those right before': of the {data['correct']} images classified correctly."
        + (f" {_DRAWN}" if "least" in data else ""),
    )


_DRAWN = "Random and least sensitive neurons are among those with a finite score, as the most sensitive are."


def _norms(data: dict[str, Any]) -> str:
    if data["norms"] is None:
        return "No attack on a sensitive neuron succeeded."
    low, middle, high = data["norms"]
    # Findings without ``by_neuron`` are from when every attack ran to its end.
    when = "each at the step that made its success certain" if "by_neuron" in data else "after all steps"
    return (
        f"Norm of the perturbations that succeeded, {when}: {low:.4g} to {high:.4g}, median {middle:.4g}. "
        "They are not the smallest that would do."
    )


def _doubts(data: dict[str, Any]) -> tuple[Flag, ...]:
    doubts, beyond, control = [], data["beyond_pgd"], data["beyond_random"]
    if beyond["value"] > 0:
        doubts.append(
            Flag(
                name="restricted attack beats PGD",
                severity="warning" if beyond["low"] > 0 else "info",
                message="An attack on single neurons changes more predictions than PGD: a sign of masked gradients.",
                evidence=f"{beyond['only_b']:g} images only by k-NS, {beyond['only_a']:g} only by PGD, of {beyond['n']:g}; "
                f"difference {100 * beyond['value']:.1f} points [{100 * beyond['low']:.1f}, {100 * beyond['high']:.1f}].",
                remedy="Do not quote PGD's number: run AutoAttack, and PGD with a margin loss and more restarts.",
            )
        )
    if control["low"] <= 0:
        doubts.append(
            Flag(
                name="random neurons do as well",
                severity="info",
                message="Attacking the most sensitive neurons is not clearly better than attacking random ones.",
                evidence=f"Difference {100 * control['value']:.1f} points [{100 * control['low']:.1f}, "
                f"{100 * control['high']:.1f}], n = {control['n']:g}.",
                remedy="Do not read the success as evidence that the ranking finds weak neurons.",
            )
        )
    return tuple(doubts)
