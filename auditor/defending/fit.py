"""FitSpec: everything that defines a fitted defense except the model and the data; fit: what its defenses learn."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from auditor.defending.defense import DEFENSES, Defense, fit_stack
from auditor.defending.files import FitLineage
from auditor.kit.capability import MemberOf
from auditor.kit.device import pick_device
from auditor.kit.document import Spec
from auditor.kit.errors import SpecError
from auditor.kit.flag import Flag
from auditor.kit.progress import OnProgress, no_progress
from auditor.models.class_match import matched
from auditor.models.class_table import ClassTable
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from auditor.models.defended import FittedState
from auditor.models.hand_match import ByHand

MOST_IN_A_ROW = 8


class FitSpec(Spec):
    """How a defense, or several in a row, is fitted. Same spec, same model, same data, same device: same tensors."""

    subject: ClassVar[str] = "defense"

    defenses: tuple[Annotated[Defense, MemberOf(DEFENSES)], ...] = Field(
        min_length=1, max_length=MOST_IN_A_ROW, description="Defenses, in the order in which an image passes them."
    )
    samples: int | None = Field(
        2000,
        ge=1,
        le=10_000_000,
        description="Number of training images to learn from, drawn by the seed; empty for all.",
    )
    match: ByHand = Field({})
    seed: int = Field(
        0, ge=0, lt=2**31, description="Seed of every random choice, including those of the deployed defense."
    )
    batch_size: int = Field(64, ge=1, le=65_536, description="Images per pass.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where to compute; auto uses a GPU if there is one."
    )

    @property
    def learns(self) -> bool:
        """Whether any of the defenses must be fitted."""
        return any(defense.learns for defense in self.defenses)

    @property
    def title(self) -> str:
        """What a reader calls the defenses together: ``JPEG, then NIP``."""
        return ", then ".join(defense.display_title() for defense in self.defenses)

    def ids(self, dataset: ImageDataset | None) -> NDArray[np.int64]:
        """The samples to learn from, in a random order, so the first are of every class; none if nothing learns."""
        if dataset is None or not self.learns:
            return np.empty(0, np.int64)
        return dataset.order(self.seed)[: self.samples]


class FitResult(NamedTuple):
    """What each defense learnt, in their order, and from what. ``flags``, ``notes``, ``classes``: of the data's classes on the
    model's, None without data."""

    states: tuple[FittedState, ...]
    lineage: FitLineage
    flags: tuple[Flag, ...] = ()
    notes: tuple[str, ...] = ()
    classes: ClassTable | None = None


def fit(
    spec: FitSpec, classifier: Classifier, dataset: ImageDataset | None, *, on_progress: OnProgress = no_progress
) -> FitResult:
    """Fit the defenses to this classifier. ``dataset``: training images; not used if nothing learns.

    Raises SpecError if it is missing, MismatchError if model and data do not fit, EvaluationError if a defense cannot
    be fitted.
    """
    if spec.learns:
        if dataset is None:
            raise SpecError(f"{spec.title} learns from training images, and no data set is given.", "Name a data set.")
        dataset, match, classes = matched(classifier, dataset, spec.match)
    else:
        dataset, match, classes = None, (), None
    ids = spec.ids(dataset)
    lineage = FitLineage.of(classifier, dataset, ids, seed=spec.seed)
    classifier = classifier.to(pick_device(spec.device))
    states = learn(spec.defenses, spec, classifier, dataset, on_progress)
    return FitResult(states, lineage, match, dataset.notes if dataset is not None else (), classes)


def learn(
    defenses: tuple[Defense, ...],
    spec: FitSpec,
    classifier: Classifier,
    dataset: ImageDataset | None,
    on_progress: OnProgress = no_progress,
) -> tuple[FittedState, ...]:
    """What these defenses, such as those of the spec with another parameter, learn from the spec's samples.

    ``dataset``: its labels are the model's already (``matched``); None where nothing is learnt.
    """
    # Those that learn nothing look at no data, so any will do.
    data = dataset if dataset is not None else _no_images(classifier)
    return fit_stack(
        classifier, defenses, data, spec.ids(dataset), seed=spec.seed, batch_size=spec.batch_size,
        on_progress=on_progress,
    )  # fmt: skip


def _no_images(classifier: Classifier) -> ImageDataset:
    channels, height, width = classifier.input_shape
    return ImageDataset(np.empty((0, height, width, channels), np.uint8), np.empty(0, np.int64))
