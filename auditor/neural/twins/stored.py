"""StoredPairs: clean images and their perturbed twins, the twins on disk, so memory does not grow with their number."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from auditor.attacking.attack import Attack
from auditor.attacking.criterion import Criterion
from auditor.attacking.evaluation import run_attack
from auditor.attacking.harness.outcome import Finished
from auditor.attacking.threat import ThreatModel
from auditor.kit.progress import OnProgress, no_progress
from auditor.models.classifier import NO_CLASS, Classifier
from auditor.models.dataset import ImageDataset
from auditor.neural.analysis import Pair, Subject

TWINS, FOOLED = "twins.npy", "fooled.npy"


class StoredPairs:
    """Pairs made by ``make_pairs``; iterating reads them back, ``batch_size`` at a time, in the order of the ids.

    ``answered``: for which samples the network's logits at the twin are finite, bool (N,).
    """

    def __init__(
        self,
        file: Path,
        fooled: NDArray[np.bool_],
        dataset: ImageDataset,
        ids: NDArray[np.int64],
        device: torch.device,
        batch_size: int,
        answered: NDArray[np.bool_] | None = None,
    ) -> None:
        self._file, self._fooled = file, fooled
        self.answered = np.ones(len(ids), bool) if answered is None else answered
        self._dataset, self._ids, self._device, self._batch_size = dataset, ids, device, batch_size

    @classmethod
    def opened(cls, folder: Path, subject: Subject, ids: NDArray[np.int64]) -> StoredPairs:
        """Pairs of these samples that ``keep`` left in a folder."""
        fooled, device = np.load(folder / FOOLED), subject.classifier.device
        return cls(folder / TWINS, fooled, subject.dataset, ids, device, subject.batch_size)

    def keep(self, folder: Path) -> None:
        """Move the twins to a new folder, from which ``opened`` reads them."""
        np.save(self._file.with_name(FOOLED), self._fooled)
        self._file = self._file.parent.rename(folder) / TWINS

    @property
    def bytes(self) -> int:
        """What the twins take on disk."""
        return self._file.stat().st_size

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[Pair]:
        twins = np.load(self._file, mmap_mode="r")
        start = 0
        for batch in self._dataset.batches(self._ids, self._batch_size):
            part = slice(start, start + len(batch.ids))
            start = part.stop
            yield Pair(
                batch.ids,
                batch.images.to(self._device),
                torch.from_numpy(np.array(twins[part])).to(self._device),
                batch.labels.to(self._device),
                self._fooled[part],
            )


def make_pairs(
    classifier: Classifier,
    attack: Attack,
    threat: ThreatModel,
    dataset: ImageDataset,
    ids: NDArray[np.int64],
    criterion: Criterion,
    folder: Path,
    *,
    seed: int,
    batch_size: int,
    on_progress: OnProgress = no_progress,
) -> StoredPairs:
    """Attack every sample with all steps (no early stop, whether classified correctly or not) and keep the last image.

    The twins lie in ``folder`` as float32, 4 * C * H * W bytes each; the caller removes the folder.
    """
    file = folder / TWINS
    twins = np.lib.format.open_memmap(file, "w+", np.float32, (len(ids), *classifier.input_shape))

    def keep(finished: Finished) -> None:
        twins[finished.position] = finished.x_adv.float().cpu().numpy()

    outcome = run_attack(
        classifier, attack, threat, dataset, ids, criterion,
        seed=seed, batch_size=batch_size, early_stop=False, on_finished=keep, on_progress=on_progress,
    )  # fmt: skip
    twins.flush()
    answered = outcome.prediction != NO_CLASS
    return StoredPairs(file, outcome.fooled, dataset, ids, classifier.device, batch_size, answered)


def make_twins(
    subject: Subject,
    attack: Attack,
    criterion: Criterion,
    *,
    threat: ThreatModel | None = None,
    ids: NDArray[np.int64] | None = None,
    classifier: Classifier | None = None,
    on_progress: OnProgress = no_progress,
) -> StoredPairs:
    """Further twins for an analysis, where its own pairs do not do: by another attack, for another goal, on another network.

    ``criterion`` has one entry for each of ``ids`` (default: the subject's samples). They last as long as the subject.
    """
    return make_pairs(
        classifier or subject.classifier,
        attack,
        threat or subject.threat,
        subject.dataset,
        subject.ids if ids is None else ids,
        criterion,
        Path(tempfile.mkdtemp(dir=subject.folder)),
        seed=subject.seed,
        batch_size=subject.batch_size,
        on_progress=on_progress,
    )


@contextmanager
def for_now(subject: Subject) -> Iterator[Subject]:
    """The subject, with twins made inside lasting no longer than that."""
    with tempfile.TemporaryDirectory(dir=subject.folder) as folder:
        yield replace(subject, folder=Path(folder))


def successes(pair: Pair) -> Pair:
    """The part of a batch on which the attack succeeded."""
    keep = torch.from_numpy(np.flatnonzero(pair.fooled)).to(pair.x.device)
    return Pair(pair.sample[pair.fooled], pair.x[keep], pair.x_adv[keep], pair.labels[keep], pair.fooled[pair.fooled])
