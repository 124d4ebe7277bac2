"""FitSpec: everything that defines a prepared defense but the model and the data; fit: what its defenses learn."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from auditor.capability import MemberOf
from auditor.class_match import matched
from auditor.classifier import Classifier
from auditor.dataset import ImageDataset
from auditor.defending.files import Lineage
from auditor.defense import DEFENSES, Defense, State, fit_stack
from auditor.device import pick_device
from auditor.errors import SpecError
from auditor.flag import Flag
from auditor.progress import OnProgress, no_progress

MOST_IN_A_ROW = 8


class FitSpec(BaseModel):
    """How a defense, or several in a row, is prepared. Same spec, same model, same data, same device: same tensors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    defenses: tuple[Annotated[Defense, MemberOf(DEFENSES)], ...] = Field(
        min_length=1, max_length=MOST_IN_A_ROW, description="Defenses; an image passes the first one first."
    )
    samples: int | None = Field(
        2000, ge=1, le=10_000_000, description="Training images to learn from, drawn by the seed; empty for all."
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of every random choice, also of the deployed defense's own.")
    batch_size: int = Field(64, ge=1, le=65_536, description="Images per pass.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where to compute; auto takes a GPU where there is one."
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
        """The samples to learn from, in a random order, so that the first are of every class; none where nothing learns."""
        if dataset is None or not self.learns:
            return np.empty(0, np.int64)
        return dataset.order(self.seed)[: self.samples]

    @classmethod
    def load(cls, data: object) -> FitSpec:
        """From plain data or JSON text. Raises SpecError with the field, what was expected and what came."""
        try:
            return cls.model_validate_json(data) if isinstance(data, str | bytes) else cls.model_validate(data)
        except ValidationError as error:
            raise SpecError.from_validation("defense", error) from None


class Fitted(NamedTuple):
    """What each defense learnt, in their order, and from what. ``flags``, ``notes``: of the data's classes on the
    model's."""

    states: tuple[State, ...]
    lineage: Lineage
    flags: tuple[Flag, ...] = ()
    notes: tuple[str, ...] = ()


def fit(
    spec: FitSpec, classifier: Classifier, dataset: ImageDataset | None, *, on_progress: OnProgress = no_progress
) -> Fitted:
    """Prepare the defenses for this classifier. ``dataset``: training images; not looked at where nothing learns.

    Raises SpecError where it is missing, MismatchError where model and data do not fit, EvaluationError where a defense cannot
    be fitted.
    """
    if spec.learns:
        if dataset is None:
            raise SpecError(f"{spec.title} learns from training images, and no data set is given.", "Name a data set.")
        dataset, match = matched(classifier, dataset)
    else:
        dataset, match = None, ()
    ids = spec.ids(dataset)
    lineage = Lineage.of(classifier, dataset, ids, seed=spec.seed)
    classifier = classifier.to(pick_device(spec.device))
    states = learn(spec.defenses, spec, classifier, dataset, on_progress)
    return Fitted(states, lineage, match, dataset.notes if dataset is not None else ())


def learn(
    defenses: tuple[Defense, ...],
    spec: FitSpec,
    classifier: Classifier,
    dataset: ImageDataset | None,
    on_progress: OnProgress = no_progress,
) -> tuple[State, ...]:
    """What these defenses, such as those of the spec with another parameter, learn from the spec's samples."""
    # Those that learn nothing look at no data, so any will do.
    data = matched(classifier, dataset).dataset if dataset is not None else _no_images(classifier)
    return fit_stack(
        classifier, defenses, data, spec.ids(dataset), seed=spec.seed, batch_size=spec.batch_size,
        on_progress=on_progress,
    )  # fmt: skip


def _no_images(classifier: Classifier) -> ImageDataset:
    channels, height, width = classifier.input_shape
    return ImageDataset(np.empty((0, height, width, channels), np.uint8), np.empty(0, np.int64))
