"""Allowance: what the checks of an audit may spend, and what they spend; one owner for the plan and for the checks themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from auditor.attacking.attack import Attack
from auditor.attacking.harness.nominal import drawn_passes, passes
from auditor.attacking.threat import ThreatModel

FEWEST = 20
"""An extra attack looks at no fewer samples than these (where there are so many), whatever it costs: fewer prove nothing."""


@dataclass(frozen=True)
class Allowance:
    """What checks have to look at, and may spend.

    ``attacks``: those of the audit within each threat model. ``shape``: (C, H, W) of the images. ``samples``: those of the audit;
    ``most``: how many of them an extra attack takes at most; ``budget``: most passes that one extra attack may take, by its
    nominal cost. ``draws``: how many answers attacks average over if the model has random outputs; 0 for other models. All
    costs are in forward passes over single images (a backward pass counts as two), if no sample is fooled early.
    """

    attacks: Mapping[ThreatModel, tuple[Attack, ...]]
    shape: tuple[int, int, int]
    samples: int
    most: int
    budget: float
    draws: int = 0

    @property
    def random(self) -> bool:
        """Whether the model has random outputs."""
        return self.draws > 0

    @property
    def answers(self) -> int:
        """Passes that give one answer as an attacker sees it."""
        return max(1, self.draws)

    def images(self, wanted: int) -> int:
        """How many images a check looks at that would like so many."""
        return min(wanted, self.samples)

    def passes(self, attack: Attack) -> float:
        """Of one image that an extra attack does not fool."""
        fixed = changed(attack, budget="fixed")
        return drawn_passes(fixed, self.draws) if self.random else passes(fixed)

    def affordable(self, attack: Attack) -> int:
        """How many samples an extra attack takes: as many as the budget pays for, but not fewer than ``FEWEST``."""
        return min(max(FEWEST, int(self.budget / self.passes(attack))), self.most, self.samples)

    def cost(self, attack: Attack) -> float:
        """What an extra attack costs, all samples together."""
        return self.affordable(attack) * self.passes(attack)


def changed(attack: Attack, **changes: object) -> Attack:
    """The same attack with other parameters, also beyond the bounds that users keep to; made again, so nothing that it
    has worked out from the old ones stays."""
    return attack.model_construct(**{name: getattr(attack, name) for name in type(attack).model_fields} | changes)
