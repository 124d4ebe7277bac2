"""Hardening the shipped sample's plain network in about two minutes: PAT, TRADES and SNS, judged on its test images.

    python -m benchmarks.hardening_sample --results sample.jsonl --write docs/benchmarks-hardening-sample.md

Every training starts at the plain network, learns from the sample's 6,000 training images on one thread and keeps the weights of
the epoch that its validation images (a tenth of these) found most robust. The settings in RUNS were chosen on the validation
images alone. The test images are attacked the same way before and after: PGD-10 and AutoAttack within the sample's epsilon.
What is measured becomes a line of ``--results``; a run goes on from there, and lines of other settings are left alone.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from auditor.attacking.attack import ATTACKS
from auditor.attacking.criterion import Misclassification
from auditor.attacking.evaluation import clean_pass, run_attack
from auditor.attacking.harness.outcome import Finished
from auditor.attacking.threat import Norm, ThreatModel
from auditor.data.intake.weights import load_weights
from auditor.data.samples import ARCHITECTURE, EPSILON, IMAGES, TRAINING_IMAGES, WEIGHTS
from auditor.hardening.learning.checkpoint import BEST
from auditor.hardening.learning.sensitive import late_convolutions, sensitivities
from auditor.hardening.result import TrainingResult
from auditor.hardening.spec import TrainingSpec
from auditor.hardening.training import train
from auditor.kit.provenance import device_name, versions
from auditor.kit.statistics.estimate import Estimate, Rate
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from auditor.models.neurons import list_layers
from auditor.neural.ranking.sensitivity import image_means

ATTACK: dict[str, Any] = {"epsilon": EPSILON, "steps": 5, "step_size": 0.4}
COMMON: dict[str, Any] = {"epochs": 6, "schedule": "cosine", "augmentation": "none", "device": "cpu"}
RUNS: dict[str, dict[str, Any]] = {
    "PAT": {"hardening": {"kind": "pat", **ATTACK}, "learning_rate": 0.05},
    "TRADES": {"hardening": {"kind": "trades", "beta": 1.5, **ATTACK}, "learning_rate": 0.02},
    "SNS": {"hardening": {"kind": "sns", **ATTACK}, "learning_rate": 0.05},
    "SNS, all layers learn": {"hardening": {"kind": "sns", "freeze_below": False, **ATTACK}, "learning_rate": 0.05},
}
PLAIN = "plain"
CLEAN, ROBUST, SECONDS = 0.8, 0.5, 120
BATCH = 128
THREAT = ThreatModel(norm=Norm.LINF, epsilon=EPSILON)


Neurons = dict[str, NDArray[np.int64]]
"""The most sensitive neurons of each chosen layer, by its name."""


class LayerMeans(NamedTuple):
    """Of each test image: sensitivity (eq. 1) averaged over the neurons that were the most sensitive ones of the plain network,
    and over all of the layer; and the ratio (eq. 11) over all."""

    chosen: list[float]
    sensitivity: list[float]
    ratio: list[float]


class Measured(BaseModel):
    """A network on the test images; ``layers``: the chosen ones, by name. ``result`` and ``seconds`` (of the processor, with
    preparation and validations) are of its training; None for the plain network. ``key``: of the settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    key: str
    clean: Rate
    pgd: Rate
    auto_attack: Rate
    layers: dict[str, LayerMeans]
    result: TrainingResult | None = None
    seconds: float = 0.0


def images(path: Path, count: int | None = None) -> ImageDataset:
    """The first images of a file, all by default."""
    with np.load(path, allow_pickle=False) as arrays:
        return ImageDataset(arrays["images"][:count, ..., None], arrays["labels"][:count].astype(np.int64))


def network(weights: Path) -> Classifier:
    found = ARCHITECTURE.build()
    load_weights(found, weights)
    return Classifier(found, input_shape=(1, 28, 28), num_classes=10)


def measure(name: str, key: str, classifier: Classifier, data: ImageDataset, few: int, layers: Neurons) -> Measured:
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
    return Measured(
        name=name, key=key, clean=Rate.of(right), pgd=pgd, auto_attack=auto_attack,
        layers=movement(classifier, data, layers),
    )  # fmt: skip


def movement(classifier: Classifier, data: ImageDataset, layers: Neurons) -> dict[str, LayerMeans]:
    """Image by image, all ten steps on every image."""
    ids = np.arange(len(data))
    found = {name: np.empty((3, len(ids))) for name in layers}
    neurons = {layer.name: np.arange(layer.neurons) for layer in list_layers(classifier)} | layers

    def add(finished: Finished) -> None:
        for layer in image_means(classifier, finished.x, finished.x_adv, neurons):
            if layer.name in found:
                means = layer.sensitivity, layer.sensitivity_all, layer.ratio_all
                found[layer.name][:, finished.position] = np.stack(means)

    run_attack(
        classifier, ATTACKS.parse("pgd:steps=10"), THREAT, data, ids, Misclassification(torch.from_numpy(data.labels)),
        seed=0, batch_size=BATCH, early_stop=False, on_finished=add,
    )  # fmt: skip
    return {name: LayerMeans(*values.tolist()) for name, values in found.items()}


def most_sensitive(classifier: Classifier, training: ImageDataset) -> Neurons:
    """Of the layers that SNS works on by default, the tenth of neurons that 1,000 training images move most."""
    found = sensitivities(
        classifier, training, training.select(1000, 0), THREAT, steps=10, step_size=0.25, seed=0, batch_size=BATCH
    )
    wanted = late_convolutions(classifier)
    return {layer.name: layer.top(0.1) for layer in found.layers if layer.name in wanted}


def harden(name: str, key: str, training: ImageDataset, test: ImageDataset, few: int, layers: Neurons) -> Measured:
    """Train by the settings of that name, and measure what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        result = train(TrainingSpec.load(COMMON | RUNS[name]), network(WEIGHTS["plain"]), training, folder=Path(folder))
        seconds = time.process_time() - began
        child = network(Path(folder) / BEST)
    return measure(name, key, child, test, few, layers).model_copy(update={"result": result, "seconds": seconds})


def accuracies(parent: Measured, children: list[Measured]) -> str:
    """Markdown: one line for the parent, and one for each training."""
    lines = [
        "| network | clean | PGD-10 | AutoAttack | CPU s | epochs (kept) | forwards, backwards per training image | reached |",
        "|---|---|---|---|---|---|---|---|",
        f"| plain, before | {parent.clean} | {parent.pgd} | {on_few(parent.auto_attack)} | | | | |",
    ]
    for child in children:
        result = child.result
        assert result is not None
        assert child.clean.value is not None
        assert child.pgd.value is not None
        passes = [
            round(count / result.training_samples) for count in (result.training.forwards, result.training.backwards)
        ]
        missed = [
            what
            for what, reached in (
                ("clean", child.clean.value >= CLEAN), ("PGD-10", child.pgd.value >= ROBUST), ("time", child.seconds <= SECONDS),
            )
            if not reached
        ]  # fmt: skip
        lines.append(
            f"| {child.name} | {child.clean} | {child.pgd} | {on_few(child.auto_attack)} | {child.seconds:.0f} | "
            f"{result.epochs:g} ({result.best.epoch}) | {passes[0]}, {passes[1]} | "
            f"{'not ' + ', '.join(missed) if missed else 'all three'} |"
        )
    return "\n".join(lines)


def on_few(rate: Rate) -> str:
    return f"{rate}, n = {rate.n}"


def movements(parent: Measured, children: list[Measured]) -> str:
    """Markdown: before, after, and whether the paired change is beyond its interval; a line for each training and layer."""
    lines = [
        "| training | layer | most sensitive tenth, before → after | all neurons, before → after | ratio, before → after |",
        "|---|---|---|---|---|",
    ]
    for child in children:
        for layer, before in parent.layers.items():
            cells = [moved(*(np.array(v) for v in pair)) for pair in zip(before, child.layers[layer], strict=True)]
            lines.append(f"| {child.name} | {layer} | {' | '.join(cells)} |")
    return "\n".join(lines)


def moved(before: NDArray[np.float64], after: NDArray[np.float64]) -> str:
    change = Estimate.of_mean(after - before)
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


def key_of(name: str, samples: int) -> str:
    """What lines of the same settings agree in."""
    return json.dumps([COMMON | RUNS[name] if name in RUNS else None, samples], sort_keys=True)


def lines_of(path: Path | None) -> dict[tuple[str, str], Measured]:
    if path is None or not path.exists():
        return {}
    found = [Measured.model_validate_json(line) for line in path.read_text().splitlines()]
    return {(item.name, item.key): item for item in found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="trainings whose name contains this")
    parser.add_argument("--samples", type=int, default=2000, help="test images, the first ones")
    parser.add_argument("--auto-attack-samples", type=int, default=200, help="how many of them AutoAttack sees")
    parser.add_argument("--results", type=Path, help="file of what was measured, a JSON line for each network")
    parser.add_argument("--write", type=Path, help="Markdown file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    training, test = images(TRAINING_IMAGES), images(IMAGES, arguments.samples)
    few = min(arguments.auto_attack_samples, len(test))
    done = lines_of(arguments.results)
    wanted = [name for name in (PLAIN, *RUNS) if name == PLAIN or arguments.only in name]
    missing = [name for name in wanted if (name, key_of(name, len(test))) not in done]
    plain = network(WEIGHTS["plain"])
    layers = most_sensitive(plain, training) if missing else {}
    for name in missing:
        key = key_of(name, len(test))
        if name == PLAIN:
            measured = measure(name, key, plain, test, few, layers)
        else:
            measured = harden(name, key, training, test, few, layers)
        print(f"{name}: {measured.seconds:.0f} s, clean {measured.clean}, PGD-10 {measured.pgd}", flush=True)
        done[name, key] = measured
        if arguments.results is not None:
            with arguments.results.open("a") as file:
                file.write(measured.model_dump_json() + "\n")
    found = [done[place] for name in (PLAIN, *RUNS) if (place := (name, key_of(name, len(test)))) in done]
    parent, children = found[0], found[1:]
    machine = f"{device_name(torch.device('cpu'))}, 1 thread, {platform.machine()}, torch {versions()['torch']}"
    text = "\n".join(
        [
            "# Benchmark of hardening: the shipped sample in two minutes",
            "",
            f"Machine: {machine}. Fashion-MNIST, 6,000 training images (600 of them for validation), {len(test)} test images, "
            f"the first n of them for AutoAttack, L∞ ε = {EPSILON}; intervals are 95 % (Wilson; Student over images). "
            f"Targets: clean at least {100 * CLEAN:.0f} %, PGD-10 (steps of ε / 4 from a random start) at least "
            f"{100 * ROBUST:.0f} %, at most {SECONDS} CPU seconds, with preparation and validation. Made by "
            "`benchmarks/hardening_sample.py`.",
            "",
            accuracies(parent, children),
            "",
            "## Do the layers move less?",
            "",
            "The layers that SNS works on by default, test images and their twins by PGD-10 against the network itself, means "
            "and paired changes over the images: sensitivity (Zhang et al. 2020, eq. 1) of the tenth of neurons that was the "
            "most sensitive in the plain network, and of all; and of all the ratio to the clean output (eq. 11). These layers "
            "are followed by batch normalization: their sensitivity grows with the size of a filter, which changes nothing in "
            "the network; the ratio does not.",
            "",
            movements(parent, children),
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
