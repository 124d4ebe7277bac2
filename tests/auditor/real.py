"""Real networks and images, and attacks on them by us and by others, sample by sample."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import foolbox
import numpy as np
import torch
import torchattacks
from torch import Tensor, nn

from auditor.attacking.attack import ATTACKS
from auditor.attacking.criterion import Misclassification
from auditor.attacking.evaluation import run_attack
from auditor.attacking.threat import ThreatModel
from auditor.data.intake.weights import load_weights, take_model
from auditor.models.architecture import ARCHITECTURES
from auditor.models.classifier import NORMALIZATIONS, Classifier
from auditor.models.dataset import ImageDataset

SAMPLES = 500
FEWER = 200
CNN_A = """nn.Sequential(nn.Conv2d(3, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten(),
                         nn.Linear(2048, 100), nn.ReLU(), nn.Linear(100, 10))"""
NETWORKS: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "resnet20": ("resnet20-12fca82f.th", "resnet-cifar", {"depth": 20}, "imagenet"),
    "cnn-a": ("cnn-a-adversarially-trained.pt", "sequential", {"layers": CNN_A}, "cifar10-loose"),
}


class Setting(NamedTuple):
    classifier: Classifier
    data: ImageDataset
    ids: np.ndarray
    x: Tensor
    y: Tensor


def load(name: str, shared: Path, folder: Path) -> Classifier:
    """A network trained by others: ResNet-20 (plain) or cnn-a (adversarially trained)."""
    file, kind, values, normalization = NETWORKS[name]
    architecture = ARCHITECTURES.build(kind, values)
    stored = folder / "weights.safetensors"
    take_model(shared / "weights" / file, file, architecture, stored)
    network = architecture.build()
    load_weights(network, stored)
    return Classifier(network, input_shape=(3, 32, 32), num_classes=10, normalization=NORMALIZATIONS[normalization])


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


def fewer(setting: Setting) -> Setting:
    return Setting(setting.classifier, setting.data, setting.ids[:FEWER], setting.x[:FEWER], setting.y[:FEWER])


def images(file: Path, count: int) -> ImageDataset:
    held = np.load(file)
    pixels = held["images"][:count]
    return ImageDataset(pixels.reshape(*pixels.shape[:3], -1), held["labels"][:count].astype(np.int64), name=file.stem)


def tensors(shared: Path, file: str) -> dict[str, Tensor]:
    """Weights trained by others, some of them kept on a GPU."""
    found: dict[str, Tensor] = torch.load(shared / "weights" / file, weights_only=True, map_location="cpu")
    return found


def sequential(channels: int, widths: tuple[int, int], features: int) -> nn.Sequential:
    first, second = widths
    layers = [
        nn.Conv2d(channels, first, 4, 2, 1),
        nn.ReLU(),
        nn.Conv2d(first, second, 4, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
    ]
    return nn.Sequential(*layers, nn.Linear(features, 100), nn.ReLU(), nn.Linear(100, 10))
