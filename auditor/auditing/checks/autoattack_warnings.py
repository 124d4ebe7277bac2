"""What AutoAttack warns of."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import ClassVar, Literal

import torch
from pydantic import Field

from auditor.attacking.criterion import Misclassification
from auditor.attacking.harness.losses import difference_of_logits_ratio
from auditor.attacking.threat import Norm
from auditor.auditing.allowance import Allowance
from auditor.auditing.check import Check
from auditor.auditing.inquiry import Inquiry
from auditor.kit.flag import Flag, Opinion
from auditor.kit.randomness import RowRandom
from auditor.models.preflight import dead_gradients

FEW_CLASSES = 4
"""The targeted DLR loss needs four classes, the DLR loss three."""


ASKED = 2
"""Images with which it is found out whether the model computes gradients."""


class AutoAttackWarnings(Check):
    """What AutoAttack's own checks warn of (Croce and Hein 2020, arXiv 2003.01690), unless another check here covers
    it.

    Points of zero gradient of the DLR loss at a random start, an optimization at inference, and few classes. Randomized
    defences, a softmax output and Square being stronger are the checks determinism, logits_not_probabilities and
    black_box_not_stronger.
    """

    preflight: ClassVar[bool] = True
    title: ClassVar[str] = "AutoAttack's warnings"
    kind: Literal["autoattack_warnings"] = "autoattack_warnings"
    images: int = Field(100, ge=1, le=1024, description="Number of images to check.")

    def cost(self, allowance: Allowance) -> float:
        return (1 + 3) * allowance.images(self.images) + allowance.images(ASKED)

    def run(self, inquiry: Inquiry) -> Opinion:
        dead, n = self._zero_gradients(inquiry)
        loops, classes = _optimizes(inquiry), inquiry.classifier.num_classes
        evidence = (
            f"zero gradient of the DLR loss at a random start: {dead} of {n} images; optimization at inference: "
            f"{'yes' if loops else 'no'}; classes: {classes}"
        )
        flags = []
        if dead:
            flags.append(
                Flag(
                    name="zero gradients",
                    severity="severe" if dead > n / 2 else "warning",
                    message=f"The gradient of the DLR loss is zero at a random start for {dead} of {n} images.",
                    evidence=evidence,
                    remedy="Gradient attacks cannot start there: use an attack that needs no gradient.",
                )
            )
        if loops:
            flags.append(
                Flag(
                    name="optimization at inference",
                    severity="warning",
                    message="The model computes gradients while it classifies.",
                    evidence=evidence,
                    remedy="This model needs an attack designed for it; a standard attack says little.",
                )
            )
        if classes < FEW_CLASSES:
            flags.append(
                Flag(
                    name="few classes",
                    severity="info",
                    message=f"With {classes} classes the targeted DLR loss is not what the paper defines.",
                    evidence=evidence,
                )
            )
        return Opinion(evidence, tuple(flags))

    def _zero_gradients(self, inquiry: Inquiry) -> tuple[int, int]:
        """Images without a gradient, of those that are classified correctly at their start."""
        positions = inquiry.right(self.images)
        if not len(positions):
            return 0, 0
        start, threat = inquiry.clean(positions), inquiry.threats[0]
        if threat.norm is not Norm.L0:
            ball = threat.ball(start)
            random = RowRandom(inquiry.seed, "random start", [(int(item),) for item in inquiry.ids[positions]])
            start = ball.project(ball.sample(start, random), start)
        wanted = Misclassification(inquiry.labels[torch.from_numpy(positions)].to(start.device))
        with torch.no_grad():
            right = ~wanted.is_adversarial(inquiry.classifier(start))
        dead = dead_gradients(
            inquiry.classifier, start, lambda logits, index: difference_of_logits_ratio(wanted[index], logits)
        )
        return int((right & dead).sum()), int(right.sum())


def _optimizes(inquiry: Inquiry) -> bool:
    """Whether the network computes gradients when it is asked for logits."""
    images, _ = inquiry.images(ASKED)
    with _calls_of(torch.autograd.grad.__code__, torch.autograd.backward.__code__) as called:
        inquiry.classifier.logits(images)
    return bool(called)


@contextmanager
def _calls_of(*wanted: CodeType) -> Iterator[list[CodeType]]:
    """Which of these functions are called inside, however they were imported."""
    called: list[CodeType] = []

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_code in wanted:
            called.append(frame.f_code)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield called
    finally:
        sys.setprofile(before if callable(before) else None)  # a profiler written in C cannot be set again from here
