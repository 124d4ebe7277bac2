"""Audits: vetting and auditing models, and their results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from auditor.auditing.examples import Examples, shard_prefix
from auditor.auditing.plan import plan
from auditor.auditing.result import AuditResult
from auditor.auditing.spec import AuditSpec
from auditor.auditing.vet import ClassifierCard
from auditor.kit.errors import NotFoundError
from auditor.models.class_match import AUTOMATIC, Sides
from auditor.models.hand_match import HandMatch
from auditor.report.html import render
from worker.job import JOBS
from worker.ledger import HOPEFUL, Which
from worker.loading import check_compatible, class_sides, left_out, load_dataset
from worker.service.backend import Backend, ClientPart
from worker.service.jobs import Jobs
from worker.service.library import Library
from worker.views import CostEstimate, JobView, shape_of

if TYPE_CHECKING:
    from auditor.models.dataset import ImageDataset


class Audits(ClientPart):
    """Vetting and auditing models, and their results."""

    def __init__(self, backend: Backend, library: Library, jobs: Jobs) -> None:
        super().__init__(backend)
        self.library, self.jobs = library, jobs

    def queue(self, model: str, dataset: str, spec: AuditSpec) -> str:
        """Queue an audit; returns the job's id. Raises MismatchError when model and data cannot fit, SpecError when a corruption
        and the data cannot, or for an epsilon beyond all images."""
        model_row, dataset_row = self.library.model(model), self.library.dataset(dataset)
        check_compatible(model_row, dataset_row, spec.match)
        spec.goal.placed(model_row.class_names or dataset_row.manifest["class_names"])
        for threat in spec.threats:
            threat.check(shape_of(dataset_row))
        for corruption in spec.corruptions:
            corruption.check(dataset_row.manifest["shape"][0])
        job = JOBS.build("audit", {"model_id": model_row.id, "dataset_id": dataset_row.id, "audit": spec})
        return self.jobs.submit(job, f"{model_row.name} on {dataset_row.name}")

    def estimate(self, model: str, dataset: str, spec: AuditSpec) -> CostEstimate:
        """What an audit would cost at most, before it runs."""
        model_row, dataset_row = self.library.model(model), self.library.dataset(dataset)
        for threat in spec.threats:
            threat.check(shape_of(dataset_row))
        total = int(dataset_row.manifest["samples"]) - left_out(class_sides(model_row, dataset_row), spec.match)
        samples = min(total, spec.samples or total)
        card = self._card(model_row.id)
        random = card is not None and card.random
        passes = sum(plan(spec, samples, shape_of(dataset_row), random=random).values())
        speed = None if card is None else card.forward_seconds
        return CostEstimate.at(speed, samples, passes)

    def class_sides(self, model: str, dataset: str) -> Sides:
        """The classes of a model and of a data set, to show and edit their match."""
        return class_sides(self.library.model(model), self.library.dataset(dataset))

    def vet(self, model: str, dataset: str | None = None, match: HandMatch = AUTOMATIC) -> str:
        """Queue a vetting; returns the job's id. ``match``: classes matched by hand, as in an audit. Raises MismatchError when
        model and data cannot fit."""
        model_row = self.library.model(model)
        dataset_row = self.library.dataset(dataset) if dataset is not None else None
        if dataset_row is not None:
            check_compatible(model_row, dataset_row, match)
        data = dataset_row.id if dataset_row is not None else None
        job = JOBS.build("vet", {"model_id": model_row.id, "dataset_id": data, "match": dict(match)})
        return self.jobs.submit(
            job, f"{model_row.name}" + (f" on {dataset_row.name}" if dataset_row is not None else "")
        )

    def result(self, key: str) -> AuditResult:
        """Raises NotFoundError when the job is no audit or has no result (yet)."""
        return AuditResult.load(self.backend.content(key, "audit"))

    def card(self, key: str) -> ClassifierCard:
        """Raises NotFoundError when the job is no vetting or has no result (yet)."""
        return ClassifierCard.load(self.backend.content(key, "vet"))

    def report(self, key: str) -> str:
        """The report of an audit, as HTML."""
        return render(self.result(key), title=self.jobs.get(key).title)

    def examples(self, key: str, record: int) -> Examples:
        """The adversarial images that an audit kept of one of its attacks (its place in the result's records).

        Raises NotFoundError if there are none.
        """
        result = self.result(key)
        if not 0 <= record < len(result.records):
            raise NotFoundError(f"The audit has no attack {record}.")
        files = self.ledger.result_files(self.backend.job_row(key).id)
        mine = {name: sha256 for name, sha256 in files.items() if name.startswith(shard_prefix(record))}
        return Examples(result, record, {name: self.blobs.path(sha256) for name, sha256 in mine.items()})

    def export_examples(self, key: str, record: int, file: Path) -> int:
        """Write those images as one .npz (see ``auditor.auditing.examples``); returns how many. Raises NotFoundError for none."""
        examples = self.examples(key, record)
        if not len(examples.positions):
            raise NotFoundError(
                f"No adversarial images of {examples.record.attack.display_title()} were kept.",
                "Run the audit with a larger number of examples.",
            )
        examples.export(self.data(key), file)
        return len(examples.positions)

    def data(self, key: str) -> ImageDataset:
        """The data set of an audit."""
        return load_dataset(self.library.dataset(str(self.backend.job_row(key).dataset_id)), self.blobs)

    def latest_vet(self, model_id: str) -> JobView | None:
        """The newest vetting of a model that has not been cancelled."""
        kept = ("queued", "running", "succeeded", "failed")
        return next(iter(self.jobs.find(kind="vet", model_id=model_id, states=kept, limit=1)), None)

    def speed(self, model_id: str) -> float | None:
        """Seconds of one forward pass over one image, as the newest vetting measured it."""
        card = self._card(model_id)
        return None if card is None else card.forward_seconds

    def _card(self, model_id: str) -> ClassifierCard | None:
        """What the newest vetting saw; without one, its parent's."""
        for one in (model_id, *(step.parent_id for step in self.lineages.ancestors(model_id))):
            view = self.latest_vet(one)
            if view is not None and view.state == "succeeded":
                return self.card(view.id)
        return None

    def queue_both(self, child: str, dataset: str, spec: AuditSpec) -> tuple[str, str]:
        """Queue the same audit, on the same samples, of a trained model and of its parent; returns the ids of the parent's and
        the child's job. One that is there already, under way or done, is taken. Raises NotFoundError for a model without parent.
        """
        row = self.library.model(child)
        steps = self.lineages.ancestors(row.id)
        if not steps:
            raise NotFoundError(f"{row.name} was added, not trained here: it has no parent.", "Audit it by itself.")
        first, second = (self._audit_once(model_id, dataset, spec) for model_id in (steps[0].parent_id, row.id))
        return first, second

    def paired(self, child: str) -> tuple[JobView, JobView] | None:
        """The newest audits of a model's parent and of itself that ask for the same, under way or done; None if there
        are none."""
        row = self.library.model(child)
        steps = self.lineages.ancestors(row.id)
        if not steps:
            return None
        theirs, mine = (
            self.ledger.list(Which(kind="audit", model_id=model_id, states=HOPEFUL))
            for model_id in (steps[0].parent_id, row.id)
        )
        for one, _ in mine:
            for other, _ in theirs:
                if (one.dataset_id, one.spec["audit"]) == (other.dataset_id, other.spec["audit"]):
                    return self.jobs.get(other.id), self.jobs.get(one.id)
        return None

    def _audit_once(self, model: str, dataset: str, spec: AuditSpec) -> str:
        data, wanted = self.library.dataset(dataset).id, spec.model_dump(mode="json")
        same = Which(kind="audit", model_id=model, dataset_id=data, states=HOPEFUL)
        for job, _ in self.ledger.list(same):
            if job.spec["audit"] == wanted:
                return job.id
        return self.queue(model, dataset, spec)
