"""Is any attack weaker than its counterpart elsewhere? Robust accuracy of ours and theirs, same network, samples and budget.

    python -m benchmarks.peers --shared ../shared --samples 200 --torchattacks /path/to/checkout --write docs/peers.md

Both run with the same iterations. Robust accuracy is the share of all samples that the network classifies correctly before and
after the attack; attacks that look for the closest image have broken a sample when the one found lies within epsilon. Attacks
that draw at random run with several seeds, and the mean counts. The peers are installed by `make test`; SPSA needs a checkout
of torchattacks 3.5.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import random
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import art
import foolbox
import numpy as np
import torch
from art.attacks.evasion import ProjectedGradientDescentPyTorch, SaliencyMapMethod, UniversalPerturbation
from art.estimators.classification import PyTorchClassifier
from art.preprocessing.expectation_over_transformation import EoTImageRotationPyTorch
from torch import Tensor, nn

from auditor.attacking.attack import ATTACKS
from auditor.attacking.criterion import Criterion, Misclassification, TargetedMisclassification
from auditor.attacking.evaluation import run_attack
from auditor.attacking.threat import Norm, ThreatModel
from benchmarks.attacks import BATCH, Setting, scaled, settings

LINF, L2 = ThreatModel(norm=Norm.LINF, epsilon=8 / 255), ThreatModel(norm=Norm.L2, epsilon=0.5)
SLACK = 1e-5
PLAIN_SHARE = 1 / 8
"""The plain network falls to everything at the usual radii, so nothing could be told; it gets an eighth (not in L0)."""

FITTED = 15
"""Samples that UAP is fitted on."""

Robust = Callable[[Setting, ThreatModel], np.ndarray]
"""Which of the samples still stand, bool (N,); all of them are classified correctly without an attack."""


class Duel(NamedTuple):
    """``seeds``: runs on both sides, on the small network; more than one for attacks that draw at random."""

    attack: str
    ours: str
    library: str
    theirs: Robust
    threat: ThreatModel
    seeds: int = 1
    note: str = ""
    scaled: bool = True


def ours(setting: Setting, spec: str, threat: ThreatModel, criterion: Criterion, seed: int) -> np.ndarray:
    outcome = run_attack(
        setting.classifier,
        ATTACKS.parse(spec),
        threat,
        setting.data,
        setting.ids,
        criterion,
        seed=seed,
        batch_size=BATCH,
    )
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
        attack = getattr(importlib.import_module("torchattacks"), name)(setting.classifier, **given)
        if hasattr(attack, "seed"):
            attack.seed = torch.initial_seed()  # else every run draws the same
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


def by_foolbox_from_start(name: str, *, size: int = 50, **parameters: Any) -> Robust:
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
        parts = zip(setting.x.split(size), setting.y.split(size), start.split(size), strict=True)
        found = (
            attack.run(model, x, foolbox.criteria.Misclassification(y), starting_points=outer) for x, y, outer in parts
        )
        return standing(setting, threat, found)

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


def by_art_rotated(setting: Setting, threat: ThreatModel) -> np.ndarray:
    """PGD through ten random rotations, judged unrotated."""
    rotations = EoTImageRotationPyTorch(nb_samples=10, clip_values=(0.0, 1.0), angles=45.0)
    model = PyTorchClassifier(
        setting.classifier, nn.CrossEntropyLoss(), (3, 32, 32), 10, clip_values=(0.0, 1.0),
        preprocessing_defences=[rotations],
    )  # fmt: skip
    attack = ProjectedGradientDescentPyTorch(
        model, eps=threat.epsilon, eps_step=0.25 * threat.epsilon, max_iter=10, batch_size=BATCH, verbose=False
    )
    x_adv = torch.from_numpy(attack.generate(setting.x.numpy(), np.eye(10)[setting.y.numpy()]))
    return standing(setting, threat, iter([x_adv]))


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
        Duel("PGD-10", "pgd", "foolbox", by_foolbox("LinfPGD", rel_stepsize=0.25, steps=10), LINF, 3),
        Duel("PGD-10", "pgd", "torchattacks", by_torchattacks("PGD", alpha=0.25, steps=10), LINF, 3),
        Duel("PGD-10", "pgd", "foolbox", by_foolbox("L2PGD", rel_stepsize=0.25, steps=10), L2, 3),
        Duel(
            "PGD-40", "pgd:steps=40,step_size=0.05", "foolbox", by_foolbox("L1PGD", rel_stepsize=0.05, steps=40),
            at(Norm.L1, 12.0), 3, note="ours moves the largest 5 % of the entries, foolbox all",
        ),
        Duel(
            "APGD-CE, 20 steps", "apgd-ce:steps=20", "torchattacks", by_torchattacks("APGD", steps=20, loss="ce"), LINF, 3
        ),
        Duel(
            "APGD-DLR, 20 steps", "apgd-dlr:steps=20", "torchattacks", by_torchattacks("APGD", steps=20, loss="dlr"),
            LINF, 3,
        ),
        Duel(
            "APGD-T, 20 steps", "apgd-t:steps=20", "torchattacks",
            by_torchattacks("APGDT", steps=20, n_classes=10), LINF, 3,
        ),
        Duel("FAB, 20 steps", "fab:steps=20", "torchattacks", by_torchattacks("FAB", steps=20, n_classes=10), LINF),
        Duel(
            "FAB-T, 20 steps", "fab-t:steps=20", "torchattacks",
            by_torchattacks("FAB", steps=20, n_classes=10, multi_targeted=True), LINF,
        ),
        Duel(
            "Square, 500 queries", "square:queries=500", "torchattacks",
            by_torchattacks("Square", n_queries=500, size=20), LINF, 5,
        ),
        Duel(
            "Square, 500 queries", "square:queries=500", "torchattacks",
            by_torchattacks("Square", n_queries=500, norm="L2", size=20), L2, 5,
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
            note="compared with DDN: foolbox 3.3.4's L2FMNAttack never projects",
        ),
        Duel(
            "JSMA, pairs, targeted", "jsma:form=pairs,outputs=probabilities,theta=0.5,changes=1000,budget=minimal", "ART",
            by_art_jsma, at(Norm.L0, 20), scaled=False,
        ),
        Duel(
            f"UAP, fitted on {FITTED}", f"uap:fitting_samples={FITTED},passes=1", "ART", by_art_uap(FITTED), LINF,
            note="ours is stretched to the edge of the ball and fitted on the other half of the samples", scaled=False,
        ),
        Duel(
            "One pixel, 5 pixels, 6 generations", "one-pixel:pixels=5,population=50,generations=6", "torchattacks",
            by_torchattacks("OnePixel", pixels=5, steps=6, popsize=50), at(Norm.L0, 5), scaled=False,
        ),
        Duel(
            "EOT over rotations", "eot", "ART", by_art_rotated, LINF, note="ours rotates bilinearly, ART to the nearest"
        ),
        Duel(
            "Random noise, 100 draws", "random-noise:draws=100", "foolbox",
            by_foolbox("LinfRepeatedAdditiveUniformNoiseAttack", repeats=100), at(Norm.LINF, 16 / 255), 3, scaled=False,
        ),
        Duel(
            "Random noise, 100 draws", "random-noise:draws=100", "foolbox",
            by_foolbox("L2RepeatedAdditiveUniformNoiseAttack", repeats=100), at(Norm.L2, 2.0), 3, scaled=False,
        ),
        Duel(
            "Pointwise", "pointwise", "foolbox",
            by_foolbox("PointwiseAttack", minimal=True, l2_binary_search=False), at(Norm.L0, 20), scaled=False,
            note="foolbox without its bisection, which shortens L2 and takes hours",
        ),
        Duel(
            "Boundary, 1000 steps", "boundary:steps=1000,directions=1", "foolbox",
            by_foolbox_from_start("BoundaryAttack", steps=1000), at(Norm.L2, 1.0), scaled=False,
        ),
        Duel(
            "HopSkipJump, 5 steps", "hop-skip-jump:steps=5", "foolbox",
            by_foolbox_from_start("HopSkipJumpAttack", steps=5, constraint="l2"), at(Norm.L2, 1.0), scaled=False,
        ),
        Duel(
            "HopSkipJump, 5 steps", "hop-skip-jump:steps=5", "foolbox",
            by_foolbox_from_start("HopSkipJumpAttack", steps=5, constraint="linf"), LINF, scaled=False,
        ),
    ]  # fmt: skip


def spsa() -> Duel:
    return Duel(
        "SPSA, 5 steps of 128 pairs", "spsa:steps=5", "torchattacks",
        by_torchattacks("SPSA", nb_iter=5, nb_sample=128, max_batch_size=64), LINF,
    )  # fmt: skip


def correct(setting: Setting) -> Setting:
    """The samples that are classified correctly."""
    kept = (setting.classifier.logits(setting.x).argmax(1) == setting.y).nonzero().squeeze(1)
    return replace(setting, ids=setting.ids[kept.numpy()], x=setting.x[kept], y=setting.y[kept])


def row(setting: Setting, samples: int, duel: Duel) -> str:
    """``setting`` has those of the ``samples`` that are classified correctly."""
    if "plain" in setting.name and duel.threat.norm is not Norm.L0 and duel.scaled:
        duel = duel._replace(threat=duel.threat.model_copy(update={"epsilon": duel.threat.epsilon * PLAIN_SHARE}))
    targeted = TargetedMisclassification((setting.y + 1) % 10)
    criterion = targeted if "targeted" in duel.attack else Misclassification(setting.y)
    pairs, runs = [], 1 if "plain" in setting.name else duel.seeds
    for seed in range(runs):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        pairs.append((ours(setting, duel.ours, duel.threat, criterion, seed), duel.theirs(setting, duel.threat)))
    mine, theirs = np.stack(pairs, 1)
    if duel.attack.startswith("UAP"):
        samples, mine, theirs = samples - FITTED, mine[:, FITTED:], theirs[:, FITTED:]
    robust = [100 * verdicts.sum(1).mean() / samples for verdicts in (mine, theirs)]
    gap = robust[0] - robust[1]
    verdict = "weaker" if gap > 1.5 else "stronger" if gap < -1.5 else "equal"
    return (
        f"| {duel.attack} | {duel.threat} | {runs} | {robust[0]:.1f} | {robust[1]:.1f} | {duel.library} | "
        f"{100 * (mine == theirs).mean():.1f} % | {verdict} | {duel.note} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with weights/ and data/")
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="attacks whose name contains this")
    parser.add_argument("--network", default="", help="networks whose name contains this")
    parser.add_argument("--torchattacks", type=Path, help="checkout of its source, used instead of the installed one")
    parser.add_argument("--write", type=Path, help="Markdown file to write")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    torch.set_num_threads(arguments.threads)
    if arguments.torchattacks is not None:
        sys.path.insert(0, str(arguments.torchattacks))
    peer = importlib.import_module("torchattacks")
    contests = duels() + ([spsa()] if hasattr(peer, "SPSA") else [])
    lines = [
        "# Attacks compared with their counterparts", "",
        "Robust accuracy in % of all samples, ours and another library's with the same iterations, as the mean over "
        "runs with "
        "different seeds; *equal*: within 1.5 points. *Verdicts alike*: among samples classified correctly without an attack. "
        "At the usual radii everything fools the plain network; where that would say nothing, its radius is an eighth "
        "of the other network's. How long they take: [benchmarks.md](benchmarks.md). "
        "Made by `benchmarks/peers.py`, "
        f"{arguments.samples} CIFAR-10 test images, torch {torch.__version__}, foolbox {foolbox.__version__}, "
        f"ART {art.__version__}, torchattacks {getattr(peer, '__version__', 'from its source')}.",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for setting in settings(arguments.shared, arguments.samples, torch.device("cpu"), Path(folder)):
            if arguments.network not in setting.name:
                continue
            part = correct(setting)
            lines += [
                "", f"## {setting.name}", "",
                f"{len(part.y)} of the {arguments.samples} samples are classified correctly.", "",
                "| attack | budget | runs | ours | theirs | by | verdicts alike | ours is | note |",
                "|---|---|---|---|---|---|---|---|---|",
            ]  # fmt: skip
            for duel in contests:
                if arguments.only in duel.attack:
                    lines.append(row(part, arguments.samples, duel))
                    print(f"{setting.name} {lines[-1]}", flush=True)
                    if arguments.write is not None:
                        arguments.write.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
