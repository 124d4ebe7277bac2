"""Playground: one image clean, attacked, defended, attacked through the defense; what is said of it, and neuron influence."""

from __future__ import annotations

import json
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from auditor.attacking.attack import ATTACKS, Attack
from auditor.attacking.criterion import Misclassification
from auditor.attacking.evaluation import run_attack
from auditor.attacking.harness.jury import Jury
from auditor.attacking.harness.outcome import Finished
from auditor.attacking.threat import ThreatModel
from auditor.defending.nip.candidates import ObservedLayer
from auditor.defending.nip.pool import CandidateDefense
from auditor.kit.capability import MemberOf
from auditor.kit.document import Document
from auditor.kit.errors import EvaluationError, IntakeError
from auditor.kit.progress import OnProgress, StagedProgress, no_progress
from auditor.models.class_match import matched
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from auditor.models.defended import Answering, DefendedClassifier
from auditor.models.drawing import View
from auditor.models.hand_match import ByHand
from auditor.models.preflight import drawn, fixed_draw
from auditor.neural.influence.influence import head_influence, log_odds, neuron_slopes, split_parts
from auditor.neural.probes.head import penultimate

NEURONS = 5
"""Front and tail neurons, each, where no defense says how many."""


class PlaySpec(BaseModel):
    """What is done to one image. The same attack is run twice: on the network alone, and through the defense."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    threat: ThreatModel = Field(default_factory=ThreatModel)
    attack: Annotated[Attack, MemberOf(ATTACKS)] = Field(
        default_factory=lambda: ATTACKS.build("pgd", {"steps": 40}), description="The attack."
    )
    match: ByHand = Field({})
    draws: int = Field(20, ge=1, le=1000, description="Draws of a random defense that the attacker averages over.")
    seed: int = Field(0, description="Seed of everything random.")


class Stage(BaseModel):
    """One image on its way.

    ``alone``, ``behind``: probabilities of the classes (K,) of the network alone and of the model behind the defense, for this
    image. ``distance``: from the clean image, in the threat model's norm. ``own``, ``clean``: influence of each neuron (M,) on
    the log odds of the class that the network gives this image, which is NIP's definition, and of the class that it gives the
    clean image; empty if there is no layer to look at.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    alone: list[float]
    behind: list[float]
    distance: float
    own: list[float]
    clean: list[float]


class PlayDocument(Document):
    """What a play says in addition to its images; fields as in ``Play``."""

    subject: ClassVar[str] = "run of the playground"

    sample: int
    label: int
    spec: PlaySpec
    stages: tuple[Stage, ...]
    layer: str
    front: tuple[int, ...]
    tail: tuple[int, ...]
    without: str


class Play(NamedTuple):
    """One image, stage by stage. ``images``: (S, C, H, W) in [0, 1], one for each of the ``stages``; the first is the clean one.

    ``front``, ``tail``: neurons of largest and smallest influence on the clean image. ``layer``: whose neurons; empty for the
    input of the last linear layer. ``without``: why there are none.
    """

    sample: int
    label: int
    spec: PlaySpec
    stages: tuple[Stage, ...]
    images: Tensor
    layer: str
    front: tuple[int, ...]
    tail: tuple[int, ...]
    without: str


CLEAN, ATTACKED, DEFENDED, ADAPTIVE, ADAPTIVE_DEFENDED = (
    "clean",
    "attacked",
    "attacked, then defended",
    "attacked through the defense",
    "attacked through it, then defended",
)


def play(
    model: DefendedClassifier,
    dataset: ImageDataset,
    sample: int,
    spec: PlaySpec,
    on_progress: OnProgress = no_progress,
) -> Play:
    """Attack and defend one image of a data set, by its id. The attacked image as the network gets it is that of the first draw.

    Raises EvaluationError if there is no such sample, SpecError for an epsilon beyond all images.
    """
    if not 0 <= sample < len(dataset):
        raise EvaluationError(f"Expected a sample from 0 to {len(dataset) - 1}, got {sample}.")
    spec.threat.check(dataset.shape)
    dataset = matched(model, dataset, spec.match).dataset
    if dataset.labels[sample] < 0:
        raise EvaluationError(
            f"The match of classes leaves sample {sample} out.",
            "Choose another image, or give its class one of the model's.",
        )
    x = dataset.images([sample])
    bare = drawn(innermost(model), x.to(model.device, model.dtype), spec.seed, spec.draws)
    model = around_innermost(model, bare)
    progress = StagedProgress(on_progress)
    for name in (ATTACKED, ADAPTIVE):
        progress.add(name, 1.0)
    with progress.stage(ATTACKED):
        x_adv = _attacked(bare, bare, dataset, sample, spec, progress)
    with progress.stage(ADAPTIVE):
        view = model.seen(View(adaptive=True, draws=spec.draws))
        through = _attacked(model, view, dataset, sample, spec, progress)
    images = {
        CLEAN: x, ATTACKED: x_adv, DEFENDED: received(model, x_adv),
        ADAPTIVE: through, ADAPTIVE_DEFENDED: received(model, through),
    }  # fmt: skip
    judged = {DEFENDED: x_adv, ADAPTIVE_DEFENDED: through}
    seen, predicted = _seen(model, fixed_draw(bare), x), _mean(bare, x, spec).argmax(1)
    stages = []
    for name, image in images.items():
        alone, behind = _mean(bare, image, spec), _mean(model, judged.get(name, image), spec)
        own, clean = (
            [] if seen.place is None else _influence(fixed_draw(bare), seen.place, image, classes)
            for classes in (alone.argmax(1), predicted)
        )
        distance = float(spec.threat.ball(x).distance(image, x)[0])
        stages.append(
            Stage(name=name, alone=_shares(alone), behind=_shares(behind), distance=distance, own=own, clean=clean)
        )
    return Play(
        sample, int(dataset.labels[sample]), spec, tuple(stages), torch.cat(list(images.values())),
        seen.place.layer if seen.place is not None else "", seen.front, seen.tail, seen.without,
    )  # fmt: skip


def innermost(model: Classifier) -> Classifier:
    """The network without its defenses."""
    while isinstance(model, DefendedClassifier):
        model = model.inner
    return model


def around_innermost(model: DefendedClassifier, bare: Classifier) -> DefendedClassifier:
    """The same defenses around another network."""
    behind = model.inner
    return model.around(around_innermost(behind, bare) if isinstance(behind, DefendedClassifier) else bare)


def received(model: Classifier, x: Tensor) -> Tensor:
    """What the network gets of images (B, C, H, W) after every defense in turn, in the first draw, float32 on the CPU."""
    x = x.to(model.device, model.dtype)
    with torch.no_grad():
        while isinstance(model, DefendedClassifier):
            x = model.defense.changed(model.inner, x, model.passing(x))
            model = model.inner
    return x.float().cpu()


def _attacked(
    judge: Classifier,
    target: Classifier,
    dataset: ImageDataset,
    sample: int,
    spec: PlaySpec,
    on_progress: OnProgress,
) -> Tensor:
    """What an attack on ``target`` leaves of the image, (1, C, H, W) on the CPU, adversarial or not; the image itself where
    ``judge`` gets it wrong already.

    A single run within the ball makes all its steps, so it does not stop where it has just crossed the boundary; restarts,
    the minimal budget and attacks without gradients end at their first success (``Attack.goes_on``).
    """
    x = dataset.images([sample])
    if int(_mean(judge, x, spec).argmax()) != dataset.labels[sample]:
        return x
    found: list[Tensor] = []

    def keep(finished: Finished) -> None:
        found.append(finished.x_adv.detach().float().cpu())

    labels = torch.from_numpy(dataset.labels[[sample]]).to(target.device)
    run_attack(
        target, spec.attack, spec.threat, dataset, np.array([sample]), Misclassification(labels),
        seed=spec.seed, batch_size=1, early_stop=not spec.attack.goes_on, draws=spec.draws,
        judge=judge if judge.random and judge is not target else None, on_finished=keep, on_progress=on_progress,
    )  # fmt: skip
    return found[0]


def _logits(model: Classifier, x: Tensor) -> Tensor:
    return model.logits(x.to(model.device, model.dtype))


def _mean(model: Classifier, x: Tensor, spec: PlaySpec) -> Tensor:
    """Logits (B, K) of an answer; where it is random, of the mean probability of fresh draws."""
    x = x.to(model.device, model.dtype)
    return Jury(model, spec.draws, len(x)).hear(x, "judge").mean.log() if model.random else model.logits(x)


def _shares(logits: Tensor) -> list[float]:
    return [float(value) for value in logits[0].double().softmax(0)]


class _FrontTail(NamedTuple):
    """The layer whose neurons are looked at, and its front and tail neurons on the clean image; or None, and why."""

    place: ObservedLayer | None
    front: tuple[int, ...] = ()
    tail: tuple[int, ...] = ()
    without: str = ""


def _seen(model: DefendedClassifier, bare: Classifier, x: Tensor) -> _FrontTail:
    """Layer and numbers of neurons are those of a NIP in the stack, else the input of the last linear layer, and five."""
    nip = next((defense for defense in _defenses(model) if isinstance(defense, CandidateDefense)), None)
    try:
        place = ObservedLayer.of(bare, nip.layer if nip is not None else "")
        influence = torch.tensor([_influence(bare, place, x, _logits(bare, x).argmax(1))], dtype=torch.float64)
        few = max(1, min(NEURONS, (influence.shape[1] - 1) // 2))
        parts = split_parts(influence, *((nip.front, nip.tail) if nip is not None else (few, few)))
    except EvaluationError as error:
        return _FrontTail(None, without=error.message)
    return _FrontTail(place, tuple(parts.front[0].tolist()), tuple(parts.tail[0].tolist()))


def _defenses(model: Classifier) -> list[Answering]:
    """Of the outermost first."""
    found: list[Answering] = []
    while isinstance(model, DefendedClassifier):
        found.append(model.defense)
        model = model.inner
    return found


def _influence(bare: Classifier, place: ObservedLayer, x: Tensor, classes: Tensor) -> list[float]:
    """Influence (eq. 2 of the NIP paper) on the log odds of these classes, (1,), on the network alone."""
    x = x.to(bare.device, bare.dtype)
    if place.layer:
        (layer,) = neuron_slopes(bare, x, lambda logits: log_odds(logits, classes), {place.layer})
        return [float(value) for value in layer.influence[0]]
    head = place.head_in(bare)
    with torch.no_grad():
        features, logits = penultimate(bare, head, x)
        return [float(value) for value in head_influence(features, logits, head.weight, classes)[0]]


def as_bytes(played: Play) -> bytes:
    """A play as one safetensors file: the images, and the rest as its metadata."""
    about = PlayDocument(**{name: value for name, value in played._asdict().items() if name != "images"})
    text = json.dumps(about.model_dump(mode="json"), sort_keys=True)
    return save({"images": played.images.contiguous()}, metadata={"about": text})


def from_bytes(content: bytes) -> Play:
    """Read what ``as_bytes`` wrote. Raises IntakeError if the bytes are something else."""
    try:
        length = int.from_bytes(content[:8], "little")
        about = PlayDocument.load(json.loads(content[8 : 8 + length])["__metadata__"]["about"])
        said = {name: getattr(about, name) for name in PlayDocument.model_fields if name != "version"}
        return Play(**said, images=load(content)["images"])
    except (SafetensorError, ValueError, KeyError, TypeError):
        raise IntakeError("The stored run of the playground is damaged: it cannot be read.", "Run it again.") from None
