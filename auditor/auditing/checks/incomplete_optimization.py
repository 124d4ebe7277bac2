"""Indicator of attack failure 4."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from auditor.attacking.attack import Attack, Ensemble, Query, Rows
from auditor.attacking.harness.losses import margin
from auditor.attacking.threat import ThreatModel
from auditor.auditing.allowance import Allowance
from auditor.auditing.check import ThreatCheck
from auditor.auditing.inquiry import Inquiry
from auditor.kit.flag import Flag, Opinion
from auditor.kit.statistics.estimate import Rate
from auditor.models.preflight import averaging

FEW = 10
"""Fewer samples that resist than these say nothing about the attack's last steps."""


class IncompleteOptimization(ThreatCheck):
    """Indicator 4 (Pintor et al. 2022, arXiv 2106.09947): the attack had come to rest when its steps ran out.

    Of each sample that resists, the best loss so far, scaled to run from 0 to 1 over the attack, gains at most 5 % over the
    last steps. The paper looks at the last 10 steps; of an attack with fewer than 50 this looks at the last fifth. The loss is
    the margin of the logits.
    """

    title: ClassVar[str] = "Indicator 4: incomplete optimization"
    kind: Literal["incomplete_optimization"] = "incomplete_optimization"
    last: int = Field(10, ge=1, le=10_000, description="Steps that count as the last ones, at most a fifth of all.")
    gain: float = Field(0.05, gt=0, lt=1, description="Gain over the last steps that counts as still moving.")
    share: float = Field(0.5, gt=0, le=1, description="Share of such samples that raises a doubt.")

    def trial(self, attack: Attack, threat: ThreatModel) -> Attack | None:
        """The same again, where it climbs one loss step by step."""
        climbs = attack.uses_gradients and not isinstance(attack, Ensemble) and not attack.minimizes
        return attack if climbs and attack.iterations > 1 else None

    def trial_cost(self, trial: Attack, allowance: Allowance) -> float:
        """One more answer before each step, and one at the end."""
        asked = (trial.runs * trial.iterations + 1) * allowance.answers
        return allowance.cost(trial) + allowance.affordable(trial) * asked

    def examine(self, inquiry: Inquiry, threat: ThreatModel) -> Opinion:
        record = inquiry.strongest(threat, gradients=True)
        if record is None or isinstance(record.attack, Ensemble) or record.attack.minimizes:
            return Opinion("no attack here climbs one loss step by step", applies=False)
        if record.attack.iterations == 1:
            return Opinion(f"{record.attack.display_title()} takes a single step", applies=False)
        attack = record.attack
        positions = inquiry.affordable(attack)
        paths = _paths(inquiry, attack, threat, positions[~inquiry.fooled(record, positions)])
        if len(paths) < FEW:
            return Opinion(f"only {len(paths)} of {len(positions)} samples resist", applies=False)
        late = max(1, min(self.last, paths.shape[1] // 5))
        best = np.maximum.accumulate(paths, 1)
        span = (paths.max(1) - paths.min(1)).clip(min=1e-12)
        moving = Rate.of((best[:, -1] - best[:, -1 - late]) / span > self.gain)
        evidence = (
            f"{attack.display_title()}: {moving.hits} of {moving.n} samples that resist were still gaining over the last {late} "
            f"of {paths.shape[1] - 1} steps"
        )
        if moving.value is None or moving.value < self.share:
            return Opinion(evidence)
        flag = Flag(
            name="incomplete optimization",
            severity="warning",
            message=f"{attack.display_title()} ({threat}) was still making progress when its steps ran out.",
            evidence=evidence,
            remedy="Give it more steps, or longer ones.",
        )
        return Opinion(evidence, (flag,))


def _paths(inquiry: Inquiry, attack: Attack, threat: ThreatModel, positions: NDArray[np.int64]) -> NDArray[np.float64]:
    """The margin at every step of the first run of each sample, (N, steps + 1); samples that this run fools are left out."""
    paths = np.full((len(positions), attack.iterations), np.nan)

    class Watched(type(attack)):  # type: ignore[misc]
        """The same attack; before each step, its loss is noted."""

        def step(self, rows: Rows, query: Query) -> Any:
            first = rows.restart == 0
            loss = margin(rows.criterion, query.logits()).double().cpu().numpy()
            paths[rows.position[first], rows.step[first]] = loss[first]
            return super().step(rows, query)

    watched = Watched(**{name: getattr(attack, name) for name in type(attack).model_fields})
    trial = inquiry.attack(watched, threat, positions)
    final = inquiry.margins(inquiry.wanted(positions), trial.x_adv, averaging(inquiry.classifier))
    paths = np.concatenate([paths, final.double().numpy()[:, None]], 1)
    return paths[np.isfinite(paths).all(1)]
