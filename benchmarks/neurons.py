"""Neuron analyses beside plain passes over the same images, in one run: routes in closed form, sensitivity of all layers.

    python -m benchmarks.neurons --images 1024 --write docs/benchmarks-neurons.md

The network is VGG-16 with batch normalization at full width, the images are CIFAR-shaped; neither the weights nor the pixels
matter to the time, so both are random. All contestants take turns, ROUNDS times after one turn to warm up, and the median of
the times counts; a ratio is the median of the ratios within a turn, so a busy machine slows down both sides alike.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from auditor.attacking.threat import ThreatModel
from auditor.kit.provenance import device_name, versions
from auditor.models.architecture import ARCHITECTURES
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from auditor.neural.analyses.neuron_sensitivity import NeuronSensitivity
from auditor.neural.analysis import Pair, Subject
from auditor.neural.routes.routes import RouteFinder

SHAPE = (3, 32, 32)
ROUNDS = 5
TARGETS = {"route": 1.5, "sensitivity": 1.3}
PAPER = 7.4 * 3600 / 10_000
"""Seconds for each image that Li et al. 2021 report for VGG-16 on a GTX 1080."""


class Images:
    """Random pairs, labelled in turn, in batches."""

    def __init__(self, images: int, batch: int, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.rand(images, *SHAPE, generator=generator).to(device)
        self.x_adv = (self.x + 8 / 255 * torch.randn(self.x.shape, generator=generator).sign().to(device)).clamp(0, 1)
        self.labels = (torch.arange(images) % 10).to(device)
        self.batch = batch

    def __len__(self) -> int:
        return len(self.x)

    def __iter__(self) -> Iterator[Pair]:
        for start in range(0, len(self.x), self.batch):
            part = slice(start, start + self.batch)
            rows = np.arange(len(self.x))[part]
            yield Pair(rows, self.x[part], self.x_adv[part], self.labels[part], np.ones(len(rows), bool))

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(self.x.split(self.batch), self.labels.split(self.batch), strict=True)


def contestants(classifier: Classifier, images: Images) -> dict[str, Callable[[], object]]:
    """What is timed, by name. A contestant does its whole work, the preparation of the network included."""

    def forward_and_backward() -> None:
        for x, labels in images.batches():
            point = x.clone().requires_grad_()
            torch.autograd.grad(functional.cross_entropy(classifier(point), labels), point)

    def route() -> None:
        finder = RouteFinder(classifier)
        for x, labels in images.batches():
            finder(x, labels)

    def two_forwards() -> None:
        for pair in images:
            classifier.logits(pair.x)
            classifier.logits(pair.x_adv)

    def sensitivity() -> None:
        data = ImageDataset(np.zeros((len(images), 32, 32, 3), np.uint8), np.zeros(len(images), np.int64))
        subject = Subject(
            classifier, images, data, np.arange(len(images)), ThreatModel(), (), "random noise", 0, images.batch, Path(),
        )  # fmt: skip
        NeuronSensitivity().find(subject)

    return {
        "forward and backward": forward_and_backward,
        "route": route,
        "two forwards": two_forwards,
        "sensitivity": sensitivity,
    }


def timed(run: Callable[[], object]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def measure(classifier: Classifier, images: Images, rounds: int) -> dict[str, np.ndarray]:
    """Seconds of every round, by contestant."""
    runs = contestants(classifier, images)
    for run in runs.values():
        run()
    turns = [{name: timed(run) for name, run in runs.items()} for _ in range(rounds)]
    return {name: np.array([turn[name] for turn in turns]) for name in runs}


def table(seconds: dict[str, np.ndarray], images: int) -> str:
    """Markdown: one line for each analysis beside its yardstick."""
    lines = [
        "| analysis | ms / image | yardstick | ms / image | ratio | target |",
        "|---|---|---|---|---|---|",
    ]
    names = {
        "route": ("critical attacking routes (all 13 convolutions)", "forward and backward"),
        "sensitivity": ("neuron sensitivity and ratio (all layers)", "two forwards"),
    }
    for key, (title, yardstick) in names.items():
        mine, other = (1000 * float(np.median(seconds[name])) / images for name in (key, yardstick))
        ratio = float(np.median(seconds[key] / seconds[yardstick]))
        lines.append(f"| {title} | {mine:.2f} | {yardstick} | {other:.2f} | {ratio:.2f} | at most {TARGETS[key]:.1f} |")
    per_image = float(np.median(seconds["route"])) / images
    lines += [
        "",
        f"The route's paper reports 7.4 hours for 10,000 images of VGG-16 on a GTX 1080, {1000 * PAPER:.0f} ms / image: "
        f"{PAPER / per_image:.0f} times as long. The machines differ, so this is only an order of magnitude.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", type=Path, help="Markdown file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = ARCHITECTURES.build("vgg", {"depth": 16}).build()
    classifier = Classifier(network, input_shape=SHAPE, num_classes=10).to(device)
    seconds = measure(classifier, Images(arguments.images, arguments.batch, device), arguments.rounds)
    machine = f"{device_name(device)}, {arguments.threads} threads, {platform.machine()}, torch {versions()['torch']}"
    text = "\n".join(
        [
            "# Benchmarks of the neuron analyses",
            "",
            f"Machine: {machine}. VGG-16 with batch normalization, {arguments.images} images of 3x32x32 in batches of "
            f"{arguments.batch}, median of {arguments.rounds} rounds.",
            "",
            table(seconds, arguments.images),
            "",
        ]
    )
    print(text)
    if arguments.write is not None:
        arguments.write.write_text(text)


if __name__ == "__main__":
    main()
