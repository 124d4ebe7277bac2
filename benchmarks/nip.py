"""What an answer of NIP and of the other defenses costs, beside plain passes over the same images in the same run.

    python -m benchmarks.nip --shared ../shared --write docs/benchmarks-defenses.md

The yardstick is what the NIP paper's algorithm takes for an image: one forward pass, one backward pass to the image, and one more
forward pass, made by plain PyTorch. All contestants take turns, ROUNDS times after one turn to warm up; a ratio is the median of
the ratios within a turn, so a busy machine slows down both sides alike. With ``--shared``: CIFAR-10 and networks trained by
others; without it, the shipped Fashion-MNIST sample. The images that defenses are fitted on are those that are timed: what they
learn does not matter to the time.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from auditor.defending.defense import DEFENSES, Defense
from auditor.kit.provenance import device_name, versions
from auditor.models.classifier import Classifier
from auditor.models.defended import DefendedClassifier
from benchmarks.attacks import Setting, settings

ROUNDS = 7
TARGET = 1.2
YARDSTICK = "forward, backward, forward"
SLOW = {"sparse-transformation", "sap", "neuron-selecting"}
"""Defenses that take many passes or iterations for an answer: timed with ``--all`` only."""
CHEAPER: dict[str, dict[str, Any]] = {
    "sparse-transformation": {"images": 16, "epochs": 1},
    "super-resolution": {"steps": 5},
    "nip": {"quorum": 0.5},
    "nip-n": {"quorum": 0.5},
    "random-candidate": {"quorum": 0.5},
    "random-candidate-n": {"quorum": 0.5},
}
"""How they are fitted here: sooner, or with a template that few images do not empty. An answer costs the same."""


class Contestant(NamedTuple):
    name: str
    run: Callable[[], object]


class Timing(NamedTuple):
    """Seconds for all images, one entry per round, by contestant."""

    batch: int
    seconds: dict[str, np.ndarray]

    def ratio(self, name: str, to: str = YARDSTICK) -> float:
        return float(np.median(self.seconds[name] / self.seconds[to]))


def defenses(with_slow: bool) -> list[tuple[str, Defense]]:
    """Every defense of the catalogue by its title, NIP first, and NIP's other ways to choose."""
    nip = CHEAPER["nip"]
    found = [
        ("NIP", DEFENSES.build("nip", nip)),
        ("NIP, similarity of members", DEFENSES.build("nip", nip | {"similarity": "member"})),
        ("NIP, pool of 5,000", DEFENSES.build("nip", nip | {"inputs": 5000})),
    ]
    for kind in DEFENSES.members:
        if kind != "nip" and (with_slow or kind not in SLOW):
            defense = DEFENSES.build(kind, CHEAPER.get(kind, {}))
            found.append((defense.display_title(), defense))
    return found


def by_batch(run: Callable[[Tensor], object], setting: Setting, batch: int) -> Callable[[], None]:
    def whole() -> None:
        for x in setting.x.split(batch):
            run(x)

    return whole


def forward(classifier: Classifier, x: Tensor) -> None:
    with torch.no_grad():
        classifier(x)


def twice(classifier: Classifier, x: Tensor) -> None:
    forward(classifier, x)
    forward(classifier, x)


def there_and_back(classifier: Classifier, x: Tensor) -> None:
    """A forward pass, and a backward pass to the image."""
    points = x.clone().requires_grad_()
    logits = classifier(points)
    torch.autograd.grad(cross_entropy(logits, logits.detach().argmax(1), reduction="sum"), points)


def plain(classifier: Classifier, x: Tensor) -> None:
    there_and_back(classifier, x)
    forward(classifier, x)


def fitted(defense: Defense, setting: Setting) -> DefendedClassifier:
    """Behind the defense; a pool of candidates is filled up by repeating it."""
    state = defense.fit(setting.classifier, setting.data, setting.ids, seed=0)
    wanted = getattr(defense, "candidates", 0)
    if wanted:
        again = torch.arange(wanted) % len(state.tensors["delta"])
        again = again.sort().values
        for name in ("candidates", "delta"):
            state.tensors[name] = state.tensors[name][again]
    return defense.wrap(setting.classifier, state)


def contestants(setting: Setting, batch: int, with_slow: bool) -> list[Contestant]:
    """The yardstick first."""
    classifier = setting.classifier

    def of(name: str, run: Callable[[Tensor], object]) -> Contestant:
        return Contestant(name, by_batch(run, setting, batch))

    found = [
        of(YARDSTICK, lambda x: plain(classifier, x)),
        of("two forward passes", lambda x: twice(classifier, x)),
    ]
    for name, defense in defenses(with_slow):
        model = fitted(defense, setting)
        found.append(of(name, model.logits))
    return found


def fitting(setting: Setting, batch: int) -> list[Contestant]:
    """NIP's candidates, beside a forward pass, and a forward and a backward pass, of as many images."""
    defense = DEFENSES.build("nip", CHEAPER["nip"] | {"inputs": len(setting.x)})
    classifier = setting.classifier
    return [
        Contestant(YARDSTICK, by_batch(lambda x: plain(classifier, x), setting, batch)),
        Contestant(
            "NIP, fit",
            lambda: defense.fit(classifier, setting.data, setting.ids, seed=0, batch_size=batch),
        ),
    ]


def race(entrants: list[Contestant], batch: int) -> Timing:
    for entrant in entrants:
        entrant.run()
    rounds: dict[str, list[float]] = {entrant.name: [] for entrant in entrants}
    for _ in range(ROUNDS):
        for entrant in entrants:
            rounds[entrant.name].append(timed(entrant.run))
    return Timing(batch, {name: np.array(seconds) for name, seconds in rounds.items()})


def timed(run: Callable[[], object]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def table(images: int, timings: list[Timing]) -> str:
    """Markdown: a line for each contestant, two columns for each batch size."""
    heads = [f"ms / image, batches of {timing.batch} | ratio" for timing in timings]
    lines = [f"| what | {' | '.join(heads)} |", f"|---|{'---|---|' * len(timings)}"]
    for name in timings[0].seconds:
        cells = [
            f"{1000 * float(np.median(timing.seconds[name])) / images:.3f} | {timing.ratio(name):.2f}"
            for timing in timings
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = os.environ.get("AUDITOR_SHARED")
    parser.add_argument(
        "--shared", type=Path, default=Path(shared) if shared else None, help="folder with weights/ and data/"
    )
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 1])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--all", action="store_true", help=f"time {', '.join(sorted(SLOW))}, too")
    parser.add_argument("--write", type=Path, help="Markdown file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    machine = f"{device_name(device)}, {arguments.threads} threads, {platform.machine()}, torch {versions()['torch']}"
    lines = [
        "# Benchmark of defenses", "",
        f"Machine: {machine}. {arguments.images} test images; medians of {ROUNDS} turns. *Ratio*: to one forward pass, one "
        f"backward pass to the image and one more forward pass, in plain PyTorch. Target: at most {TARGET} for NIP. "
        "The defense's "
        "own forward pass of the network is part of every number. Made by `benchmarks/nip.py`.",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for setting in settings(arguments.shared, arguments.images, device, Path(folder)):
            timings = [race(contestants(setting, batch, arguments.all), batch) for batch in arguments.batches]
            ready = race(fitting(setting, arguments.batches[0]), arguments.batches[0])
            lines += [
                "", f"## {setting.name}", "", table(arguments.images, timings), "",
                f"Fitting a candidate of NIP takes {ready.ratio('NIP, fit'):.2f} of the same passes.",
            ]  # fmt: skip
            print("\n".join(lines[-5:]), flush=True)
    lines.append("")
    if arguments.write is not None:
        arguments.write.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
