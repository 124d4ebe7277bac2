"""Is any attack weaker than its counterpart elsewhere? Robust accuracy of ours and theirs, same network, samples and budget.

    python benchmarks/peers.py --shared ../shared --samples 200 --write docs/peers.md

Both run with the same iterations. An image counts as robust when the network still classifies it correctly; for attacks that look
for the closest image, when the image found lies beyond epsilon. The peers are installed by `make test`.
"""

from __future__ import annotations

import argparse
import logging
import random
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import foolbox
import numpy as np
import torch
import torchattacks
from art.attacks.evasion import SaliencyMapMethod, UniversalPerturbation
from art.estimators.classification import PyTorchClassifier
from attacks import BATCH, Setting, scaled, settings
from torch import Tensor, nn

from auditor.attack import ATTACKS
from auditor.criterion import Criterion, Misclassification, TargetedMisclassification
from auditor.evaluation import run_attack
from auditor.threat import Norm, ThreatModel

LINF, L2 = ThreatModel(norm=Norm.LINF, epsilon=8 / 255), ThreatModel(norm=Norm.L2, epsilon=0.5)
SLACK = 1e-5
PLAIN_SHARE = 1 / 8
"""The plain network falls to everything at the usual radii, so that nothing could be told; it gets an eighth (not in L0)."""

Robust = Callable[[Setting, ThreatModel], np.ndarray]
"""Which of the samples still stand, bool (N,); all of them are classified correctly without an attack."""


class Duel(NamedTuple):
    """``samples``: at most so many, where theirs takes too long for all."""

    attack: str
    ours: str
    library: str
    theirs: Robust
    threat: ThreatModel
    samples: int | None = None
    note: str = ""
    scaled: bool = True


def ours(setting: Setting, spec: str, threat: ThreatModel, criterion: Criterion | None = None) -> np.ndarray:
    outcome = run_attack(
        setting.classifier, ATTACKS.parse(spec), threat, setting.data, setting.ids,
        criterion or Misclassification(setting.y), seed=0, batch_size=BATCH,
    )  # fmt: skip
    return ~outcome.fooled


def lengths(delta: Tensor, norm: Norm) -> Tensor:
    if norm is Norm.L0:
        return (delta != 0).any(1).flatten(1).sum(1).float()
    return delta.flatten(1).norm({Norm.LINF: np.inf, Norm.L2: 2, Norm.L1: 1}[norm], dim=1)


def standing(setting: Setting, threat: ThreatModel, batches: Iterator[Tensor]) -> np.ndarray:
    """The verdict on somebody else's images: misclassified, and not beyond epsilon."""
    parts, start = [], 0
    for x_adv in batches:
        x, y = setting.x[start : start + len(x_adv)], setting.y[start : start + len(x_adv)]
        start += len(x_adv)
        close = lengths(x_adv - x, threat.norm) <= threat.epsilon * (1 + SLACK) + SLACK
        parts.append(~((setting.classifier.logits(x_adv).argmax(1) != y) & close))
    return torch.cat(parts).numpy()


def batches(setting: Setting, size: int = BATCH) -> Iterator[tuple[Tensor, Tensor]]:
    yield from zip(setting.x.split(size), setting.y.split(size), strict=True)


def by_torchattacks(name: str, *, mode: str = "", size: int = BATCH, **parameters: Any) -> Robust:
    def run(setting: Setting, threat: ThreatModel) -> np.ndarray:
        given = parameters if name == "OnePixel" else {"eps": threat.epsilon, **scaled(parameters, threat.epsilon)}
        attack = getattr(torchattacks, name)(setting.classifier, **given)
        if mode:
            getattr(attack, mode)()
        return standing(setting, threat, (attack(x, y) for x, y in batches(setting, size)))

    return run


def by_foolbox(name: str, *, minimal: bool = False, **parameters: Any) -> Robust:
    def run(setting: Setting, threat: ThreatModel) -> np.ndarray:
        model = foolbox.PyTorchModel(setting.classifier, bounds=(0, 1))
        attack = getattr(foolbox.attacks, name)(**parameters)
        given = None if minimal else threat.epsilon
        found = (attack(model, x, y, epsilons=given) for x, y in batches(setting))
        return standing(setting, threat, (item[0] if minimal else item[1] for item in found))

    return run


def by_foolbox_from_start(name: str, **parameters: Any) -> Robust:
    """Decision-based: begins at the images that our boundary attack begins at."""

    def run(setting: Setting, threat: ThreatModel) -> np.ndarray:
        start = torch.empty_like(setting.x)
        run_attack(
            setting.classifier, ATTACKS.parse("boundary:steps=1,directions=1,budget=minimal"), L2, setting.data,
            setting.ids, Misclassification(setting.y), seed=0, batch_size=BATCH,
            on_finished=lambda item: start.__setitem__(torch.from_numpy(item.position), item.x_adv),
        )  # fmt: skip
        model = foolbox.PyTorchModel(setting.classifier, bounds=(0, 1))
        attack = getattr(foolbox.attacks, name)(**parameters)
        criterion = foolbox.criteria.Misclassification(setting.y)
        return standing(setting, threat, iter([attack.run(model, setting.x, criterion, starting_points=start)]))

    return run


def by_art_uap(fitted: int) -> Robust:
    """Fitted on the first samples; they are left out of the verdict on both sides (see ``main``)."""

    def run(setting: Setting, threat: ThreatModel) -> np.ndarray:
        network = PyTorchClassifier(
            setting.classifier, nn.CrossEntropyLoss(), setting.classifier.input_shape, 10, clip_values=(0, 1)
        )
        attack = UniversalPerturbation(
            network, attacker_params={"max_iter": 10, "epsilon": 0.02, "verbose": False}, delta=0.2, max_iter=1,
            eps=threat.epsilon, norm=np.inf, verbose=False,
        )  # fmt: skip
        attack.generate(setting.x[:fitted].numpy(), y=np.eye(10)[setting.y[:fitted].numpy()])
        return standing(setting, threat, iter([(setting.x + torch.from_numpy(attack.noise)).clamp(0, 1)]))

    return run


def by_art_jsma(setting: Setting, threat: ThreatModel) -> np.ndarray:
    """Towards the class after the label; the number of pixels decides."""
    targets = (setting.y + 1) % 10
    model = PyTorchClassifier(
        nn.Sequential(setting.classifier, nn.Softmax(1)), nn.CrossEntropyLoss(), (3, 32, 32), 10, clip_values=(0.0, 1.0)
    )
    attack = SaliencyMapMethod(model, theta=0.5, gamma=1.0, batch_size=100, verbose=False)
    x_adv = torch.from_numpy(attack.generate(setting.x.numpy(), np.eye(10)[targets.numpy()]))
    reached = setting.classifier.logits(x_adv).argmax(1) == targets
    return ~(reached & (lengths(x_adv - setting.x, Norm.L0) <= threat.epsilon)).numpy()


def duels() -> list[Duel]:
    def at(norm: Norm, epsilon: float) -> ThreatModel:
        return ThreatModel(norm=norm, epsilon=epsilon)

    return [
        Duel("FGSM", "fgsm", "torchattacks", by_torchattacks("FGSM"), LINF),
        Duel("FGSM", "fgsm", "foolbox", by_foolbox("L2FastGradientAttack"), L2),
        Duel("Step-LL", "step-ll", "torchattacks", by_torchattacks("FGSM", mode="set_mode_targeted_least_likely"), LINF),
        Duel("BIM", "bim", "foolbox", by_foolbox("LinfBasicIterativeAttack", rel_stepsize=0.2, steps=10), LINF),
        Duel("BIM", "bim", "foolbox", by_foolbox("L2BasicIterativeAttack", rel_stepsize=0.2, steps=10), L2),
        Duel("MI-FGSM", "mi-fgsm", "torchattacks", by_torchattacks("MIFGSM", alpha=0.1, steps=10, decay=1.0), LINF),
        Duel("PGD-10", "pgd", "foolbox", by_foolbox("LinfPGD", rel_stepsize=0.25, steps=10), LINF),
        Duel("PGD-10", "pgd", "torchattacks", by_torchattacks("PGD", alpha=0.25, steps=10), LINF),
        Duel("PGD-10", "pgd", "foolbox", by_foolbox("L2PGD", rel_stepsize=0.25, steps=10), L2),
        Duel(
            "PGD-40", "pgd:steps=40,step_size=0.05", "foolbox", by_foolbox("L1PGD", rel_stepsize=0.05, steps=40),
            at(Norm.L1, 12.0), note="ours moves the largest 5 % of the entries, foolbox all",
        ),
        Duel("APGD-CE, 20 steps", "apgd-ce:steps=20", "torchattacks", by_torchattacks("APGD", steps=20, loss="ce"), LINF),
        Duel("APGD-DLR, 20 steps", "apgd-dlr:steps=20", "torchattacks", by_torchattacks("APGD", steps=20, loss="dlr"), LINF),
        Duel(
            "APGD-T, 20 steps", "apgd-t:steps=20", "torchattacks",
            by_torchattacks("APGDT", steps=20, n_classes=10), LINF,
        ),
        Duel("FAB, 20 steps", "fab:steps=20", "torchattacks", by_torchattacks("FAB", steps=20, n_classes=10), LINF),
        Duel(
            "Square, 500 queries", "square:queries=500", "torchattacks",
            by_torchattacks("Square", n_queries=500, size=20), LINF,
        ),
        Duel(
            "Square, 500 queries", "square:queries=500", "torchattacks",
            by_torchattacks("Square", n_queries=500, norm="L2", size=20), L2,
        ),
        Duel(
            "DeepFool", "deepfool:steps=50", "foolbox", by_foolbox("L2DeepFoolAttack", minimal=True, steps=50),
            L2,
        ),
        Duel(
            "DeepFool", "deepfool:steps=50", "foolbox", by_foolbox("LinfDeepFoolAttack", minimal=True, steps=50),
            at(Norm.LINF, 4 / 255),
        ),
        Duel("DDN", "ddn:steps=50", "foolbox", by_foolbox("DDNAttack", minimal=True, steps=50), L2),
        Duel(
            "Carlini-Wagner, 3 x 60 steps", "carlini-wagner:steps=60,first_weight=0.1", "foolbox",
            by_foolbox(
                "L2CarliniWagnerAttack", minimal=True, binary_search_steps=3, steps=60, stepsize=0.01, confidence=0,
                initial_const=0.1, abort_early=False,
            ), L2,
        ),
        Duel("FMN", "fmn:steps=50", "foolbox", by_foolbox("LInfFMNAttack", minimal=True, steps=50), at(Norm.LINF, 4 / 255)),
        Duel("FMN", "fmn:steps=50", "foolbox", by_foolbox("L1FMNAttack", minimal=True, steps=50), at(Norm.L1, 6.0)),
        Duel(
            "FMN", "fmn:steps=50", "foolbox", by_foolbox("L0FMNAttack", minimal=True, steps=50), at(Norm.L0, 12),
            note="foolbox's counts channel values, the budget counts pixels",
        ),
        Duel(
            "FMN", "fmn:steps=50,step_size=0.3", "foolbox", by_foolbox("DDNAttack", minimal=True, steps=50), L2,
            note="beside DDN: foolbox 3.3.4's L2FMNAttack never projects",
        ),
        Duel(
            "JSMA, pairs, targeted", "jsma:form=pairs,outputs=probabilities,theta=0.5,changes=1000,budget=minimal", "ART",
            by_art_jsma, at(Norm.L0, 20), samples=40,
        ),
        Duel(
            "UAP, fitted on 15", "uap:fitting_samples=15,passes=1", "ART", by_art_uap(15), LINF,
            note="ours is stretched to the edge of the ball and fitted on the other half of the samples", scaled=False,
        ),
        Duel(
            "One pixel, 5 pixels, 6 generations", "one-pixel:pixels=5,population=50,generations=6", "torchattacks",
            by_torchattacks("OnePixel", pixels=5, steps=6, popsize=50), at(Norm.L0, 5), samples=40,
        ),
        Duel(
            "Boundary, 1500 steps", "boundary:steps=1500,directions=1", "foolbox",
            by_foolbox_from_start("BoundaryAttack", steps=1500), at(Norm.L2, 1.0), samples=50,
        ),
        Duel(
            "HopSkipJump, 10 steps", "hop-skip-jump:steps=10", "foolbox",
            by_foolbox_from_start("HopSkipJumpAttack", steps=10, constraint="l2"), at(Norm.L2, 0.5), samples=50,
        ),
        Duel(
            "HopSkipJump, 10 steps", "hop-skip-jump:steps=10", "foolbox",
            by_foolbox_from_start("HopSkipJumpAttack", steps=10, constraint="linf"), LINF, samples=50,
        ),
    ]  # fmt: skip


def correct(setting: Setting) -> Setting:
    """The samples that are classified correctly."""
    kept = (setting.classifier.logits(setting.x).argmax(1) == setting.y).nonzero().squeeze(1)
    return replace(setting, ids=setting.ids[kept.numpy()], x=setting.x[kept], y=setting.y[kept])


def first(setting: Setting, n: int | None) -> Setting:
    return replace(setting, ids=setting.ids[:n], x=setting.x[:n], y=setting.y[:n])


def row(setting: Setting, duel: Duel) -> str:
    if "plain" in setting.name and duel.threat.norm is not Norm.L0 and duel.scaled:
        duel = duel._replace(threat=duel.threat.model_copy(update={"epsilon": duel.threat.epsilon * PLAIN_SHARE}))
    part = first(setting, duel.samples)
    criterion = TargetedMisclassification((part.y + 1) % 10) if "targeted" in duel.attack else None
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    began = time.perf_counter()
    mine = ours(part, duel.ours, duel.threat, criterion)
    middle = time.perf_counter()
    theirs = duel.theirs(part, duel.threat)
    end = time.perf_counter()
    if duel.attack.startswith("UAP"):
        mine, theirs = mine[15:], theirs[15:]
    gap = 100 * (mine.mean() - theirs.mean())
    verdict = "weaker" if gap > 1.5 else "stronger" if gap < -1.5 else "equal"
    return (
        f"| {duel.attack} | {duel.threat} | {len(mine)} | {100 * mine.mean():.1f} | {100 * theirs.mean():.1f} | {duel.library} | "
        f"{100 * (mine == theirs).mean():.1f} % | {verdict} | {(end - middle) / (middle - began):.1f} × | {duel.note} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with weights/ and data/")
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="attacks whose name contains this")
    parser.add_argument("--write", type=Path, help="Markdown file to write")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    torch.set_num_threads(arguments.threads)
    lines = [
        "# Attacks beside their counterparts", "",
        "Robust accuracy in % of the samples classified correctly without an attack, ours and another library's with the same "
        "iterations; *equal*: within 1.5 points. The plain network gets an eighth of the other's radii (not in L0 and UAP): "
        "it falls to everything beyond. *Faster*: their time over ours, a side effect here (see [benchmarks.md](benchmarks.md)). "
        "Made by `benchmarks/peers.py`, "
        f"{arguments.samples} CIFAR-10 test images, torch {torch.__version__}, foolbox {foolbox.__version__}, "
        f"torchattacks {torchattacks.__version__}.",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for setting in settings(arguments.shared, arguments.samples, torch.device("cpu"), Path(folder)):
            lines += [
                "", f"## {setting.name}", "",
                "| attack | budget | n | ours | theirs | by | verdicts alike | ours is | faster | note |",
                "|---|---|---|---|---|---|---|---|---|---|",
            ]  # fmt: skip
            part = correct(setting)
            for duel in duels():
                if arguments.only in duel.attack:
                    lines.append(row(part, duel))
                    print(f"{setting.name} {lines[-1]}", flush=True)
    if arguments.write is not None:
        arguments.write.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
