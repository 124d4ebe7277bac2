"""Twins by name: those of the audit, those of each of its attacks, and those by random noise, the control."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from auditor.attacking.attack import ATTACKS, Attack
from auditor.attacking.criterion import Misclassification
from auditor.kit.progress import OnProgress
from auditor.neural.analysis import Pair, Subject
from auditor.neural.twins.rows import Picked
from auditor.neural.twins.stored import make_twins

AUDIT = "twins of the audit"
CONTROL = "random noise (control)"


def named_twins(
    subject: Subject, chosen: NDArray[np.bool_], on_progress: OnProgress
) -> Iterator[tuple[str, Iterable[Pair]]]:
    """Of the samples ``chosen``, bool (N,), each to be read before the next: the audit's, the untargeted ones of every attack
    of the audit that makes one twin per image, and the control where the norm allows it."""
    yield AUDIT, Picked(subject.pairs, chosen)
    makers = [attack for attack in subject.attacks if attack.single and not attack.control]
    names = [_name(attack, makers) for attack in makers]
    noise = ATTACKS.build("random-noise", {"draws": 2})
    if subject.threat.norm in noise.norms:
        makers, names = [*makers, noise], [*names, CONTROL]
    ids = subject.ids[chosen]
    labels = torch.from_numpy(subject.dataset.labels[ids]).to(subject.classifier.device)
    for index, (attack, name) in enumerate(zip(makers, names, strict=True)):

        def report(share: float, what: str, index: int = index) -> None:
            on_progress((index + share) / len(makers), what)

        yield name, make_twins(subject, attack, Misclassification(labels), ids=ids, on_progress=report)


def without_twins(subject: Subject) -> tuple[str, ...]:
    """The attacks that do not make one twin per image."""
    return tuple(attack.display_title() for attack in subject.attacks if not attack.single)


def _name(attack: Attack, others: list[Attack]) -> str:
    """The attack's title; where others share it, with the parameters in which they differ."""
    alike = [other.settings() for other in others if other.display_title() == attack.display_title()]
    differ = [
        f"{name} {value}" for name, value in attack.settings().items() if any(o.get(name) != value for o in alike)
    ]
    return f"{attack.display_title()} ({', '.join(differ)})" if differ else attack.display_title()
