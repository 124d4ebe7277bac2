"""The k-NS attack: gradient descent that aims at single sensitive neurons of the last hidden layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from pydantic import Field

from auditor.attacking.attack import ATTACKS
from auditor.attacking.criterion import Misclassification
from auditor.attacking.evaluation import run_attack
from auditor.attacking.threat import Norm
from auditor.kit.errors import EvaluationError
from auditor.kit.flag import Flag
from auditor.kit.statistics.paired import in_points
from auditor.neural.analysis import Analysis, NeuronMeasure, Subject, before_head
from auditor.neural.delta.neuron_attack import STEP, Best, NeuronAttack
from auditor.neural.delta.neuron_attack_outcome import FakeRelu, ListedAttacks
from auditor.neural.delta.neuron_successes import LISTS, NeuronSuccesses, success_blocks
from auditor.neural.delta.values import ORDERINGS, Feasible, Ordering
from auditor.neural.found import Stored
from auditor.neural.probes.head import head_of
from auditor.neural.twins.thinned import Thinned
from auditor.show.blocks import AnyBlock, Text


class KNeuronSensitivityAttack(Analysis[NeuronSuccesses]):
    """Success of an attack that aims at the k most sensitive neurons, one at a time (Suri and Evans 2020, arXiv 2003.09372).

    For each image and each of its k neurons with the lowest Delta-value, gradient descent moves the features to where that
    neuron alone would change the prediction; one success is enough. It is compared with the same attack on random
    neurons and on the k with the highest Delta-value, both among those that have a finite one, and with PGD on the
    whole output in the same ball. If the restricted attack does better than PGD, PGD's number overstates the
    robustness. An attack ends as soon as its success is certain: the predicted class has less than one in K of the
    softmax over K classes.
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
    images: int = Field(100, ge=1, le=1_000_000, description="Maximum images, evenly spaced over the samples.")
    pgd_steps: int = Field(100, ge=1, le=10_000, description="Steps of the PGD attack to compare with.")
    pgd_restarts: int = Field(4, ge=1, le=1000, description="Random starts of that PGD.")

    def cost(self, images: int) -> float:
        lists = len(LISTS) * self.neurons * (3 * self.iterations + 1)
        return images + (lists + 3 * self.pgd_steps * self.pgd_restarts) * min(images, self.images)

    def find(self, subject: Subject) -> NeuronSuccesses:
        if subject.threat.norm not in (Norm.LINF, Norm.L2):
            raise EvaluationError(f"The k-NS attack works in L∞ and L2, not in {subject.threat.norm.symbol}.")
        classifier, pairs = subject.classifier, Thinned(subject.pairs, self.images)
        head = head_of(classifier)
        attack = NeuronAttack(
            classifier, subject.threat, iterations=self.iterations, best=self.best, fake_relu=self.fake_relu != "never"
        )
        count = min(self.neurons, head.weight.shape[1])
        on_lists = ListedAttacks(attack, count, self.ordering, self.feasible, self.fake_relu)
        seen = on_lists(subject.during(0.0, 0.85), pairs, self.title)
        pgd = {"steps": self.pgd_steps, "step_size": STEP / self.pgd_steps, "restarts": self.pgd_restarts}
        on_progress = subject.during(0.85, 1.0).on_progress
        stopped = run_attack(
            classifier, ATTACKS.build("pgd", pgd), subject.threat, subject.dataset, subject.ids[pairs.positions],
            Misclassification(torch.from_numpy(seen.predicted).to(classifier.device)),
            seed=subject.seed, batch_size=subject.batch_size,
            on_progress=lambda share, what: on_progress(share, f"{self.title}: {what}"),
        )  # fmt: skip
        return NeuronSuccesses.of(
            seen, stopped.fooled,
            layer=head.name, threat=str(subject.threat), twins=subject.pairs_from, identity_relu=attack.relu > 0,
        )  # fmt: skip

    @classmethod
    def lift(cls, data: Stored, revision: int) -> Stored:
        """Findings made before there was a second control, or before neurons were counted, lack these."""
        return {"least": None, "by_neuron": None, "first_beyond": {}} | data

    def doubts(self, found: NeuronSuccesses) -> Iterator[Flag]:
        beyond, control = found.beyond_pgd, found.beyond_random
        if beyond.value > 0:
            yield Flag(
                name="restricted attack beats PGD",
                severity="warning" if beyond.low > 0 else "info",
                message="An attack on single neurons changes more predictions than PGD: a sign of masked gradients.",
                evidence=f"{beyond.only_b} images only by k-NS, {beyond.only_a} only by PGD, of {beyond.n}; difference "
                f"{in_points(beyond)} points.",
                remedy="Do not quote PGD's number: run AutoAttack, and PGD with a margin loss and more restarts.",
            )
        if control.low <= 0:
            yield Flag(
                name="random neurons do as well",
                severity="info",
                message="Attacking the most sensitive neurons is not clearly better than attacking random ones.",
                evidence=f"Difference {in_points(control)} points, n = {control.n}.",
                remedy="Do not read the success as evidence that the ranking finds weak neurons.",
            )

    def blocks(self, found: NeuronSuccesses) -> Iterator[AnyBlock]:
        yield Text(
            text=f"Gradient descent on {found.images} clean images within {found.threat}, aiming at one input of "
            f"{found.layer} at a time: the k with the lowest {ORDERINGS[self.ordering]} of each image, "
            f"{self.iterations} steps each. {found.aimless} images have no neuron that alone could change the prediction, and "
            f"count as failures. PGD: {self.pgd_steps} steps from {self.pgd_restarts} random starts, on the same images."
        )
        yield from success_blocks(found)

    def neuron_measures(self, found: NeuronSuccesses) -> Iterator[NeuronMeasure]:
        if found.by_neuron:
            rates = found.by_neuron.rates
            always = [neuron for neuron, rate in enumerate(rates) if rate == 1]
            yield NeuronMeasure(
                "success", "Success of the attack on the neuron alone", "share of the images on which it was attacked",
                "Large: aiming at this neuron changes the prediction. Neurons are attacked where they are among the most "
                "sensitive of an image, or drawn; no value: nowhere.",
                "attacked with success every time", (before_head(found.layer, rates, always),),
            )  # fmt: skip
