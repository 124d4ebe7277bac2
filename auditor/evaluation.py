"""The model on clean images and under attack; an ensemble's stages run one after another on the samples that still stand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor.attack import Attack, Ensemble
from auditor.classifier import Classifier, answered, predicted
from auditor.criterion import Criterion
from auditor.dataset import ImageDataset
from auditor.errors import SpecError
from auditor.harness.attack_run import AttackRun
from auditor.harness.outcome import Finished, Outcome
from auditor.progress import OnProgress, no_progress
from auditor.threat import ThreatModel


class CleanPass(NamedTuple):
    """The model on unperturbed images: logits (N, K) on the CPU, predicted class (N,), its softmax confidence (N,).

    ``answered`` (bool, (N,)): the logits are finite. Where they are not, zeros stand for them, and the class is NO_CLASS.
    ``images`` (bool, (N,)): the pixels are finite.
    """

    logits: Tensor
    prediction: NDArray[np.int64]
    confidence: NDArray[np.float64]
    answered: NDArray[np.bool_]
    images: NDArray[np.bool_]


def clean_pass(
    classifier: Classifier,
    dataset: ImageDataset,
    ids: NDArray[np.int64],
    *,
    batch_size: int,
    on_progress: OnProgress = no_progress,
) -> CleanPass:
    """One forward pass over the unperturbed images."""
    # Written into one tensor: small ones that stay, between batches that go, would leave the memory in pieces.
    logits = torch.empty(len(ids), classifier.num_classes, dtype=classifier.dtype)
    images = np.ones(len(ids), bool)
    done = 0
    for batch in dataset.batches(ids, batch_size):
        with torch.no_grad():
            logits[done : done + len(batch.ids)] = classifier(batch.images.to(classifier.device, classifier.dtype))
        images[done : done + len(batch.ids)] = batch.images.flatten(1).isfinite().all(1).numpy()
        done += len(batch.ids)
        on_progress(done / len(ids), "clean images")
    finite, classes = answered(logits), predicted(logits)
    logits[~finite] = 0
    confidence = torch.where(finite, logits.double().softmax(1).amax(1), 0.0) if len(logits) else torch.empty(0)
    return CleanPass(logits, classes.numpy(), confidence.double().numpy(), finite.numpy(), images)


def run_attack(
    classifier: Classifier,
    attack: Attack,
    threat: ThreatModel,
    dataset: ImageDataset,
    ids: NDArray[np.int64],
    criterion: Criterion,
    *,
    seed: int,
    batch_size: int,
    early_stop: bool = True,
    on_finished: Callable[[Finished], None] | None = None,
    on_progress: OnProgress = no_progress,
) -> Outcome:
    """Attack these samples and judge every image that the model sees.

    ``criterion`` has one row per id, on the classifier's device. A row that is fooled leaves at once and the next sample
    takes its place, so that every pass is full and none is spent on a sample already fooled. Attacks run on a faster copy of
    the network (see ``auditor.harness.fast``); each success is confirmed by the network itself. With ``early_stop=False``
    every row runs all its steps and is judged at its last image (the form in which sensitivity is defined); that excludes
    restarts and the minimal budget.
    Logits that are not finite are no class, so that an untargeted attacker has what he wants. Raises SpecError when the attack
    does not know the norm.
    """
    if threat.norm not in attack.norms:
        known = ", ".join(sorted(norm.symbol for norm in attack.norms))
        raise SpecError(
            f"{attack.display_title()} works in {known}, not in {threat.norm.symbol}.", "Pick another attack or norm."
        )
    if not early_stop and (attack.runs > 1 or attack.budget != "fixed"):
        raise SpecError(
            "Restarts and the minimal budget need early stopping: without it only the last image of one run is judged."
        )
    if isinstance(attack, Ensemble):
        return _run_stages(
            classifier, attack, threat, dataset, ids, criterion, seed, batch_size, on_finished, on_progress
        )
    return AttackRun(
        classifier, attack, threat, dataset, ids, criterion, seed, batch_size, early_stop, on_finished, on_progress
    ).outcome()


def _run_stages(
    classifier: Classifier,
    ensemble: Ensemble,
    threat: ThreatModel,
    dataset: ImageDataset,
    ids: NDArray[np.int64],
    criterion: Criterion,
    seed: int,
    batch_size: int,
    on_finished: Callable[[Finished], None] | None,
    on_progress: OnProgress,
) -> Outcome:
    """Every stage on the samples that still stand; passes add up, the verdict is that of a sample's last stage."""
    total: Outcome | None = None
    standing, saw = np.arange(len(ids)), np.zeros(len(ids), bool)
    weights = np.cumsum([0.0, *(stage.runs * stage.cost for stage in ensemble.stages)])
    weights /= weights[-1]
    for index, stage in enumerate(ensemble.stages):
        last = index + 1 == len(ensemble.stages)

        def hand_on(finished: Finished, standing: NDArray[np.int64] = standing, last: bool = last) -> None:
            over = finished.fooled | last
            if on_finished is not None and over.any():
                rows = torch.from_numpy(np.flatnonzero(over)).to(finished.x.device)
                on_finished(
                    Finished(
                        standing[finished.position[over]], finished.x[rows], finished.x_adv[rows], finished.fooled[over]
                    )
                )

        def hear(share: float, what: str, index: int = index) -> None:
            on_progress(float(weights[index] + share * (weights[index + 1] - weights[index])), what)

        part = run_attack(
            classifier, stage, threat, dataset, ids[standing], criterion[torch.from_numpy(standing)],
            seed=seed, batch_size=batch_size, on_finished=hand_on, on_progress=hear,
        )  # fmt: skip
        total = part if total is None else _merged(total, part, standing)
        saw[standing] |= (part.backwards > 0) & ~part.blind
        standing = standing[~part.fooled]
    assert total is not None
    return total._replace(blind=total.blind & ~saw)


def _merged(total: Outcome, part: Outcome, place: NDArray[np.int64]) -> Outcome:
    """An outcome with what a further stage did to the samples at ``place``."""
    copies: dict[str, Any] = {name: value.copy() for name, value in total._asdict().items() if name != "seconds"}
    merged = total._replace(**copies)
    for name in ("fooled", "prediction", "confidence", "distance", "closest"):
        getattr(merged, name)[place] = getattr(part, name)
    merged.blind[place] |= part.blind
    for name in ("forwards", "backwards"):
        getattr(merged, name)[place] += getattr(part, name)
    return merged._replace(seconds=total.seconds + part.seconds)
