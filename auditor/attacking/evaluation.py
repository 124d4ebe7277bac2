"""The model on clean images and under attack; an ensemble's stages run one after another on the samples that still stand."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor.attacking.attack import Attack, Ensemble
from auditor.attacking.criterion import Criterion
from auditor.attacking.harness.attack_run import AttackRun
from auditor.attacking.harness.judged_run import JudgedRun
from auditor.attacking.harness.jury import Jury
from auditor.attacking.harness.outcome import Finished, Outcome
from auditor.attacking.harness.query import finite_or_zero
from auditor.attacking.threat import ThreatModel
from auditor.kit.errors import SpecError
from auditor.kit.progress import OnProgress, no_progress
from auditor.models.classifier import Classifier, answered, predicted
from auditor.models.dataset import ImageDataset
from auditor.models.drawing import View


class CleanPass(NamedTuple):
    """The model on unperturbed images: logits (N, K) on the CPU, predicted class (N,), its softmax confidence (N,).

    ``answered`` (bool, (N,)): the logits are finite. Where they are not, zeros stand for them, and the class is NO_CLASS.
    ``images`` (bool, (N,)): the pixels are finite.
    For a model with random outputs, the class that most draws gave, the logits of the mean probability, and: ``right``, the
    share of the draws that gave the label, (N,); ``chosen``, the same of other draws (see ``auditor.attacking.harness.jury``).
    """

    logits: Tensor
    prediction: NDArray[np.int64]
    confidence: NDArray[np.float64]
    answered: NDArray[np.bool_]
    images: NDArray[np.bool_]
    right: NDArray[np.float64] | None = None
    chosen: NDArray[np.float64] | None = None


def clean_pass(
    classifier: Classifier,
    dataset: ImageDataset,
    ids: NDArray[np.int64],
    *,
    batch_size: int,
    draws: int | None = None,
    on_progress: OnProgress = no_progress,
) -> CleanPass:
    """One forward pass over the unperturbed images.

    A model with random outputs is asked twice ``draws`` times (default: as usual for it).
    """
    if classifier.random:
        return _drawn_pass(
            classifier, dataset, ids, Jury(classifier, draws or classifier.usual_draws, batch_size), on_progress
        )
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


def _drawn_pass(
    classifier: Classifier, dataset: ImageDataset, ids: NDArray[np.int64], jury: Jury, on_progress: OnProgress
) -> CleanPass:
    """As many first and as many fresh draws as a jury has; ``answered``: in all of the fresh ones."""
    parts, done = [], 0
    for batch in dataset.batches(ids, jury.batch_size):
        images, labels = batch.images.to(classifier.device, classifier.dtype), batch.labels.to(classifier.device)
        hearing = jury.hear(images, "judge")
        found = (
            finite_or_zero(hearing.mean.log()), hearing.prediction, hearing.confidence, hearing.answered,
            images.flatten(1).isfinite().all(1), hearing.share(labels), jury.hear(images, "choose").share(labels),
        )  # fmt: skip
        parts.append([item.cpu() for item in found])
        done += len(batch.ids)
        on_progress(done / len(ids), "clean images")
    if not parts:
        no, none = np.zeros(0, bool), np.zeros(0)
        return CleanPass(
            torch.empty(0, classifier.num_classes), none.astype(np.int64), none, no, no, right=none, chosen=none
        )
    logits, *rest = (torch.cat(items) for items in zip(*parts, strict=True))
    return CleanPass(logits.to(classifier.dtype), *(item.numpy() for item in rest))


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
    draws: int | None = None,
    judge: Classifier | None = None,
    on_finished: Callable[[Finished], None] | None = None,
    on_progress: OnProgress = no_progress,
) -> Outcome:
    """Attack these samples and judge every image that the model sees.

    ``criterion`` has one row per id, on the classifier's device. A row that is fooled leaves at once and the next sample
    takes its place, so every pass is full and none is spent on a sample already fooled. Attacks run on a faster copy of
    the network (see ``auditor.attacking.harness.fast``); each success is confirmed by the network itself. With
    ``early_stop=False`` every row runs all its steps and is judged at its last image (the form in which sensitivity is
    defined); that excludes restarts and the minimal budget.

    A model with random outputs is attacked through the mean of ``draws`` answers, and judged by as many fresh ones (see
    ``auditor.attacking.harness.judged_run``); an attack that averages of itself sets the number. ``judge``: the
    model that judges, where ``classifier`` is but a view of it. ``draws`` is then the judge's, the view has its own.

    Logits that are not finite are no class, so an untargeted attacker has what they want. Raises SpecError when the attack
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
            classifier,
            attack,
            threat,
            dataset,
            ids,
            criterion,
            seed,
            batch_size,
            draws,
            judge,
            on_finished,
            on_progress,
        )
    target, draws = classifier, draws or classifier.usual_draws
    if judge is None and classifier.random:
        view = View(adaptive=True, draws=attack.averages if attack.averages > 1 else draws)
        target, judge = classifier.seen(view), classifier
    if judge is None:
        return AttackRun(
            target, attack, threat, dataset, ids, criterion, seed, batch_size, early_stop, on_finished, on_progress
        ).outcome()
    return JudgedRun(
        target, attack.plain(), threat, dataset, ids, criterion, seed, batch_size, early_stop, on_finished, on_progress,
        jury=Jury(judge, draws, batch_size),
    ).outcome()  # fmt: skip


def _run_stages(
    classifier: Classifier,
    ensemble: Ensemble,
    threat: ThreatModel,
    dataset: ImageDataset,
    ids: NDArray[np.int64],
    criterion: Criterion,
    seed: int,
    batch_size: int,
    draws: int | None,
    judge: Classifier | None,
    on_finished: Callable[[Finished], None] | None,
    on_progress: OnProgress,
) -> Outcome:
    """Every stage on the samples that still stand; passes add up, the verdict is that of a sample's last stage.

    If the model has random outputs, a sample stands while any draw is right, and the stage that fooled most draws counts.
    """
    total: Outcome | None = None
    hold = _Held(on_finished)
    standing, saw = np.arange(len(ids)), np.zeros(len(ids), bool)
    weights = np.cumsum([0.0, *(stage.runs * stage.cost for stage in ensemble.stages)])
    weights /= weights[-1]
    for index, stage in enumerate(ensemble.stages):
        last = index + 1 == len(ensemble.stages)

        def hand_on(finished: Finished, standing: NDArray[np.int64] = standing, last: bool = last) -> None:
            if finished.chosen is not None:
                hold.add(finished._replace(position=standing[finished.position]))
                return
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
            seed=seed, batch_size=batch_size, draws=draws, judge=judge, on_finished=hand_on, on_progress=hear,
        )  # fmt: skip
        total = part if total is None else _merged(total, part, standing)
        saw[standing] |= (part.backwards > 0) & ~part.blind
        standing = standing[~part.fooled if part.chosen is None else part.chosen < 1]
    assert total is not None
    hold.release()
    return total._replace(blind=total.blind & ~saw)


class _Held:
    """Images of a model with random outputs: they wait for those of later stages, and the one that fools most draws counts."""

    def __init__(self, hand_on: Callable[[Finished], None] | None) -> None:
        self.hand_on = hand_on
        self.best: dict[int, Finished] = {}

    def add(self, finished: Finished) -> None:
        if self.hand_on is None or finished.chosen is None:
            return
        for row, position in enumerate(finished.position.tolist()):
            before = self.best.get(position)
            if before is None or before.chosen is None or finished.chosen[row] > before.chosen[0]:
                part = slice(row, row + 1)
                self.best[position] = Finished(
                    finished.position[part], finished.x[part].clone(), finished.x_adv[part].clone(), finished.fooled[part],
                    finished.chosen[part],
                )  # fmt: skip

    def release(self) -> None:
        for _, finished in sorted(self.best.items()):
            if self.hand_on is not None:
                self.hand_on(finished)


def _merged(total: Outcome, part: Outcome, place: NDArray[np.int64]) -> Outcome:
    """An outcome with what a further stage did to the samples at ``place``."""
    merged = Outcome._make(value.copy() if isinstance(value, np.ndarray) else value for value in total)
    better = np.ones(len(place), bool)
    if total.chosen is not None and part.chosen is not None:
        better = part.chosen > total.chosen[place]
    for name in ("fooled", "prediction", "confidence", "distance", "closest", "share", "chosen"):
        if getattr(merged, name) is not None:
            getattr(merged, name)[place[better]] = getattr(part, name)[better]
    merged.blind[place] |= part.blind
    for name in ("forwards", "backwards"):
        getattr(merged, name)[place] += getattr(part, name)
    return merged._replace(seconds=total.seconds + part.seconds)
