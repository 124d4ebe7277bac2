"""Job: a kind of work that the queue can carry; its fields are its request, ``run`` does it in the runner process."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from auditor.kit.capability import Capability, Catalog
from auditor.kit.progress import OnProgress
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from auditor.models.own_code import OwnCode
from worker.blobs import BlobStore
from worker.defenses import NewDefense
from worker.lineage import ChildModel
from worker.loading import load_classifier, load_dataset
from worker.models import ModelRow
from worker.queues import CPU
from worker.registry import Registry


class Output(NamedTuple):
    """What a job made: the bytes of its result, a few numbers for lists, the files of ``Context.folder`` to keep, and a model or
    a fitted defense.

    ``state``: "cancelled" or "failed" where the job was stopped, or broke, and yet leaves a result; ``error`` and ``hint`` then
    say why.
    """

    content: bytes
    summary: dict[str, Any]
    files: tuple[Path, ...] = ()
    child: ChildModel | None = None
    defense: NewDefense | None = None
    state: Literal["succeeded", "cancelled", "failed"] = "succeeded"
    error: str = ""
    hint: str = ""


class Live:
    """The channel between a running job and its row. This one has no row: nobody watches or asks to stop."""

    def stop(self) -> str:
        """Why the job is to stop now and keep what it has; empty to go on. Asked often: it seldom looks."""
        return ""

    def point(self, number: int, content: dict[str, Any], *, keep: bool) -> None:
        """Something was measured at this step. ``keep``: it is left out last when there are too many."""

    def checkpoint(self, number: int) -> None:
        """From here the job would go on, were it killed now: a number that grows."""

    def resumed(self) -> None:
        """The job goes on from here; all that it told before this attempt is void, and what still holds has come again."""


class Context(NamedTuple):
    """What a job may use. ``folder``: an empty one for its files; it is gone when the job's attempt ends.

    ``workspace``: one for checkpoints, which the next attempt of the same job gets with all that is in it; it is gone when
    the job has ended in any way.
    """

    registry: Registry
    blobs: BlobStore
    on_progress: OnProgress
    folder: Path
    workspace: Path
    live: Live = Live()

    def classifier(self, model_id: str) -> Classifier:
        return load_classifier(self.registry.model(model_id), self.blobs)

    def dataset(self, dataset_id: str) -> ImageDataset:
        return load_dataset(self.registry.dataset(dataset_id), self.blobs)


class Job(Capability):
    """A kind of job. One subclass per file in ``worker.jobs``. The whole request is in its fields."""

    noun: ClassVar[str]
    runs_code: ClassVar[bool] = False
    """Whether it is run for models of their owner's code: in the sandbox (``worker.owned``), which needs ``adopted``."""

    grace: ClassVar[float] = 0.0
    """Seconds in which a job that is asked to stop (``Live.stop``) ends by itself with what it has; 0: it is just stopped."""

    model_id: str = Field(min_length=1, description="The model.")
    dataset_id: str | None = Field(None, description="The data set.")

    @property
    def queue(self) -> str:
        """Which workers may take it; a job that is done within a minute or so is SHORT and waits behind no long one."""
        return CPU

    @property
    def evaluates(self) -> str | None:
        """The id of the stored defense that it evaluates, if it does."""
        return None

    @abstractmethod
    def run(self, context: Context) -> Output:
        """Do the work. An AuditorError ends the job with its message; another exception counts as our bug."""

    def adopted(self, content: bytes, model: ModelRow, code: OwnCode) -> Output:
        """What ``run`` made in the sandbox, together with its owner's code: checked, and with a flag that says so. The model's
        facts are set anew, since the code may have changed them. Raises AuditorError for an unusable result.
        """
        raise NotImplementedError


JOBS: Catalog[Job] = Catalog("worker.jobs", Job)
