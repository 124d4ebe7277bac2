"""Images driven to a target class by targeted PGD (Zhang et al. 2020, arXiv 1909.06978, section IV-B): the successful ones."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from auditor.analysis import Pair, Subject
from auditor.attack import ATTACKS, Attack
from auditor.criterion import TargetedMisclassification
from auditor.errors import EvaluationError
from auditor.progress import OnProgress, no_progress
from auditor.randomness import derive_seed
from auditor.twins.stored import make_twins, successes


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

    Samples are drawn in one order for all classes, so that classes share most of their images.
    """
    order = np.random.default_rng(derive_seed(subject.seed, "targeted images")).permutation(len(subject.ids))
    ids = subject.ids[order]
    return np.sort(ids[subject.dataset.labels[ids] != target][:most])


def successful_twins(
    subject: Subject, attack: Attack, target: int, ids: NDArray[np.int64], *, on_progress: OnProgress = no_progress
) -> Iterator[Pair]:
    """These images and their twins that the model takes for the target (D'^y), batch by batch; none is empty.

    The twins lie on disk only as long as they are read.
    """
    if len(ids) == 0:
        return
    wanted = torch.full((len(ids),), target, dtype=torch.int64, device=subject.classifier.device)
    with tempfile.TemporaryDirectory(dir=subject.folder) as folder:
        twins = make_twins(
            replace(subject, folder=Path(folder)),
            attack,
            TargetedMisclassification(wanted),
            ids=ids,
            on_progress=on_progress,
        )
        for pair in twins:
            if pair.fooled.any():
                yield successes(pair)
