"""Step-LL: its formula, and torchattacks' one-step attack on the least likely class."""

from __future__ import annotations

import pytest
import torch
import torchattacks

from auditor.attacking.threat import ThreatModel
from tests.auditor.attacking.attacks.small import ran, slope
from tests.auditor.real import Setting, by_torchattacks, fewer, ours


@pytest.mark.parametrize("targeted", [False, True])
def test_it_is_one_step_against_the_loss_of_the_least_likely_class(targeted: bool) -> None:
    """x - eps sign(grad CE(x, y_LL)); with a target, y_LL is the target."""
    run = ran("step-ll", ThreatModel(epsilon=0.1), targeted=targeted)
    logits = run.classifier.logits(run.x)
    least_likely = run.targets if targeted else logits.argmin(1)
    x_adv = (run.x - 0.1 * slope(run.classifier, run.x, least_likely).sign()).clamp(0, 1)
    assert torch.allclose(run.x_adv, x_adv, atol=1e-6)


def test_it_agrees_with_torchattacks(setting: Setting) -> None:
    """Any wrong class counts on both sides, not only the one stepped to. What is misclassified before the attack counts for us
    as such; torchattacks' step may put it right, so it is left out."""
    setting = fewer(setting)
    mine = ours(setting, "step-ll", ThreatModel(epsilon=8 / 255))
    attack = torchattacks.FGSM(setting.classifier, eps=8 / 255)
    attack.set_mode_targeted_least_likely()
    theirs = by_torchattacks(setting, attack)
    print(f"Step-LL: misclassified, ours {mine.mean():.3f}, torchattacks {theirs.mean():.3f}")
    correct = (setting.classifier.logits(setting.x).argmax(1) == setting.y).numpy()
    assert (mine == theirs)[correct].mean() >= 0.99
