"""What an attack costs if nothing ends it early, in forward passes; a backward pass counts as two."""

from __future__ import annotations

from auditor.attacking.attack import Attack, Ensemble
from auditor.attacking.harness.radius_search import GROWTHS


def passes(attack: Attack) -> float:
    """Of one image that is never fooled; one that looks for the closest image tries larger radii then."""
    radii = 1 + GROWTHS if attack.budget == "minimal" and not attack.minimizes else 1
    return radii * attack.runs * attack.cost


def drawn_passes(attack: Attack, draws: int) -> float:
    """The same on a model with random outputs: every answer is the mean of some draws, and what each run leaves is judged by
    so many."""
    if isinstance(attack, Ensemble):
        return sum(drawn_passes(stage, draws) for stage in attack.stages)
    averaged = attack.averages if attack.averages > 1 else draws
    return averaged * passes(attack.plain()) + draws * (2 * attack.runs + 1)
