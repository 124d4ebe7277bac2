"""A prepared defense evaluated whole: its own table, its controls beside it, and its parameters swept; one result."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from auditor.class_match import matched
from auditor.classifier import Classifier
from auditor.dataset import ImageDataset
from auditor.defended import DefendedClassifier
from auditor.defending.comparing import AttackTest, SampleTest, attack_tests, sample_tests
from auditor.defending.controls import controls, size_of_change
from auditor.defending.cost import costs
from auditor.defending.files import Lineage
from auditor.defending.flags import no_better, seen_before
from auditor.defending.sweep import Sweep
from auditor.defending.table import DefenseEvaluation
from auditor.defense import NOTHING, Defense, State, defended
from auditor.defense_evaluation import DefenseSpec, evaluate
from auditor.defense_fit import FitSpec, learn
from auditor.device import pick_device
from auditor.errors import EvaluationError, SpecError
from auditor.flag import Flag
from auditor.preflight import known_images
from auditor.progress import OnProgress, StagedProgress, no_progress, part_of
from auditor.provenance import device_name, revision, versions
from auditor.result import DatasetFacts
from auditor.threat import ThreatModel

VERSION = 1
FIT_SHARE = 0.1
"""Share of a swept table's progress that fitting anew is given."""


class StudySpec(BaseModel):
    """How a prepared defense is evaluated; its JSON is the whole of it but for the model, the defense and the data."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    evaluation: DefenseSpec = Field(default_factory=DefenseSpec, description="Attacks, threat model and seed.")
    samples: int | None = Field(200, ge=1, le=10_000_000, description="Test images, drawn by the seed; empty for all.")
    unseen: bool = Field(False, description="Draw none of the images that the defense was fitted on.")
    controls: bool = Field(
        True, description="Evaluate random moves of the same size, and for NIP and NIP_n a random candidate, beside it."
    )
    sweeps: tuple[Sweep, ...] = Field((), max_length=16, description="Parameters to change, one after the other.")
    sweep_samples: int = Field(100, ge=1, le=10_000_000, description="The first so many test images are for sweeps.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where to compute; auto takes a GPU where there is one."
    )

    @classmethod
    def load(cls, data: object) -> StudySpec:
        """From plain data or JSON text. Raises SpecError with the field, what was expected and what came."""
        try:
            return cls.model_validate_json(data) if isinstance(data, str | bytes) else cls.model_validate(data)
        except ValidationError as error:
            raise SpecError.from_validation("evaluation", error) from None


class Prepared(NamedTuple):
    """A stored defense: how it was fitted, what it learnt, and the data that it learnt from (None where it learns nothing)."""

    spec: FitSpec
    states: tuple[State, ...]
    lineage: Lineage
    training: ImageDataset | None


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ControlResult(_Data):
    title: str
    evaluation: DefenseEvaluation


class SweepPoint(_Data):
    value: float | str
    evaluation: DefenseEvaluation


class SweepResult(_Data):
    """The table at each value of a parameter, in the order of the spec."""

    parameter: str
    points: tuple[SweepPoint, ...]


class DefenseStudy(_Data):
    """All that came of evaluating one stored defense.

    ``size``: by how much it moves an image, root mean square. ``weights``: SHA-256 of the model's stored weights. Controls and
    sweeps are on the same samples, sweeps on the first of them. Times in UTC, ISO 8601.
    """

    version: int = VERSION
    spec: StudySpec
    fitted: FitSpec
    lineage: Lineage
    dataset: DatasetFacts
    weights: str
    evaluation: DefenseEvaluation
    size: float
    controls: tuple[ControlResult, ...]
    sample_tests: tuple[SampleTest, ...]
    attack_tests: tuple[AttackTest, ...]
    sweeps: tuple[SweepResult, ...]
    flags: tuple[Flag, ...]
    versions: dict[str, str]
    revision: str
    device: str
    started: str
    seconds: float

    @property
    def title(self) -> str:
        return self.fitted.title

    @property
    def all_flags(self) -> tuple[Flag, ...]:
        """Doubts about the data and the comparison, then those about the evaluation itself."""
        return (*self.flags, *self.evaluation.flags)


def study(
    spec: StudySpec,
    classifier: Classifier,
    prepared: Prepared,
    dataset: ImageDataset,
    *,
    folder: Path | None = None,
    on_progress: OnProgress = no_progress,
    on_checkpoint: Callable[[int], None] = lambda done: None,
    on_resumed: Callable[[], None] = lambda: None,
    weights: str = "",
    trained_on: Sequence[str] = (),
) -> DefenseStudy:
    """Evaluate a prepared defense of ``classifier``, which is the undefended one, on test images.

    ``folder``: where finished tables are kept; a study that is begun again with the same arguments goes on after them.
    ``on_checkpoint`` hears how many there are, ``on_resumed`` when the first one is begun that was not there. ``weights``,
    ``trained_on``: SHA-256 of the stored weights, and of the data sets on which the model is known to have been trained. Raises
    SpecError for a sweep that the defense does not know, MismatchError when model and data do not fit, EvaluationError when the
    network misbehaves or no sample is left.
    """
    dataset, match = matched(classifier, dataset)
    spec.evaluation.threat.check(dataset.shape)
    started, began = datetime.now(UTC), time.perf_counter()
    run = _Study(spec, classifier.to(pick_device(spec.device)), prepared, dataset, folder, on_checkpoint)
    plan = run.plan()
    progress = StagedProgress(on_progress)
    for part in plan:
        cost = costs(part.defenses, spec.evaluation, classifier.num_classes)
        progress.add(part.name, len(part.ids) * sum(cost.values()))
    tables: dict[str, DefenseEvaluation] = {}
    begun = False
    for part in plan:
        if not begun and not run.has(part):
            on_resumed()
            begun = True
        with progress.stage(part.name):
            tables[part.name] = run.table(part, progress)
    own = tables[plan[0].name]
    beside = {part.title: tables[part.name] for part in plan if part.role == "control"}
    tests = sample_tests(own, beside)
    overlap = np.isin(run.ids, run.fitted_ids).sum()
    return DefenseStudy(
        spec=spec, fitted=prepared.spec, lineage=prepared.lineage,
        dataset=DatasetFacts(
            name=dataset.name, sha256=dataset.sha256, samples=len(dataset), shape=dataset.shape,
            class_names=dataset.class_names, notes=dataset.notes,
        ),
        weights=weights, evaluation=own, size=run.size,
        controls=tuple(ControlResult(title=title, evaluation=table) for title, table in beside.items()),
        sample_tests=tests, attack_tests=attack_tests(own, beside),
        sweeps=tuple(
            SweepResult(
                parameter=sweep.parameter,
                points=tuple(
                    SweepPoint(value=part.value, evaluation=tables[part.name])
                    for part in plan if part.role == "sweep" and part.number == number
                ),
            )
            for number, sweep in enumerate(spec.sweeps)
        ),
        flags=(
            *match, *seen_before(int(overlap), len(run.ids), dataset), *known_images(dataset, trained_on),
            *no_better(prepared.spec.defenses, tests),
        ),
        versions=versions(), revision=revision(), device=device_name(run.classifier.device),
        started=started.isoformat(timespec="seconds"), seconds=time.perf_counter() - began,
    )  # fmt: skip


def study_cost(spec: StudySpec, defenses: Sequence[Defense], samples: int, classes: int) -> float:
    """What a study of this many samples costs, in forward passes of the undefended network, if no attack fools anybody; what the
    defenses themselves do to an image comes on top. Raises SpecError as ``study`` does."""

    def table(of: Sequence[Defense], threat: ThreatModel) -> float:
        return sum(costs(of, spec.evaluation.model_copy(update={"threat": threat}), classes).values())

    threat = spec.evaluation.threat
    beside = controls(defenses, [NOTHING] * len(defenses), 1.0) if spec.controls else ()
    whole = table(defenses, threat) + sum(table(one.defenses, threat) for one in beside)
    swept = sum(
        table(point.defenses, point.threat) for sweep in spec.sweeps for point in sweep.points(defenses, threat)
    )
    return samples * whole + min(samples, spec.sweep_samples) * swept


class _Part(NamedTuple):
    """One table to come. ``states``: None where it must be fitted first. ``number``: of the sweep that it belongs to."""

    name: str
    role: Literal["defense", "control", "sweep"]
    defenses: tuple[Defense, ...]
    states: tuple[State, ...] | None
    threat: ThreatModel
    ids: NDArray[np.int64]
    title: str = ""
    number: int = 0
    value: float | str = 0.0


class _Study:
    """One study under way."""

    def __init__(
        self,
        spec: StudySpec,
        classifier: Classifier,
        prepared: Prepared,
        dataset: ImageDataset,
        folder: Path | None,
        on_checkpoint: Callable[[int], None],
    ) -> None:
        self.spec, self.classifier, self.prepared, self.dataset = spec, classifier, prepared, dataset
        self.folder, self.on_checkpoint, self.done = folder, on_checkpoint, 0
        same = prepared.training is not None and prepared.training.sha256 == dataset.sha256
        self.fitted_ids = prepared.spec.ids(prepared.training) if same else np.empty(0, np.int64)
        order = dataset.order(spec.evaluation.seed)
        if spec.unseen:
            order = order[~np.isin(order, self.fitted_ids)]
        if len(order) == 0:
            raise EvaluationError(
                "No image is left to evaluate on: the defense was fitted on all of them.", "Take another data set."
            )
        self.order = order[: spec.samples]
        self.ids = np.sort(self.order)
        self.size = self._size()

    def plan(self) -> list[_Part]:
        """Every table, the defense's own first. Raises SpecError for a sweep that the defense does not know."""
        mine, states, threat = self.prepared.spec.defenses, self.prepared.states, self.spec.evaluation.threat
        parts = [_Part("defense", "defense", mine, states, threat, self.ids)]
        if self.spec.controls:
            parts += [
                _Part(f"control {number}", "control", one.defenses, one.states, threat, self.ids, one.title)
                for number, one in enumerate(controls(mine, states, self.size))
            ]
        fewer = np.sort(self.order[: self.spec.sweep_samples])
        for number, sweep in enumerate(self.spec.sweeps):
            for index, point in enumerate(sweep.points(mine, threat)):
                known = states if point.defenses == mine else None
                name = f"sweep {number} {index}"
                parts.append(_Part(name, "sweep", point.defenses, known, point.threat, fewer, "", number, point.value))
        return parts

    def has(self, part: _Part) -> bool:
        """Whether its table is in the folder."""
        file = self._file(part)
        return file is not None and file.is_file()

    def table(self, part: _Part, on_progress: OnProgress) -> DefenseEvaluation:
        """The part's table, from the folder where it is there."""
        kept = self._kept(part)
        if kept is None:
            states = part.states
            if states is None:
                spec, training = self.prepared.spec, self.prepared.training
                states = learn(part.defenses, spec, self.classifier, training, part_of(on_progress, 0, FIT_SHARE))
                on_progress = part_of(on_progress, FIT_SHARE, 1)
            wanted = self.spec.evaluation.model_copy(update={"threat": part.threat})
            kept = evaluate(self.classifier, part.defenses, states, self.dataset, part.ids, wanted, on_progress)
            self._keep(part, kept)
        self.done += 1
        self.on_checkpoint(self.done)
        return kept

    def _size(self) -> float:
        model = defended(
            self.classifier, self.prepared.spec.defenses, self.prepared.states, seed=self.spec.evaluation.seed
        )
        batches = list(self.dataset.batches(self.ids, self.spec.evaluation.batch_size))
        return size_of_change(cast(DefendedClassifier, model), batches)

    def _file(self, part: _Part) -> Path | None:
        """Named by what it depends on, so that no file of another study is taken for it."""
        if self.folder is None:
            return None
        about = (
            self.spec.evaluation.model_dump_json(),
            part.threat.model_dump_json(),
            part.ids.tolist(),
            self.prepared.lineage,
        )
        described = repr((part.name, *about, [one.describe() for one in part.defenses]))
        return self.folder / f"table-{hashlib.sha256(described.encode()).hexdigest()[:32]}.json"

    def _kept(self, part: _Part) -> DefenseEvaluation | None:
        file = self._file(part)
        if file is None or not file.is_file():
            return None
        return DefenseEvaluation.model_validate_json(file.read_bytes())

    def _keep(self, part: _Part, table: DefenseEvaluation) -> None:
        file = self._file(part)
        if file is not None:
            beside = file.with_name(f".{file.name}")
            beside.write_text(table.model_dump_json())
            beside.replace(file)
