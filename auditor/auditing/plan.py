"""Plan: the stages of an audit and what each costs, known before anything runs."""

from __future__ import annotations

import math
from collections.abc import Hashable

from auditor.attacking.attack import Attack
from auditor.attacking.harness.nominal import drawn_passes, passes
from auditor.attacking.threat import Norm, ThreatModel
from auditor.auditing.allowance import Allowance
from auditor.auditing.spec import AuditSpec

CHECK_SHARE = 0.03
"""One extra attack of a check may take at most this share of the audit's nominal cost."""


def plan(spec: AuditSpec, samples: int, shape: tuple[int, int, int], *, random: bool = False) -> dict[Hashable, float]:
    """Every stage with its cost in forward passes over single images (a backward pass counts as two), if no sample were fooled
    early. ``shape``: (C, H, W) of the images. ``random``: for a model with random outputs, each answer of which takes
    several."""
    stages = _before_checks(spec, samples, random)
    allowance = allowance_of(spec, samples, shape, random=random)
    stages |= {check: check.cost(allowance) for check in spec.checks}
    for corruption in spec.corruptions:
        for single in corruption.each():
            # Making an image takes about as long as a small network.
            stages[single] = stages.get(single, 0.0) + (1 + _judging(spec, random)) * samples
    return stages


def allowance_of(spec: AuditSpec, samples: int, shape: tuple[int, int, int], *, random: bool = False) -> Allowance:
    """What the checks of this audit may spend."""
    budget = CHECK_SHARE * sum(_before_checks(spec, samples, random).values()) / len(spec.threats)
    attacks = {threat: spec.attacks_for(threat) for threat in spec.threats}
    return Allowance(attacks, shape, samples, spec.check_samples, budget, spec.draws if random else 0)


def points(spec: AuditSpec) -> list[ThreatModel]:
    """The further points of the curves, norm by norm, smallest epsilon first.

    Threats of one norm share a curve, so a point that several of them have is there once, and one with a headline of its own
    is not. Radii that differ by rounding alone (3 times 0.1, and 0.3) are the same.
    """
    found: list[ThreatModel] = []
    for norm in norms(spec):
        threats = [threat for threat in spec.threats if threat.norm is norm]
        radii = sorted(threat.epsilon * multiple for threat in threats for multiple in spec.curve)
        if norm is Norm.L0:
            radii = [float(max(1, round(radius))) for radius in radii]
        taken = [threat.epsilon for threat in threats]
        for radius in radii:
            if not any(math.isclose(radius, other, rel_tol=1e-9) for other in taken):
                taken.append(radius)
                found.append(threats[0].model_copy(update={"epsilon": radius}))
    return found


def norms(spec: AuditSpec) -> list[Norm]:
    """The norms of the threat models, each once, in order."""
    return list(dict.fromkeys(threat.norm for threat in spec.threats))


def _before_checks(spec: AuditSpec, samples: int, random: bool) -> dict[Hashable, float]:
    """Attacks, curves and analyses."""

    def cost(attack: Attack) -> float:
        return drawn_passes(attack, spec.draws) if random else passes(attack)

    stages: dict[Hashable, float] = {"clean": _judging(spec, random) * samples}
    for threat in spec.threats:
        for attack in spec.attacks_for(threat):
            stages["headline", threat, attack] = samples * cost(attack)
    for point in points(spec):
        for attack in spec.attacks_for(point):
            stages["curve", point, attack] = 0.5 * samples * cost(attack)
    for norm in norms(spec):
        whole = sum(cost(attack) for attack in spec.attacks if norm in attack.norms)
        stages["beyond", norm] = 0.2 * samples * whole * spec.curve_to_zero
    if spec.analyses:
        chosen = min(samples, spec.analysis_samples)
        stages["pairs"] = chosen * cost(spec.analysis_attack)
        stages |= {analysis: analysis.cost(chosen) for analysis in spec.analyses}
    return stages


def _judging(spec: AuditSpec, random: bool) -> int:
    """Passes that judge one image: one, or a first and a fresh set of draws."""
    return 2 * spec.draws if random else 1
