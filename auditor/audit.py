"""One audit: from an AuditSpec, a classifier and a data set to an AuditResult."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from auditor.analysis import Finding, Subject
from auditor.attack import Attack
from auditor.audit_spec import AuditSpec
from auditor.check import Flag
from auditor.classifier import Classifier
from auditor.dataset import ImageDataset
from auditor.errors import MismatchError, SpecError
from auditor.evaluation import CleanPass, Finished, Outcome, clean_pass, run_attack
from auditor.gallery import Gallery, draw
from auditor.metrics import Rate
from auditor.pairs import make_pairs
from auditor.progress import OnProgress, StagedProgress, no_progress
from auditor.provenance import device_name, revision, versions
from auditor.result import (
    AttackRecord,
    AuditResult,
    DatasetFacts,
    ModelFacts,
    Provenance,
    SampleTable,
    known_fooled,
)
from auditor.threat import ThreatModel
from auditor.vet import VET_SAMPLES, check_fit, check_normalization, count_parameters

PASS_PIXELS, SMALLEST_PASS, LARGEST_PASS = 400_000, 8, 512
"""By default a pass takes as many images as have 400,000 values (130 of CIFAR's size), within these bounds."""

BLIND_WARNING, BLIND_SEVERE = 0.05, 0.5
"""Share of the resisting samples without a usable gradient from which their resistance proves little, or nothing."""


def run(
    spec: AuditSpec,
    classifier: Classifier,
    dataset: ImageDataset,
    *,
    on_progress: OnProgress = no_progress,
    model_sha256: str = "",
    architecture: Mapping[str, Any] | None = None,
) -> AuditResult:
    """Audit a classifier on a data set.

    ``on_progress`` hears the share done and the step, and may raise to stop. Nothing is left on disk. Raises
    MismatchError when model and data do not fit, SpecError for a spec that cannot run, EvaluationError when the network
    misbehaves.
    """
    check_fit(classifier, dataset)
    audit = _Audit(spec, classifier.to(pick_device(spec.device)), dataset, on_progress)
    return audit.result(model_sha256, architecture)


def pick_device(choice: str) -> torch.device:
    """ "auto", "cpu" or "cuda" to a device. Raises SpecError for a GPU that is not there."""
    if choice == "cuda" and not torch.cuda.is_available():
        raise SpecError(
            "The audit asks for a GPU, but this machine offers none to PyTorch.", "Choose device auto or cpu."
        )
    return torch.device("cuda" if choice != "cpu" and torch.cuda.is_available() else "cpu")


class _Audit:
    """One audit under way."""

    def __init__(self, spec: AuditSpec, classifier: Classifier, dataset: ImageDataset, on_progress: OnProgress) -> None:
        self.spec, self.classifier, self.dataset = spec, classifier, dataset
        by_size = max(SMALLEST_PASS, min(LARGEST_PASS, PASS_PIXELS // int(np.prod(classifier.input_shape))))
        self.batch_size = spec.batch_size or by_size
        self.ids = self._samples()
        self.labels = torch.from_numpy(dataset.labels[self.ids])
        self.progress = StagedProgress(on_progress)
        self.records: list[AttackRecord] = []
        self.flags: list[Flag] = []

    def result(self, model_sha256: str, architecture: Mapping[str, Any] | None) -> AuditResult:
        began, started = time.perf_counter(), datetime.now(UTC)
        self._plan()
        self._check_declaration()
        clean = self._clean()
        galleries = self._headlines()
        self._curves()
        findings = self._analyses()
        leading = [
            record for record in self.records if record.role == "headline" and record.threat == self.spec.threats[0]
        ]
        strongest = max(range(len(leading)), key=lambda index: (sum(leading[index].fooled), index))
        specimens = galleries[strongest].specimens()
        return AuditResult(
            spec=self.spec,
            provenance=self._provenance(started, time.perf_counter() - began, model_sha256, architecture),
            samples=self._table(clean),
            records=tuple(self.records),
            findings=findings,
            flags=tuple(self.flags + [flag for finding in findings for flag in finding.flags]),
            gallery=draw(
                self.classifier,
                specimens,
                [int(self.labels[item.position]) for item in specimens],
                [self.dataset.sample_name(int(self.ids[item.position])) for item in specimens],
            ),
            gallery_note=f"{leading[strongest].attack.display_title()}, {leading[strongest].threat}: the first samples of the "
            "audit that it fooled, and the first that resisted.",
        )

    def _samples(self) -> NDArray[np.int64]:
        """The samples to audit; those that cannot be attacked (label = target class) are left out before drawing."""
        order = self.dataset.order(self.spec.seed)
        order = order[self.spec.goal.keeps(torch.from_numpy(self.dataset.labels[order])).numpy()]
        if len(order) == 0:
            raise MismatchError(
                "No sample is left to attack: every label is the target class.", "Choose another target."
            )
        return np.sort(order[: self.spec.samples])

    def _plan(self) -> None:
        """The weight of every stage: its cost in forward passes, if no sample were fooled early."""
        n, m = len(self.ids), min(len(self.ids), self.spec.analysis_samples)
        self.progress.add("vet", 7 * min(n, VET_SAMPLES))
        self.progress.add("clean", n)
        for threat in self.spec.threats:
            for attack in self.spec.attacks:
                self.progress.add(("headline", threat, attack), n * _passes(attack))
            for point in self._points(threat):
                for attack in self.spec.attacks:
                    self.progress.add(("curve", point, attack), 0.5 * n * _passes(attack))
        if self.spec.analyses:
            self.progress.add("pairs", m * _passes(self.spec.analysis_attack))
            for analysis in self.spec.analyses:
                self.progress.add(analysis, 3 * m)

    def _check_declaration(self) -> None:
        """Would another normalisation, or another order of the classes, explain the model better?"""
        checked = self.ids[:: max(1, len(self.ids) // VET_SAMPLES)][:VET_SAMPLES]
        with self.progress.stage("vet"):
            _, _, doubts = check_normalization(
                self.classifier, self.dataset, checked, batch_size=self.batch_size, on_progress=self.progress
            )
        self.flags += doubts

    def _clean(self) -> CleanPass:
        with self.progress.stage("clean"):
            clean = clean_pass(
                self.classifier, self.dataset, self.ids, batch_size=self.batch_size, on_progress=self.progress
            )
        self.criterion = self.spec.goal.criterion(self.labels, clean.logits, self.ids.tolist(), self.spec.seed)
        self.correct = clean.prediction == self.labels.numpy()
        return clean

    def _headlines(self) -> list[Gallery]:
        """Every attack under every threat, on every correctly classified sample; one gallery per attack of the first."""
        galleries = []
        for threat in self.spec.threats:
            for attack in self.spec.attacks:
                gallery = Gallery(self.spec.gallery) if threat == self.spec.threats[0] else None
                with self.progress.stage(("headline", threat, attack)):
                    self._attack(attack, threat, "headline", np.flatnonzero(self.correct), gallery)
                galleries += [gallery] if gallery is not None else []
        return galleries

    def _points(self, threat: ThreatModel) -> list[ThreatModel]:
        """The further points of a threat's curve, smallest epsilon first; a point with a headline of its own is not one."""
        points = (
            threat.model_copy(update={"epsilon": threat.epsilon * multiple}) for multiple in sorted(self.spec.curve)
        )
        return [point for point in points if point not in self.spec.threats]

    def _curves(self) -> None:
        """Every attack, at every point, on the samples that nothing has fooled there so far."""
        for threat in self.spec.threats:
            for point in self._points(threat):
                for attack in self.spec.attacks:
                    with self.progress.stage(("curve", point, attack)):
                        standing = self.correct & ~known_fooled(self.records, point, len(self.ids))
                        self._attack(attack, point, "curve", np.flatnonzero(standing), None)

    def _attack(
        self,
        attack: Attack,
        threat: ThreatModel,
        role: Literal["headline", "curve"],
        positions: NDArray[np.int64],
        gallery: Gallery | None,
    ) -> None:
        outcome = run_attack(
            self.classifier,
            attack,
            threat,
            self.dataset,
            self.ids[positions],
            self.criterion[torch.from_numpy(positions)].to(self.classifier.device),
            seed=self.spec.seed,
            batch_size=self.batch_size,
            on_finished=_into(gallery, positions) if gallery is not None else None,
            on_progress=self.progress,
        )
        self.records.append(_record(attack, threat, role, positions, outcome))
        self.flags += _blindness(attack, threat, outcome)

    def _analyses(self) -> tuple[Finding, ...]:
        if not self.spec.analyses:
            return ()
        attack, threat = self.spec.analysis_attack, self.spec.threats[0]
        chosen = np.sort(np.random.default_rng(self.spec.seed).permutation(len(self.ids))[: self.spec.analysis_samples])
        with tempfile.TemporaryDirectory(prefix="auditor-") as folder:
            with self.progress.stage("pairs"):
                pairs = make_pairs(
                    self.classifier,
                    attack,
                    threat,
                    self.dataset,
                    self.ids[chosen],
                    self.criterion[torch.from_numpy(chosen)].to(self.classifier.device),
                    Path(folder),
                    seed=self.spec.seed,
                    batch_size=self.batch_size,
                    on_progress=self.progress,
                )
            made = f"{attack.display_title()} with all its steps on every sample, {threat}, {self.spec.goal}"
            subject = Subject(self.classifier, pairs, threat, made, self.spec.seed, self.progress)
            findings = []
            for analysis in self.spec.analyses:
                with self.progress.stage(analysis):
                    findings.append(analysis.run(subject))
        return tuple(findings)

    def _table(self, clean: CleanPass) -> SampleTable:
        names = [self.dataset.sample_name(int(sample)) for sample in self.ids]
        return SampleTable(
            ids=self.ids.tolist(),
            names=names if self.dataset.sample_names is not None else None,
            labels=self.labels.tolist(),
            predictions=clean.prediction.tolist(),
            confidence=clean.confidence.tolist(),
        )

    def _provenance(
        self, started: datetime, seconds: float, model_sha256: str, architecture: Mapping[str, Any] | None
    ) -> Provenance:
        model, data = self.classifier, self.dataset
        return Provenance(
            model=ModelFacts(
                name=model.name,
                sha256=model_sha256,
                architecture=dict(architecture) if architecture is not None else None,
                normalization=model.normalization.model_dump(mode="json"),
                input_shape=model.input_shape,
                num_classes=model.num_classes,
                parameters=count_parameters(model),
                class_names=model.class_names,
            ),
            dataset=DatasetFacts(
                name=data.name, sha256=data.sha256, samples=len(data), shape=data.shape, class_names=data.class_names
            ),
            versions=versions(),
            revision=revision(),
            device=device_name(model.device),
            threads=torch.get_num_threads(),
            batch_size=self.batch_size,
            started=started.isoformat(timespec="seconds"),
            seconds=seconds,
        )


def _passes(attack: Attack) -> float:
    """Cost of one sample in forward passes; a backward pass counts as two."""
    return float(attack.runs * (3 * attack.iterations + 1))


def _into(gallery: Gallery, positions: NDArray[np.int64]) -> Callable[[Finished], None]:
    """The attack counts its own samples from 0; the gallery wants their places in the sample table."""
    return lambda finished: gallery.add(finished._replace(position=positions[finished.position]))


def _record(
    attack: Attack,
    threat: ThreatModel,
    role: Literal["headline", "curve"],
    positions: NDArray[np.int64],
    outcome: Outcome,
) -> AttackRecord:
    columns = {name: value.tolist() for name, value in outcome._asdict().items() if isinstance(value, np.ndarray)}
    return AttackRecord(
        attack=attack, threat=threat, role=role, positions=positions.tolist(), seconds=outcome.seconds, **columns
    )


def _blindness(attack: Attack, threat: ThreatModel, outcome: Outcome) -> list[Flag]:
    """A sample that resisted while the attack saw no gradient proves nothing."""
    n = len(outcome.fooled)
    blind = Rate.count(int((outcome.blind & ~outcome.fooled).sum()), n)
    if blind.value is None or blind.value < BLIND_WARNING:
        return []
    return [
        Flag(
            name="blind attack",
            severity="severe" if blind.value >= BLIND_SEVERE else "warning",
            message=f"{attack.display_title()} ({threat}) had no gradient to follow on samples that it did not fool.",
            evidence=f"{blind.hits} of {n} attacked samples ({blind}) resisted while their gradient was zero or not finite",
            remedy="The loss saturates or the network hides its gradient; use an attack on the logits' margin, or one "
            "that needs no gradient.",
        )
    ]
