"""AuditResult: everything one audit measured, as data that outlives the model, with the numbers derived from it."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, computed_field, model_validator

from auditor.analysis import Finding
from auditor.audit_spec import AuditSpec
from auditor.classifier import named_class
from auditor.flag import Flag, Verdict
from auditor.metrics import Rate
from auditor.records import AttackRecord, CorruptionRecord, known_fooled
from auditor.report.blocks import ImageRow
from auditor.threat import ThreatModel

LATER: dict[str, Any] = {"curve_to_zero": False, "corruptions": (), "checks": (), "examples": 0}
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

    def class_name(self, label: int) -> str:
        return named_class(self.class_names, label)


class DatasetFacts(_Data):
    """The data set as it was used. ``sha256`` names its content; empty for arrays that were never stored."""

    name: str
    sha256: str
    samples: int
    shape: tuple[int, int, int]
    class_names: tuple[str, ...] | None


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
    """

    ids: list[int]
    names: list[str] | None
    labels: list[int]
    predictions: list[int]
    confidence: list[float]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def correct(self) -> NDArray[np.bool_]:
        return np.array(self.labels, np.int64) == np.array(self.predictions, np.int64)


class Headline(_Data):
    """Robust accuracy within one threat model; None, and why, where it is not established."""

    threat: ThreatModel
    robust_accuracy: Rate | None
    said: str


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
    def clean_accuracy(self) -> Rate:
        return Rate.of(self.samples.correct)

    def fooled(self, threat: ThreatModel) -> NDArray[np.bool_]:
        """For which samples an adversarial image is known within this threat model, bool (N,)."""
        return known_fooled(self.records, threat, len(self.samples))

    def robust(self, threat: ThreatModel) -> NDArray[np.bool_]:
        """Which samples are classified correctly and were fooled by nothing within this threat model, bool (N,)."""
        return self.samples.correct & ~self.fooled(threat)

    def robust_accuracy(self, threat: ThreatModel) -> Rate:
        """Share of all samples, the point-wise worst case over all attacks: an upper bound on the true robust accuracy."""
        return Rate.of(self.robust(threat))

    def attack_accuracy(self, record: AttackRecord) -> Rate:
        """Accuracy under this one attack: correct before, and not fooled by it."""
        return Rate.of(self.samples.correct & ~known_fooled((record,), record.threat, len(self.samples)))

    def corrupted(self, record: CorruptionRecord) -> NDArray[np.bool_]:
        """Which samples are classified correctly under this corruption, bool (N,)."""
        return np.array(self.samples.labels, np.int64) == np.array(record.predictions, np.int64)

    def headline_records(self, threat: ThreatModel) -> list[AttackRecord]:
        return [record for record in self.records if record.role == "headline" and record.threat == threat]

    def curve(self, threat: ThreatModel) -> list[tuple[ThreatModel, Rate]]:
        """Robust accuracy at every epsilon that was tried in this norm, from 0 (clean) upwards; where an attack looked for the
        closest images, also at quantiles of their distances."""
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
        rates = [(threat, self.robust_accuracy(threat)) for threat in self.spec.threats]
        return tuple(Headline(threat=threat, robust_accuracy=rate, said=f"at most {rate}") for threat, rate in rates)

    @model_validator(mode="before")
    @classmethod
    def _derive_anew(cls, data: Any) -> Any:
        """What a file says of derived values is not read. An older file's specification asked for less than today's defaults."""
        if not isinstance(data, dict):
            return data
        data = {name: value for name, value in data.items() if name not in cls.model_computed_fields}
        if isinstance(data.get("spec"), dict):
            data["spec"] = LATER | data["spec"]
        return data
