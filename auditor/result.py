"""AuditResult: everything one audit measured, as data that outlives the model, with the numbers derived from it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from auditor.analysis import Finding
from auditor.attack import ATTACKS, Attack
from auditor.audit_spec import AuditSpec
from auditor.capability import MemberOf
from auditor.check import Flag
from auditor.metrics import Rate
from auditor.report.blocks import ImageRow
from auditor.threat import ThreatModel


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelFacts(_Data):
    """The model as it was audited. ``sha256`` names its weights; empty for a network that was never stored."""

    name: str
    sha256: str
    architecture: dict[str, Any] | None
    normalization: dict[str, Any]
    input_shape: tuple[int, int, int]
    num_classes: int
    parameters: int
    class_names: tuple[str, ...] | None


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
    """The samples of the audit, one entry each, in the same order everywhere: id, label, and the clean verdict."""

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


class AttackRecord(_Data):
    """One attack under one threat model. ``positions``: which entries of the sample table were attacked; the other lists
    run along it. ``blind``: a gradient was zero or not finite. Passes are counted per image.

    ``role`` "headline": every correctly classified sample was attacked; "curve": only those that nothing had fooled yet.
    """

    attack: Annotated[Attack, MemberOf(ATTACKS)]
    threat: ThreatModel
    role: Literal["headline", "curve"]
    positions: list[int]
    fooled: list[bool]
    prediction: list[int]
    confidence: list[float]
    distance: list[float]
    forwards: list[int]
    backwards: list[int]
    blind: list[bool]
    seconds: float

    @property
    def success(self) -> Rate:
        """Share of the attacked samples on which the attacker got what he wanted."""
        return Rate.of(np.array(self.fooled, bool))


class AuditResult(_Data):
    """What one audit measured. ``headline_withheld`` says why no headline is given; empty when one is."""

    version: Literal[1] = 1
    spec: AuditSpec
    provenance: Provenance
    samples: SampleTable
    records: tuple[AttackRecord, ...]
    findings: tuple[Finding, ...]
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

    def headline_records(self, threat: ThreatModel) -> list[AttackRecord]:
        return [record for record in self.records if record.role == "headline" and record.threat == threat]

    def curve(self, threat: ThreatModel) -> list[tuple[ThreatModel, Rate]]:
        """Robust accuracy at every epsilon that was tried in this norm, from 0 (clean) upwards."""
        threats = {record.threat for record in self.records if record.threat.norm == threat.norm}
        return [(item, self.robust_accuracy(item)) for item in sorted(threats, key=lambda item: item.epsilon)]

    @property
    def headline_withheld(self) -> str:
        return " ".join(flag.message for flag in self.flags if flag.severity == "severe")


def known_fooled(records: Iterable[AttackRecord], threat: ThreatModel, n: int) -> NDArray[np.bool_]:
    """For which of ``n`` samples one of the records holds an adversarial image within ``threat``.

    An image found under a smaller epsilon of the same norm lies in the larger ball too, so it counts.
    """
    known = np.zeros(n, bool)
    for record in records:
        if record.threat.norm == threat.norm and record.threat.epsilon <= threat.epsilon:
            known[np.array(record.positions, np.int64)] |= np.array(record.fooled, bool)
    return known
