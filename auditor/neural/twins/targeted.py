"""Images driven to a target class by targeted PGD (Zhang et al. 2020, arXiv 1909.06978, section IV-B): the successful ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from auditor.attacking.attack import ATTACKS, Attack
from auditor.attacking.criterion import TargetedMisclassification
from auditor.kit.errors import EvaluationError
from auditor.kit.progress import OnProgress, no_progress
from auditor.kit.randomness import derive_seed
from auditor.neural.analysis import Pair, Subject
from auditor.neural.found import Found, shown
from auditor.neural.twins.stored import StoredPairs, for_now, make_twins, successes

TargetClasses = Annotated[
    int, Field(ge=1, le=1000, description="Maximum target classes; if there are more, the audit's seed draws some.")
]
TargetImages = Annotated[int, Field(ge=1, le=100_000, description="Maximum images driven to each target class.")]
TargetSteps = Annotated[
    int, Field(ge=1, le=1000, description="Steps of targeted PGD, each of length epsilon / sqrt(steps).")
]
"""Parameters of the analyses that drive images to target classes."""

KEPT, KEPT_BYTES = "targeted-", 2**30
"""Folders of twins that another analysis may want too, and how much disk they may take together."""


def papers_pgd(subject: Subject, steps: int) -> Attack:
    """PGD as the paper runs it: each step is epsilon / sqrt(steps) long. Raises EvaluationError for a norm that PGD lacks."""
    attack = ATTACKS.build("pgd", {"steps": steps, "step_size": steps**-0.5})
    if subject.threat.norm not in attack.norms:
        raise EvaluationError(
            f"Its twins are made by PGD, which does not work in {subject.threat.norm.symbol}.",
            "Audit the model in another norm.",
        )
    return attack


def target_classes(subject: Subject, most: int) -> list[int]:
    """Every class of the model, or ``most`` of them drawn by the seed; ascending."""
    classes = np.random.default_rng(derive_seed(subject.seed, "target classes")).permutation(
        subject.classifier.num_classes
    )
    return sorted(classes[:most].tolist())


def aimed_at(subject: Subject, target: int, most: int) -> NDArray[np.int64]:
    """Up to ``most`` samples of another class than ``target`` (D^y), drawn by the seed; ids ascending.

    Samples are drawn in one order for all classes, so classes share most of their images.
    """
    order = np.random.default_rng(derive_seed(subject.seed, "targeted images")).permutation(len(subject.ids))
    ids = subject.ids[order]
    return np.sort(ids[subject.dataset.labels[ids] != target][:most])


class TargetClass(Found):
    """How many images were tried to be driven to a class, and how many reached it."""

    target: int = Field(alias="class")
    name: str = shown("Target class")
    tried: int = shown("Images tried")
    images: int = shown("Reached it")


class Driven(NamedTuple):
    """One target class: how many samples were ``tried``, and the ``pairs`` of those that reached it, to be read once."""

    target: int
    name: str
    tried: int
    pairs: Iterator[Pair]


def driven_to_each(subject: Subject, attack: Attack, classes: int, images: int) -> Iterator[Driven]:
    """Up to ``images`` samples driven to each of up to ``classes`` target classes, class by class."""
    targets = target_classes(subject, classes)
    for index, target in enumerate(targets):
        name, ids = subject.classifier.class_name(target), aimed_at(subject, target, images)

        def hear(done: float, what: str, index: int = index, name: str = name) -> None:
            subject.on_progress((index + done) / len(targets), f"{what}, to {name}")

        yield Driven(target, name, len(ids), successful_twins(subject, attack, target, ids, on_progress=hear))


def successful_twins(
    subject: Subject, attack: Attack, target: int, ids: NDArray[np.int64], *, on_progress: OnProgress = no_progress
) -> Iterator[Pair]:
    """These images and their twins that the model takes for the target (D'^y), batch by batch; none is empty.

    The twins stay in the subject's folder, up to 1 GiB of them: who asks for the same ones again reads them back.
    """
    if len(ids) == 0:
        return
    key = derive_seed(subject.seed, subject.threat, attack.describe(), target, *ids.tolist())
    kept = subject.folder / f"{KEPT}{key:016x}"
    wanted = torch.full((len(ids),), target, dtype=torch.int64, device=subject.classifier.device)
    with for_now(subject) as part:
        if kept.exists():
            twins = StoredPairs.opened(kept, subject, ids)
            on_progress(1.0, attack.display_title())
        else:
            twins = make_twins(part, attack, TargetedMisclassification(wanted), ids=ids, on_progress=on_progress)
            if twins.bytes + sum(file.stat().st_size for file in subject.folder.glob(f"{KEPT}*/*")) <= KEPT_BYTES:
                twins.keep(kept)
        for pair in twins:
            if pair.fooled.any():
                yield successes(pair)
