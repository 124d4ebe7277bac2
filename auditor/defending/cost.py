"""What the evaluation of a defense costs, known before it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from auditor.attacking.attack import BUDGETS, Attack
from auditor.attacking.harness.nominal import passes
from auditor.defending.defense import Defense
from auditor.defending.nip.pool import CandidateDefense
from auditor.defending.spec import TableSpec
from auditor.models.drawing import View


def answer(defenses: Sequence[Defense], classes: int, view: View) -> int:
    """Forward passes of the undefended network for one answer of the stack in this view, for one image."""
    if not defenses:
        return 1
    first, behind = defenses[0], defenses[1:]
    draws = (view.draws or first.draws) if first.random else 1
    inner = replace(view, draws=1) if view.draws and first.random else view
    return draws * first.inner_passes(classes, view.nearest) * answer(behind, classes, inner)


def costs(defenses: Sequence[Defense], spec: TableSpec, classes: int) -> dict[str, float]:
    """Every job of an evaluation with its cost for one image that no attack fools, in forward passes of the undefended network; a
    backward pass counts as two. What the defense does to an image itself, and the few answers that judge what an attack found,
    are left out; if the model has random outputs, those are many, and counted."""
    deployed = answer(defenses, classes, View())
    adaptive = answer(defenses, classes, View(adaptive=True, draws=spec.draws))
    random = any(defense.random for defense in defenses)
    shown = 2 * spec.draws * deployed if random else 0  # a first set of draws and a fresh one

    def through(attack: Attack, view: float) -> float:
        return view * passes(attack) + shown * (attack.runs + 1.5)

    found: dict[str, float] = {}
    for attack in spec.static:
        for budget in BUDGETS:
            judged = shown * (2 if budget == "fixed" else 1)
            found[f"static {attack.describe()} {budget}"] = (
                passes(attack.model_copy(update={"budget": budget})) + judged
            )
    for attack in spec.white_box():
        found[f"undefended {attack.kind}"] = passes(attack)
    found |= {attack.kind: through(attack, adaptive) for attack in spec.white_box()}
    found |= {attack.kind: through(attack, adaptive if random else deployed) for attack in spec.black_box()}
    if isinstance(defenses[0], CandidateDefense):
        found |= {f"saa {attack.describe()}": passes(attack) + shown for attack in spec.static}
        if spec.nearest > 1:
            view = View(adaptive=True, draws=spec.draws, nearest=spec.nearest)
            each = through(spec.white_box()[0], answer(defenses, classes, view))
            found |= {"nearest": each, "all nearest": each}
    found |= {f"influence {item!r}": item.passes + shown for item in spec.influence}
    return found
