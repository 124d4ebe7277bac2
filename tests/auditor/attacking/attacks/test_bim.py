"""BIM: its formula, and foolbox's."""

from __future__ import annotations

import foolbox
import pytest
import torch

from auditor.attacking.threat import Norm, ThreatModel
from tests.auditor.attacking.attacks.small import ran, slope
from tests.auditor.real import Setting, by_foolbox, fewer, ours


@pytest.mark.parametrize("targeted", [False, True])
def test_it_is_the_clipped_iteration_of_the_paper(targeted: bool) -> None:
    """X_0 = X; X_{k+1} = clip_{X, eps}(X_k + alpha sign(grad J(X_k, y))), and away from a target's loss (section 2)."""
    run = ran("bim:steps=7,step_size=0.3", ThreatModel(epsilon=0.1), targeted=targeted)
    x_adv = run.x
    for _ in range(7):
        towards = -slope(run.classifier, x_adv, run.targets) if targeted else slope(run.classifier, x_adv, run.labels)
        x_adv = x_adv + 0.03 * towards.sign()
        x_adv = torch.min(torch.max(x_adv, run.x - 0.1), run.x + 0.1).clamp(0, 1)
    assert torch.allclose(run.x_adv, x_adv, atol=1e-6)


@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2])
def test_it_agrees_with_foolbox(setting: Setting, norm: Norm) -> None:
    setting = fewer(setting)
    epsilon = {Norm.LINF: 8 / 255, Norm.L2: 0.5}[norm]
    attack = {Norm.LINF: foolbox.attacks.LinfBasicIterativeAttack, Norm.L2: foolbox.attacks.L2BasicIterativeAttack}[
        norm
    ]
    mine = ours(setting, "bim", ThreatModel(norm=norm, epsilon=epsilon))
    theirs = by_foolbox(setting, attack(rel_stepsize=0.2, steps=10), epsilon)
    print(f"BIM {norm}: misclassified, ours {mine.mean():.3f}, foolbox {theirs.mean():.3f}")
    assert (mine == theirs).mean() >= 0.99
