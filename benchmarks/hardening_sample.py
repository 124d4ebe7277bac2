"""Hardening the shipped sample's plain network in about two minutes: PAT, TRADES and SNS, judged on its test images.

    python benchmarks/hardening_sample.py --write docs/benchmarks-hardening-sample.md

Every training starts at the plain network, learns from the sample's 6,000 training images on one thread and keeps the weights of
the epoch that its validation images (a tenth of these) found most robust. The settings in RUNS were chosen on the validation
images alone. The test images are attacked the same way before and after: PGD-10 and AutoAttack within the sample's epsilon.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from auditor.attack import ATTACKS
from auditor.classifier import Classifier
from auditor.criterion import Misclassification
from auditor.dataset import ImageDataset
from auditor.evaluation import clean_pass, run_attack
from auditor.harness.outcome import Finished
from auditor.intake.weights import load_weights
from auditor.learning.checkpoint import BEST
from auditor.learning.sensitive import late_convolutions, sensitivities
from auditor.metrics import Rate
from auditor.neurons import list_layers
from auditor.provenance import device_name, versions
from auditor.ranking.sensitivity import image_means
from auditor.samples import ARCHITECTURE, EPSILON, IMAGES, TRAINING_IMAGES, WEIGHTS
from auditor.statistics.means import Mean
from auditor.threat import Norm, ThreatModel
from auditor.training import train
from auditor.training_result import TrainingResult
from auditor.training_spec import TrainingSpec

ATTACK: dict[str, Any] = {"epsilon": EPSILON, "steps": 5, "step_size": 0.4}
COMMON: dict[str, Any] = {"epochs": 6, "schedule": "cosine", "augmentation": "none", "device": "cpu"}
RUNS: dict[str, dict[str, Any]] = {
    "PAT": {"hardening": {"kind": "pat", **ATTACK}, "learning_rate": 0.05},
    "TRADES": {"hardening": {"kind": "trades", "beta": 1.5, **ATTACK}, "learning_rate": 0.02},
    "SNS": {"hardening": {"kind": "sns", **ATTACK}, "learning_rate": 0.05},
    "SNS, all layers learn": {"hardening": {"kind": "sns", "freeze_below": False, **ATTACK}, "learning_rate": 0.05},
}
CLEAN, ROBUST, SECONDS = 0.8, 0.5, 120
BATCH = 128
THREAT = ThreatModel(norm=Norm.LINF, epsilon=EPSILON)


Neurons = dict[str, NDArray[np.int64]]
"""The most sensitive neurons of each chosen layer, by its name."""


class LayerMeans(NamedTuple):
    """Of each test image, float64 (N,): sensitivity (eq. 1) averaged over the neurons that were the most sensitive ones of the
    plain network, and over all of the layer; and the ratio (eq. 11) over all."""

    chosen: NDArray[np.float64]
    sensitivity: NDArray[np.float64]
    ratio: NDArray[np.float64]


class Measured(NamedTuple):
    """A network on the test images; ``layers``: the chosen ones, by name."""

    clean: Rate
    pgd: Rate
    auto_attack: Rate
    layers: dict[str, LayerMeans]


class Trained(NamedTuple):
    """``seconds``: of the processor, for the training with its preparation and its validations."""

    result: TrainingResult
    seconds: float
    measured: Measured


def images(path: Path, count: int | None = None) -> ImageDataset:
    """The first images of a file, all by default."""
    with np.load(path, allow_pickle=False) as arrays:
        return ImageDataset(arrays["images"][:count, ..., None], arrays["labels"][:count].astype(np.int64))


def network(weights: Path) -> Classifier:
    found = ARCHITECTURE.build()
    load_weights(found, weights)
    return Classifier(found, input_shape=(1, 28, 28), num_classes=10)


def measure(classifier: Classifier, data: ImageDataset, few: int, layers: Neurons) -> Measured:
    """Clean, under both attacks, and how far the layers move between the images and their twins by PGD-10.

    AutoAttack, which takes 10,000 passes for an image that holds, sees the first ``few`` images only.
    """
    ids = np.arange(len(data))
    right = clean_pass(classifier, data, ids, batch_size=BATCH).prediction == data.labels
    standing = []
    for text, count in (("pgd:steps=10", len(ids)), ("auto-attack", few)):
        chosen = ids[:count][right[:count]]
        outcome = run_attack(
            classifier, ATTACKS.parse(text), THREAT, data, chosen,
            Misclassification(torch.from_numpy(data.labels[chosen])), seed=0, batch_size=BATCH,
        )  # fmt: skip
        standing.append(Rate.count(int((~outcome.fooled).sum()), count))
    pgd, auto_attack = standing
    return Measured(Rate.of(right), pgd, auto_attack, movement(classifier, data, layers))


def movement(classifier: Classifier, data: ImageDataset, layers: Neurons) -> dict[str, LayerMeans]:
    """Image by image, all ten steps on every image."""
    ids = np.arange(len(data))
    found = {name: LayerMeans(*np.empty((3, len(ids)))) for name in layers}
    neurons = {layer.name: np.arange(layer.neurons) for layer in list_layers(classifier)} | layers

    def add(finished: Finished) -> None:
        for layer in image_means(classifier, finished.x, finished.x_adv, neurons):
            if layer.name in found:
                means = layer.sensitivity, layer.sensitivity_all, layer.ratio_all
                for values, mean in zip(found[layer.name], means, strict=True):
                    values[finished.position] = mean

    run_attack(
        classifier, ATTACKS.parse("pgd:steps=10"), THREAT, data, ids, Misclassification(torch.from_numpy(data.labels)),
        seed=0, batch_size=BATCH, early_stop=False, on_finished=add,
    )  # fmt: skip
    return found


def most_sensitive(classifier: Classifier, training: ImageDataset) -> Neurons:
    """Of the layers that SNS works on by default, the tenth of neurons that 1,000 training images move most."""
    found = sensitivities(
        classifier, training, training.select(1000, 0), THREAT, steps=10, step_size=0.25, seed=0, batch_size=BATCH
    )
    wanted = late_convolutions(classifier)
    return {layer.name: layer.top(0.1) for layer in found.layers if layer.name in wanted}


def harden(values: dict[str, Any], training: ImageDataset, test: ImageDataset, few: int, layers: Neurons) -> Trained:
    """Train by these settings, and measure what came of it."""
    torch.set_num_threads(1)
    spec = TrainingSpec.load(COMMON | values)
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        result = train(spec, network(WEIGHTS["plain"]), training, folder=Path(folder))
        seconds = time.process_time() - began
        child = network(Path(folder) / BEST)
    found = measure(child, test, few, layers)
    print(f"{spec.hardening.kind}: {seconds:.0f} s, clean {found.clean}, PGD-10 {found.pgd}", flush=True)
    return Trained(result, seconds, found)


def accuracies(parent: Measured, runs: dict[str, Trained]) -> str:
    """Markdown: one line for the parent, and one for each training."""
    lines = [
        "| network | clean | PGD-10 | AutoAttack | CPU s | epochs (kept) | forwards, backwards per training image | reached |",
        "|---|---|---|---|---|---|---|---|",
        f"| plain, before | {parent.clean} | {parent.pgd} | {parent.auto_attack} | | | | |",
    ]
    for name, (result, seconds, found) in runs.items():
        shown = " | ".join(str(rate) for rate in found[:3])
        passes = [
            round(count / result.training_samples) for count in (result.training.forwards, result.training.backwards)
        ]
        assert found.clean.value is not None
        assert found.pgd.value is not None
        missed = [
            what
            for what, reached in (
                ("clean", found.clean.value >= CLEAN), ("PGD-10", found.pgd.value >= ROBUST), ("time", seconds <= SECONDS),
            )
            if not reached
        ]  # fmt: skip
        lines.append(
            f"| {name} | {shown} | {seconds:.0f} | {result.epochs:g} ({result.best.epoch}) | {passes[0]}, {passes[1]} | "
            f"{'not ' + ', '.join(missed) if missed else 'all three'} |"
        )
    return "\n".join(lines)


def movements(parent: Measured, runs: dict[str, Trained]) -> str:
    """Markdown: before, after, and whether the paired change is beyond its interval; a line for each training and layer."""
    lines = [
        "| training | layer | most sensitive tenth, before → after | all neurons, before → after | ratio, before → after |",
        "|---|---|---|---|---|",
    ]
    for name, run in runs.items():
        for layer, before in parent.layers.items():
            cells = [moved(one, other) for one, other in zip(before, run.measured.layers[layer], strict=True)]
            lines.append(f"| {name} | {layer} | {' | '.join(cells)} |")
    return "\n".join(lines)


def moved(before: NDArray[np.float64], after: NDArray[np.float64]) -> str:
    change = Mean.of(after - before)
    assert change.low is not None
    assert change.high is not None
    verdict = "falls" if change.high < 0 else "rises" if change.low > 0 else "no clear change"
    return f"{before.mean():.3g} → {after.mean():.3g}, {verdict}: {change}"


def settings() -> str:
    """Markdown: what all trainings have in common, and each one's own parameters where they are not the usual ones."""
    shared = ", ".join(f"{name} {value}" for name, value in COMMON.items() if name != "device")
    lines = [f"SGD, batches of {TrainingSpec().batch_size}, {shared}, and as usual otherwise.", ""]
    for name, run in RUNS.items():
        own = ", ".join(f"{key} {value}" for key, value in run["hardening"].items() if key != "kind")
        lines.append(f"* {name}: `{run['hardening']['kind']}` with {own}; learning_rate {run['learning_rate']}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="trainings whose name contains this")
    parser.add_argument("--samples", type=int, default=2000, help="test images, the first ones")
    parser.add_argument("--auto-attack-samples", type=int, default=200, help="how many of them AutoAttack sees")
    parser.add_argument("--processes", type=int, default=1, help="trainings at a time; each has one thread")
    parser.add_argument("--write", type=Path, help="Markdown file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    training, test = images(TRAINING_IMAGES), images(IMAGES, arguments.samples)
    few = min(arguments.auto_attack_samples, len(test))
    plain = network(WEIGHTS["plain"])
    layers = most_sensitive(plain, training)
    parent = measure(plain, test, few, layers)
    print(f"plain: clean {parent.clean}, PGD-10 {parent.pgd}, AutoAttack {parent.auto_attack}", flush=True)
    names = [name for name in RUNS if arguments.only in name]
    with ProcessPoolExecutor(arguments.processes, multiprocessing.get_context("spawn")) as pool:
        jobs = {name: pool.submit(harden, RUNS[name], training, test, few, layers) for name in names}
        runs = {name: job.result() for name, job in jobs.items()}
    machine = f"{device_name(torch.device('cpu'))}, 1 thread, {platform.machine()}, torch {versions()['torch']}"
    text = "\n".join(
        [
            "# Benchmark of hardening: the shipped sample in two minutes",
            "",
            f"Machine: {machine}. Fashion-MNIST, 6,000 training images (600 of them for validation), {len(test)} test images, "
            f"the first {few} of them for AutoAttack, L∞ ε = {EPSILON}; intervals are 95 % (Wilson; Student over images). "
            f"Targets: clean at least {100 * CLEAN:.0f} %, PGD-10 (steps of ε / 4 from a random start) at least "
            f"{100 * ROBUST:.0f} %, at most {SECONDS} CPU seconds, with preparation and validation. Made by "
            "`benchmarks/hardening_sample.py`.",
            "",
            accuracies(parent, runs),
            "",
            "## Do the layers move less?",
            "",
            "The layers that SNS works on by default, test images and their twins by PGD-10 against the network itself, means "
            "and paired changes over the images: sensitivity (Zhang et al. 2020, eq. 1) of the tenth of neurons that was the "
            "most sensitive in the plain network, and of all; and of all the ratio to the clean output (eq. 11). These layers "
            "are followed by batch normalisation: their sensitivity grows with the size of a filter, which changes nothing in "
            "the network; the ratio does not.",
            "",
            movements(parent, runs),
            "",
            "## Settings, chosen on the validation images",
            "",
            settings(),
            "",
        ]
    )
    print(text)
    if arguments.write is not None:
        arguments.write.write_text(text)


if __name__ == "__main__":
    main()
