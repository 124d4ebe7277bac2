"""Client: all that the dashboard and the command line may ask for. They hold no SQL and no queue of their own."""

from __future__ import annotations

from auditor.audit_spec import AuditSpec
from auditor.errors import NotFoundError
from auditor.hardening import HARDENINGS
from auditor.learning.plan import training_cost
from auditor.training_result import Point, TrainingResult
from auditor.training_spec import TrainingSpec
from worker.defense_service import DefenseService, EvaluationView
from worker.defenses import DefenseView
from worker.job import JOBS
from worker.ledger import ENDED, HOPEFUL, Which
from worker.lineage import Relative
from worker.loading import check_fit
from worker.models import ModelRow
from worker.registry import usable
from worker.views import Estimate, JobView, shape_of, summary_of

__all__ = ["ENDED", "HOPEFUL", "Client", "DefenseView", "Estimate", "EvaluationView", "JobView"]


class Client(DefenseService):
    """The service with trainings: queueing them, what came of them, and the models that they made."""

    def harden(self, model: str, dataset: str, spec: TrainingSpec, name: str = "") -> str:
        """Queue a training of a child of this model; returns the job's id. Raises MismatchError when model and data cannot fit,
        SpecError for a name that is none and for an epsilon beyond all images.

        ``name``: the child's, where it is free; by default made of parent and method.
        """
        model_row, dataset_row = self.model(model), self.dataset(dataset)
        check_fit(model_row, dataset_row)
        spec.check(shape_of(dataset_row))
        values = {
            "model_id": model_row.id,
            "dataset_id": dataset_row.id,
            "name": usable(name) if name.strip() else "",
            "training": spec,
        }
        return self.submit(JOBS.build("harden", values), f"{spec.hardening.display_title()}: {model_row.name}")

    def training_estimate(self, model: str, dataset: str, spec: TrainingSpec) -> Estimate:
        """What a training would cost at most, but for what its method prepares."""
        dataset_row = self.dataset(dataset)
        spec.check(shape_of(dataset_row))
        samples = int(dataset_row.manifest["samples"])
        passes = training_cost(spec, samples)
        speed = self._speed(self.model(model).id)
        return Estimate.at(speed, samples, passes)

    def audit_both(self, child: str, dataset: str, spec: AuditSpec) -> tuple[str, str]:
        """Queue the same audit, on the same samples, of a trained model and of its parent; returns the ids of the parent's and
        the child's job. One that is there already, under way or done, is taken. Raises NotFoundError for a model without parent.
        """
        row = self.model(child)
        steps = self.lineages.ancestors(row.id)
        if not steps:
            raise NotFoundError(f"{row.name} was added, not trained here: it has no parent.", "Audit it by itself.")
        first, second = (self._audit_once(model_id, dataset, spec) for model_id in (steps[0].parent_id, row.id))
        return first, second

    def paired_audits(self, child: str) -> tuple[JobView, JobView] | None:
        """The newest audits of a model's parent and of itself that ask for the same, under way or done; None without such."""
        row = self.model(child)
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
                    return self.job(other.id), self.job(one.id)
        return None

    def _audit_once(self, model: str, dataset: str, spec: AuditSpec) -> str:
        data, wanted = self.dataset(dataset).id, spec.model_dump(mode="json")
        same = Which(kind="audit", model_id=model, dataset_id=data, states=HOPEFUL)
        for job, _ in self.ledger.list(same):
            if job.spec["audit"] == wanted:
                return job.id
        return self.audit(model, dataset, spec)

    def training_result(self, key: str) -> TrainingResult:
        """Raises NotFoundError when the job is no hardening or has no result (yet); a cancelled one may have one."""
        return TrainingResult.model_validate_json(self._content(key, "harden"))

    def points(self, key: str, after: int = -1) -> list[tuple[int, Point]]:
        """The points of a training's curves, by number, in order; all of them when it has its result, a thinned choice before.

        ``after``: later ones only.
        """
        job_id = self._job_row(key).id
        if self.ledger.result(job_id) is not None:
            return list(enumerate(self.training_result(job_id).points))[after + 1 :]
        return [(number, Point.model_validate(content)) for number, content in self.ledger.points(job_id, after)]

    def child(self, key: str) -> ModelRow | None:
        """The model that a hardening made; None where there is none (any more)."""
        return self.lineages.made_by(self._job_row(key).id)

    def lineage(self, model: str) -> list[Relative]:
        """Everybody in a model's tree, from the root on, each before its children."""
        rows = {row.id: row for row in self.models()}
        origins = self.lineages.origins()
        found = []
        for model_id, depth in self.lineages.family(self.model(model).id):
            origin, method = origins.get(model_id), ""
            if origin is not None and (job := self.ledger.get(origin.job_id)) is not None:
                method = HARDENINGS[job.spec["training"]["hardening"]["kind"]].display_title()
            audits = self.ledger.list(Which(kind="audit", model_id=model_id, states=("succeeded",)), limit=1)
            done = next(((job.id, summary_of(job, summary)) for job, summary in audits), ("", {}))
            parent_id, job_id = (origin.parent_id, origin.job_id) if origin is not None else ("", "")
            found.append(Relative(rows[model_id], depth, parent_id, job_id, method, *done))
        return found
