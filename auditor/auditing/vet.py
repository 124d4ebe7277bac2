"""Vetting: does the model run as declared, and would another normalization explain it better? The answer is a card."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from auditor.attacking.evaluation import clean_pass
from auditor.attacking.unanswered import without_answer
from auditor.auditing.declaration import DeclarationCheck, check_declaration
from auditor.auditing.mapping import compare_mappings
from auditor.auditing.normalizations import Candidate, describe_ties
from auditor.kit.document import Data, Document, nothing
from auditor.kit.flag import Flag
from auditor.kit.progress import OnProgress, no_progress
from auditor.kit.statistics.estimate import Rate
from auditor.models.class_match import AUTOMATIC, matched
from auditor.models.class_table import ClassTable
from auditor.models.classifier import Classifier, Normalization
from auditor.models.dataset import ImageDataset
from auditor.models.hand_match import HandMatch
from auditor.models.neurons import LayerKind, list_layers
from auditor.models.preflight import (
    batch_dependence,
    drawn,
    no_gradient,
    probabilities,
    random_output,
    said_of_outputs,
    unrepeatable,
)

VET_SAMPLES = 512
"""Enough to tell a difference of a few points; ten forward passes over them stay cheap."""


class CardLayer(Data):
    """A layer as it runs (see ``auditor.models.neurons.Layer``)."""

    depth: int
    name: str
    kind: LayerKind
    type: str
    neurons: int
    spatial: tuple[int, ...]


class ClassifierCard(Document):
    """What vetting saw. ``accuracy`` and ``candidates`` need a data set; without one they are None and empty.

    ``declared_accuracy``: what the model was said to have. ``tied``: whether the declared normalization is among those of the
    best clean accuracy; ``robust``: its accuracy under a five-step PGD at ``epsilon`` (L∞), where others tie with it.
    """

    subject: ClassVar[str] = "vet card"

    parameters: int
    input_shape: tuple[int, int, int]
    num_classes: int
    layers: tuple[CardLayer, ...]
    layer_counts: dict[str, int]
    normalization: Normalization
    dataset: str | None
    samples: int
    accuracy: Rate | None
    candidates: tuple[Candidate, ...]
    flags: tuple[Flag, ...]
    notes: tuple[str, ...] = ()
    """How the logits were taken, how the data set was read, and its classes on the model's."""
    declared_accuracy: float | None = None
    tied: bool = False
    robust: Rate | None = None
    epsilon: float | None = None
    classes: ClassTable | None = Field(None, exclude_if=nothing)
    """The classes of the data set on the model's."""
    forward_seconds: float | None = None
    """Time of one forward pass, per image of a full batch, where the vetting ran."""
    random: bool = False
    """Whether the model has random outputs: then the accuracies are of one draw per image."""

    @property
    def ties(self) -> str:
        """Which normalizations clean accuracy does not tell apart, and what PGD leaves of each, as a sentence; or nothing."""
        return describe_ties(self.candidates, self.tied, self.robust, self.epsilon)


def vet(
    classifier: Classifier,
    dataset: ImageDataset | None = None,
    *,
    samples: int = VET_SAMPLES,
    batch_size: int = 128,
    seed: int = 0,
    on_progress: OnProgress = no_progress,
    other: Mapping[str, str] | None = None,
    match: HandMatch = AUTOMATIC,
) -> ClassifierCard:
    """Vet the model: two batches, finite logits, a gradient that flows; accuracy under the declared
    normalization and under the likely mistakes (see ``auditor.auditing.declaration``). ``match``: the model's class of
    classes of the data, by hand (see ``auditor.models.class_match.match_classes``).

    Raises MismatchError when model and data set do not fit, EvaluationError when the network returns something that is not
    logits, or NaN for every image.
    """
    flags: list[Flag] = []
    notes: tuple[str, ...] = ()
    declared: DeclarationCheck | None = None
    classes: ClassTable | None = None
    if dataset is None:
        images = torch.rand(16, *classifier.input_shape, generator=torch.Generator().manual_seed(seed))
        classifier = drawn(classifier, images.to(classifier.device, classifier.dtype), seed)
    else:
        dataset, doubts, classes = matched(classifier, dataset, match)
        flags += doubts
        first = dataset.images(dataset.select(16, seed)).to(classifier.device, classifier.dtype)
        classifier = drawn(classifier, first, seed)
        ids = dataset.select(samples, seed)
        seen = clean_pass(classifier, dataset, ids, batch_size=batch_size, draws=1)
        flags += without_answer(dataset, ids, seen.answered, seen.images)
        usable = ids[seen.answered]
        few = dataset.select(16, seed)
        few = few[np.isin(few, usable)]
        images = dataset.images(few if len(few) > 1 else usable[:16])
    flags += _runs(classifier, images.to(classifier.device, classifier.dtype))
    if dataset is not None:
        declared = check_declaration(
            classifier, dataset, ids, batch_size=batch_size, seed=seed, on_progress=on_progress
        )
        flags += declared.flags
        if other:
            mapping_notes, mapping_flags = compare_mappings(classifier, dataset, ids, other, batch_size)
            notes += mapping_notes
            flags += mapping_flags
    layers = list_layers(classifier)
    return ClassifierCard(
        parameters=count_parameters(classifier),
        input_shape=classifier.input_shape,
        num_classes=classifier.num_classes,
        layers=tuple(CardLayer(**layer._asdict()) for layer in layers),
        layer_counts={
            kind: sum(layer.kind == kind for layer in layers) for kind in ("conv", "linear", "norm", "activation")
        },
        normalization=classifier.normalization,
        dataset=dataset.name if dataset is not None else None,
        samples=0 if declared is None else declared.accuracy.n,
        accuracy=None if declared is None else declared.accuracy,
        candidates=() if declared is None else declared.normalizations.candidates,
        flags=tuple(flags),
        notes=said_of_outputs(classifier, images.to(classifier.device, classifier.dtype))
        + (dataset.notes if dataset is not None else ())
        + notes,
        declared_accuracy=classifier.declared_accuracy,
        tied=declared is not None and declared.normalizations.tied,
        robust=None if declared is None else declared.normalizations.robust,
        epsilon=None if declared is None else declared.normalizations.epsilon,
        classes=classes,
        forward_seconds=_forward_seconds(classifier, images),
        random=classifier.random,
    )


def _forward_seconds(classifier: Classifier, images: Tensor, passes: int = 3) -> float:
    """Seconds per image of a forward pass over 64 images, the best of some."""
    batch = images.to(classifier.device, classifier.dtype).repeat(4, 1, 1, 1)[:64]
    times = []
    for _ in range(passes):
        began = time.perf_counter()
        classifier.logits(batch).sum().item()  # waits for a GPU
        times.append(time.perf_counter() - began)
    return min(times) / len(batch)


def count_parameters(classifier: Classifier) -> int:
    """Trainable numbers of the network (buffers such as running means are not counted)."""
    return sum(parameter.numel() for parameter in classifier.network.parameters())


def _runs(classifier: Classifier, images: Tensor) -> list[Flag]:
    """A few batches through: finite, repeatable, independent of their neighbours, with a gradient that reaches the input."""
    flags = [*random_output(classifier, images).flags, *unrepeatable(classifier, images)]
    if not flags:
        flags += batch_dependence(classifier, images).flags
    return [*flags, *no_gradient(classifier, images).flags, *probabilities(classifier, images).flags]
