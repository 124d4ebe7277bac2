"""PGD and FGSM beside foolbox and torchattacks, sample by sample, on networks trained by others."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import NamedTuple

import foolbox
import numpy as np
import pytest
import torch
import torchattacks
from torch import Tensor

from auditor.architecture import ARCHITECTURES
from auditor.attack import ATTACKS
from auditor.classifier import NORMALIZATIONS, Classifier
from auditor.criterion import Misclassification
from auditor.dataset import ImageDataset
from auditor.evaluation import run_attack
from auditor.intake.datasets import take_dataset
from auditor.intake.weights import load_weights, take_model
from auditor.threat import Norm, ThreatModel

SAMPLES = 500
FEWER = 200
CNN_A = """nn.Sequential(nn.Conv2d(3, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten(),
                         nn.Linear(2048, 100), nn.ReLU(), nn.Linear(100, 10))"""


class Setting(NamedTuple):
    classifier: Classifier
    data: ImageDataset
    ids: np.ndarray
    x: Tensor
    y: Tensor


@pytest.fixture(scope="module")
def cifar(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> ImageDataset:
    stored = tmp_path_factory.mktemp("data") / "cifar.safetensors"
    take_dataset(shared / "data" / "cifar10-test.npz", "cifar10-test.npz", stored)
    return ImageDataset.open(stored)


@pytest.fixture(scope="module", params=["resnet20", "cnn-a"])
def setting(
    request: pytest.FixtureRequest, shared: Path, cifar: ImageDataset, tmp_path_factory: pytest.TempPathFactory
) -> Setting:
    """A plain network (ResNet-20) and an adversarially trained one, with the first samples of CIFAR's test part."""
    file, kind, values, normalization = {
        "resnet20": ("resnet20-12fca82f.th", "resnet-cifar", {"depth": 20}, "imagenet"),
        "cnn-a": ("cnn-a-adversarially-trained.pt", "sequential", {"layers": CNN_A}, "cifar10-loose"),
    }[request.param]
    architecture = ARCHITECTURES.build(kind, values)
    stored = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    take_model(shared / "weights" / file, file, architecture, stored)
    network = architecture.build()
    load_weights(network, stored)
    classifier = Classifier(
        network, input_shape=(3, 32, 32), num_classes=10, normalization=NORMALIZATIONS[normalization]
    )
    ids = np.arange(SAMPLES)
    return Setting(classifier, cifar, ids, cifar.images(ids), torch.from_numpy(cifar.labels[ids]))


def ours(setting: Setting, attack: str, threat: ThreatModel, *, early_stop: bool = True) -> np.ndarray:
    """For every sample: is it misclassified, before or after the attack?"""
    correct = (setting.classifier.logits(setting.x).argmax(1) == setting.y).numpy()
    positions = np.flatnonzero(correct)
    outcome = run_attack(
        setting.classifier,
        ATTACKS.parse(attack),
        threat,
        setting.data,
        setting.ids[positions],
        Misclassification(setting.y[torch.from_numpy(positions)]),
        seed=0,
        batch_size=125,
        early_stop=early_stop,
    )
    wrong = ~correct
    wrong[positions] = outcome.fooled
    return wrong


def by_foolbox(setting: Setting, attack: foolbox.attacks.base.Attack, epsilon: float) -> np.ndarray:
    model = foolbox.PyTorchModel(setting.classifier, bounds=(0, 1))
    parts = [
        attack(model, x, y, epsilons=epsilon)[2]
        for x, y in zip(setting.x.split(125), setting.y.split(125), strict=True)
    ]
    return torch.cat(parts).numpy()


def by_torchattacks(setting: Setting, attack: torchattacks.attack.Attack) -> np.ndarray:
    parts = []
    for x, y in zip(setting.x.split(125), setting.y.split(125), strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            x_adv = attack(x, y)
        parts.append(setting.classifier.logits(x_adv).argmax(1) != y)
    return torch.cat(parts).numpy()


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


@pytest.mark.parametrize("norm", list(Norm))
def test_fgsm_agrees_with_foolbox(setting: Setting, norm: Norm) -> None:
    setting = fewer(setting)
    epsilon = {Norm.LINF: 8 / 255, Norm.L2: 0.5}[norm]
    attack = {Norm.LINF: foolbox.attacks.LinfFastGradientAttack, Norm.L2: foolbox.attacks.L2FastGradientAttack}[norm]
    mine = ours(setting, "fgsm", ThreatModel(norm=norm, epsilon=epsilon))
    theirs = by_foolbox(setting, attack(random_start=False), epsilon)
    assert (mine == theirs).mean() >= 0.99


def fewer(setting: Setting) -> Setting:
    return Setting(setting.classifier, setting.data, setting.ids[:FEWER], setting.x[:FEWER], setting.y[:FEWER])
