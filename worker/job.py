"""Job: a kind of work that the queue can carry; its fields are its request, ``run`` does it in the runner process."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from pydantic import Field

from auditor.capability import Capability, Catalog
from auditor.classifier import Classifier
from auditor.dataset import ImageDataset
from auditor.progress import OnProgress
from worker.blobs import BlobStore
from worker.loading import load_classifier, load_dataset
from worker.registry import Registry


class Output(NamedTuple):
    """What a job made: the bytes of its result, a few numbers for lists, and the files of ``Context.folder`` to keep."""

    content: bytes
    summary: dict[str, Any]
    files: tuple[Path, ...] = ()


class Context(NamedTuple):
    """What a job may use. ``folder``: an empty one for its files; it is gone when the job ends."""

    registry: Registry
    blobs: BlobStore
    on_progress: OnProgress
    folder: Path

    def classifier(self, model_id: str) -> Classifier:
        return load_classifier(self.registry.model(model_id), self.blobs)

    def dataset(self, dataset_id: str) -> ImageDataset:
        return load_dataset(self.registry.dataset(dataset_id), self.blobs)


class Job(Capability):
    """A kind of job. One subclass per file in ``worker.jobs``. The whole request is in its fields."""

    noun: ClassVar[str]
    model_id: str = Field(min_length=1, description="The model.")
    dataset_id: str | None = Field(None, description="The data set.")

    @property
    def queue(self) -> str:
        """Which workers may take it: "cpu" (all of them) or "gpu"."""
        return "cpu"

    @abstractmethod
    def run(self, context: Context) -> Output:
        """Do the work. An AuditorError ends the job with its message; another exception counts as our bug."""


JOBS: Catalog[Job] = Catalog("worker.jobs", Job)
