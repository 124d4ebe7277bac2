"""The job behind the playground."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from auditor.defending.playground import PlaySpec, as_bytes, play
from auditor.kit.device import pick_device
from worker.defending import load_defended
from worker.defenses import Defenses
from worker.job import Context, Job, Output
from worker.queues import SHORT


class PlayJob(Job):
    """One image clean, attacked, defended, and attacked through a stored defense. It does not keep the defense from going."""

    title: ClassVar[str] = "Playground"
    noun: ClassVar[str] = "run of the playground"
    kind: Literal["play"] = "play"
    dataset_id: str = Field(min_length=1, description="The data set that the image is from.")
    defense_id: str = Field(min_length=1, description="The stored defense.")
    sample: int = Field(ge=0, description="Which image.")
    play: PlaySpec = Field(default_factory=PlaySpec, description="What is done to it.")

    @property
    def queue(self) -> str:
        return SHORT

    def run(self, context: Context) -> Output:
        row = Defenses(context.registry.database).get(self.defense_id)
        model = load_defended(row, context.blobs, context.registry).defended.to(pick_device("auto"))
        played = play(model, context.dataset(self.dataset_id), self.sample, self.play, context.on_progress)
        return Output(as_bytes(played), {"defense": row.name, "sample": self.sample})
