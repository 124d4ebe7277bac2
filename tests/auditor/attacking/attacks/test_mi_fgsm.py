"""MI-FGSM: its formula, and torchattacks'."""

from __future__ import annotations

import pytest
import torch
import torchattacks

from auditor.attacking.threat import Norm, ThreatModel
from tests.auditor.attacking.attacks.small import ran, slope
from tests.auditor.real import Setting, by_torchattacks, fewer, ours


@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2])
@pytest.mark.parametrize("targeted", [False, True])
def test_it_is_the_momentum_iteration_of_the_paper(targeted: bool, norm: Norm) -> None:
    """g = mu g + grad / ||grad||_1, x = x + alpha sign(g) (equations 6 and 7); in L2 x = x + alpha g / ||g||_2 (equation 9)."""
    epsilon = {Norm.LINF: 0.1, Norm.L2: 1.0}[norm]
    threat = ThreatModel(norm=norm, epsilon=epsilon)
    run = ran("mi-fgsm:steps=6,step_size=0.4,decay=0.7", threat, targeted=targeted)
    x_adv, momentum = run.x, torch.zeros_like(run.x)
    for _ in range(6):
        towards = -slope(run.classifier, x_adv, run.targets) if targeted else slope(run.classifier, x_adv, run.labels)
        momentum = 0.7 * momentum + towards / towards.abs().sum((1, 2, 3), keepdim=True)
        if norm is Norm.LINF:
            x_adv = x_adv + 0.04 * momentum.sign()
            delta = (x_adv - run.x).clamp(-0.1, 0.1)
        else:
            x_adv = x_adv + 0.4 * momentum / momentum.square().sum((1, 2, 3), keepdim=True).sqrt()
            delta = x_adv - run.x
            delta = delta * (1 / delta.square().sum((1, 2, 3), keepdim=True).sqrt()).clamp(max=1)
        x_adv = (run.x + delta).clamp(0, 1)
    assert torch.allclose(run.x_adv, x_adv, atol=1e-6)


def test_without_decay_it_is_bim() -> None:
    threat = ThreatModel(epsilon=0.1)
    plain, momentum = ran("bim:steps=5,step_size=0.3", threat), ran("mi-fgsm:steps=5,step_size=0.3,decay=0", threat)
    assert torch.allclose(plain.x_adv, momentum.x_adv)


def test_it_agrees_with_torchattacks(setting: Setting) -> None:
    setting = fewer(setting)
    mine = ours(setting, "mi-fgsm", ThreatModel(epsilon=8 / 255))
    attack = torchattacks.MIFGSM(setting.classifier, eps=8 / 255, alpha=0.8 / 255, steps=10, decay=1.0)
    theirs = by_torchattacks(setting, attack)
    print(f"MI-FGSM: misclassified, ours {mine.mean():.3f}, torchattacks {theirs.mean():.3f}")
    correct = (setting.classifier.logits(setting.x).argmax(1) == setting.y).numpy()
    assert (mine == theirs)[correct].mean() >= 0.985, "theirs is judged at the last step, ours at every one"
    assert mine.mean() >= theirs.mean()
