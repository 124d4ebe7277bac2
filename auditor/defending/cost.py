"""What the evaluation of a defense costs, known before it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from auditor.attack import BUDGETS
from auditor.defended import View
from auditor.defense import Defense
from auditor.nip.pool import CandidateDefense
from auditor.plan import passes

if TYPE_CHECKING:
    from auditor.defense_evaluation import DefenseSpec


def answer(defenses: Sequence[Defense], classes: int, view: View) -> int:
    """Forward passes of the undefended network for one answer of the stack in this view, for one image."""
    if not defenses:
        return 1
    first, behind = defenses[0], defenses[1:]
    draws = (view.draws or first.draws) if first.random else 1
    inner = replace(view, draws=1) if view.draws and first.random else view
    return draws * first.inner_passes(classes, view.nearest) * answer(behind, classes, inner)


def costs(defenses: Sequence[Defense], spec: DefenseSpec, classes: int) -> dict[str, float]:
    """Every job of an evaluation with its cost for one image that no attack fools, in forward passes of the undefended network; a
    backward pass counts as two. What the defense does to an image itself, and the few answers that judge what an attack found,
    are left out."""
    deployed = answer(defenses, classes, View())
    adaptive = answer(defenses, classes, View(adaptive=True, draws=spec.draws))
    found: dict[str, float] = {}
    for attack in spec.static:
        for budget in BUDGETS:
            found[f"static {attack.describe()} {budget}"] = passes(attack.model_copy(update={"budget": budget}))
    for attack in spec.white_box():
        found[f"undefended {attack.kind}"] = passes(attack)
    found |= {attack.kind: adaptive * passes(attack) for attack in spec.white_box()}
    found |= {attack.kind: deployed * passes(attack) for attack in spec.black_box()}
    if isinstance(defenses[0], CandidateDefense):
        found |= {f"saa {attack.describe()}": passes(attack) for attack in spec.static}
        if spec.nearest > 1:
            view = View(adaptive=True, draws=spec.draws, nearest=spec.nearest)
            each = answer(defenses, classes, view) * passes(spec.white_box()[0])
            found |= {"nearest": each, "all nearest": each}
    found |= {f"influence {item!r}": item.passes for item in spec.influence}
    return found
