"""Twins of the same images at several radii."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import torch

from auditor.attacking.attack import Attack
from auditor.attacking.criterion import Misclassification
from auditor.neural.analysis import Pair, Subject
from auditor.neural.twins.stored import for_now, make_twins


def at_radii(subject: Subject, attack: Attack, multiples: Collection[float]) -> Iterator[tuple[float, Iterable[Pair]]]:
    """Untargeted twins of the subject's samples within multiples of its epsilon: each epsilon, ascending, with its pairs, which
    are to be read before the next."""
    labels = torch.from_numpy(subject.dataset.labels[subject.ids]).to(subject.classifier.device)
    radii = [multiple * subject.threat.epsilon for multiple in sorted(set(multiples))]
    for index, epsilon in enumerate(radii):

        def report(share: float, what: str, index: int = index) -> None:
            subject.on_progress((index + share) / len(radii), what)

        with for_now(subject) as part:
            threat = subject.threat.model_copy(update={"epsilon": epsilon})
            yield epsilon, make_twins(part, attack, Misclassification(labels), threat=threat, on_progress=report)
