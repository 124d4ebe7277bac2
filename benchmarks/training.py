"""An epoch of every hardening method beside its counted forward and backward passes, done plainly in the same run.

    python -m benchmarks.training --write docs/benchmarks-training.md

After every step of the training the same passes are made by plain PyTorch on a copy of the network, channels-last as there, so
that a busy machine slows down both sides alike: as many attack steps (forward, and backward to the image, in eval mode),
forward passes, and forward and backward passes in training mode as the method counts. What is beyond is the loop's: batches,
augmentation, the loss, the watching of layers, the optimizer, checkpoints. The ratio is the median over the steps of an epoch.
Weights and images are random.
"""

from __future__ import annotations

import argparse
import copy
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from auditor.hardening.hardening import HARDENINGS, Hardening
from auditor.hardening.learning.adversary import Adversarial
from auditor.hardening.learning.trainee import before
from auditor.hardening.spec import TrainingSpec
from auditor.hardening.training import train
from auditor.kit.provenance import device_name, versions
from auditor.models.architecture import ARCHITECTURES
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset

SHAPE = (3, 32, 32)
TARGET = 1.1


class Counts(NamedTuple):
    """A method's passes of one image in one step; ``twice``: learning passes through whose gradient another gradient goes."""

    attack: int
    forward: int
    learning: int
    twice: int

    @classmethod
    def of(cls, method: Hardening) -> Counts:
        attacks = isinstance(method, Adversarial) and method.attacked_at is not None
        attack = int(method.attack_cost.backwards) if attacks and isinstance(method, Adversarial) else 0
        forwards, backwards = int(method.cost.forwards) - attack, int(method.cost.backwards) - attack
        sides = min(forwards, backwards)
        twice = (backwards - sides) // 2
        return cls(attack, forwards - sides, sides - twice, twice)


class PlainPasses:
    """The same passes on a copy of the network, by hand."""

    def __init__(self, method: Hardening, classifier: Classifier, batch: int) -> None:
        self.counts = Counts.of(method)
        self.network = method.extended(classifier).requires_grad_(True).to(memory_format=torch.channels_last)
        first = method.first_layer(classifier)
        self.still = [self.network.get_submodule(name) for name in (before(classifier, first) if first else ())]
        for module in self.still:
            module.requires_grad_(False)
        self.convolutions = [module for module in self.network.modules() if isinstance(module, nn.Conv2d)]
        generator = torch.Generator().manual_seed(1)
        x = torch.rand(batch, *SHAPE, generator=generator).to(classifier.device)
        self.x = x.contiguous(memory_format=torch.channels_last)
        self.y = torch.randint(0, 10, (batch,), generator=generator).to(classifier.device)

    def __call__(self) -> None:
        self.network.eval()
        for _ in range(self.counts.attack):
            points = self.x.clone().requires_grad_()
            torch.autograd.grad(cross_entropy(self.network(points), self.y, reduction="sum"), points)
        with torch.no_grad():
            for _ in range(self.counts.forward):
                self.network(self.x)
        self.network.train()
        for module in self.still:
            module.eval()
        losses = [cross_entropy(self.network(self.x), self.y) for _ in range(self.counts.learning)]
        losses += [self._twice() for _ in range(self.counts.twice)]
        torch.stack(losses).sum().backward()
        self.network.zero_grad(set_to_none=True)

    def _twice(self) -> Tensor:
        kept: list[Tensor] = []
        handles = [
            module.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
            for module in self.convolutions
        ]
        loss = cross_entropy(self.network(self.x), self.y, reduction="sum")
        for handle in handles:
            handle.remove()
        slopes = torch.autograd.grad(loss, kept, create_graph=True)
        total: Tensor = loss + torch.stack([slope.abs().sum() for slope in slopes]).sum()
        return total


class Timing(NamedTuple):
    """Seconds of each step after the first, and of the plain passes after it."""

    ours: np.ndarray
    plain: np.ndarray

    @property
    def ratio(self) -> float:
        return float(np.median(self.ours / self.plain))


def measure(method: Hardening, classifier: Classifier, data: ImageDataset, batch: int) -> Timing:
    """One epoch of a training, its steps in turn with the plain passes."""
    plain = PlainPasses(method, classifier, batch)
    ours, others, began = [], [], [0.0]

    def after_step(share: float, what: str) -> None:
        ended = time.perf_counter()
        if not what.startswith("epoch"):
            return
        ours.append(ended - began[0])
        others.append(timed(plain))
        began[0] = time.perf_counter()

    spec = TrainingSpec(
        hardening=method, epochs=1, batch_size=batch, validation_samples=1, validation_steps=1, sensitivity_samples=0,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        train(spec, classifier, data, folder=Path(folder), on_progress=after_step)
    return Timing(np.array(ours[1:]), np.array(others[1:]))  # the first warms up, and began before it


def timed(run: Callable[[], object]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def methods(steps: int) -> list[Hardening]:
    """Every method, and the variants whose passes differ."""
    found = []
    for member in HARDENINGS:
        few = {"steps": steps} if "steps" in member.model_fields and member.kind_name() != "fast_at" else {}
        few |= {"pairs": 64} if "pairs" in member.model_fields else {}
        few |= {"images": 64} if "images" in member.model_fields else {}
        found.append(HARDENINGS.build(member.kind_name(), few))
        if "base" in member.model_fields:
            found.append(HARDENINGS.build(member.kind_name(), few | {"base": "pat"}))
    return found


def table(rows: list[tuple[Hardening, Timing]], batch: int) -> str:
    """Markdown: one line for each method."""
    lines = [
        "| method | forwards, backwards per image and step | ms / image | its passes in plain PyTorch | ratio |",
        "|---|---|---|---|---|",
    ]
    for method, timing in rows:
        ours, plain = (1000 * float(np.median(values)) / batch for values in timing)
        base = f", {method.base}" if hasattr(method, "base") else ""
        counts = f"{method.cost.forwards:g}, {method.cost.backwards:g}"
        lines.append(f"| {method.display_title()}{base} | {counts} | {ours:.2f} | {plain:.2f} | {timing.ratio:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=9, help="steps of the epoch, the first one to warm up")
    parser.add_argument("--attack-steps", type=int, default=5)
    parser.add_argument("--width", type=float, default=0.25, help="of the ResNet-18, as a share of the usual one")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", type=Path, help="Markdown file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = ARCHITECTURES.build("resnet18-cifar", {"width_factor": arguments.width}).build()
    classifier = Classifier(copy.deepcopy(network), input_shape=SHAPE, num_classes=10).to(device)
    count = arguments.batch * arguments.steps + 1
    images = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    data = ImageDataset(images, np.arange(count) % 10, [str(label) for label in range(10)])
    rows = []
    for method in methods(arguments.attack_steps):
        rows.append((method, measure(method, classifier, data, arguments.batch)))
        print(f"{method.describe()[:60]}: {rows[-1][1].ratio:.3f}", flush=True)
    machine = f"{device_name(device)}, {arguments.threads} threads, {platform.machine()}, torch {versions()['torch']}"
    text = "\n".join(
        [
            "# Benchmark of training",
            "",
            f"Machine: {machine}. ResNet-18 for small images at {arguments.width:g} of its width, batches of {arguments.batch} "
            f"images of 3x32x32, {arguments.attack_steps} steps of the attack, {arguments.steps - 1} training steps. Target: a "
            f"ratio of at most {TARGET}.",
            "",
            table(rows, arguments.batch),
            "",
        ]
    )
    print(text)
    if arguments.write is not None:
        arguments.write.write_text(text)


if __name__ == "__main__":
    main()
