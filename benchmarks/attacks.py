"""Attacks beside other libraries: same network, samples, budget and threads, in one run; time, passes and robust accuracy.

    python -m benchmarks.attacks --shared ../shared --autoattack /path/to/auto-attack --samples 512 --write docs/benchmarks.md

With ``--shared``: CIFAR-10 and two networks trained by others; without it, the shipped Fashion-MNIST sample. The peers are
installed by `make test`. The libraries take turns, ROUNDS times where a turn is short, and the median time counts; images per
second count all samples, the ones that were wrong before the attack included.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from auditor.attacking.attack import ATTACKS
from auditor.attacking.criterion import Misclassification
from auditor.attacking.evaluation import run_attack
from auditor.attacking.threat import ThreatModel, show_epsilon
from auditor.data import samples as samples_shipped
from auditor.data.intake.datasets import take_dataset
from auditor.data.intake.weights import load_weights, take_model
from auditor.data.samples import WEIGHTS
from auditor.kit.provenance import device_name, versions
from auditor.models.architecture import ARCHITECTURES
from auditor.models.classifier import NORMALIZATIONS, Classifier
from auditor.models.dataset import ImageDataset

CNN_A = """nn.Conv2d(3, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(2048, 100),
           nn.ReLU(), nn.Linear(100, 10)"""
SHARED: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "ResNet-20, plain": ("resnet20-12fca82f.th", "resnet-cifar", {"depth": 20}, "imagenet"),
    "cnn-a, adversarially trained": (
        "cnn-a-adversarially-trained.pt",
        "sequential",
        {"layers": CNN_A},
        "cifar10-loose",
    ),
}
BATCH = 128
ROUNDS, SHORT = 5, 60.0
"""An attack whose first round by all libraries takes less than a minute is run 5 times."""


@dataclass
class Setting:
    """One network with its samples; ``x``: (N, C, H, W) in [0, 1], on the device."""

    name: str
    classifier: Classifier
    data: ImageDataset
    ids: np.ndarray
    x: Tensor
    y: Tensor
    epsilon: float


class Counter:
    """Images that the network was asked about, and with how many of them a gradient was taken."""

    def __init__(self, classifier: Classifier) -> None:
        self.forwards = self.backwards = 0
        classifier.normalize.register_forward_hook(self._count)

    def _count(self, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        self.forwards += len(output)
        if output.requires_grad:
            output.register_hook(lambda gradient: self._back(len(gradient)))

    def _back(self, images: int) -> None:
        self.backwards += images


@dataclass
class Entry:
    """One attack by one library."""

    attack: str
    library: str
    seconds: float
    forwards: float
    backwards: float
    robust: float
    wrong: np.ndarray


def ours(setting: Setting, spec: str) -> np.ndarray:
    """For every sample: is it wrong, before or after our attack?"""
    correct = (torch.cat([setting.classifier.logits(x) for x in setting.x.split(BATCH)]).argmax(1) == setting.y).cpu()
    positions = np.flatnonzero(correct.numpy())
    outcome = run_attack(
        setting.classifier, ATTACKS.parse(spec), ThreatModel(norm="linf", epsilon=setting.epsilon), setting.data,
        setting.ids[positions], Misclassification(setting.y[torch.from_numpy(positions).to(setting.y.device)]),
        seed=0, batch_size=BATCH,
    )  # fmt: skip
    wrong = ~correct.numpy()
    wrong[positions] = outcome.fooled
    return wrong


def judged(setting: Setting, attack: Callable[[Tensor, Tensor], Tensor]) -> np.ndarray:
    """The same for an attack that maps a batch of images and labels to adversarial ones."""
    parts = []
    for x, y in zip(setting.x.split(BATCH), setting.y.split(BATCH), strict=True):
        x_adv = attack(x, y)
        parts.append(setting.classifier.logits(x_adv.to(x)).argmax(1) != y)
    return torch.cat(parts).cpu().numpy()


def by_torchattacks(name: str, **parameters: Any) -> Callable[[Setting], np.ndarray]:
    import torchattacks

    def run(setting: Setting) -> np.ndarray:
        attack = getattr(torchattacks, name)(
            setting.classifier, eps=setting.epsilon, **scaled(parameters, setting.epsilon)
        )
        return judged(setting, attack)

    return run


def by_foolbox(name: str, **parameters: Any) -> Callable[[Setting], np.ndarray]:
    import foolbox

    def run(setting: Setting) -> np.ndarray:
        model = foolbox.PyTorchModel(setting.classifier, bounds=(0, 1), device=setting.x.device)
        attack = getattr(foolbox.attacks, name)(**parameters)
        return judged(setting, lambda x, y: attack(model, x, y, epsilons=setting.epsilon)[1])

    return run


def by_art(name: str, **parameters: Any) -> Callable[[Setting], np.ndarray]:
    from art.attacks import evasion
    from art.estimators.classification import PyTorchClassifier

    def run(setting: Setting) -> np.ndarray:
        estimator = PyTorchClassifier(
            setting.classifier, nn.CrossEntropyLoss(), setting.classifier.input_shape, setting.classifier.num_classes,
            clip_values=(0, 1), device_type="gpu" if setting.x.is_cuda else "cpu",
        )  # fmt: skip
        attack = getattr(evasion, name)(
            estimator, eps=setting.epsilon, batch_size=BATCH, verbose=False, **scaled(parameters, setting.epsilon)
        )
        return judged(setting, lambda x, y: torch.from_numpy(attack.generate(x.cpu().numpy(), y.cpu().numpy())))

    return run


def by_original_autoattack(setting: Setting) -> np.ndarray:
    autoattack = importlib.import_module("autoattack")
    attack = autoattack.AutoAttack(
        setting.classifier, norm="Linf", eps=setting.epsilon, version="standard", device=setting.x.device, verbose=False
    )
    attack.seed = 0
    x_adv = attack.run_standard_evaluation(setting.x, setting.y, bs=BATCH)
    return torch.cat([setting.classifier.logits(x).argmax(1) for x in x_adv.split(BATCH)]).ne(setting.y).cpu().numpy()


def scaled(parameters: dict[str, Any], epsilon: float) -> dict[str, Any]:
    """``alpha`` and ``eps_step`` are given as shares of epsilon."""
    return {name: value * epsilon if name in ("alpha", "eps_step") else value for name, value in parameters.items()}


def contests(names: list[str], autoattack: Path | None) -> dict[str, list[tuple[str, Callable[[Setting], np.ndarray]]]]:
    """Attack -> libraries and how to run it, ours first."""
    all_of_them: dict[str, list[tuple[str, Callable[[Setting], np.ndarray]]]] = {
        "PGD-10": [
            ("ours", lambda s: ours(s, "pgd:steps=10,step_size=0.25,random_start=true")),
            ("torchattacks", by_torchattacks("PGD", alpha=0.25, steps=10, random_start=True)),
            ("foolbox", by_foolbox("LinfPGD", rel_stepsize=0.25, steps=10, random_start=True)),
            ("ART", by_art("ProjectedGradientDescent", eps_step=0.25, max_iter=10, num_random_init=1)),
        ],
        "PGD-100": [
            ("ours", lambda s: ours(s, "pgd:steps=100,step_size=0.1")),
            ("torchattacks", by_torchattacks("PGD", alpha=0.1, steps=100, random_start=True)),
            ("foolbox", by_foolbox("LinfPGD", rel_stepsize=0.1, steps=100, random_start=True)),
        ],
        "APGD-CE-100": [
            ("ours", lambda s: ours(s, "apgd-ce:steps=100")),
            ("torchattacks", by_torchattacks("APGD", steps=100, norm="Linf", loss="ce")),
        ],
        "Square-1000": [
            ("ours", lambda s: ours(s, "square:queries=1000")),
            ("torchattacks", by_torchattacks("Square", n_queries=1000, norm="Linf", loss="margin", p_init=0.8)),
        ],
        "AutoAttack": [("ours", lambda s: ours(s, "auto-attack"))],
    }
    if autoattack is not None:
        sys.path.insert(0, str(autoattack))
        all_of_them["AutoAttack"].append(("original", by_original_autoattack))
    return {attack: all_of_them[attack] for attack in names}


def contest(setting: Setting, attack: str, rivals: list[tuple[str, Callable[[Setting], np.ndarray]]]) -> list[Entry]:
    """One entry per library, with its median time."""
    rounds = [[measure(setting, attack, library, run) for library, run in rivals]]
    while len(rounds) < ROUNDS and sum(entry.seconds for entry in rounds[0]) < SHORT:
        rounds.append([measure(setting, attack, library, run) for library, run in rivals])
    return [
        replace(turns[0], seconds=float(np.median([turn.seconds for turn in turns])))
        for turns in zip(*rounds, strict=True)
    ]


def measure(setting: Setting, attack: str, library: str, run: Callable[[Setting], np.ndarray]) -> Entry:
    counter = Counter(setting.classifier)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    wrong = run(setting)
    seconds = time.perf_counter() - began
    n = len(setting.x)
    setting.classifier.normalize._forward_hooks.clear()
    return Entry(attack, library, seconds, counter.forwards / n, counter.backwards / n, 1 - wrong.mean(), wrong)


def settings(shared: Path | None, samples: int, device: torch.device, folder: Path) -> list[Setting]:
    """The networks with their first samples."""
    if shared is None:
        take_dataset(samples_shipped.IMAGES, samples_shipped.IMAGES.name, folder / "data")
        networks = {f"Fashion, {name}": (file, samples_shipped.ARCHITECTURE, "none") for name, file in WEIGHTS.items()}
        epsilon = samples_shipped.EPSILON
    else:
        take_dataset(shared / "data" / "cifar10-test.npz", "cifar10-test.npz", folder / "data")
        networks = {
            name: (shared / "weights" / file, ARCHITECTURES.build(kind, values), normalization)
            for name, (file, kind, values, normalization) in SHARED.items()
        }
        epsilon = 8 / 255
    data = ImageDataset.open(folder / "data")
    ids = np.arange(samples)
    x, y = data.images(ids).to(device), torch.from_numpy(data.labels[ids]).to(device)
    found = []
    for index, (name, (file, architecture, normalization)) in enumerate(networks.items()):
        take_model(file, file.name, architecture, folder / f"{index}.safetensors")
        network = architecture.build()
        load_weights(network, folder / f"{index}.safetensors")
        classifier = Classifier(
            network, input_shape=data.shape, num_classes=10, normalization=NORMALIZATIONS[normalization]
        ).to(device)
        found.append(Setting(name, classifier, data, ids, x, y, epsilon))
    return found


def table(setting: Setting, entries: list[Entry]) -> str:
    """Markdown: one line per entry, times as ratios to ours."""
    lines = [
        f"### {setting.name}, {len(setting.x)} test images, L∞ {show_epsilon(setting.epsilon)}",
        "",
        "| attack | library | seconds | ours is faster by | images / s | forwards / image | backwards / image "
        "| robust accuracy | verdicts as ours |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    mine = {entry.attack: entry for entry in entries if entry.library == "ours"}
    for entry in entries:
        reference = mine[entry.attack]
        ratio = "" if entry is reference else f"{entry.seconds / reference.seconds:.2f} ×"
        same = "" if entry is reference else f"{100 * (entry.wrong == reference.wrong).mean():.1f} %"
        lines.append(
            f"| {entry.attack} | {entry.library} | {entry.seconds:.2f} | {ratio} | {len(setting.x) / entry.seconds:.0f} | "
            f"{entry.forwards:.1f} | {entry.backwards:.1f} | {100 * entry.robust:.1f} % | {same} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, help="folder with weights/ and data/")
    parser.add_argument("--autoattack", type=Path, help="checkout of the original AutoAttack code")
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument(
        "--attacks", nargs="+", default=["PGD-10", "PGD-100", "APGD-CE-100", "Square-1000", "AutoAttack"]
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", type=Path, help="Markdown file to write")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    machine = f"{device_name(device)}, {arguments.threads} threads, {platform.machine()}, torch {versions()['torch']}"
    parts = ["# Benchmarks", "", "## Attacks compared with other libraries", "", f"Machine: {machine}.", ""]
    with tempfile.TemporaryDirectory() as folder:
        for setting in settings(arguments.shared, arguments.samples, device, Path(folder)):
            ours(setting, "fgsm")  # warm up
            entries = []
            for attack, rivals in contests(arguments.attacks, arguments.autoattack).items():
                entries += contest(setting, attack, rivals)
                for entry in entries[-len(rivals) :]:
                    print(
                        f"{setting.name}: {attack} by {entry.library}: {entry.seconds:.2f} s, {100 * entry.robust:.1f} %"
                    )
            parts += [table(setting, entries), ""]
    text = "\n".join(parts)
    print(text)
    if arguments.write is not None:
        arguments.write.write_text(text)


if __name__ == "__main__":
    main()
