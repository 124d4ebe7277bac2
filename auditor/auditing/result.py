"""AuditResult: everything one audit measured, as data that outlives the model, with the numbers derived from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, JsonValue, computed_field

from auditor.attacking.criterion import Targeted
from auditor.attacking.records import AttackRecord, known_fooled, worst_case
from auditor.attacking.threat import ThreatModel
from auditor.auditing.corruption_record import CorruptionRecord
from auditor.auditing.spec import AuditSpec
from auditor.kit.document import Data, Document, nothing
from auditor.kit.flag import CheckResult, Flag
from auditor.kit.provenance import DatasetFacts, Provenance
from auditor.kit.statistics.estimate import Rate
from auditor.models.class_table import ClassTable
from auditor.models.classifier import named_class
from auditor.models.dataset import Group
from auditor.neural.analysis import Finding
from auditor.show.blocks import ImageRow

LATER: Mapping[str, object] = {"draws": 1, "curve_to_zero": False, "corruptions": (), "checks": (), "examples": 0}
"""Fields of an AuditSpec that came after the first results were stored, with the values that say what those audits did."""


class ModelFacts(Data):
    """The model as it was audited. ``sha256`` names its weights; empty for a network that was never stored. ``trained_on``: the
    SHA-256 of data sets on which it, or one that it was trained from, is known to have been trained.
    """

    name: str
    sha256: str
    architecture: dict[str, Any] | None
    normalization: dict[str, JsonValue]
    input_shape: tuple[int, int, int]
    num_classes: int
    parameters: int
    class_names: tuple[str, ...] | None
    trained_on: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """How the network was measured, where that is not as it is."""

    def class_name(self, label: int) -> str:
        return named_class(self.class_names, label)


class AuditProvenance(Provenance):
    """Where the numbers of an audit come from."""

    model: ModelFacts
    dataset: DatasetFacts
    classes: ClassTable | None = Field(None, exclude_if=nothing)
    """The classes of the data set on the model's; None in results of before it was kept."""


class SampleTable(Data):
    """The samples of the audit, one entry each, in the same order everywhere: id, label, and the clean verdict.

    A prediction of -1 means that the network's logits were NaN or infinite. That counts as wrong.

    For a model with random outputs, the prediction is that of most draws, ``right`` the share of the draws that gave the label,
    and ``chosen`` the same of other draws (see ``auditor.attacking.records.worst_case``); else both are None.

    ``groups``: the corruptions that the images of the data set carry, and ``group_of`` the index of each sample's.
    """

    ids: list[int]
    names: list[str] | None
    labels: list[int]
    predictions: list[int]
    confidence: list[float]
    right: list[float] | None = None
    chosen: list[float] | None = None
    groups: tuple[Group, ...] = Field((), exclude_if=nothing)
    group_of: list[int] | None = Field(None, exclude_if=nothing)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def correct(self) -> NDArray[np.bool_]:
        return np.array(self.labels, np.int64) == np.array(self.predictions, np.int64)


class Headline(Data):
    """Robust accuracy within one threat model; None, and the reason, if it is not established.

    For a model with random outputs it is the mean over draws, and ``majority`` that of the answer which most draws give.
    """

    threat: ThreatModel
    robust_accuracy: Rate | None
    said: str
    majority: Rate | None = None


class AuditResult(Document):
    """What one audit measured. ``headline_withheld`` says why no headline is given; empty when one is.

    Its JSON also holds what is derived, ``headlines`` and ``headline_withheld``, for readers of the file.
    """

    subject: ClassVar[str] = "audit"

    spec: AuditSpec
    provenance: AuditProvenance
    samples: SampleTable
    records: tuple[AttackRecord, ...]
    corruptions: tuple[CorruptionRecord, ...] = ()
    findings: tuple[Finding, ...]
    checks: tuple[CheckResult, ...] = ()
    flags: tuple[Flag, ...]
    gallery: tuple[ImageRow, ...]
    gallery_note: str

    @property
    def random(self) -> bool:
        """Whether the model has random outputs: accuracies are then means over draws."""
        return self.samples.right is not None

    @property
    def clean_right(self) -> NDArray[np.float64]:
        """How right each sample is unperturbed, (N,): 0 or 1, or the share of the draws that are right."""
        right = self.samples.right
        return self.samples.correct.astype(np.float64) if right is None else np.array(right, np.float64)

    @property
    def goal(self) -> str:
        """What the attacker wants, a fixed target class by its name."""
        goal, model = self.spec.goal, self.provenance.model
        number = goal.target_class if isinstance(goal, Targeted) else None
        return (
            f"targeted ({model.class_name(number)})"
            if isinstance(number, int) and number < model.num_classes
            else str(goal)
        )

    @property
    def clean_accuracy(self) -> Rate:
        return self.rate(self.clean_right)

    def fooled(self, threat: ThreatModel) -> NDArray[np.bool_]:
        """For which samples an adversarial image is known within this threat model (to most draws), bool (N,)."""
        right, chosen = self.samples.right, self.samples.chosen
        if right is None or chosen is None:
            return known_fooled(self.records, threat, len(self.samples))
        return worst_case(self.records, threat, np.array(right, np.float64), np.array(chosen, np.float64)).fooled

    def robust(self, threat: ThreatModel) -> NDArray[np.bool_]:
        """Which samples are classified correctly (by most draws) and fooled by nothing within this threat model, bool (N,); as
        measured, whether or not the headline is withheld."""
        return self.samples.correct & ~self.fooled(threat)

    def held(self, threat: ThreatModel, records: Iterable[AttackRecord] | None = None) -> NDArray[np.float64]:
        """How right each sample still is in the worst case over these records (default: all), (N,); as ``clean_right``."""
        records = self.records if records is None else records
        right, chosen = self.samples.right, self.samples.chosen
        if right is None or chosen is None:
            fooled = known_fooled(records, threat, len(self.samples))
            return (self.samples.correct & ~fooled).astype(np.float64)
        return worst_case(records, threat, np.array(right, np.float64), np.array(chosen, np.float64)).right

    def rate(self, held: NDArray[np.float64]) -> Rate:
        """The rate over samples that are this right: a share, or a mean over draws."""
        return Rate.mean(held) if self.random else Rate.of(held > 0)

    def robust_accuracy(self, threat: ThreatModel) -> Rate:
        """Share of all samples, the point-wise worst case over all attacks: an upper bound on the true robust accuracy.

        A WithheldRate, without a value, while a severe doubt stands; its ``measured()`` still gives what was measured.
        """
        return self.rate(self.held(threat)).withheld_for(self.headline_withheld)

    def attack_accuracy(self, record: AttackRecord) -> Rate:
        """Accuracy under this one attack: correct before, and not fooled by it; withheld as ``robust_accuracy`` is."""
        return self.rate(self.held(record.threat, (record,))).withheld_for(self.headline_withheld)

    def corrupted(self, record: CorruptionRecord) -> NDArray[np.bool_]:
        """Which samples are classified correctly (by most draws) under this corruption, bool (N,)."""
        return np.array(self.samples.labels, np.int64) == np.array(record.predictions, np.int64)

    def corrupted_right(self, record: CorruptionRecord) -> NDArray[np.float64]:
        """How right each sample is under this corruption, (N,); as ``clean_right``."""
        return self.corrupted(record).astype(np.float64) if record.right is None else np.array(record.right, np.float64)

    def headline_records(self, threat: ThreatModel) -> list[AttackRecord]:
        return [record for record in self.records if record.role == "headline" and record.threat == threat]

    def curve(self, threat: ThreatModel) -> list[tuple[ThreatModel, Rate]]:
        """Robust accuracy at every epsilon that was tried in this norm, from 0 (clean) upwards; if an attack looked for
        the closest images, also at quantiles of their distances. Withheld as ``robust_accuracy`` is."""
        records = [record for record in self.records if record.threat.norm == threat.norm]
        epsilons = {record.threat.epsilon for record in records}
        for record in records:
            if record.attack.budget == "minimal":
                closest = [value for value in record.closest if value]
                epsilons |= (
                    set(np.quantile(closest, np.linspace(0.05, 1, 20), method="inverted_cdf")) if closest else set()
                )
        items = (ThreatModel(norm=threat.norm, epsilon=float(epsilon)) for epsilon in sorted(epsilons))
        return [(item, self.robust_accuracy(item)) for item in items]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def headline_withheld(self) -> str:
        """The severe doubts as text; a number is not quoted while one stands."""
        return " ".join(dict.fromkeys(flag.message for flag in self.flags if flag.severity == "severe"))

    @computed_field  # type: ignore[prop-decorator]
    @property
    def headlines(self) -> tuple[Headline, ...]:
        """The robust accuracy within each threat model, or that it is not established."""
        if self.headline_withheld:
            said = f"not established: {self.headline_withheld}"
            return tuple(Headline(threat=threat, robust_accuracy=None, said=said) for threat in self.spec.threats)
        return tuple(map(self._headline, self.spec.threats))

    def _headline(self, threat: ThreatModel) -> Headline:
        rate, majority = self.robust_accuracy(threat), Rate.of(self.robust(threat))
        if not self.random:
            return Headline(threat=threat, robust_accuracy=rate, said=f"at most {rate}")
        said = f"at most {rate} on average over {self.spec.draws} draws; {majority} by majority vote"
        return Headline(threat=threat, robust_accuracy=rate, said=said, majority=majority)

    @classmethod
    def lift(cls, data: dict[str, object]) -> dict[str, object]:
        """Derived values in a file are not read. An older file's specification asked for less than today's defaults,
        and if its model had no class names, it did not use those of the data set."""
        data = {name: value for name, value in data.items() if name not in cls.model_computed_fields}
        spec, provenance = data.get("spec"), data.get("provenance")
        if isinstance(spec, dict):
            data["spec"] = {**LATER, **spec}
        if isinstance(provenance, dict):
            data["provenance"] = _named(provenance)
        return data


def _named(provenance: dict[str, object]) -> dict[str, object]:
    """As ``Classifier.named`` does today."""
    model, dataset = provenance.get("model"), provenance.get("dataset")
    if not isinstance(model, dict) or not isinstance(dataset, dict) or model.get("class_names") is not None:
        return provenance
    if not (names := dataset.get("class_names")):
        return provenance
    classes = int(model.get("num_classes", 0))
    named = [*names, *(f"class {index}" for index in range(len(names), classes))]
    return provenance | {"model": model | {"class_names": named}} if len(named) == classes else provenance
