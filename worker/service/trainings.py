"""Trainings: hardening models: queueing, live curves, results, and the models that were made."""

from __future__ import annotations

from auditor.hardening.learning.plan import training_cost
from auditor.hardening.result import TrainingPoint, TrainingResult
from auditor.hardening.spec import TrainingSpec
from worker.job import JOBS
from worker.loading import check_compatible, class_sides, left_out
from worker.models import ModelRow
from worker.registry import usable_name
from worker.service.audits import Audits
from worker.service.backend import Backend, ClientPart
from worker.service.jobs import Jobs
from worker.service.library import Library
from worker.views import CostEstimate, shape_of


class Trainings(ClientPart):
    """Hardening models: queueing, live curves, results, and the models that were made."""

    def __init__(self, backend: Backend, library: Library, jobs: Jobs, audits: Audits) -> None:
        super().__init__(backend)
        self.library, self.jobs, self.audits = library, jobs, audits

    def queue(self, model: str, dataset: str, spec: TrainingSpec, name: str = "") -> str:
        """Queue a training of a child of this model; returns the job's id. Raises MismatchError when model and data cannot fit,
        SpecError for an unusable name and for an epsilon beyond all images.

        ``name``: the child's, where it is free; by default made of parent and method.
        """
        model_row, dataset_row = self.library.model(model), self.library.dataset(dataset)
        check_compatible(model_row, dataset_row, spec.match)
        spec.check(shape_of(dataset_row))
        values = {
            "model_id": model_row.id,
            "dataset_id": dataset_row.id,
            "name": usable_name(name) if name.strip() else "",
            "training": spec,
        }
        return self.jobs.submit(JOBS.build("harden", values), f"{spec.hardening.display_title()}: {model_row.name}")

    def estimate(self, model: str, dataset: str, spec: TrainingSpec) -> CostEstimate:
        """What a training would cost at most, but for what its method prepares."""
        model_row, dataset_row = self.library.model(model), self.library.dataset(dataset)
        spec.check(shape_of(dataset_row))
        samples = int(dataset_row.manifest["samples"]) - left_out(class_sides(model_row, dataset_row), spec.match)
        passes = training_cost(spec, samples)
        speed = self.audits.speed(model_row.id)
        return CostEstimate.at(speed, samples, passes)

    def result(self, key: str) -> TrainingResult:
        """Raises NotFoundError when the job is no hardening or has no result (yet); a cancelled one may have one."""
        return TrainingResult.load(self.backend.content(key, "harden"))

    def points(self, key: str, after: int = -1) -> list[tuple[int, TrainingPoint]]:
        """The points of a training's curves, by number, in order; all of them when it has its result, a thinned choice before.

        ``after``: later ones only.
        """
        job_id = self.backend.job_row(key).id
        if self.ledger.result(job_id) is not None:
            return list(enumerate(self.result(job_id).points))[after + 1 :]
        return [
            (number, TrainingPoint.model_validate(content)) for number, content in self.ledger.points(job_id, after)
        ]

    def child(self, key: str) -> ModelRow | None:
        """The model that a hardening made; None if there is none (any more)."""
        return self.lineages.made_by(self.backend.job_row(key).id)
