"""AuditResult: everything one audit measured, as data that outlives the model, with the numbers derived from it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, computed_field, model_validator

from auditor.analysis import Finding
from auditor.audit_spec import AuditSpec
from auditor.classifier import named_class
from auditor.criterion import Targeted
from auditor.flag import Flag, Verdict
from auditor.metrics import Rate
from auditor.records import AttackRecord, CorruptionRecord, known_fooled, worst_case
from auditor.report.blocks import ImageRow
from auditor.threat import ThreatModel

LATER: dict[str, Any] = {"draws": 1, "curve_to_zero": False, "corruptions": (), "checks": (), "examples": 0}
"""Fields of an AuditSpec that came after the first results were stored, with the values that say what those audits did."""


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelFacts(_Data):
    """The model as it was audited. ``sha256`` names its weights; empty for a network that was never stored. ``trained_on``: the
    SHA-256 of data sets on which it, or one that it was trained from, is known to have been trained.
    """

    name: str
    sha256: str
    architecture: dict[str, Any] | None
    normalization: dict[str, Any]
    input_shape: tuple[int, int, int]
    num_classes: int
    parameters: int
    class_names: tuple[str, ...] | None
    trained_on: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """How the network was measured, where that is not as it is."""

    def class_name(self, label: int) -> str:
        return named_class(self.class_names, label)


class DatasetFacts(_Data):
    """The data set as it was used. ``sha256`` names its content; empty for arrays that were never stored. ``class_names``: in the
    order of the labels that were used, the model's. ``notes``: how it was read, and its classes on the model's.
    """

    name: str
    sha256: str
    samples: int
    shape: tuple[int, int, int]
    class_names: tuple[str, ...] | None
    notes: tuple[str, ...] = ()


class Provenance(_Data):
    """Where the numbers come from. Times in UTC, ISO 8601."""

    model: ModelFacts
    dataset: DatasetFacts
    versions: dict[str, str]
    revision: str
    device: str
    threads: int
    batch_size: int
    started: str
    seconds: float


class SampleTable(_Data):
    """The samples of the audit, one entry each, in the same order everywhere: id, label, and the clean verdict.

    A prediction of -1 is none: the network's logits were NaN or infinite. That counts as wrong.

    Of a model that answers at random, the prediction is that of most draws, ``right`` the share of the draws that gave the label,
    and ``chosen`` the same of other draws (see ``auditor.records.worst_case``); else both are None.
    """

    ids: list[int]
    names: list[str] | None
    labels: list[int]
    predictions: list[int]
    confidence: list[float]
    right: list[float] | None = None
    chosen: list[float] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def correct(self) -> NDArray[np.bool_]:
        return np.array(self.labels, np.int64) == np.array(self.predictions, np.int64)


class Headline(_Data):
    """Robust accuracy within one threat model; None, and why, where it is not established.

    Of a model that answers at random it is the mean over draws, and ``majority`` that of the answer which most draws give.
    """

    threat: ThreatModel
    robust_accuracy: Rate | None
    said: str
    majority: Rate | None = None


class AuditResult(_Data):
    """What one audit measured. ``headline_withheld`` says why no headline is given; empty when one is.

    Its JSON also holds what is derived, ``headlines`` and ``headline_withheld``, for readers of the file.
    """

    version: Literal[1] = 1
    spec: AuditSpec
    provenance: Provenance
    samples: SampleTable
    records: tuple[AttackRecord, ...]
    corruptions: tuple[CorruptionRecord, ...] = ()
    findings: tuple[Finding, ...]
    checks: tuple[Verdict, ...] = ()
    flags: tuple[Flag, ...]
    gallery: tuple[ImageRow, ...]
    gallery_note: str

    @property
    def random(self) -> bool:
        """Whether the model answers at random: accuracies are then means over draws."""
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
        """What samples that are so right make together: a share, or a mean over draws."""
        return Rate.mean(held) if self.random else Rate.of(held > 0)

    def robust_accuracy(self, threat: ThreatModel) -> Rate:
        """Share of all samples, the point-wise worst case over all attacks: an upper bound on the true robust accuracy.

        A WithheldRate, without a value, where a severe doubt stands; its ``measured()`` is what was measured nevertheless.
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
        """Robust accuracy at every epsilon that was tried in this norm, from 0 (clean) upwards; where an attack looked for the
        closest images, also at quantiles of their distances. Withheld as ``robust_accuracy`` is."""
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
        """The severe doubts, in words; a number is not quoted while one stands."""
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

    @model_validator(mode="before")
    @classmethod
    def _derive_anew(cls, data: Any) -> Any:
        """What a file says of derived values is not read. An older file's specification asked for less than today's defaults, and
        where its model had no names for its classes, it did not take the data set's."""
        if not isinstance(data, dict):
            return data
        data = {name: value for name, value in data.items() if name not in cls.model_computed_fields}
        if isinstance(data.get("spec"), dict):
            data["spec"] = LATER | data["spec"]
        if isinstance(data.get("provenance"), dict):
            data["provenance"] = _named(data["provenance"])
        return data


def _named(provenance: dict[str, Any]) -> dict[str, Any]:
    """As ``Classifier.named`` does today."""
    model, names = provenance.get("model"), (provenance.get("dataset") or {}).get("class_names")
    if not isinstance(model, dict) or model.get("class_names") is not None or not names:
        return provenance
    classes = int(model.get("num_classes", 0))
    named = [*names, *(f"class {index}" for index in range(len(names), classes))]
    return provenance | {"model": model | {"class_names": named}} if len(named) == classes else provenance
