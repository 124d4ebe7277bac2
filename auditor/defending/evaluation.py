"""The full evaluation of a fitted defense: its own table, its controls, and parameter sweeps; one result."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from auditor.attacking.threat import ThreatModel
from auditor.defending.comparing import AttackTest, SampleTest, attack_tests, sample_tests
from auditor.defending.controls import controls, size_of_change
from auditor.defending.cost import costs
from auditor.defending.defense import Defense, defended
from auditor.defending.files import FitLineage
from auditor.defending.fit import FitSpec, learn
from auditor.defending.flags import no_better, seen_before
from auditor.defending.measuring import measure_table
from auditor.defending.spec import TableSpec
from auditor.defending.sweep import Sweep
from auditor.defending.table import DefenseTable
from auditor.kit.device import pick_device
from auditor.kit.document import Data, Document, Spec, nothing
from auditor.kit.errors import EvaluationError
from auditor.kit.flag import Flag
from auditor.kit.foreign import flags_of, foreign, packages_of
from auditor.kit.progress import OnProgress, StagedProgress, no_progress, part_of
from auditor.kit.provenance import DatasetFacts, Provenance, provenance, provenance_lifted
from auditor.models.class_match import matched
from auditor.models.class_table import ClassTable
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from auditor.models.defended import NOTHING, DefendedClassifier, FittedState
from auditor.models.hand_match import ByHand
from auditor.models.preflight import known_images

FIT_SHARE = 0.1
"""Share of a swept table's progress that each new fit gets."""


class EvaluationSpec(Spec):
    """How a fitted defense is evaluated; its JSON holds everything except the model, the defense and the data."""

    subject: ClassVar[str] = "evaluation"

    evaluation: TableSpec = Field(default_factory=TableSpec, description="Attacks, threat model and seed.")
    match: ByHand = Field({})
    samples: int | None = Field(200, ge=1, le=10_000_000, description="Test images, drawn by the seed; empty for all.")
    unseen: bool = Field(False, description="Draw none of the images that the defense was fitted on.")
    controls: bool = Field(
        True, description="Also evaluate random moves of the same size, and for NIP and NIP_n a random candidate."
    )
    sweeps: tuple[Sweep, ...] = Field((), max_length=16, description="Parameters to change, one after the other.")
    sweep_samples: int = Field(
        100, ge=1, le=10_000_000, description="Number of test images for sweeps, taken from the first."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where to compute; auto uses a GPU if there is one."
    )


class FittedDefense(NamedTuple):
    """A stored defense: how it was fitted, what it learnt, and the data that it learnt from (None where it learns nothing)."""

    spec: FitSpec
    states: tuple[FittedState, ...]
    lineage: FitLineage
    training: ImageDataset | None


class ControlResult(Data):
    """The table of a control; stored as ``evaluation``."""

    model_config = ConfigDict(validate_by_name=True, serialize_by_alias=True)

    title: str
    table: DefenseTable = Field(alias="evaluation")


class SweepPoint(Data):
    """The table at one value of a parameter; stored as ``evaluation``."""

    model_config = ConfigDict(validate_by_name=True, serialize_by_alias=True)

    value: float | str
    table: DefenseTable = Field(alias="evaluation")


class SweepResult(Data):
    """The table at each value of a parameter, in the order of the spec."""

    parameter: str
    points: tuple[SweepPoint, ...]


class DefenseEvaluation(Document):
    """The result of evaluating one stored defense.

    ``classes``: those of the data set on the model's, None in results of before it was kept. ``table``: the defense's own, stored
    as ``evaluation``. ``size``: by how much it moves an image, root mean square.
    ``weights``: SHA-256 of the model's stored weights. Controls and sweeps are on the same samples, sweeps on the first of them.
    """

    model_config = ConfigDict(validate_by_name=True, serialize_by_alias=True)

    subject: ClassVar[str] = "evaluation"

    version: int = 2
    spec: EvaluationSpec
    fitted: FitSpec
    lineage: FitLineage
    dataset: DatasetFacts
    classes: ClassTable | None = Field(None, exclude_if=nothing)
    weights: str
    table: DefenseTable = Field(alias="evaluation")
    size: float
    controls: tuple[ControlResult, ...]
    sample_tests: tuple[SampleTest, ...]
    attack_tests: tuple[AttackTest, ...]
    sweeps: tuple[SweepResult, ...]
    flags: tuple[Flag, ...]
    provenance: Provenance

    @classmethod
    def lift(cls, data: dict[str, object]) -> dict[str, object]:
        """Version 1 had its provenance among the other fields."""
        return provenance_lifted(data) if "versions" in data else data

    @property
    def title(self) -> str:
        return self.fitted.title

    @property
    def all_flags(self) -> tuple[Flag, ...]:
        """Doubts about the data and the comparison, then those about the evaluation itself."""
        return (*self.flags, *self.table.flags)


def evaluate_defense(
    spec: EvaluationSpec,
    classifier: Classifier,
    fitted: FittedDefense,
    dataset: ImageDataset,
    *,
    folder: Path | None = None,
    on_progress: OnProgress = no_progress,
    on_checkpoint: Callable[[int], None] = lambda done: None,
    on_resumed: Callable[[], None] = lambda: None,
    weights: str = "",
    trained_on: Sequence[str] = (),
) -> DefenseEvaluation:
    """Evaluate a fitted defense of ``classifier``, which is the undefended one, on test images.

    ``folder``: where finished tables are kept; an evaluation that is started again with the same arguments continues
    after them. ``on_checkpoint`` receives their number; ``on_resumed`` is called when the first missing table begins.
    ``weights``, ``trained_on``: SHA-256 of the stored weights, and of the data sets on which the model is known to have
    been trained. Raises SpecError for a sweep that the defense does not know, MismatchError when model and data do not
    fit, EvaluationError when the network misbehaves or no sample is left.
    """
    dataset, match, classes = matched(classifier, dataset, spec.match)
    if fitted.training is not None:
        fitted = fitted._replace(training=matched(classifier, fitted.training, fitted.spec.match).dataset)
    strange = foreign((spec, fitted.spec))
    spec.evaluation.threat.check(dataset.shape)
    started, began = datetime.now(UTC), time.perf_counter()
    run = _Evaluation(spec, classifier.to(pick_device(spec.device)), fitted, dataset, folder, on_checkpoint)
    plan = run.plan()
    progress = StagedProgress(on_progress)
    for part in plan:
        cost = costs(part.defenses, spec.evaluation, classifier.num_classes)
        progress.add(part.name, len(part.ids) * sum(cost.values()))
    tables: dict[str, DefenseTable] = {}
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
    return DefenseEvaluation(
        spec=spec, fitted=fitted.spec, lineage=fitted.lineage,
        dataset=DatasetFacts(
            name=dataset.name, sha256=dataset.sha256, samples=len(dataset), shape=dataset.shape,
            class_names=dataset.class_names, notes=dataset.notes,
        ),
        classes=classes, weights=weights, table=own, size=run.size,
        controls=tuple(ControlResult(title=title, table=table) for title, table in beside.items()),
        sample_tests=tests, attack_tests=attack_tests(own, beside),
        sweeps=tuple(
            SweepResult(
                parameter=sweep.parameter,
                points=tuple(
                    SweepPoint(value=part.value, table=tables[part.name])
                    for part in plan if part.role == "sweep" and part.number == number
                ),
            )
            for number, sweep in enumerate(spec.sweeps)
        ),
        flags=(
            *flags_of(strange), *match, *seen_before(int(overlap), len(run.ids), dataset), *known_images(dataset, trained_on),
            *no_better(fitted.spec.defenses, tests),
        ),
        provenance=provenance(
            run.classifier.device, started, time.perf_counter() - began, packages=packages_of(strange)
        ),
    )  # fmt: skip


def evaluation_cost(spec: EvaluationSpec, defenses: Sequence[Defense], samples: int, classes: int) -> float:
    """What an evaluation of this many samples costs, in forward passes of the undefended network, if no attack fools anybody;
    what the defenses themselves do to an image comes on top. Raises SpecError as ``evaluate_defense`` does."""

    def table(of: Sequence[Defense], threat: ThreatModel) -> float:
        return sum(costs(of, spec.evaluation.model_copy(update={"threat": threat}), classes).values())

    threat = spec.evaluation.threat
    beside = controls(defenses, [NOTHING] * len(defenses), 1.0) if spec.controls else ()
    whole = table(defenses, threat) + sum(table(one.defenses, threat) for one in beside)
    swept = sum(
        table(point.defenses, point.threat) for sweep in spec.sweeps for point in sweep.points(defenses, threat)
    )
    return samples * whole + min(samples, spec.sweep_samples) * swept


class _PendingTable(NamedTuple):
    """One table to come. ``states``: None where it must be fitted first. ``number``: of the sweep that it belongs to."""

    name: str
    role: Literal["defense", "control", "sweep"]
    defenses: tuple[Defense, ...]
    states: tuple[FittedState, ...] | None
    threat: ThreatModel
    ids: NDArray[np.int64]
    title: str = ""
    number: int = 0
    value: float | str = 0.0


class _Evaluation:
    """One evaluation under way."""

    def __init__(
        self,
        spec: EvaluationSpec,
        classifier: Classifier,
        fitted: FittedDefense,
        dataset: ImageDataset,
        folder: Path | None,
        on_checkpoint: Callable[[int], None],
    ) -> None:
        self.spec, self.classifier, self.fitted, self.dataset = spec, classifier, fitted, dataset
        self.folder, self.on_checkpoint, self.done = folder, on_checkpoint, 0
        same = fitted.training is not None and fitted.training.sha256 == dataset.sha256
        self.fitted_ids = fitted.spec.ids(fitted.training) if same else np.empty(0, np.int64)
        order = dataset.order(spec.evaluation.seed)
        if spec.unseen:
            order = order[~np.isin(order, self.fitted_ids)]
        if len(order) == 0:
            raise EvaluationError(
                "No image is left to evaluate on: the defense was fitted on all of them.", "Choose another data set."
            )
        self.order = order[: spec.samples]
        self.ids = np.sort(self.order)
        self.size = self._size()

    def plan(self) -> list[_PendingTable]:
        """Every table, the defense's own first. Raises SpecError for a sweep that the defense does not know."""
        mine, states, threat = self.fitted.spec.defenses, self.fitted.states, self.spec.evaluation.threat
        parts = [_PendingTable("defense", "defense", mine, states, threat, self.ids)]
        if self.spec.controls:
            parts += [
                _PendingTable(f"control {number}", "control", one.defenses, one.states, threat, self.ids, one.title)
                for number, one in enumerate(controls(mine, states, self.size))
            ]
        fewer = np.sort(self.order[: self.spec.sweep_samples])
        for number, sweep in enumerate(self.spec.sweeps):
            for index, point in enumerate(sweep.points(mine, threat)):
                known = states if point.defenses == mine else None
                name = f"sweep {number} {index}"
                parts.append(
                    _PendingTable(name, "sweep", point.defenses, known, point.threat, fewer, "", number, point.value)
                )
        return parts

    def has(self, part: _PendingTable) -> bool:
        """Whether its table is in the folder."""
        file = self._file(part)
        return file is not None and file.is_file()

    def table(self, part: _PendingTable, on_progress: OnProgress) -> DefenseTable:
        """The part's table, from the folder where it is there."""
        kept = self._kept(part)
        if kept is None:
            states = part.states
            if states is None:
                spec, training = self.fitted.spec, self.fitted.training
                states = learn(part.defenses, spec, self.classifier, training, part_of(on_progress, 0, FIT_SHARE))
                on_progress = part_of(on_progress, FIT_SHARE, 1)
            wanted = self.spec.evaluation.model_copy(update={"threat": part.threat})
            kept = measure_table(self.classifier, part.defenses, states, self.dataset, part.ids, wanted, on_progress)
            self._keep(part, kept)
        self.done += 1
        self.on_checkpoint(self.done)
        return kept

    def _size(self) -> float:
        model = defended(self.classifier, self.fitted.spec.defenses, self.fitted.states, seed=self.spec.evaluation.seed)
        batches = list(self.dataset.batches(self.ids, self.spec.evaluation.batch_size))
        return size_of_change(cast(DefendedClassifier, model), batches)

    def _file(self, part: _PendingTable) -> Path | None:
        """Named by what it depends on, so no file of another evaluation is taken for it."""
        if self.folder is None:
            return None
        about = (
            self.spec.evaluation.model_dump_json(),
            part.threat.model_dump_json(),
            part.ids.tolist(),
            self.fitted.lineage,
            *([self.spec.match] if self.spec.match else []),
        )
        described = repr((part.name, *about, [one.describe() for one in part.defenses]))
        return self.folder / f"table-{hashlib.sha256(described.encode()).hexdigest()[:32]}.json"

    def _kept(self, part: _PendingTable) -> DefenseTable | None:
        file = self._file(part)
        if file is None or not file.is_file():
            return None
        return DefenseTable.load(file.read_bytes())

    def _keep(self, part: _PendingTable, table: DefenseTable) -> None:
        file = self._file(part)
        if file is not None:
            beside = file.with_name(f".{file.name}")
            beside.write_text(table.model_dump_json())
            beside.replace(file)
