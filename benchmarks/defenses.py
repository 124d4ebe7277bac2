"""The study of defenses: the thirteen attacks of the NIP paper, its rivals, NIP and controls, each under adaptive attack, too.

    python -m benchmarks.defenses --shared ../shared --results defenses.jsonl --write defenses.md

On networks trained by others and CIFAR-10 test images. The static attacks (Chen et al. 2021, arXiv 2112.13060, table 2) are made
once for each undefended network, within a budget and for the closest image, and kept beside ``--results``; every defense, fitted
on training images, is shown them and then attacked itself (``auditor.defending.measuring``). A defense that is done is a line of
``--results``; a run goes on from there, and lines of other settings are left alone. Defenses of the paper that are trainings
(CAS, feature denoising, SNS) belong to the study of hardening.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor.attacking.attack import ATTACKS, BUDGETS, Budget, Ensemble
from auditor.attacking.threat import Norm, ThreatModel
from auditor.data.intake.weights import load_weights, take_model
from auditor.defending.bench import SLACK, Bench
from auditor.defending.defense import DEFENSES
from auditor.defending.measuring import measure_table
from auditor.defending.nip.adaptive import paper_attacks
from auditor.defending.nip.published import PublishedCode
from auditor.defending.spec import TableSpec
from auditor.kit.provenance import device_name, versions
from auditor.kit.statistics.estimate import Rate
from auditor.models.architecture import ARCHITECTURES
from auditor.models.classifier import NORMALIZATIONS, Classifier
from auditor.models.dataset import ImageDataset
from benchmarks.attacks import CNN_A
from benchmarks.defenses_page import NIP, Attempt, Finished, Made, page

EPSILON = 8 / 255
LINF, L2 = ThreatModel(norm=Norm.LINF, epsilon=EPSILON), ThreatModel(norm=Norm.L2, epsilon=0.5)
NETWORKS: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "resnet20": ("resnet20-12fca82f.th", "resnet-cifar", {"depth": 20}, "imagenet"),
    "resnet32": ("resnet32-d509ac18.th", "resnet-cifar", {"depth": 32}, "imagenet"),
    "cnn-a": ("cnn-a-adversarially-trained.pt", "sequential", {"layers": CNN_A}, "cifar10-loose"),
}


class StaticAttack(NamedTuple):
    """An attack on the undefended network: the paper's steps, within our budget. ``text`` may name --boundary-steps, ...

    ``search``: the one budget under which it searches, where a second search would find no other images: one pixel is always
    equally far, and a walk from afar towards the image passes the budget only at its end, if at all. Those within the budget are
    then picked from it.
    """

    name: str
    text: str
    threat: ThreatModel
    search: Budget | None = None


PGD = StaticAttack("PGD", f"pgd:steps=40,step_size={0.01 / 0.3},random_start=false", LINF)
STATIC = (
    StaticAttack("FGSM", "fgsm", LINF),
    StaticAttack("BIM", f"bim:steps=10,step_size={0.05 / 0.3}", LINF),
    StaticAttack("MI-FGSM", "mi-fgsm:steps=10,step_size=0.2,decay=0.9", LINF),
    StaticAttack("JSMA", "jsma:steps=2000,theta=0.1,changes=7", ThreatModel(norm=Norm.L0, epsilon=20)),
    PGD,
    StaticAttack("DeepFool", "deepfool:steps=100,candidates=10,overshoot=0.05,overshoot_at=step", L2),
    StaticAttack("UAP", "uap:passes=3,delta=0.2", ThreatModel(norm=Norm.LINF, epsilon=0.1)),
    StaticAttack("EOT", "eot:steps=5", LINF),
    StaticAttack("AUNA", "auna:levels=1000", ThreatModel(norm=Norm.LINF, epsilon=0.2)),
    StaticAttack("PWA", "pointwise:steps={pointwise_steps}", L2, search="minimal"),
    StaticAttack("Pixel", "one-pixel:search=yellow", ThreatModel(norm=Norm.L0, epsilon=1), search="fixed"),
    StaticAttack("Boundary", "boundary:steps={boundary_steps},directions={boundary_directions}", L2, search="minimal"),
    StaticAttack("Auto", "auto-attack", LINF),
)


class Contender(NamedTuple):
    """``slow``: an answer takes many passes or iterations, so fewer images and steps are spent on attacks on it; by so many
    times fewer images than on slow ones in general."""

    name: str
    text: str
    slow: int = 0
    control: bool = False


CONTENDERS = (
    Contender(NIP, "nip:quorum={quorum},inputs={inputs}"),
    Contender("NIP_n", "nip-n:quorum={quorum},inputs={inputs}"),
    Contender("SS", "spatial-smoothing"),
    Contender("CBDR, 4 bits", "bit-depth:bits=4"),
    Contender("CBDR, 8 bits", "bit-depth:bits=8"),
    Contender("JC", "jpeg:quality=80"),
    Contender("TVM", "tvm:kept=0.5,weight=0.1", slow=1),
    Contender("STL", "sparse-transformation", slow=4),
    Contender("SR", "super-resolution", slow=1),
    Contender("FDistill, factor 50", "feature-distillation:factor=50"),
    Contender("FDistill, factor 100", "feature-distillation:factor=100"),
    Contender("SAP", "sap:sampling=bernoulli,passes=10", slow=2),
    Contender("NS", "neuron-selecting", slow=1),
    Contender("random candidate", "random-candidate:quorum={quorum},inputs={inputs}", control=True),
    Contender("random candidate of NIP_n", "random-candidate-n:quorum={quorum},inputs={inputs}", control=True),
    Contender("random direction", "random-direction:size=0.05", control=True),
    Contender("random direction of 0.008", "random-direction:size=0.008", control=True),
    Contender("noise of NIP's size", "gaussian-noise:scale=nip", control=True),
)
"""The ten rivals that work at inference and are in our catalogue, two of them also as the paper must have run them: without
effect on 8 bits, and at the factor that it states."""


@dataclass(frozen=True)
class Images:
    """What a static attack made of the samples at ``positions``: those that it fooled, (n, C, H, W), and how far they went."""

    positions: NDArray[np.int64]
    x_adv: Tensor
    distance: NDArray[np.float64]
    tried: int

    @classmethod
    def read(cls, path: Path) -> Images:
        with np.load(path, allow_pickle=False) as stored:
            return cls(stored["positions"], torch.from_numpy(stored["x_adv"]), stored["distance"], int(stored["tried"]))

    def within(self, threat: ThreatModel) -> Images:
        """Those in the budget."""
        kept = self.distance <= threat.epsilon * (1 + SLACK)
        return Images(self.positions[kept], self.x_adv[torch.from_numpy(kept)], self.distance[kept], self.tried)

    def attempt(self) -> Attempt:
        median = float(np.median(self.distance)) if len(self.distance) else None
        return Attempt(Rate.count(len(self.positions), self.tried), median)

    def write(self, path: Path) -> None:
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, positions=self.positions, x_adv=self.x_adv.numpy(), distance=self.distance, tried=self.tried)
        partial.replace(path)


class Study:
    """One network with its samples; ``folder`` keeps the static images."""

    def __init__(self, network: str, options: argparse.Namespace, folder: Path) -> None:
        self.name, self.options, self.folder = network, options, folder
        self.classifier = load_network(network, options.shared)
        self.test = read_data(options.shared / "data" / "cifar10-test.npz")
        self.training = read_data(options.shared / "data" / "cifar10-train-1of4.npz")
        self.ids = self.test.select(options.samples, 0)
        folder.mkdir(parents=True, exist_ok=True)

    def bench(self, threat: ThreatModel) -> Bench:
        return Bench(self.test, self.ids, threat, 0, self.options.batch)

    def images(self, attack: StaticAttack, budget: Budget) -> Images | None:
        """Of one static attack, from the folder where it was made before; None for an ensemble that looks for no closest
        image."""
        chosen = ATTACKS.parse(attack.text.format(**vars(self.options)))
        if budget == "minimal" and isinstance(chosen, Ensemble):
            return None
        if attack.search is not None and attack.search != budget:
            made = self.images(attack, attack.search)
            return made.within(attack.threat) if made and budget == "fixed" else made
        chosen = chosen.model_copy(update={"budget": budget})
        key = hashlib.sha256(f"{chosen.describe()} {attack.threat} {self.options.samples}".encode()).hexdigest()[:12]
        path = self.folder / f"{self.name}-{attack.name}-{budget}-{key}.npz"
        if not path.exists():
            bench = self.bench(attack.threat)
            right, _ = bench.timed(self.classifier)
            began = time.process_time()
            found = bench.static(self.classifier, chosen, np.flatnonzero(right.majority))
            kept = found.fooled if budget == "fixed" else found.adversarial
            rows = torch.from_numpy(np.flatnonzero(kept))
            made = Images(found.positions[kept], found.x_adv[rows], found.distance[kept], len(kept))
            made.write(path)
            print(f"{self.name}, {attack.name} {budget}: {int(kept.sum())} of {len(kept)}, "
                  f"{time.process_time() - began:.0f} s", flush=True)  # fmt: skip
        return Images.read(path)

    def finish(self, contender: Contender) -> Finished:
        """Fit one defense, show it the static images, attack it."""
        options, began = self.options, time.process_time()
        defense = DEFENSES.parse(contender.text.format(**vars(options)))
        ids = self.training.select(options.fit, 0)
        state = defense.fit(self.classifier, self.training, ids, seed=0, batch_size=options.batch)
        model = defense.wrap(self.classifier, state, seed=0)
        static: dict[str, dict[Budget, Rate]] = {}
        for attack in STATIC:
            for budget in BUDGETS:
                found = self.images(attack, budget)
                if found is not None:
                    kept = found.positions < (
                        options.slow_static // contender.slow if contender.slow else len(self.ids)
                    )
                    right = self.bench(attack.threat).right(
                        model, found.x_adv[torch.from_numpy(np.flatnonzero(kept))], found.positions[kept]
                    )
                    static.setdefault(attack.name, {})[budget] = Rate.of(right)
        samples = self.ids[: options.slow_samples // contender.slow] if contender.slow else self.ids
        evaluation = measure_table(self.classifier, [defense], [state], self.test, samples, self.spec(contender))
        return Finished(
            network=self.name, name=contender.name, control=contender.control, slow=contender.slow > 0,
            settings=settings_of(self.options), static=static, evaluation=evaluation,
            seconds=time.process_time() - began,
        )  # fmt: skip

    def spec(self, contender: Contender) -> TableSpec:
        options = self.options
        steps, restarts = (options.slow_steps, 1) if contender.slow else (options.steps, options.restarts)
        own = contender.name == NIP
        published = tuple(PublishedCode(size=size, direction=direction) for size in (0.001, 0.008)
                          for direction in ("influence", "random"))  # fmt: skip
        return TableSpec(
            threat=LINF, static=(ATTACKS.parse(PGD.text),), steps=steps, restarts=restarts,
            draws=options.slow_draws if contender.slow else options.draws,
            queries=options.slow_queries if contender.slow else options.queries,
            decision_steps=options.slow_decision_steps if contender.slow else options.decision_steps, nearest=10,
            influence=paper_attacks() if own else (), published=published if own else (), batch_size=options.batch,
        )  # fmt: skip

    def made(self) -> dict[str, Made]:
        """What each static attack made, by its name."""
        found = {}
        for attack in STATIC:
            attempts = {budget: images.attempt() for budget in BUDGETS if (images := self.images(attack, budget))}
            found[attack.name] = Made(str(attack.threat), attempts)
        return found


def load_network(name: str, shared: Path) -> Classifier:
    file, kind, values, normalization = NETWORKS[name]
    architecture = ARCHITECTURES.build(kind, values)
    network = architecture.build()
    with tempfile.TemporaryDirectory() as folder:
        stored = Path(folder) / "weights.safetensors"
        take_model(shared / "weights" / file, file, architecture, stored)
        load_weights(network, stored)
    return Classifier(
        network, input_shape=(3, 32, 32), num_classes=10, normalization=NORMALIZATIONS[normalization], name=name
    )


def read_data(path: Path) -> ImageDataset:
    with np.load(path, allow_pickle=False) as arrays:
        return ImageDataset(
            arrays["images"], arrays["labels"].astype(np.int64), [str(name) for name in arrays["class_names"]],
            name=path.stem,
        )  # fmt: skip


SIZES = {
    "samples": (200, "test images"),
    "fit": (2000, "training images that a defense is fitted on, at most"),
    "inputs": (1000, "candidates of NIP"),
    "steps": (100, "of APGD on the defended model"),
    "restarts": (1, "of APGD"),
    "draws": (10, "that an attacker averages over"),
    "queries": (1000, "of Square"),
    "decision_steps": (200, "20 times those of HopSkipJump"),
    "slow_samples": (32, "test images on which slow defenses are attacked"),
    "slow_static": (100, "test images whose static images slow defenses are shown"),
    "slow_steps": (20, "of APGD on slow defenses"),
    "slow_draws": (4, "for slow defenses"),
    "slow_queries": (100, "of Square on slow defenses"),
    "slow_decision_steps": (20, "the same on slow defenses"),
    "pointwise_steps": (1000, "of PWA"),
    "boundary_steps": (1000, "of Boundary; the paper has 5000"),
    "boundary_directions": (5, "of Boundary; the paper has 25"),
    "batch": (50, "images at a time"),
}
"""What a run's size is made of: default, and what it counts."""


def settings_of(options: argparse.Namespace) -> dict[str, float]:
    """What lines of the same study agree in."""
    return {name: getattr(options, name) for name in (*SIZES, "quorum")}


def lines_of(path: Path, options: argparse.Namespace) -> list[Finished]:
    """What is done under these settings."""
    if not path.exists():
        return []
    found = [Finished.model_validate_json(line) for line in path.read_text().splitlines()]
    return [item for item in found if item.settings == settings_of(options)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = os.environ.get("AUDITOR_SHARED")
    parser.add_argument(
        "--shared", type=Path, default=shared, required=shared is None, help="folder with weights/ and data/"
    )
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=["resnet20"])
    parser.add_argument("--only", nargs="+", choices=[item.name for item in CONTENDERS], help="defenses to run")
    parser.add_argument("--results", type=Path, required=True, help="file of finished defenses, a JSON line each")
    parser.add_argument("--write", type=Path, help="Markdown file to write")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quorum", type=float, default=0.9, help="of NIP's template")
    for name, (default, what) in SIZES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help=what)
    options = parser.parse_args()
    options.shared = Path(options.shared)
    torch.set_num_threads(options.threads)
    done = {(item.network, item.name): item for item in lines_of(options.results, options)}
    facts = {}
    for network in options.networks:
        study = Study(network, options, options.results.with_suffix(".images"))
        facts[network] = study.made()
        for contender in CONTENDERS:
            if (network, contender.name) not in done and (not options.only or contender.name in options.only):
                finished = study.finish(contender)
                done[network, contender.name] = finished
                with options.results.open("a") as file:
                    file.write(finished.model_dump_json() + "\n")
                headline = finished.evaluation.headline
                print(
                    f"{network}, {contender.name}: {headline.accuracy} ({headline.name}), {finished.seconds:.0f} s",
                    flush=True,
                )
    machine = f"{device_name(torch.device('cpu'))}, {options.threads} threads, {platform.machine()}, torch {versions()['torch']}"
    places = [(network, contender.name) for network in options.networks for contender in CONTENDERS]
    text = page([done[place] for place in places if place in done], facts, options.samples, machine)
    print(text)
    if options.write is not None:
        options.write.write_text(text)


if __name__ == "__main__":
    main()
