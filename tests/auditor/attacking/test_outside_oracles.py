"""PGD and FGSM beside foolbox and torchattacks, sample by sample, on networks trained by others."""

from __future__ import annotations

import foolbox
import pytest
import torchattacks

from auditor.attacking.threat import Norm, ThreatModel
from tests.auditor.real import Setting, by_foolbox, by_torchattacks, fewer, ours


def test_pgd_linf_agrees_with_foolbox_and_torchattacks(setting: Setting) -> None:
    """10 steps, 8/255, step 2/255, no random start: the verdict of at least 99 % of the samples is the same."""
    threat = ThreatModel(norm=Norm.LINF, epsilon=8 / 255)
    mine = ours(setting, "pgd:steps=10,step_size=0.25,random_start=false", threat)
    last = ours(setting, "pgd:steps=10,step_size=0.25,random_start=false", threat, early_stop=False)
    theirs = by_foolbox(setting, foolbox.attacks.LinfPGD(rel_stepsize=0.25, steps=10, random_start=False), 8 / 255)
    others = by_torchattacks(
        setting, torchattacks.PGD(setting.classifier, eps=8 / 255, alpha=2 / 255, steps=10, random_start=False)
    )
    print(
        f"misclassified: ours {mine.mean():.3f}, at the last step {last.mean():.3f}, foolbox {theirs.mean():.3f}, "
        f"torchattacks {others.mean():.3f}; agreement {(mine == theirs).mean():.4f}, {(mine == others).mean():.4f}"
    )
    assert (mine == theirs).mean() >= 0.99
    assert (mine == others).mean() >= 0.99
    # Judged at the same image, the last one, hardly anything is left to differ but rounding.
    assert (last == theirs).mean() >= 0.996
    assert (last == others).mean() >= 0.996
    assert (mine >= last).all(), "stopping at the first success can only find more"


def test_pgd_l2_agrees_with_foolbox_and_torchattacks(setting: Setting) -> None:
    """torchattacks adds 1e-10 to the gradient's norm by default, which on a very sure model is larger than the norm itself;
    told not to, it agrees."""
    setting = fewer(setting)
    threat = ThreatModel(norm=Norm.L2, epsilon=0.5)
    mine = ours(setting, "pgd:steps=10,step_size=0.25,random_start=false", threat)
    theirs = by_foolbox(setting, foolbox.attacks.L2PGD(rel_stepsize=0.25, steps=10, random_start=False), 0.5)
    attack = torchattacks.PGDL2(
        setting.classifier, eps=0.5, alpha=0.125, steps=10, random_start=False, eps_for_division=1e-35
    )
    assert (mine == theirs).mean() >= 0.99
    assert (mine == by_torchattacks(setting, attack)).mean() >= 0.99


@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2])
def test_fgsm_agrees_with_foolbox(setting: Setting, norm: Norm) -> None:
    setting = fewer(setting)
    epsilon = {Norm.LINF: 8 / 255, Norm.L2: 0.5}[norm]
    attack = {Norm.LINF: foolbox.attacks.LinfFastGradientAttack, Norm.L2: foolbox.attacks.L2FastGradientAttack}[norm]
    mine = ours(setting, "fgsm", ThreatModel(norm=norm, epsilon=epsilon))
    theirs = by_foolbox(setting, attack(random_start=False), epsilon)
    assert (mine == theirs).mean() >= 0.99
