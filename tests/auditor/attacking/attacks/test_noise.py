"""The two noises: what they draw, and that they are weaker than attacks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from auditor.attacking.attack import ATTACKS
from auditor.attacking.criterion import Misclassification
from auditor.attacking.evaluation import run_attack
from auditor.attacking.threat import Norm, ThreatModel
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from tests.auditor.real import Setting, fewer, ours
from tests.nets import SHAPE, labelled, random_images, small_classifier

N = 6


class Unmoved(nn.Module):
    """Says class 0, whatever it sees, and remembers what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        assert float(x.amin()) >= 0  # which also keeps torch.fx from tracing it, so that all questions come here
        self.seen.append(x.view(N, -1, *x.shape[1:]))
        return torch.eye(5)[:1].repeat(len(x), 1)


def asked(attack: str, norm: Norm, epsilon: float) -> tuple[Tensor, Tensor, np.ndarray]:
    """Every image that the model is asked about where nothing works, (N, images, C, H, W), the clean ones, and the passes."""
    network = Unmoved()
    classifier = Classifier(network, input_shape=SHAPE, num_classes=5, copy=False)
    data = ImageDataset(random_images(N), np.zeros(N, np.int64))
    outcome = run_attack(
        classifier, ATTACKS.parse(attack), ThreatModel(norm=norm, epsilon=epsilon), data, np.arange(N),
        Misclassification(torch.zeros(N, dtype=torch.int64)), seed=1, batch_size=1000,
    )  # fmt: skip
    assert not outcome.fooled.any()
    return torch.cat(network.seen, 1), data.images(np.arange(N)), outcome.forwards


@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2])
def test_random_noise_asks_about_as_many_independent_points_of_the_ball_as_it_says(norm: Norm) -> None:
    images, x, forwards = asked("random-noise:draws=50", norm, 0.01)
    assert images.shape[1] == 50
    assert (forwards == 50).all()
    delta = (images - x[:, None]).flatten(2).double()
    size = delta.abs().amax(2) if norm is Norm.LINF else delta.norm(dim=2)
    assert (size <= 0.01 * (1 + 1e-5) + 1e-7).all()
    assert (size >= 0.9 * 0.01).all(), "in 108 dimensions a uniform point lies near the surface (L2: 0.9^108 = 1e-5)"
    assert len(torch.unique(delta.flatten(0, 1), dim=0)) == N * 50, "every draw of every sample is another one"
    inner = (x[:, None] > 0.01) & (x[:, None] < 0.99)  # away from the box
    entries = (images - x[:, None])[inner.expand_as(images)].double()
    # Variance of an entry: eps^2 / 3 in L∞; in the L2 ball eps^2 / (d + 2). 30,000 entries: 3 % is more than four sigma.
    variance = 0.01**2 / {Norm.LINF: 3, Norm.L2: 110}[norm]
    assert float(entries.square().mean()) == pytest.approx(variance, rel=0.03)
    assert abs(float(entries.mean())) < 0.03 * variance**0.5


@pytest.mark.parametrize("squared", [True, False])
def test_the_noise_of_level_s_reaches_to_s_squared_as_in_foolbox_or_to_s(squared: bool) -> None:
    """foolbox 2.3: noise = U(-s, s); image + s * noise, for s = 1/n, 2/n, ..., 1."""
    images, x, forwards = asked(f"auna:levels=60,squared={squared}", Norm.LINF, 1e-9)
    assert (forwards == 61).all(), "60 levels and the last image once more"
    for level in range(1, 61):
        width = (level / 60) ** 2 if squared else level / 60
        inner = (x > width) & (x < 1 - width)
        if inner.sum() < 100:
            break
        delta = (images[:, level - 1] - x)[inner].double()
        assert delta.abs().max() <= width * (1 + 1e-5) + 1e-7
        assert delta.abs().max() >= 0.9 * width
        assert float(delta.square().mean()) == pytest.approx(width**2 / 3, rel=0.3)
    assert level > 20, "else the test shows little"
    assert images.min() >= 0
    assert images.max() <= 1


def test_auna_ends_with_the_first_twenty_levels_that_hold_a_success_and_keeps_the_closest() -> None:
    classifier = small_classifier()
    data = labelled(classifier, wrong=0)
    outcome = run_attack(
        classifier, ATTACKS.parse("auna:levels=200"), ThreatModel(epsilon=1.0), data, np.arange(len(data)),
        Misclassification(torch.from_numpy(data.labels)), seed=1, batch_size=16,
    )  # fmt: skip
    found = np.isfinite(outcome.closest)
    assert found.any()
    asked = outcome.forwards[found] // 20 * 20  # the 20 levels after (asked - 20) hold the first success
    assert (outcome.closest[found] <= (asked / 200) ** 2 + 1e-6).all()
    assert (outcome.closest[found] >= 0.8 * ((asked - 19) / 200) ** 2).all()


def test_noise_is_weaker_than_the_weakest_attacks_on_real_networks(setting: Setting) -> None:
    setting, threat = fewer(setting), ThreatModel(epsilon=8 / 255)
    noise = {kind: ours(setting, kind, threat).mean() for kind in ("random-noise:draws=20", "auna:levels=100")}
    attacks = {kind: ours(setting, kind, threat).mean() for kind in ("fgsm", "step-ll", "bim:steps=5,step_size=0.25")}
    print("misclassified:", noise | attacks)
    assert max(noise.values()) + 0.02 <= min(attacks.values())
