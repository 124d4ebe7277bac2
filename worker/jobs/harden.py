"""The hardening job."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from auditor.hardening.learning.checkpoint import BEST
from auditor.hardening.result import TrainingPoint, TrainingResult
from auditor.hardening.spec import TrainingSpec
from auditor.hardening.training import train
from auditor.kit.errors import TrainingError
from auditor.models.architecture import Architecture
from worker.job import Context, Job, Live, Output
from worker.lineage import ChildModel
from worker.loading import architecture_of
from worker.queues import CPU, GPU


class HardenJob(Job):
    """Train a model for robustness; what comes out is a new model, its child."""

    title: ClassVar[str] = "Harden"
    noun: ClassVar[str] = "hardening"
    grace: ClassVar[float] = 60.0
    kind: Literal["harden"] = "harden"
    dataset_id: str = Field(min_length=1, description="The data set to train on.")
    name: str = Field("", max_length=180, description="Name of the child; by default the parent's name and the method.")
    training: TrainingSpec = Field(default_factory=TrainingSpec, description="How to train.")

    @property
    def queue(self) -> str:
        return GPU if self.training.device == "cuda" else CPU

    def run(self, context: Context) -> Output:
        relay = _Relay(context.live)
        try:
            result = train(
                self.training,
                context.classifier(self.model_id),
                context.dataset(self.dataset_id),
                folder=context.workspace,
                on_progress=context.on_progress,
                on_point=relay.point,
                on_checkpoint=context.live.checkpoint,
                stop=relay.stop,
            )
        except TrainingError as error:
            if error.result is None:
                raise
            kept = " The best weights so far are kept." if error.result.best.epoch else ""
            return self._output(context, error.result)._replace(
                state="failed", error=error.message, hint=f"{error.hint}{kept}".strip()
            )
        output = self._output(context, result)
        if result.stopped != "cancelled":
            return output
        kept = "it kept its best weights" if result.best.epoch else "no epoch was completed, so nothing is kept"
        why = "" if relay.why == "cancelled" else f"The training came to its {relay.why}; {kept}."
        return output._replace(state="cancelled", error=why)

    def _output(self, context: Context, result: TrainingResult) -> Output:
        child = self._child(context, result) if result.best.epoch else None
        return Output(result.model_dump_json().encode(), summarize(result), child=child)

    def _child(self, context: Context, result: TrainingResult) -> ChildModel:
        """The kept weights as a model, its file stored."""
        parent = context.registry.model(self.model_id)
        architecture = self.training.hardening.child(architecture_of(parent))
        # A copy, since the workspace is whole until the job's row has its end.
        weights = context.folder / "child.safetensors"
        shutil.copyfile(context.workspace / BEST, weights)
        method = self.training.hardening.display_title()
        return ChildModel(
            parent_id=parent.id,
            name=self.name or f"{parent.name}, {method}",
            architecture=architecture.model_dump(mode="json"),
            normalization=parent.normalization,
            class_names=parent.class_names,
            weights=context.blobs.take(weights),
            manifest={
                "parameters": _parameters(architecture),
                "notes": _notes(result, parent.name, context.registry.dataset(self.dataset_id).name),
                **({"output": parent.manifest["output"]} if parent.manifest.get("output") else {}),
            },
        )


class _Relay:
    """Hands points on as a job's, and notes when the first step begins and why the last one was."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._count = 0
        self._begun = False
        self.why = ""

    def point(self, point: TrainingPoint) -> None:
        content = point.model_dump(mode="json")
        self._live.point(self._count, content, keep=point.clean is not None)
        self._count += 1

    def stop(self) -> bool:
        if not self._begun:
            self._begun = True
            self._live.resumed()
        self.why = self._live.stop()
        return bool(self.why)


def summarize(result: TrainingResult) -> dict[str, Any]:
    """The numbers that a list of trainings shows."""
    best = result.best
    return {
        "method": result.spec.hardening.describe(),
        "stopped": result.stopped,
        "epochs": result.epochs,
        "best_epoch": best.epoch,
        "clean": best.clean.model_dump() if best.clean is not None else None,
        "robust": best.robust.model_dump() if best.robust is not None else None,
        "threat": str(result.spec.threat),
        "flags": [flag.severity for flag in result.flags],
        "seconds": result.provenance.seconds,
    }


def _notes(result: TrainingResult, parent: str, dataset: str) -> Sequence[str]:
    """What a reader of the model's card should know."""
    begin = "new weights in the shape of" if result.spec.from_scratch else ""
    made = (
        f"Trained here from {begin} {parent}".replace("  ", " ")
        + f" on {dataset} with {result.spec.hardening.display_title()}; the weights of epoch {result.best.epoch}."
    )
    ends = {
        "cancelled": f"The training was cancelled after {result.epochs:.3g} epochs.",
        "diverged": f"The training stopped after {result.epochs:.3g} epochs: its loss became NaN or infinite.",
    }
    return [made, *filter(None, [ends.get(result.stopped)])]


def _parameters(architecture: Architecture) -> int:
    import torch

    with torch.device("meta"):
        return sum(parameter.numel() for parameter in architecture.build().parameters())
