"""Makes the results in ``stored/before``: audits, trainings, studies and a play as version 0.1.0 stored them.

They were made at revision 7e87dfa, before the modules of ``auditor`` moved, and are read ever since by
``test_stored_before.py``. To make them again with later code would defeat their purpose: this script tells where they come
from, and makes further ones. ``python -m tests.auditor.make_stored_before [NAME ...]``; about a minute on one core.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from auditor import AuditResult, AuditSpec, Classifier, ImageDataset, Normalization, TrainingSpec
from auditor import run_audit as run
from auditor import train_classifier as train
from auditor import vet_classifier as vet
from auditor.data.intake.weights import load_weights
from auditor.defending.defense import defended
from auditor.defending.evaluation import DefenseEvaluation, EvaluationSpec, FittedDefense, evaluate_defense
from auditor.defending.export import export
from auditor.defending.files import write_stack
from auditor.defending.fit import FitResult, FitSpec, fit
from auditor.defending.playground import PlaySpec, as_bytes, play
from auditor.models.defended import DefendedClassifier
from auditor.neural.analysis import ANALYSES
from tests.auditor.stored_before import ARCHITECTURE, FOLDER, NAMES, SHAPE, classifier, probe
from tests.auditor.stored_before import dataset as data

FAST: dict[str, Any] = {"gallery": 2, "analysis_samples": 40, "check_samples": 20, "device": "cpu", "examples": 0}


def around(network: nn.Module, name: str) -> Classifier:
    half = Normalization(mean=(0.5,), std=(0.5,))
    return Classifier(network, input_shape=SHAPE, num_classes=5, normalization=half, class_names=NAMES, name=name)


def sha256_of(file: str) -> str:
    return hashlib.sha256((FOLDER / file).read_bytes()).hexdigest()


# -- the model and the data ------------------------------------------------------------------------------------------


def parent() -> None:
    """Images of five classes, each a pattern of its own in noise, and a network that tells most of them apart."""
    random = np.random.default_rng(5)
    patterns = random.integers(0, 256, (5, 6, 6, 3))
    labels = random.integers(0, 5, 160)
    noise = random.normal(0, 70, (160, 6, 6, 3))
    images = np.clip(0.45 * patterns[labels] + 70 + noise, 0, 255).astype(np.uint8)
    np.savez_compressed(FOLDER / "data.npz", images=images, labels=labels)
    torch.manual_seed(0)
    network = ARCHITECTURE.build()
    spec = TrainingSpec.load(
        {"hardening": {"kind": "fine_tune"}, "epochs": 12, "batch_size": 20, "augmentation": "none", "device": "cpu"}
    )
    with TemporaryDirectory() as folder:
        train(spec, around(network, "new"), data("training"), folder=Path(folder))
        shutil.copyfile(Path(folder) / "best.safetensors", FOLDER / "weights.tmp")
    from safetensors.torch import load_file, save_file

    save_file(load_file(FOLDER / "weights.tmp"), FOLDER / "parent.safetensors")
    (FOLDER / "weights.tmp").unlink()


# -- audits ----------------------------------------------------------------------------------------------------------


def audited(name: str, spec: dict[str, Any], model: Classifier, images: ImageDataset, **more: Any) -> None:
    result = run(AuditSpec.load(FAST | spec), model, images, **more)
    assert isinstance(result, AuditResult)
    source = result.provenance
    plain = source.model_copy(update={"device": "cpu", "revision": source.revision.removesuffix("+changes")})
    store(name, result.model_copy(update={"provenance": plain}).model_dump_json())


def every_analysis(name: str, model: Classifier, weights: str, **more: Any) -> None:
    analyses: list[dict[str, Any]] = [{"kind": kind} for kind in ANALYSES.members]
    analyses.append({"kind": "neuron_pruning", "draws": 10})
    spec = {
        "threats": [{"norm": "linf", "epsilon": 0.04}], "analyses": analyses, "examples": 8, "curve": [0.5, 2.0],
        "attacks": [{"kind": "fgsm"}, {"kind": "pgd", "steps": 5}, {"kind": "random-noise"}],
    }  # fmt: skip
    with TemporaryDirectory() as folder:
        audited(
            name, spec, model, data(), model_sha256=sha256_of(weights), architecture=ARCHITECTURE.model_dump(mode="json"),
            examples=Path(folder), **more,
        )  # fmt: skip
        if name == "audit-every-analysis":
            for file in Path(folder).glob("examples-001-*.npy"):  # of PGD
                shutil.copyfile(file, FOLDER / file.name)


def audit_every_analysis() -> None:
    """All analyses of the catalogue, one of them twice, all checks, and images kept."""
    every_analysis("audit-every-analysis", classifier(), "parent.safetensors")


def audit_child() -> None:
    """The same of the hardened child, to stand beside its parent."""
    every_analysis(
        "audit-child", classifier("child.safetensors", "child"), "child.safetensors",
        trained_on=(data("training").sha256, data().sha256),
    )  # fmt: skip


def audit_three_norms() -> None:
    """Several threats and attacks, closest images among them, and corruptions."""
    spec = {
        "threats": [{"norm": "linf", "epsilon": "8/255"}, {"norm": "l2", "epsilon": 0.5}, {"norm": "l1", "epsilon": 2}],
        "attacks": [
            {"kind": "fgsm"}, {"kind": "pgd", "steps": 5, "restarts": 2}, {"kind": "apgd-ce", "steps": 5},
            {"kind": "fmn", "steps": 20}, {"kind": "ddn", "steps": 10}, {"kind": "square", "queries": 50},
        ],
        "corruptions": [{"kind": "contrast"}, {"kind": "gaussian_noise", "severity": 3}, {"kind": "jpeg", "severity": 1}],
        "samples": 40, "seed": 3,
    }  # fmt: skip
    audited("audit-three-norms", spec, classifier(), data())


def audit_targeted() -> None:
    spec = {
        "threats": [{"norm": "linf", "epsilon": 0.1}], "goal": {"kind": "targeted", "rule": "class", "target_class": "dog"},
        "attacks": [{"kind": "pgd", "steps": 5}, {"kind": "fab-t"}, {"kind": "fgsm"}],
        "analyses": [{"kind": "neuron_sensitivity"}, {"kind": "critical_route"}, {"kind": "neuron_exemplars"}],
    }  # fmt: skip
    audited("audit-targeted", spec, classifier(), data())


class Trembling(nn.Module):
    """Adds noise to every image before it looks at it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x + 0.3 * torch.randn_like(x))
        return logits


def audit_random() -> None:
    """A network that answers at random."""
    spec = {
        "threats": [{"norm": "linf", "epsilon": 0.05}], "draws": 4, "samples": 40,
        "attacks": [{"kind": "pgd", "steps": 4}, {"kind": "fgsm"}], "corruptions": [{"kind": "brightness", "severity": 2}],
        "analyses": [{"kind": "neuron_sensitivity"}, {"kind": "delta_values"}, {"kind": "sample_hardness"}],
    }  # fmt: skip
    network = ARCHITECTURE.build()
    load_weights(network, FOLDER / "parent.safetensors")
    torch.manual_seed(7)
    audited("audit-random", spec, around(Trembling(network), "trembling"), data())


class Fragile(nn.Module):
    """Answers NaN where the first pixel is nearly white."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x) + torch.where(x[:, :1, 0, 0] > 0.9, torch.nan, 0.0)
        return logits


def audit_nan() -> None:
    """A network whose logits are NaN for some images; named pictures, and an analysis that the network does not allow."""
    spec = {
        "threats": [{"norm": "l2", "epsilon": 0.5}], "attacks": [{"kind": "pgd", "steps": 4}, {"kind": "deepfool"}],
        "analyses": [{"kind": "neuron_sensitivity"}, {"kind": "critical_route"}, {"kind": "neuron_importance"}],
        "analysis_attack": {"kind": "pgd", "steps": 4}, "corruptions": [{"kind": "brightness", "severity": 5}],
    }  # fmt: skip
    network = ARCHITECTURE.build()
    load_weights(network, FOLDER / "parent.safetensors")
    plain = data()
    images = np.rint(255 * plain.images(np.arange(len(plain))).permute(0, 2, 3, 1).numpy()).astype(np.uint8)
    names = [f"picture-{index}.png" for index in range(len(images))]
    shown = ImageDataset(images, plain.labels, NAMES, names=names, sha256="e" * 64, name="pictures")
    audited("audit-nan", spec, around(Fragile(network), "fragile"), shown)


class Stepped(nn.Module):
    """Rounds its input, through which no gradient comes back."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network((4 * x).round() / 4)
        return logits


def audit_withheld() -> None:
    """A severe doubt: the headline is withheld."""
    network = ARCHITECTURE.build()
    load_weights(network, FOLDER / "parent.safetensors")
    spec = {"threats": [{"norm": "linf", "epsilon": 0.1}], "attacks": [{"kind": "fgsm"}, {"kind": "pgd", "steps": 5}]}
    audited("audit-withheld", spec, around(Stepped(network), "stepped"), data())


# -- trainings -------------------------------------------------------------------------------------------------------

TRAINING: dict[str, Any] = {
    "batch_size": 16, "augmentation": "none", "validation_steps": 3, "sensitivity_samples": 16, "device": "cpu",
    "validation_share": 0.2,
}  # fmt: skip
PAT: dict[str, Any] = TRAINING | {
    "hardening": {"kind": "pat", "epsilon": 0.04, "steps": 3},
    "epochs": 6,
    "patience": 2,
    "validation_epsilon": 0.04,
}
SNS: dict[str, Any] = TRAINING | {
    "hardening": {"kind": "sns", "epsilon": 0.04, "steps": 2}, "epochs": 3, "averaging": "ema", "ema_decay": 0.9,
    "augmentation": "crop_flip", "select": "last", "schedule": "cosine",
}  # fmt: skip
HALF = 8
"""Steps, of 15, after which the checkpoint is kept: in the midst of the second epoch."""


def trained(name: str, spec: dict[str, Any], folder: Path, on_checkpoint: Callable[[int], None]) -> None:
    result = train(
        TrainingSpec.load(spec), classifier(), data("training"), folder=folder, on_checkpoint=on_checkpoint,
        checkpoint_seconds=0,
    )  # fmt: skip
    revision = result.provenance.revision.removesuffix("+changes")
    store(name, result.model_copy(update={"device": "cpu", "revision": revision}).model_dump_json())


def training_pat() -> None:
    """A training with what it kept, the child."""
    with TemporaryDirectory() as folder:
        trained("training-pat", PAT, Path(folder), lambda step: None)
        shutil.copyfile(Path(folder) / "best.safetensors", FOLDER / "child.safetensors")


def training_sns() -> None:
    """A training with its checkpoint of the middle, as a kill would have left it, and the weights that it ended with."""
    with TemporaryDirectory() as folder:

        def keep(step: int) -> None:
            for file in ("last", "best") if step == HALF else ():
                shutil.copyfile(Path(folder) / f"{file}.safetensors", FOLDER / f"checkpoint-{file}.safetensors")

        trained("training-sns", SNS, Path(folder), keep)
        shutil.copyfile(Path(folder) / "best.safetensors", FOLDER / "resumed-best.safetensors")


# -- defenses --------------------------------------------------------------------------------------------------------

QUICK: dict[str, Any] = {
    "steps": 5, "restarts": 1, "draws": 2, "nearest": 2, "queries": 20, "decision_steps": 40, "batch_size": 16,
    "static": [{"kind": "pgd", "steps": 3}, {"kind": "fgsm"}],
}  # fmt: skip
NIP: dict[str, Any] = {
    "defenses": [{"kind": "nip", "front": 2, "tail": 2, "quorum": 0.8, "inputs": 20}],
    "samples": 40,
    "device": "cpu",
}
ROW: dict[str, Any] = {
    "defenses": [{"kind": "spatial-smoothing"}, {"kind": "gaussian-noise"}],
    "samples": 40,
    "seed": 1,
    "device": "cpu",
}


def fitted(spec: dict[str, Any]) -> tuple[FitSpec, FitResult]:
    read = FitSpec.load(spec)
    return read, fit(read, classifier(), data("training") if read.learns else None)


def studied(name: str, fit_spec: dict[str, Any], spec: dict[str, Any]) -> None:
    read, made = fitted(fit_spec)
    defense = FittedDefense(read, made.states, made.lineage, data("training") if read.learns else None)
    weights = sha256_of("parent.safetensors")
    result: DefenseEvaluation = evaluate_defense(
        EvaluationSpec.load(spec), classifier(), defense, data(), weights=weights
    )
    revision = result.provenance.revision.removesuffix("+changes")
    store(name, result.model_copy(update={"device": "cpu", "revision": revision}).model_dump_json())


def study_nip() -> None:
    """NIP with its controls, sweeps, adaptive attackers and the reproduction of the published code."""
    influence = [{"kind": kind, "steps": 3} for kind in ("ala", "s-ala")]
    evaluation = QUICK | {
        "threat": {"epsilon": 0.1},
        "influence": influence,
        "published": [{}, {"direction": "random"}],
    }
    sweeps = [{"parameter": "k", "values": [1, 2]}, {"parameter": "epsilon", "values": [0.05, 0.2]}]
    spec = {"evaluation": evaluation, "samples": 30, "sweep_samples": 10, "sweeps": sweeps, "device": "cpu"}
    studied("study-nip", NIP, spec)


def study_row() -> None:
    """Two in a row, the second of them random, in L2."""
    evaluation = QUICK | {"threat": {"norm": "l2", "epsilon": 0.7}}
    studied("study-row", ROW, {"evaluation": evaluation, "samples": 24, "device": "cpu", "controls": True})


def defense() -> None:
    """What NIP learnt, as a file, and the defended model taken home: what its code reads."""
    read, made = fitted(NIP)
    write_stack(FOLDER / "defense.safetensors", read.defenses, made.states, made.lineage)
    with TemporaryDirectory() as folder:
        export(Path(folder), classifier(), ARCHITECTURE, read.defenses, made.states, seed=read.seed)
        for file in ("model.json", "model.safetensors"):
            shutil.copyfile(Path(folder) / file, FOLDER / f"exported-{file}")


def play_nip() -> None:
    read, made = fitted(NIP)
    model = defended(classifier(), read.defenses, made.states, seed=read.seed)
    assert isinstance(model, DefendedClassifier)
    images = data()
    sample = next(at for at in range(60) if model(images.images([at])).argmax() == images.labels[at])
    spec = PlaySpec.model_validate({"threat": {"epsilon": 0.2}, "attack": {"kind": "pgd", "steps": 5}, "draws": 2})
    (FOLDER / "play-nip.safetensors").write_bytes(as_bytes(play(model, images, sample, spec)))


# -- what vetting saw, and how this machine computes -------------------------------------------------------------------


def card() -> None:
    store("card", vet(classifier(), data(), samples=40).model_copy(update={"forward_seconds": 1e-5}).model_dump_json())


def answers() -> None:
    """Logits of the parent, the child and the defended model on the first ten test images, and how the machine rounds."""
    read, made = fitted(NIP)
    x = data().images(np.arange(10))
    models = {"parent": classifier(), "child": classifier("child.safetensors")}
    found: dict[str, Any] = {name: model.logits(x).tolist() for name, model in models.items()}
    found["how it rounds"] = probe()
    found["defended"] = defended(classifier(), read.defenses, made.states, seed=read.seed).logits(x).tolist()
    store("answers", json.dumps(found))


def store(name: str, text: str) -> None:
    with (FOLDER / f"{name}.json.gz").open("wb") as file:
        file.write(gzip.compress(text.encode(), 9, mtime=0))


STEPS: tuple[Callable[[], None], ...] = (
    parent, training_pat, training_sns, audit_every_analysis, audit_child, audit_three_norms, audit_targeted, audit_random,
    audit_nan, audit_withheld, study_nip, study_row, defense, play_nip, card, answers,
)  # fmt: skip


def make(names: Sequence[str]) -> None:
    torch.set_num_threads(1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for step in STEPS:
        if not names or step.__name__ in names:
            print(step.__name__, flush=True)
            step()


if __name__ == "__main__":
    make(sys.argv[1:])
