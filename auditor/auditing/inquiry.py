"""Inquiry: what a check may look at, and the small attacks that it may run; the same attack is run only once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor.attacking.attack import Attack
from auditor.attacking.criterion import Criterion
from auditor.attacking.evaluation import run_attack
from auditor.attacking.harness.losses import margin
from auditor.attacking.harness.outcome import Finished, Outcome
from auditor.attacking.harness.query import finite_or_zero
from auditor.attacking.records import AttackRecord
from auditor.attacking.threat import ThreatModel
from auditor.auditing.allowance import Allowance, changed
from auditor.kit.progress import OnProgress, no_progress
from auditor.models.classifier import Classifier, answered
from auditor.models.dataset import ImageDataset


class Trial(NamedTuple):
    """A small attack that a check ran: its outcome, and the clean and final images, (N, C, H, W) on the CPU."""

    outcome: Outcome
    x: Tensor
    x_adv: Tensor


@dataclass
class Inquiry:
    """The model, the samples, and what the attacks did so far.

    ``ids``, ``labels``, ``correct`` (classified correctly, bool) and ``criterion`` have one entry per sample of the audit.
    ``targeted``: the attacker wants one particular class, which not every attack can reach.
    ``records`` grows as the audit goes on. ``allowance``: what checks may spend. ``answered``: for which samples the clean
    logits are finite (default: all); no check looks at the others.
    """

    classifier: Classifier
    dataset: ImageDataset
    ids: NDArray[np.int64]
    labels: Tensor
    correct: NDArray[np.bool_]
    criterion: Criterion
    targeted: bool
    threats: tuple[ThreatModel, ...]
    records: Sequence[AttackRecord]
    seed: int
    batch_size: int
    allowance: Allowance
    on_progress: OnProgress = no_progress
    answered: NDArray[np.bool_] | None = None
    _trials: dict[object, Trial] = field(default_factory=dict)

    def __post_init__(self) -> None:
        order = np.random.default_rng(self.seed).permutation(len(self.ids))
        if self.answered is not None:
            order = order[self.answered[order]]
        self._drawn, self._attackable = order, order[self.correct[order]]

    def images(self, count: int) -> tuple[Tensor, Criterion]:
        """Up to ``count`` of the audit's clean images, drawn by the seed, and what the attacker wants of them."""
        positions = np.sort(self._drawn[:count])
        return self.clean(positions), self.wanted(positions)

    def right(self, count: int) -> NDArray[np.int64]:
        """Positions of up to ``count`` correctly classified samples, drawn by the seed."""
        return np.sort(self._attackable[:count])

    def clean(self, positions: NDArray[np.int64]) -> Tensor:
        """The clean images at these positions of the sample table, on the model's device."""
        return self.dataset.images(self.ids[positions]).to(self.classifier.device, self.classifier.dtype)

    def wanted(self, positions: NDArray[np.int64]) -> Criterion:
        """What the attacker wants of the samples at these positions, on the model's device."""
        return self.criterion[torch.from_numpy(positions)].to(self.classifier.device)

    def margins(self, wanted: Criterion, images: Tensor, model: Classifier | None = None) -> Tensor:
        """The margin of the logits at images (N, C, H, W), by what the attacker wants of them, (N,), on the CPU.

        ``model``: another view of the model.

        Where the logits are not finite: infinite, positive where that is what the attacker wants.
        """
        parts = []
        for index in torch.arange(len(images)).split(self.batch_size):
            with torch.no_grad():
                logits = (model or self.classifier)(images[index].to(self.classifier.device))
            rows = wanted[index.to(logits.device)]
            extreme = torch.where(rows.is_adversarial(logits), torch.inf, -torch.inf)
            parts.append(torch.where(answered(logits), margin(rows, finite_or_zero(logits)), extreme.to(logits)).cpu())
        return torch.cat(parts) if parts else torch.empty(0)

    def affordable(self, attack: Attack) -> NDArray[np.int64]:
        """As many attacked samples as the budget allows for this attack, drawn by the seed; their positions."""
        return self.right(self.allowance.affordable(attack))

    def headline(self, threat: ThreatModel) -> list[AttackRecord]:
        """What each attack of the audit did within this threat model."""
        return [item for item in self.records if item.role == "headline" and item.threat == threat]

    def strongest(self, threat: ThreatModel, *, gradients: bool = False) -> AttackRecord | None:
        """The first of ``ranked``, if there is one."""
        return next(iter(self.ranked(threat, gradients=gradients)), None)

    def ranked(self, threat: ThreatModel, *, gradients: bool = False) -> list[AttackRecord]:
        """The attacks by the samples that they fooled, most first; of equals those that follow gradients, then those that try
        longest. With ``gradients`` only those that follow them."""
        records = [item for item in self.headline(threat) if item.attack.uses_gradients or not gradients]
        return sorted(
            records,
            key=lambda item: (sum(item.fooled), item.attack.uses_gradients, item.attack.cost),
            reverse=True,
        )

    def known(self, threat: ThreatModel, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which samples at these positions some attack of the audit fooled within this threat model."""
        return np.logical_or.reduce([self.fooled(item, positions) for item in self.headline(threat)])

    def one_step(self, threat: ThreatModel) -> bool:
        """Whether no attack that follows gradients takes more than one step: known to be weak, as the report then says."""
        gradients = [item.attack for item in self.headline(threat) if item.attack.uses_gradients]
        return bool(gradients) and all(attack.iterations == 1 for attack in gradients)

    def fooled(self, record: AttackRecord, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which samples at these positions this attack of the audit fooled."""
        known = np.zeros(len(self.ids), bool)
        known[np.array(record.positions, np.int64)] = record.fooled
        return known[positions]

    def won(self, record: AttackRecord, positions: NDArray[np.int64]) -> NDArray[np.float64]:
        """How far this attack of the audit fooled the samples at these positions: 0 or 1, or a share of draws."""
        known = np.zeros(len(self.ids))
        inside = np.ones(len(record.positions), bool) if record.chosen is None else np.array(record.chosen) >= 0
        known[np.array(record.positions, np.int64)] = inside * np.array(
            record.fooled if record.share is None else record.share, np.float64
        )
        return known[positions]

    def attack(
        self, attack: Attack, threat: ThreatModel, positions: NDArray[np.int64], *, early_stop: bool = True
    ) -> Trial:
        """Run an attack on the samples at these positions, with the audit's seed and any image within epsilon as success."""
        attack = changed(attack, budget="fixed")
        key = (type(attack), attack.describe(), threat, positions.tobytes(), early_stop)
        if key not in self._trials:
            self._trials[key] = self._run(attack, threat, positions, early_stop)
        return self._trials[key]

    def _run(self, attack: Attack, threat: ThreatModel, positions: NDArray[np.int64], early_stop: bool) -> Trial:
        x = torch.empty(len(positions), *self.classifier.input_shape, dtype=self.classifier.dtype)
        x_adv = torch.empty_like(x)

        def keep(finished: Finished) -> None:
            place = torch.from_numpy(finished.position)
            x[place], x_adv[place] = finished.x.detach().cpu(), finished.x_adv.detach().cpu()

        outcome = run_attack(
            self.classifier, attack, threat, self.dataset, self.ids[positions], self.wanted(positions),
            seed=self.seed, batch_size=self.batch_size, early_stop=early_stop, on_finished=keep,
            on_progress=self.on_progress,
        )  # fmt: skip
        return Trial(outcome, x, x_adv)


def whole_box(threat: ThreatModel, shape: tuple[int, int, int]) -> ThreatModel:
    """The smallest ball of this norm around any image that holds every other image of [0, 1]."""
    return threat.model_copy(update={"epsilon": threat.norm.largest(shape)})
