"""Client: all that the dashboard and the command line may ask for. They hold no SQL and no queue of their own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from auditor.architecture import Architecture
from auditor.audit_spec import AuditSpec
from auditor.classifier import Normalization
from auditor.errors import MismatchError, NotFoundError
from auditor.examples import Examples, shard_prefix
from auditor.hardening import HARDENINGS
from auditor.intake.upload import Upload, take_upload
from auditor.learning.plan import training_cost
from auditor.plan import plan
from auditor.report.blocks import Image
from auditor.report.html import render
from auditor.report.pictures import picture
from auditor.result import AuditResult
from auditor.training_result import Point, TrainingResult
from auditor.training_spec import TrainingSpec
from auditor.vet import ClassifierCard
from worker.blobs import BlobStore
from worker.db import connect, upgrade
from worker.job import JOBS, Job
from worker.keeper import Keeper, living_workers
from worker.ledger import Ledger
from worker.lineage import Lineage, Relative
from worker.loading import architecture_of, load_dataset
from worker.models import DatasetRow, JobRow, ModelRow, WorkerRow
from worker.reading import read_dataset, read_model
from worker.registry import Registry
from worker.settings import Settings, load_settings
from worker.views import Estimate, JobView, check_fit, view_of

if TYPE_CHECKING:
    from celery import Celery

    from auditor.dataset import ImageDataset
    from auditor.intake.datasets import ImageSize


class Client:
    """The service layer, on one database, one folder of files and one broker."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or load_settings()
        self.database = connect(self.settings)
        self.ledger = Ledger(self.database)
        self.registry = Registry(self.database)
        self.lineages = Lineage(self.database)
        self.blobs = BlobStore(self.settings.blobs)

    @cached_property
    def _celery(self) -> Celery:
        from worker.celery import make_app

        return make_app(self.settings)

    def prepare(self) -> None:
        """Make or upgrade the tables and folders."""
        upgrade(self.settings)
        self.settings.inbox.mkdir(parents=True, exist_ok=True)

    def keeper(self) -> Keeper:
        """Housekeeping for a process that runs no jobs."""
        return Keeper(self.settings, self.ledger, self._publish)

    # -- models and data sets ------------------------------------------------------------------------------------

    def receive(self, stream: BinaryIO, folder: Path) -> Upload:
        """Stream an upload into ``folder`` while hashing it. Raises IntakeError over the limit."""
        return take_upload(stream, folder, limit=self.settings.upload_limit)

    def add_model(
        self,
        stream: BinaryIO,
        filename: str,
        *,
        name: str,
        architecture: Architecture,
        normalization: Normalization,
        class_names: Sequence[str] | None = None,
    ) -> ModelRow:
        """Check and keep a model. Raises IntakeError, SpecError or MismatchError; then nothing is kept."""
        normalization = normalization.for_channels(architecture.channels)
        if class_names is not None and len(class_names) != architecture.num_classes:
            raise MismatchError(
                f"The model has {architecture.num_classes} classes, but {len(class_names)} names were given."
            )
        with self.blobs.staging() as folder:
            upload = self.receive(stream, folder)
            stored = folder / "weights.safetensors"
            manifest = read_model(upload.path, filename, architecture, stored, self.settings)
            return self.registry.add_model(
                name,
                architecture=architecture.model_dump(mode="json"),
                normalization=normalization.model_dump(mode="json"),
                class_names=list(class_names) if class_names is not None else None,
                weights=self.blobs.take(stored),
                manifest=manifest,
            )

    def add_dataset(self, stream: BinaryIO, filename: str, *, name: str, size: ImageSize | None = None) -> DatasetRow:
        """Check and keep a data set. Raises IntakeError or SpecError; then nothing is kept."""
        with self.blobs.staging() as folder:
            upload = self.receive(stream, folder)
            stored = folder / "dataset.safetensors"
            manifest = read_dataset(upload.path, filename, size, stored, self.settings)
            return self.registry.add_dataset(name, content=self.blobs.take(stored), manifest=manifest)

    def models(self) -> Sequence[ModelRow]:
        return self.registry.models()

    def datasets(self) -> Sequence[DatasetRow]:
        return self.registry.datasets()

    def fitting(self, model: str) -> list[DatasetRow]:
        """The data sets whose images a model takes."""
        shape = architecture_of(self.model(model)).input_shape
        return [row for row in self.datasets() if tuple(row.manifest["shape"]) == shape]

    def model(self, key: str) -> ModelRow:
        return self.registry.model(key)

    def dataset(self, key: str) -> DatasetRow:
        return self.registry.dataset(key)

    def preview(self, dataset: str, count: int = 8) -> list[Image]:
        """The first images of a data set, as pictures with their class."""
        data = load_dataset(self.dataset(dataset), self.blobs)
        ids = range(min(count, len(data)))
        names = data.class_names or [f"class {index}" for index in range(data.num_classes)]
        labels = [names[data.labels[sample]] for sample in ids]
        return [
            picture(x, label, f"image {sample}")
            for sample, x, label in zip(ids, data.images(list(ids)), labels, strict=True)
        ]

    def inbox(self) -> list[str]:
        """Names of the files that an operator put into the inbox folder."""
        if not self.settings.inbox.is_dir():
            return []
        return sorted(path.name for path in self.settings.inbox.iterdir() if path.is_file() and not path.is_symlink())

    def open_inbox(self, name: str) -> BinaryIO:
        """A file of the inbox, by a name that ``inbox`` lists. Raises NotFoundError."""
        if name not in self.inbox():
            raise NotFoundError(f"There is no file {name!r} in the inbox.")
        return (self.settings.inbox / name).open("rb")

    # -- jobs ----------------------------------------------------------------------------------------------------

    def audit(self, model: str, dataset: str, spec: AuditSpec) -> str:
        """Queue an audit; returns the job's id. Raises MismatchError when model and data cannot fit, SpecError when a corruption
        and the data cannot."""
        model_row, dataset_row = self.model(model), self.dataset(dataset)
        check_fit(architecture_of(model_row), dataset_row)
        for corruption in spec.corruptions:
            corruption.check(dataset_row.manifest["shape"][0])
        job = JOBS.build("audit", {"model_id": model_row.id, "dataset_id": dataset_row.id, "audit": spec})
        return self.submit(job, f"{model_row.name} on {dataset_row.name}")

    def estimate(self, model: str, dataset: str, spec: AuditSpec) -> Estimate:
        """What an audit would cost at most, before it runs."""
        model_row = self.model(model)
        total = int(self.dataset(dataset).manifest["samples"])
        samples = min(total, spec.samples or total)
        passes = sum(plan(spec, samples).values())
        speed = self._speed(model_row.id)
        return Estimate(samples, passes, None if speed is None else passes * speed)

    def harden(self, model: str, dataset: str, spec: TrainingSpec, name: str = "") -> str:
        """Queue a training of a child of this model; returns the job's id. Raises MismatchError when model and data cannot fit.

        ``name``: the child's, where it is free; by default made of parent and method.
        """
        model_row, dataset_row = self.model(model), self.dataset(dataset)
        check_fit(architecture_of(model_row), dataset_row)
        values = {"model_id": model_row.id, "dataset_id": dataset_row.id, "name": name.strip(), "training": spec}
        return self.submit(JOBS.build("harden", values), f"{spec.hardening.display_title()}: {model_row.name}")

    def training_estimate(self, model: str, dataset: str, spec: TrainingSpec) -> Estimate:
        """What a training would cost at most, but for what its method prepares."""
        samples = int(self.dataset(dataset).manifest["samples"])
        passes = training_cost(spec, samples)
        speed = self._speed(self.model(model).id)
        return Estimate(samples, passes, None if speed is None else passes * speed)

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
        theirs, mine = (self.ledger.list(kind="audit", model_id=model_id) for model_id in (steps[0].parent_id, row.id))
        for one, _ in mine:
            for other, _ in theirs:
                alike = (one.dataset_id, one.spec["audit"]) == (other.dataset_id, other.spec["audit"])
                if alike and not {one.state, other.state} & {"failed", "cancelled"}:
                    return self.job(other.id), self.job(one.id)
        return None

    def _audit_once(self, model: str, dataset: str, spec: AuditSpec) -> str:
        data, wanted = self.dataset(dataset).id, spec.model_dump(mode="json")
        for job, _ in self.ledger.list(kind="audit", model_id=model):
            if job.dataset_id == data and job.spec["audit"] == wanted and job.state not in ("failed", "cancelled"):
                return job.id
        return self.audit(model, dataset, spec)

    def vet(self, model: str, dataset: str | None = None) -> str:
        """Queue a vetting; returns the job's id. Raises MismatchError when model and data cannot fit."""
        model_row = self.model(model)
        dataset_row = self.dataset(dataset) if dataset is not None else None
        if dataset_row is not None:
            check_fit(architecture_of(model_row), dataset_row)
        job = JOBS.build(
            "vet", {"model_id": model_row.id, "dataset_id": dataset_row.id if dataset_row is not None else None}
        )
        return self.submit(job, f"{model_row.name}" + (f" on {dataset_row.name}" if dataset_row is not None else ""))

    def submit(self, job: Job, title: str) -> str:
        """Insert the job, commit, and only then tell the broker; a broker that is down costs a delay, not the job."""
        job_id = self.ledger.insert(
            kind=job.kind,
            title=title,
            spec=job.model_dump(mode="json"),
            queue=job.queue,
            model_id=job.model_id,
            dataset_id=job.dataset_id,
            max_attempts=self.settings.max_attempts,
            time_limit=self.settings.job_seconds,
            grace=job.grace,
        )
        self._publish(job_id, job.queue)
        return job_id

    def jobs(self, *, kind: str | None = None, model_id: str | None = None, limit: int = 200) -> list[JobView]:
        """The newest jobs first."""
        now, workers = self.ledger.clock(), self.workers()
        rows = self.ledger.list(kind=kind, model_id=model_id, limit=limit)
        return [view_of(row, summary, now, workers) for row, summary in rows]

    def job(self, key: str) -> JobView:
        """By id, or an unambiguous beginning of at least four characters. Raises NotFoundError."""
        row = self._job_row(key)
        result = self.ledger.result(row.id)
        return view_of(row, result.summary if result is not None else None, self.ledger.clock(), self.workers())

    def request(self, key: str) -> Job:
        """What a job was asked to do."""
        row = self._job_row(key)
        return JOBS.build(row.kind, {name: value for name, value in row.spec.items() if name != "kind"})

    def cancel(self, key: str) -> bool:
        """Ask a job to stop; False when it had ended already."""
        return self.ledger.request_cancel(self._job_row(key).id)

    def workers(self) -> list[WorkerRow]:
        """The workers that are alive."""
        return living_workers(self.ledger)

    # -- results -------------------------------------------------------------------------------------------------

    def audit_result(self, key: str) -> AuditResult:
        """Raises NotFoundError when the job is no audit or has no result (yet)."""
        return AuditResult.model_validate_json(self._content(key, "audit"))

    def card(self, key: str) -> ClassifierCard:
        """Raises NotFoundError when the job is no vetting or has no result (yet)."""
        return ClassifierCard.model_validate_json(self._content(key, "vet"))

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
            audits = self.ledger.list(kind="audit", model_id=model_id)
            done = next(((job.id, summary) for job, summary in audits if job.state == "succeeded"), ("", {}))
            parent_id, job_id = (origin.parent_id, origin.job_id) if origin is not None else ("", "")
            found.append(Relative(rows[model_id], depth, parent_id, job_id, method, done[0], done[1] or {}))
        return found

    def report(self, key: str) -> str:
        """The report of an audit, as HTML."""
        return render(self.audit_result(key), title=self.job(key).title)

    def examples(self, key: str, record: int) -> Examples:
        """The adversarial images that an audit kept of one of its attacks (its place in the result's records).

        Raises NotFoundError where there are none.
        """
        result = self.audit_result(key)
        if not 0 <= record < len(result.records):
            raise NotFoundError(f"The audit has no attack {record}.")
        files = self.ledger.result_files(self._job_row(key).id)
        mine = {name: sha256 for name, sha256 in files.items() if name.startswith(shard_prefix(record))}
        return Examples(result, record, {name: self.blobs.path(sha256) for name, sha256 in mine.items()})

    def export_examples(self, key: str, record: int, file: Path) -> int:
        """Write those images as one .npz (see ``auditor.examples``); returns how many. Raises NotFoundError for none."""
        examples = self.examples(key, record)
        if not len(examples.positions):
            raise NotFoundError(
                f"No adversarial images of {examples.record.attack.display_title()} were kept.",
                "Run the audit with a larger number of examples.",
            )
        examples.export(self.audited_data(key), file)
        return len(examples.positions)

    def audited_data(self, key: str) -> ImageDataset:
        """The data set of an audit."""
        return load_dataset(self.dataset(str(self._job_row(key).dataset_id)), self.blobs)

    def latest_vet(self, model_id: str) -> JobView | None:
        """The newest vetting of a model that has not been cancelled."""
        return next((job for job in self.jobs(kind="vet", model_id=model_id) if job.state != "cancelled"), None)

    # -- inside --------------------------------------------------------------------------------------------------

    def _speed(self, model_id: str) -> float | None:
        """Seconds of one forward pass over one image, as the newest vetting measured it."""
        view = self.latest_vet(model_id)
        return self.card(view.id).forward_seconds if view is not None and view.state == "succeeded" else None

    def _publish(self, job_id: str, queue: str) -> bool:
        from worker.celery import publish

        return publish(self._celery, self.ledger, job_id, queue)

    def _job_row(self, key: str) -> JobRow:
        rows = self.ledger.find(key)
        if len(rows) != 1:
            problem = f"There is no job {key!r}." if not rows else f"{key!r} fits {len(rows)} jobs."
            raise NotFoundError(problem, "List them with `auditor audit list` or `auditor harden list`.")
        return rows[0]

    def _content(self, key: str, kind: str) -> bytes:
        row = self._job_row(key)
        result = self.ledger.result(row.id)
        noun = JOBS[kind].noun
        if row.kind != kind:
            raise NotFoundError(f"Job {row.id[:8]} is no {noun}.")
        if result is None:
            raise NotFoundError(f"The {noun} {row.id[:8]} has no result: it is {row.state}.", row.error or "")
        return self.blobs.path(result.content).read_bytes()
