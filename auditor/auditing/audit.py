"""One audit: from an AuditSpec, a classifier and a data set to an AuditResult."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from auditor.attacking.attack import Attack
from auditor.attacking.evaluation import CleanPass, clean_pass, run_attack
from auditor.attacking.harness.outcome import Finished
from auditor.attacking.records import AttackRecord, known_fooled, worst_case
from auditor.attacking.threat import ThreatModel
from auditor.attacking.unanswered import left_out_of_analyses, without_answer, without_answer_under
from auditor.auditing.check import Check
from auditor.auditing.corruption import CorruptedDataset, Corruption
from auditor.auditing.corruption_record import CorruptionRecord
from auditor.auditing.examples import ExampleWriter, first_positions
from auditor.auditing.gallery import Gallery, gallery_rows
from auditor.auditing.inquiry import Inquiry
from auditor.auditing.plan import allowance_of, norms, plan, points
from auditor.auditing.result import AuditProvenance, AuditResult, ModelFacts, SampleTable
from auditor.auditing.spec import AuditSpec
from auditor.auditing.strength import settled
from auditor.auditing.vet import count_parameters
from auditor.kit.device import pick_device
from auditor.kit.errors import MismatchError
from auditor.kit.flag import CheckResult, Flag, Opinion
from auditor.kit.foreign import flags_of, foreign, foreign_data, packages_of
from auditor.kit.progress import OnProgress, StagedProgress, no_progress
from auditor.kit.provenance import DatasetFacts, device_name, revision, versions
from auditor.kit.randomness import derive_seed, seeded
from auditor.kit.scratch import scratch
from auditor.models.architecture import ARCHITECTURES
from auditor.models.class_match import matched
from auditor.models.class_table import ClassTable
from auditor.models.classifier import NO_CLASS, Classifier
from auditor.models.dataset import ImageDataset
from auditor.models.preflight import averaging, drawn, fixed_draw, known_images, one_draw, said_of_outputs, unrepeatable
from auditor.neural.analysis import Finding, Subject, measured
from auditor.neural.twins.stored import StoredPairs, make_pairs

DOUBLINGS = 5
"""How often epsilon is doubled, at most, to see the curve reach 0."""

PROBED = 16
"""Images on which it is found out whether the model has random outputs."""

PASS_PIXELS, SMALLEST_PASS, LARGEST_PASS = 400_000, 8, 512
"""By default a pass takes as many images as have 400,000 values (130 of CIFAR's size), within these bounds."""


def run(
    spec: AuditSpec,
    classifier: Classifier,
    dataset: ImageDataset,
    *,
    on_progress: OnProgress = no_progress,
    model_sha256: str = "",
    architecture: Mapping[str, Any] | None = None,
    trained_on: Sequence[str] = (),
    examples: Path | None = None,
) -> AuditResult:
    """Audit a classifier on a data set.

    ``on_progress`` receives the share done and the step, and may raise to stop. ``trained_on``: SHA-256 of data sets on which the
    model is known to have been trained; an audit on one of them says so. ``examples``: a folder for the adversarial
    images that the spec keeps (see ``auditor.auditing.examples``); without it none are kept, and nothing is left on
    disk. Raises MismatchError when model and data do not fit, SpecError for a spec that cannot run, EvaluationError
    when the network misbehaves.
    """
    dataset, doubts, classes = matched(classifier, dataset, spec.match)
    for corruption in spec.corruptions:
        corruption.check(dataset.shape[0])
    for threat in spec.threats:
        threat.check(dataset.shape)
    named = classifier.to(pick_device(spec.device)).named(dataset.class_names)
    audit = _Audit(spec, named, dataset, classes, on_progress, examples)
    audit.flags += doubts
    return audit.result(model_sha256, architecture, tuple(trained_on))


class _Audit:
    """One audit under way."""

    def __init__(
        self,
        spec: AuditSpec,
        classifier: Classifier,
        dataset: ImageDataset,
        classes: ClassTable,
        on_progress: OnProgress,
        examples: Path | None,
    ) -> None:
        self.spec, self.classifier, self.dataset, self.examples = spec, classifier, dataset, examples
        self.classes = classes
        by_size = max(SMALLEST_PASS, min(LARGEST_PASS, PASS_PIXELS // int(np.prod(classifier.input_shape))))
        self.batch_size = spec.batch_size or by_size
        self.goal = spec.goal.placed(classifier.class_names or dataset.class_names)
        self.ids = self._samples()
        self.labels = torch.from_numpy(dataset.labels[self.ids])
        self.progress = StagedProgress(on_progress)
        self.records: list[AttackRecord] = []
        self.flags: list[Flag] = []
        self.verdicts: list[CheckResult] = []

    def result(
        self, model_sha256: str, architecture: Mapping[str, Any] | None, trained_on: tuple[str, ...]
    ) -> AuditResult:
        began, started = time.perf_counter(), datetime.now(UTC)
        self.foreign = foreign(self.spec) | foreign_data(ARCHITECTURES, architecture)
        self.flags += flags_of(self.foreign)
        self.flags += known_images(self.dataset, trained_on)
        self._preflight()
        shape, random = self.classifier.input_shape, self.classifier.random
        for stage, weight in plan(self.spec, len(self.ids), shape, random=random).items():
            self.progress.add(stage, weight)
        self.allowance = allowance_of(self.spec, len(self.ids), shape, random=random)
        clean = self._clean()
        self._checks(preflight=True)
        galleries = self._headlines()
        self._curves()
        self._checks(preflight=False)
        self.flags += without_answer_under(self.records, self.dataset, self.ids)
        corruptions = self._corruptions()
        findings = self._analyses()
        leading = [
            record for record in self.records if record.role == "headline" and record.threat == self.spec.threats[0]
        ]
        strongest = max(range(len(leading)), key=lambda index: (sum(leading[index].fooled), index))
        specimens = galleries[strongest].specimens()
        return AuditResult(
            spec=self.spec,
            provenance=self._provenance(started, time.perf_counter() - began, model_sha256, architecture, trained_on),
            samples=self._table(clean),
            records=tuple(self.records),
            corruptions=corruptions,
            findings=findings,
            checks=tuple(self.verdicts),
            flags=tuple(self.flags + [flag for finding in findings for flag in finding.flags]),
            gallery=gallery_rows(
                averaging(self.classifier),
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
        order = order[self.goal.keeps(torch.from_numpy(self.dataset.labels[order])).numpy()]
        if len(order) == 0:
            raise MismatchError(
                "No sample is left to attack: every label is the target class.", "Choose another target."
            )
        return np.sort(order[: self.spec.samples])

    def _preflight(self) -> None:
        """A model with random outputs is known before anything is measured; every draw then follows from the seed."""
        images = self.dataset.images(self.ids[:PROBED]).to(self.classifier.device, self.classifier.dtype)
        self.said = said_of_outputs(self.classifier, images)
        self.classifier = drawn(self.classifier, images, self.spec.seed, self.spec.draws)
        self.flags += unrepeatable(self.classifier, images)

    def _clean(self) -> CleanPass:
        with self.progress.stage("clean"):
            clean = clean_pass(
                self.classifier, self.dataset, self.ids, batch_size=self.batch_size, on_progress=self.progress
            )
        self.clean = clean
        self.criterion = self.goal.criterion(self.labels, clean.logits, self.ids.tolist(), self.spec.seed)
        self.flags += without_answer(self.dataset, self.ids, clean.answered, clean.images)
        self.correct, self.answered, self.images = (
            clean.prediction == self.labels.numpy(), clean.answered, clean.images,
        )  # fmt: skip
        self.ever_right = self.correct if clean.right is None else self.correct | (clean.right > 0)
        self.inquiry = self._inquiry()
        return clean

    def _headlines(self) -> list[Gallery]:
        """Every attack under every threat, on every correctly classified sample; one gallery per attack of the first."""
        galleries = []
        for threat in self.spec.threats:
            for attack in self.spec.attacks_for(threat):
                gallery = Gallery(self.spec.gallery) if threat == self.spec.threats[0] else None
                with self.progress.stage(("headline", threat, attack)):
                    self._attack(attack, threat, "headline", np.flatnonzero(self.ever_right), gallery)
                galleries += [gallery] if gallery is not None else []
        return galleries

    def _curves(self) -> None:
        """Every attack, at every point, on the samples that nothing has fooled there so far."""
        further = points(self.spec)
        for point in further:
            for attack in self.spec.attacks_for(point):
                with self.progress.stage(("curve", point, attack)):
                    self._attack_standing(attack, point)
        for norm in norms(self.spec):
            tried = [point for point in (*self.spec.threats, *further) if point.norm is norm]
            with self.progress.stage(("beyond", norm)):
                self._to_zero(max(tried, key=lambda point: point.epsilon))

    def _to_zero(self, last: ThreatModel) -> None:
        """Further points, each of twice the epsilon, until nothing stands; gradients that hide show here."""
        whole = last.norm.largest(self.dataset.shape)
        for _ in range(DOUBLINGS if self.spec.curve_to_zero else 0):
            if last.epsilon >= whole or not (self._right(last) >= 0.5).any():
                return
            last = last.model_copy(update={"epsilon": min(2 * last.epsilon, whole)})
            for attack in self.spec.attacks_for(last):
                self._attack_standing(attack, last)

    def _attack_standing(self, attack: Attack, point: ThreatModel) -> None:
        self._attack(attack, point, "curve", np.flatnonzero(self._right(point) > 0), None)

    def _right(self, point: ThreatModel) -> NDArray[np.float64]:
        """How right each sample is within this threat model so far, (N,): 0 or 1, or the share of the draws that are right."""
        if self.clean.right is None or self.clean.chosen is None:
            return (self.correct & ~known_fooled(self.records, point, len(self.ids))).astype(np.float64)
        return worst_case(self.records, point, self.clean.right, self.clean.chosen).right

    def _attack(
        self,
        attack: Attack,
        threat: ThreatModel,
        role: Literal["headline", "curve"],
        positions: NDArray[np.int64],
        gallery: Gallery | None,
    ) -> None:
        keepers: list[Callable[[Finished], None]] = [gallery.add] if gallery is not None else []
        if self.examples is not None and role == "headline":
            kept = first_positions(positions, self.spec.examples)
            keepers.append(ExampleWriter(self.examples, len(self.records), kept, self.classifier.input_shape).add)
        outcome = run_attack(
            self.classifier,
            attack,
            threat,
            self.dataset,
            self.ids[positions],
            self.criterion[torch.from_numpy(positions)].to(self.classifier.device),
            seed=self.spec.seed,
            batch_size=self.batch_size,
            on_finished=_into(keepers, positions),
            on_progress=self.progress,
        )
        self.records.append(AttackRecord.of(attack, threat, role, positions, outcome))

    def _inquiry(self) -> Inquiry:
        """What the checks may look at; the records in it grow as the audit goes on."""
        return Inquiry(
            self.classifier, self.dataset, self.ids, self.labels, self.correct, self.criterion,
            targeted=self.spec.goal.kind == "targeted", threats=self.spec.threats, records=self.records,
            seed=self.spec.seed, batch_size=self.batch_size, allowance=self.allowance,
            on_progress=self.progress, answered=self.answered,
        )  # fmt: skip

    def _checks(self, *, preflight: bool) -> None:
        """Verdicts come at the end: what a doubt about one attack means depends on what the others are doubted for."""
        heard: list[tuple[Check, Opinion, float]] = []
        for check in self.spec.checks:
            if check.preflight == preflight:
                began = time.perf_counter()
                with self.progress.stage(check):
                    opinion = check.run(self.inquiry)
                    self.progress(1.0, check.display_title())
                heard.append((check, opinion, time.perf_counter() - began))
        every = [flag for _, opinion, _ in heard for flag in opinion.flags]
        for check, opinion, seconds in heard:
            opinion = opinion._replace(flags=settled(self.inquiry, opinion.flags, every))
            self.flags += opinion.flags
            self.verdicts.append(check.verdict(opinion, seconds))

    def _corruptions(self) -> tuple[CorruptionRecord, ...]:
        """One forward pass over every sample under each corruption and severity."""
        return tuple(self._corrupted(single) for corruption in self.spec.corruptions for single in corruption.each())

    def _corrupted(self, corruption: Corruption) -> CorruptionRecord:
        began = time.perf_counter()
        what = f"{corruption.display_title()}, severity {corruption.severity}"
        with self.progress.stage(corruption):
            seen = clean_pass(
                self.classifier,
                CorruptedDataset(self.dataset, corruption, self.spec.seed),
                self.ids,
                batch_size=self.batch_size,
                on_progress=lambda share, _: self.progress(share, what),
            )
        classes = np.where(self.images, seen.prediction, NO_CLASS)  # a pixel that is NaN has no corrupted form
        return CorruptionRecord(
            corruption=corruption, predictions=classes.tolist(), seconds=time.perf_counter() - began,
            right=None if seen.right is None else np.where(self.images, seen.right, 0.0).tolist(),
        )  # fmt: skip

    def _analyses(self) -> tuple[Finding, ...]:
        if not self.spec.analyses:
            return ()
        attack, threat = self.spec.analysis_attack, self.spec.threats[0]
        order = np.random.default_rng(self.spec.seed).permutation(len(self.ids))
        chosen = np.sort(order[self.answered[order]][: self.spec.analysis_samples])
        with scratch("pairs") as folder:
            with self.progress.stage("pairs"):
                pairs = self._pairs(chosen, folder)
                if not pairs.answered.all():
                    self.flags += left_out_of_analyses(self.dataset, self.ids[chosen[~pairs.answered]])
                    chosen = chosen[pairs.answered]
                    pairs = self._pairs(chosen, folder)
            if not len(chosen):
                return tuple(
                    Finding(
                        kind=item.kind, settings=item.settings(), data={}, declined="No sample has a finite answer."
                    )
                    for item in self.spec.analyses
                )
            made = f"{attack.display_title()} with all its steps on every sample, {threat}, {self.spec.goal}"
            subject = Subject(
                fixed_draw(self.classifier), pairs, self.dataset, self.ids[chosen], threat, self.spec.attacks_for(threat), made,
                self.spec.seed, self.batch_size, folder, self.progress,
            )  # fmt: skip
            findings = []
            with self._one_draw():
                for analysis in self.spec.analyses:
                    with self.progress.stage(analysis):
                        findings.append(measured(analysis, subject))
        self.flags += one_draw(self.classifier)
        return tuple(findings)

    def _one_draw(self) -> AbstractContextManager[None]:
        """For a network that draws random numbers outside a pass that seeds them: these also follow from the seed."""
        if not self.classifier.random:
            return nullcontext()
        return seeded(derive_seed(self.spec.seed, "analyses"), self.classifier.device)

    def _pairs(self, chosen: NDArray[np.int64], folder: Path) -> StoredPairs:
        return make_pairs(
            self.classifier,
            self.spec.analysis_attack,
            self.spec.threats[0],
            self.dataset,
            self.ids[chosen],
            self.criterion[torch.from_numpy(chosen)].to(self.classifier.device),
            folder,
            seed=self.spec.seed,
            batch_size=self.batch_size,
            on_progress=self.progress,
        )

    def _table(self, clean: CleanPass) -> SampleTable:
        names = [self.dataset.sample_name(int(sample)) for sample in self.ids]
        return SampleTable(
            ids=self.ids.tolist(),
            names=names if self.dataset.sample_names is not None else None,
            labels=self.labels.tolist(),
            predictions=clean.prediction.tolist(),
            confidence=clean.confidence.tolist(),
            right=None if clean.right is None else clean.right.tolist(),
            chosen=None if clean.chosen is None else clean.chosen.tolist(),
            groups=self.dataset.groups,
            group_of=None if self.dataset.group_of is None else self.dataset.group_of[self.ids].tolist(),
        )

    def _provenance(
        self,
        started: datetime,
        seconds: float,
        model_sha256: str,
        architecture: Mapping[str, Any] | None,
        trained_on: tuple[str, ...],
    ) -> AuditProvenance:
        model, data = self.classifier, self.dataset
        return AuditProvenance(
            model=ModelFacts(
                name=model.name,
                sha256=model_sha256,
                architecture=dict(architecture) if architecture is not None else None,
                normalization=model.normalization.model_dump(mode="json"),
                input_shape=model.input_shape,
                num_classes=model.num_classes,
                parameters=count_parameters(model),
                class_names=model.class_names,
                trained_on=trained_on,
                notes=(*model.notes, *self.said),
            ),
            dataset=DatasetFacts(
                name=data.name,
                sha256=data.sha256,
                samples=len(data),
                shape=data.shape,
                class_names=data.class_names,
                notes=data.notes,
            ),
            classes=self.classes,
            versions=versions() | packages_of(self.foreign),
            revision=revision(),
            device=device_name(model.device),
            threads=torch.get_num_threads(),
            batch_size=self.batch_size,
            started=started.isoformat(timespec="seconds"),
            seconds=seconds,
        )


def _into(keepers: list[Callable[[Finished], None]], positions: NDArray[np.int64]) -> Callable[[Finished], None]:
    """The attack counts its own samples from 0; who keeps images wants their places in the sample table."""

    def hand(finished: Finished) -> None:
        placed = finished._replace(position=positions[finished.position])
        for keep in keepers:
            keep(placed)

    return hand
