"""The study of hardening methods: the same start, the same budget of counted passes, several seeds, judged by strong attacks.

    python -m benchmarks.hardening --shared ../shared --results hardening.jsonl --write hardening.md

For every seed a VGG-16 (CIFAR form) is trained plainly on CIFAR-10; every method then goes on from it with the same budget, one
learning rate and one schedule, and keeps the weights of its best validation. Weights of penalties that the papers do not give
are chosen on the validation images of the first seed, with a part of the budget. Test images are seen at the end
alone: PGD with 50 steps on all of them, AutoAttack on the first ones. Every finished piece of work is a line of ``--results``,
and a run goes on from there; lines of other settings are left alone. Without ``--full`` the network has a quarter of its width.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import platform
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from auditor.attacking.attack import ATTACKS
from auditor.attacking.criterion import Misclassification
from auditor.attacking.evaluation import clean_pass, run_attack
from auditor.attacking.threat import ThreatModel
from auditor.data.intake.weights import load_weights
from auditor.hardening.hardening import HARDENINGS
from auditor.hardening.learning.checkpoint import BEST
from auditor.hardening.learning.sensitive import late_convolutions
from auditor.hardening.result import TrainingPoint, TrainingResult
from auditor.hardening.spec import TrainingSpec
from auditor.hardening.training import train
from auditor.kit.provenance import device_name, versions
from auditor.models.architecture import ARCHITECTURES
from auditor.models.classifier import NORMALIZATIONS, Classifier
from auditor.models.dataset import ImageDataset
from benchmarks.hardening_page import VANILLA, page, share

EPSILON = 8 / 255
ROUTE = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
MOVEMENT = (0.05, 0.5, 5.0)


class Method(NamedTuple):
    """A row of the study. ``paper``: what the papers report, clean / PGD.

    ``tuned``: the parameter whose value is chosen among ``values`` on validation images, after ``share`` of the budget; ``like``:
    the method whose choice is taken over.
    """

    kind: str
    settings: Mapping[str, Any]
    paper: str = ""
    tuned: str = ""
    values: Sequence[float] = ()
    share: float = 0.25
    like: str = ""


FREE = {"freeze_below": False}
METHODS: dict[str, Method] = {
    "PAT": Method("pat", {}, "Zhang: 85.1 / 37.4"),
    "SNS sen, all layers learn": Method("sns", {"variant": "sen", **FREE}, tuned="weights", values=MOVEMENT, share=0.5),
    "SNS rand, all layers learn": Method(
        "sns", {"variant": "rand", **FREE}, tuned="weights", like="SNS sen, all layers learn"
    ),
    "PAT, layers of SNS only": Method("pat", {"train_from": "late"}),
    "SNS sen": Method("sns", {"variant": "sen"}, "Zhang: 86.0 / 39.6"),
    "SNS dyn": Method("sns", {"variant": "dyn"}, "Zhang: 85.8 / 39.4"),
    "SNS all": Method("sns", {"variant": "all"}, "Zhang: 85.2 / 37.9"),
    "SNS rand": Method("sns", {"variant": "rand"}, "Zhang: 83.5 / 35.5"),
    "ALP": Method("alp", {}, "Zhang: 84.4 / 36.5"),
    "TRADES": Method("trades", {}),
    "PAT_g": Method("route_gradient", {"base": "pat"}, "Li: 84.9 / 48.4", "penalty", ROUTE, share=0.5),
    "PAT_w": Method("route_weight", {"base": "pat"}, "Li: 85.1 / 48.2", "penalty", ROUTE, share=0.5),
    "fine-tune only": Method("fine_tune", {}),
    "sensitivity regularizer": Method("sensitivity_regulariser", {}, "Suri: 92.9 / 50.5"),
    "Vanilla_w": Method("route_weight", {}, "Li: 91.9 / 5.5 (MI-FGSM)", "penalty", ROUTE),
    "Vanilla_g": Method("route_gradient", {}, "Li: 92.6 / 7.5 (MI-FGSM)", "penalty", ROUTE),
}


@dataclass(frozen=True)
class Settings:
    """What every run of a study shares; a line of the results belongs to a study by its hash."""

    width: float
    vanilla_epochs: int
    vanilla_images: int
    images: int
    budget: float
    attack_steps: int
    vanilla_batch: int
    batch: int
    learning_rate: float
    precision: str
    test: int
    autoattack: int

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]


class Task(NamedTuple):
    """One piece of work. ``value``: of the tuned parameter; ``share``: of the budget; ``judged``: on test images, or not."""

    name: str
    seed: int
    value: float | None = None
    share: float = 1.0
    judged: bool = True

    @property
    def key(self) -> str:
        return f"{self.name}|{self.seed}|{self.value}|{self.share:g}"


class Place(NamedTuple):
    """Where a study's files are."""

    shared: Path
    folder: Path


def stored(shared: Path, names: Sequence[str]) -> ImageDataset:
    """The images of some files, one after another."""
    parts = [np.load(shared / "data" / f"{name}.npz", allow_pickle=False) for name in names]
    return ImageDataset(
        np.concatenate([part["images"] for part in parts]),
        np.concatenate([part["labels"] for part in parts]),
        [str(name) for name in parts[0]["class_names"]],
        name=" ".join(names),
    )


def training_images(shared: Path, count: int) -> ImageDataset:
    """The first ``count`` training images of CIFAR-10."""
    data = stored(shared, [f"cifar10-train-{part}of4" for part in range(1, 5)])
    return ImageDataset(
        data._images[:count], data.labels[:count], data.class_names, name=f"first {count} training images"
    )


def blank(settings: Settings) -> Classifier:
    """The network with weights that do not matter; convolutions are fastest with channels last."""
    network: nn.Module = ARCHITECTURES.build("vgg", {"width_factor": settings.width}).build()
    classifier = Classifier(
        network.to(memory_format=torch.channels_last),
        input_shape=(3, 32, 32),
        num_classes=10,
        normalization=NORMALIZATIONS["cifar10"],
    )
    return classifier.to("cuda" if torch.cuda.is_available() else "cpu")


def spec_of(task: Task, settings: Settings, classifier: Classifier) -> TrainingSpec:
    """How a task trains."""
    common: dict[str, Any] = {
        "batch_size": settings.batch, "seed": task.seed, "precision": settings.precision, "validation_epsilon": EPSILON,
    }  # fmt: skip
    if task.name == VANILLA:
        return TrainingSpec.load(
            common
            | {
                "hardening": {"kind": "fine_tune"}, "from_scratch": True, "epochs": settings.vanilla_epochs, "learning_rate": 0.1,
                "batch_size": settings.vanilla_batch, "schedule": "one_cycle", "select": "clean", "validation_samples": 500,
                "validation_steps": 1, "sensitivity_samples": 0,
            }
        )  # fmt: skip
    method = METHODS[task.name]
    member = HARDENINGS.build(method.kind, {})
    values = dict(method.settings)
    if values.get("train_from") == "late":
        values["train_from"] = late_convolutions(classifier)[0]
    values |= {"epsilon": EPSILON, "steps": settings.attack_steps} if "steps" in type(member).model_fields else {}
    tuned = (task.value,) if method.tuned == "weights" else task.value
    values |= {method.tuned: tuned} if task.value is not None else {}
    tuning = not task.judged
    # Where the training does not attack, no epoch is robust: the one with the best robust validation would be an accident.
    select = "clean" if HARDENINGS.build(method.kind, values).attacked_at is None else "robust"
    return TrainingSpec.load(
        common
        | {
            "hardening": {"kind": method.kind, **values}, "budget": settings.budget * task.share,
            "learning_rate": settings.learning_rate, "schedule": "one_cycle", "select": select,
            "validation_samples": 250,
            "validation_steps": 20 if tuning else settings.attack_steps, "sensitivity_samples": 0 if tuning else 64,
        }
    )  # fmt: skip


def work(task: Task, settings: Settings, place: Place) -> dict[str, Any]:
    """Do one task; a line of the results."""
    torch.set_num_threads(1)
    classifier = blank(settings)
    base = vanilla_folder(task.seed, settings, place)
    images = settings.vanilla_images if task.name == VANILLA else settings.images
    if task.name != VANILLA:
        load_weights(classifier.network, base / BEST)
    spec = spec_of(task, settings, classifier)
    folder = (
        base
        if task.name == VANILLA
        else place.folder / settings.digest / hashlib.sha256(task.key.encode()).hexdigest()[:12]
    )
    began = time.process_time()
    result = train(spec, classifier, training_images(place.shared, images), folder=folder, checkpoint_seconds=120)
    line: dict[str, Any] = {
        "study": settings.digest, "key": task.key, "name": task.name, "seed": task.seed, "value": task.value, "share": task.share,
        "stopped": result.stopped, "epochs": result.epochs, "best": result.best.model_dump(mode="json"),
        "passes": result.training.cost / result.training_samples, "cpu_seconds": time.process_time() - began,
        "sensitivity": moved(result, classifier),
    }  # fmt: skip
    if task.judged:
        trained = blank(settings)
        load_weights(trained.network, folder / BEST)
        line |= judged(trained, settings, place.shared, task.seed)
    return line


def moved(result: TrainingResult, classifier: Classifier) -> tuple[float, float] | None:
    """Mean sensitivity of the last six convolutions at the start and at the kept weights."""
    layers = late_convolutions(classifier)
    measured = [point for point in result.points if set(layers) <= set(point.sensitivity)]
    kept = [point for point in measured if -(-point.epoch // 1) <= result.best.epoch]

    def mean(point: TrainingPoint) -> float:
        return float(np.mean([point.sensitivity[layer] for layer in layers]))

    return (mean(measured[0]), mean(kept[-1])) if measured else None


def judged(classifier: Classifier, settings: Settings, shared: Path, seed: int) -> dict[str, Any]:
    """Sample by sample on test images, as a text of 0 and 1: right on the clean image, and still right after each attack."""
    data = stored(shared, ["cifar10-test"])
    ids = np.arange(settings.test)
    clean = clean_pass(classifier, data, ids, batch_size=100).prediction == data.labels[ids]
    found = {"clean": clean}
    for name, attack, count in (
        ("pgd", "pgd:steps=50", settings.test),
        ("autoattack", "auto-attack", settings.autoattack),
    ):
        standing = clean[:count].copy()
        positions = np.flatnonzero(standing)
        labels = torch.from_numpy(data.labels[positions]).to(classifier.device)
        outcome = run_attack(
            classifier, ATTACKS.parse(attack), ThreatModel(norm="linf", epsilon=EPSILON), data, ids[positions],
            Misclassification(labels), seed=seed, batch_size=100,
        )  # fmt: skip
        standing[positions] = ~outcome.fooled
        found[name] = standing
    return {name: "".join("01"[int(value)] for value in values) for name, values in found.items()}


class Results:
    """The lines of a study, kept as they come."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path, self.settings = path, settings
        lines = [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []
        self.lines: dict[str, dict[str, Any]] = {
            line["key"]: line for line in lines if line["study"] == settings.digest
        }

    def add(self, line: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.lines[line["key"]] = line

    def tried(self, name: str) -> list[dict[str, Any]]:
        """The runs that choose a method's tuned parameter, by its value."""
        name = METHODS[name].like or name if name in METHODS else name
        found = [line for line in self.lines.values() if line["name"] == name and line["share"] != 1]
        return sorted(found, key=lambda line: float(line["value"]))

    def chosen(self, name: str) -> float | None:
        """The value of a method's tuned parameter: among those that keep half of the best clean validation accuracy, and whose
        robust one cannot be told from the best (their interval reaches it), the best clean one; the smaller value of equals."""
        tried = self.tried(name)
        if not tried:
            return None
        clean = max(line["best"]["clean"]["value"] for line in tried)
        sound = [line for line in tried if line["best"]["clean"]["value"] >= clean / 2]
        best = max(line["best"]["robust"]["value"] for line in sound)
        among = [line for line in sound if line["best"]["robust"]["high"] >= best]
        return float(max(among, key=lambda line: line["best"]["clean"]["hits"])["value"])

    def of(self, name: str) -> list[dict[str, Any]]:
        """The judged runs of a method, by seed."""
        found = [line for line in self.lines.values() if line["name"] == name and line["share"] == 1]
        return sorted(found, key=lambda line: int(line["seed"]))


def run(tasks: Sequence[Task], results: Results, place: Place, processes: int) -> None:
    """Those tasks of which there is no line yet; a plain network whose weights are gone is trained again."""
    waiting = [task for task in tasks if task.key not in results.lines or lost(task, results.settings, place)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, max_tasks_per_child=1) as pool:
        pending = {pool.submit(work, task, results.settings, place): task for task in waiting}
        for done in as_completed(pending):
            line = done.result()
            if line["key"] not in results.lines:
                results.add(line)
            print(summary(line), flush=True)


def lost(task: Task, settings: Settings, place: Place) -> bool:
    """Whether a plain network's weights, from which the others start, are not there."""
    return task.name == VANILLA and not (vanilla_folder(task.seed, settings, place) / BEST).exists()


def vanilla_folder(seed: int, settings: Settings, place: Place) -> Path:
    return place.folder / settings.digest / f"{VANILLA}-{seed}"


def summary(line: Mapping[str, Any]) -> str:
    rates = {name: share(line[name]) for name in ("clean", "pgd", "autoattack") if name in line}
    shown = ", ".join(f"{name} {100 * value:.1f} %" for name, value in rates.items())
    return f"{line['key']}: {shown or line['best']}, {line['cpu_seconds']:.0f} s of training"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with data/")
    parser.add_argument("--results", type=Path, required=True, help="lines of JSON, added to")
    parser.add_argument("--folder", type=Path, help="checkpoints and weights; by default beside the results")
    parser.add_argument("--write", type=Path, help="Markdown file to write")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--full", action="store_true", help="full width, all training images, 10 attack steps: for a GPU"
    )
    parser.add_argument("--vanilla-epochs", type=int, default=10)
    parser.add_argument("--vanilla-images", type=int, default=40_000)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--budget", type=float, default=42.0, help="forward passes per image")
    parser.add_argument("--test", type=int, default=500)
    parser.add_argument("--autoattack", type=int, default=64)
    arguments = parser.parse_args()
    settings = Settings(
        width=1.0 if arguments.full else 0.25,
        vanilla_epochs=arguments.vanilla_epochs,
        vanilla_images=arguments.vanilla_images,
        images=arguments.vanilla_images if arguments.full else arguments.images,
        budget=arguments.budget,
        attack_steps=10 if arguments.full else 5,
        vanilla_batch=128 if arguments.full else 64,
        batch=128 if arguments.full else 32,
        learning_rate=0.1 if arguments.full else 0.05,
        precision="bf16",
        test=arguments.test,
        autoattack=arguments.autoattack,
    )
    results = Results(arguments.results, settings)
    place = Place(arguments.shared, arguments.folder or arguments.results.with_suffix(".files"))
    seeds = range(arguments.seeds)
    run([Task(VANILLA, seed) for seed in seeds], results, place, arguments.processes)
    grid = {METHODS[name].like or name: METHODS[METHODS[name].like or name] for name in arguments.methods}
    run(
        [Task(name, 0, value, method.share, judged=False) for name, method in grid.items() for value in method.values],
        results, place, arguments.processes,
    )  # fmt: skip
    run(
        [Task(name, seed, results.chosen(name)) for seed in seeds for name in arguments.methods],
        results, place, arguments.processes,
    )  # fmt: skip
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    machine = f"{device_name(device)}, {platform.machine()}, torch {versions()['torch']}"
    text = page(results, METHODS, machine)
    print(text)
    if arguments.write is not None:
        arguments.write.write_text(text)


if __name__ == "__main__":
    main()
