"""The job that evaluates a stored defense."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from auditor.defending.evaluation import DefenseEvaluation, EvaluationSpec, evaluate_defense
from worker.defending import fitted_defense
from worker.defenses import Defenses
from worker.job import Context, Job, Output
from worker.lineage import ModelLineage
from worker.queues import CPU, GPU


class EvaluateDefenseJob(Job):
    """Attack a stored defense with attacks that know it, and its controls; resumes after the last complete table."""

    title: ClassVar[str] = "Evaluate a defense"
    noun: ClassVar[str] = "evaluation of a defense"
    kind: Literal["evaluate-defense"] = "evaluate-defense"
    dataset_id: str = Field(min_length=1, description="The data set to evaluate on; not the one that it was fitted on.")
    defense_id: str = Field(min_length=1, description="The stored defense.")
    study: EvaluationSpec = Field(default_factory=EvaluationSpec, description="What to run.")

    @property
    def queue(self) -> str:
        return GPU if self.study.device == "cuda" else CPU

    @property
    def evaluates(self) -> str | None:
        return self.defense_id

    def run(self, context: Context) -> Output:
        row = context.registry.model(self.model_id)
        defense = Defenses(context.registry.database).get(self.defense_id)
        result = evaluate_defense(
            self.study,
            context.classifier(self.model_id),
            fitted_defense(defense, context.blobs, context.registry),
            context.dataset(self.dataset_id),
            folder=context.workspace,
            on_progress=context.on_progress,
            on_checkpoint=context.live.checkpoint,
            on_resumed=context.live.resumed,
            weights=row.weights,
            trained_on=ModelLineage(context.registry.database).trained_on(row.id),
        )
        return Output(result.model_dump_json().encode(), summarize(result))


def summarize(result: DefenseEvaluation) -> dict[str, Any]:
    """The numbers that a list of evaluations shows. ``undefended``: the lowest accuracy of the model by itself."""
    own = result.table
    lowest = min((row.accuracy for row in own.undefended), key=lambda rate: rate.value or 0.0)
    return {
        "defense": result.title,
        "samples": len(own.samples),
        "threat": str(own.threat),
        "benign": own.benign.model_dump(),
        "benign_undefended": own.benign_undefended.model_dump(),
        "headline": own.headline.accuracy.model_dump(),
        "headline_attack": own.headline.name,
        "undefended": lowest.model_dump(),
        "controls": [
            {"title": control.title, **control.table.headline.accuracy.model_dump()} for control in result.controls
        ],
        "sweeps": [sweep.parameter for sweep in result.sweeps],
        "flags": [flag.severity for flag in result.all_flags],
        "seconds": result.provenance.seconds,
    }
