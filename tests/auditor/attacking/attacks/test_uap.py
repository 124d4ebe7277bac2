"""UAP: a linear model in closed form, what is fitted on what, and ART's."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from auditor.attacking.attack import ATTACKS
from auditor.attacking.criterion import Misclassification
from auditor.attacking.evaluation import run_attack
from auditor.attacking.harness.outcome import Finished
from auditor.attacking.threat import Norm, ThreatModel
from auditor.kit.randomness import derive_seed
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from tests.auditor.attacking.attacks.small import ran
from tests.auditor.real import Setting, fewer, ours
from tests.nets import SHAPE, Linear, random_images

SHAPE_CIFAR = (3, 32, 32)


def test_on_a_linear_model_v_reaches_as_far_as_the_farthest_image_that_it_was_fitted_on() -> None:
    """With f = w.x + b, every DeepFool step lands 2 % (and 1e-4 / ||w||) past the plane of its image and leaves v parallel to
    w; after a pass v is as long as the largest distance d of the fitted half asks for: from d to 1.02 (d + 1e-4 / ||w||)."""
    torch.manual_seed(0)
    weight = torch.randn(int(np.prod(SHAPE)))
    images = random_images(30) // 3 + 85
    x = ImageDataset(images, np.zeros(30, np.int64)).images(np.arange(30))
    side = x.flatten(1) @ weight
    bias = 1.0 - float(side.min())  # all on one side
    distance = ((side + bias) / weight.norm()).numpy()
    labels = np.ones(30, np.int64)
    deltas = np.zeros((30, weight.numel()))

    def keep(finished: Finished) -> None:
        deltas[finished.position] = (finished.x_adv - finished.x).flatten(1).numpy()

    run_attack(
        Classifier(Linear(weight, bias), input_shape=SHAPE, num_classes=2), ATTACKS.parse("uap:stretched=false"),
        ThreatModel(norm=Norm.L2, epsilon=100), ImageDataset(images, labels), np.arange(30),
        Misclassification(torch.from_numpy(labels)), seed=4, batch_size=8, early_stop=False, on_finished=keep,
    )  # fmt: skip
    half = np.zeros(30, np.int64)
    half[np.argsort([derive_seed(4, "half", sample) for sample in range(30)])[1::2]] = 1
    for mine in (0, 1):
        farthest = distance[half != mine].max()
        for delta in deltas[half == mine]:
            assert delta @ weight.numpy() / (np.linalg.norm(delta) * float(weight.norm())) == pytest.approx(
                -1, abs=1e-5
            )
            reach = np.linalg.norm(delta)
            assert farthest * 0.9999 <= reach <= 1.02 * (farthest + 1e-4 / float(weight.norm())) * 1.0001


@pytest.mark.parametrize("stretched", [False, True])
def test_each_half_gets_one_perturbation_in_the_ball_and_a_lone_sample_none(stretched: bool) -> None:
    run = ran(f"uap:stretched={stretched}", ThreatModel(epsilon=0.02), n=40)
    deltas = run.x_adv - run.x
    inner = ((run.x > 0.02) & (run.x < 0.98)).all(0)  # the box holds no image back here
    assert inner.any()
    apart = torch.unique((deltas[:, inner] * 1e6).round(), dim=0)
    assert len(apart) == 2
    assert deltas.abs().max() <= 0.02 + 1e-7
    if stretched:
        assert (deltas[:, inner].abs() > 0.02 - 1e-7).double().mean() > 0.99
    lone = ran(f"uap:stretched={stretched}", ThreatModel(epsilon=0.02), n=1)
    assert torch.equal(lone.x_adv, lone.x), "nothing to learn from but itself"


def test_the_passes_of_fitting_are_shared_out() -> None:
    run = ran("uap:passes=2", ThreatModel(epsilon=0.02), n=12)
    assert len(set(run.outcome.forwards)) == 1
    assert len(set(run.outcome.backwards)) == 1
    assert run.outcome.backwards[0] > 0


def test_it_is_no_weaker_than_arts(setting: Setting, request: pytest.FixtureRequest) -> None:
    """Fitted on 15 images with one pass, on the images that it was not fitted on; random signs for comparison.

    One v is one draw, so its rate says little to a few points; stretched, ours must be ahead.
    """
    epsilon, fitted = {"resnet20": 8 / 255, "cnn-a": 0.1}[request.node.callspec.params["setting"]], 15
    setting = fewer(setting)
    correct = (setting.classifier.logits(setting.x).argmax(1) == setting.y).numpy()
    x, y = setting.x[correct], setting.y[correct]
    spec = f"uap:fitting_samples={fitted},passes=1,stretched="
    mine, stretched = (
        ours(setting, spec + value, ThreatModel(epsilon=epsilon))[correct].mean() for value in ("false", "true")
    )
    from art.attacks.evasion import UniversalPerturbation
    from art.estimators.classification import PyTorchClassifier

    network = PyTorchClassifier(setting.classifier, torch.nn.CrossEntropyLoss(), SHAPE_CIFAR, 10, clip_values=(0, 1))
    random.seed(0)
    attack = UniversalPerturbation(
        network, attacker_params={"max_iter": 10, "epsilon": 0.02, "verbose": False}, delta=0.2, max_iter=1,
        eps=epsilon, norm=np.inf, verbose=False,
    )  # fmt: skip
    attack.generate(x[:fitted].numpy(), y=np.eye(10)[y[:fitted].numpy()])
    moved = (x[fitted:] + torch.from_numpy(attack.noise)).clamp(0, 1)
    theirs = float((setting.classifier.logits(moved).argmax(1) != y[fitted:]).double().mean())
    signs = epsilon * (torch.randint(0, 2, (1, *SHAPE_CIFAR), generator=torch.Generator().manual_seed(0)) * 2 - 1)
    chance = float((setting.classifier.logits((x + signs).clamp(0, 1)).argmax(1) != y).double().mean())
    print(f"UAP: fooled, ours as fitted {mine:.3f}, stretched {stretched:.3f}, ART {theirs:.3f}, signs {chance:.3f}")
    assert mine >= theirs - 0.05
    assert stretched >= max(theirs, chance) - 0.015
