"""Service: models, data sets, jobs, and what came of vettings and audits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from auditor.architecture import Architecture
from auditor.audit_spec import AuditSpec
from auditor.classifier import Normalization
from auditor.errors import MismatchError, NotFoundError
from auditor.examples import Examples, shard_prefix
from auditor.intake.labels import check_class_names
from auditor.intake.limits import Limits
from auditor.intake.reading import Reading
from auditor.intake.upload import Upload, take_upload
from auditor.plan import plan
from auditor.report.blocks import Image
from auditor.report.html import render
from auditor.report.pictures import picture
from auditor.result import AuditResult
from auditor.vet import ClassifierCard
from worker.blobs import BlobStore
from worker.budget import OnWait, silent
from worker.db import connect, upgrade
from worker.job import JOBS, Job
from worker.keeper import Keeper, living_workers
from worker.ledger import ENDED, Ledger, Which
from worker.lineage import Lineage
from worker.loading import architecture_of, check_fit, load_dataset
from worker.logs import read_job_log
from worker.models import DatasetRow, JobRow, ModelRow, WorkerRow
from worker.private import private_folder
from worker.reading import read_dataset, read_model
from worker.registry import Registry
from worker.settings import Settings, load_settings
from worker.store import Store, check_store
from worker.views import Estimate, JobView, shape_of, view_of

if TYPE_CHECKING:
    from celery import Celery

    from auditor.dataset import ImageDataset
    from worker.exporting import WeightsFormat


class Service:
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
        Store(self.settings.blobs, self.database).establish()
        private_folder(self.settings.inbox)

    def keeper(self) -> Keeper:
        """Housekeeping for a process that runs no jobs."""
        return Keeper(self.settings, self.ledger, self._publish)

    # -- models and data sets ------------------------------------------------------------------------------------

    def receive(self, stream: BinaryIO, folder: Path) -> Upload:
        """Stream an upload into ``folder`` while hashing it. Raises IntakeError over the limit, and OutageError where it would
        be kept in a folder that the workers do not see.
        """
        check_store(self.settings.blobs, self.database)
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
        declared_accuracy: float | None = None,
        on_wait: OnWait = silent,
    ) -> ModelRow:
        """Check and keep a model. ``declared_accuracy``: the share of images that it is said to classify correctly. ``on_wait``
        is told, in a sentence, when other files take the memory that reading may take.

        Raises IntakeError, SpecError or MismatchError; then nothing is kept.
        """
        normalization = normalization.for_channels(architecture.channels)
        if class_names is not None and len(class_names) != architecture.num_classes:
            raise MismatchError(
                f"The model has {architecture.num_classes} classes, but {len(class_names)} names were given."
            )
        if class_names is not None:
            check_class_names(class_names, Limits())
        with self.blobs.staging() as folder:
            upload = self.receive(stream, folder)
            stored = folder / "weights.safetensors"
            manifest = read_model(upload.path, filename, architecture, stored, self.settings, on_wait)
            return self.registry.add_model(
                name,
                architecture=architecture.model_dump(mode="json"),
                normalization=normalization.model_dump(mode="json"),
                class_names=list(class_names) if class_names is not None else None,
                declared_accuracy=declared_accuracy,
                weights=self.blobs.take(stored),
                manifest=manifest,
            )

    def add_dataset(
        self,
        stream: BinaryIO,
        filename: str,
        *,
        name: str,
        reading: Reading | None = None,
        on_wait: OnWait = silent,
    ) -> DatasetRow:
        """Check and keep a data set, read as the user chose. Raises IntakeError or SpecError; then nothing is kept.

        ``on_wait``: as for a model.
        """
        with self.blobs.staging() as folder:
            upload = self.receive(stream, folder)
            stored = folder / "dataset.safetensors"
            manifest = read_dataset(upload.path, filename, reading or Reading(), stored, self.settings, on_wait)
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

    def preview(self, dataset: str, count: int = 8, start: int = 0) -> list[Image]:
        """Images of a data set from the one at ``start`` on, as pictures with their class."""
        data = load_dataset(self.dataset(dataset), self.blobs)
        ids = range(start, min(start + count, len(data)))
        names = data.class_names or [f"class {index}" for index in range(data.num_classes)]
        labels = [names[data.labels[sample]] for sample in ids]
        return [
            picture(x, label, f"image {sample}")
            for sample, x, label in zip(ids, data.images(list(ids)), labels, strict=True)
        ]

    def export_weights(self, key: str, form: WeightsFormat, file: Path) -> str:
        """Write a model's tensors to ``file``; returns its SHA-256. Raises NotFoundError."""
        from worker.exporting import write_weights

        return write_weights(self.model(key), self.blobs, form, file)

    def describe_model(self, key: str, hashes: dict[str, str]) -> str:
        """What a model's weights are of, as JSON: architecture, normalisation, classes, and the ``hashes`` of exported files."""
        from worker.exporting import describe

        row = self.model(key)
        return describe(row, hashes, self._parent_name(row))

    def export_model(self, key: str, file: Path) -> dict[str, str]:
        """Write a .zip of a model's weights in both formats and their description; returns their hashes. Raises NotFoundError."""
        from worker.exporting import write_archive

        row = self.model(key)
        with self.blobs.staging() as folder:
            return write_archive(row, self.blobs, self._parent_name(row), folder, file)

    def _parent_name(self, row: ModelRow) -> str | None:
        ancestors = self.lineages.ancestors(row.id)
        return self.model(ancestors[0].parent_id).name if ancestors else None

    def class_names(self, model: str, dataset: str) -> Sequence[str] | None:
        """What to call the classes of a result on this data: the model's names, else the data set's; None without any."""
        return self.model(model).class_names or load_dataset(self.dataset(dataset), self.blobs).class_names

    def inbox(self) -> list[str]:
        """Names of the files that an operator put into the inbox folder."""
        if not self.settings.inbox.is_dir():
            return []
        return sorted(path.name for path in self.settings.inbox.iterdir() if path.is_file() and not path.is_symlink())

    def open_inbox(self, name: str) -> BinaryIO:
        """A file of the inbox, by a name that ``inbox`` lists. Raises NotFoundError."""
        if name not in self.inbox():
            raise NotFoundError(f"There is no file {name!r} in the inbox.")
        try:
            return (self.settings.inbox / name).open("rb")
        except OSError as error:
            raise NotFoundError(
                f"The file {name!r} of the inbox cannot be read: {error.strerror}.",
                "Make it readable for the user that runs the dashboard.",
            ) from None

    # -- jobs ----------------------------------------------------------------------------------------------------

    def audit(self, model: str, dataset: str, spec: AuditSpec) -> str:
        """Queue an audit; returns the job's id. Raises MismatchError when model and data cannot fit, SpecError when a corruption
        and the data cannot, or for an epsilon beyond all images."""
        model_row, dataset_row = self.model(model), self.dataset(dataset)
        check_fit(model_row, dataset_row)
        spec.goal.placed(model_row.class_names or dataset_row.manifest["class_names"])
        for threat in spec.threats:
            threat.check(shape_of(dataset_row))
        for corruption in spec.corruptions:
            corruption.check(dataset_row.manifest["shape"][0])
        job = JOBS.build("audit", {"model_id": model_row.id, "dataset_id": dataset_row.id, "audit": spec})
        return self.submit(job, f"{model_row.name} on {dataset_row.name}")

    def estimate(self, model: str, dataset: str, spec: AuditSpec) -> Estimate:
        """What an audit would cost at most, before it runs."""
        model_row, dataset_row = self.model(model), self.dataset(dataset)
        for threat in spec.threats:
            threat.check(shape_of(dataset_row))
        total = int(dataset_row.manifest["samples"])
        samples = min(total, spec.samples or total)
        card = self._card(model_row.id)
        passes = sum(plan(spec, samples, random=card is not None and card.random).values())
        speed = None if card is None else card.forward_seconds
        return Estimate.at(speed, samples, passes)

    def vet(self, model: str, dataset: str | None = None) -> str:
        """Queue a vetting; returns the job's id. Raises MismatchError when model and data cannot fit."""
        model_row = self.model(model)
        dataset_row = self.dataset(dataset) if dataset is not None else None
        if dataset_row is not None:
            check_fit(model_row, dataset_row)
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
            defense_id=job.evaluates,
        )
        self._publish(job_id, job.queue)
        return job_id

    def jobs(
        self,
        *,
        kind: str | None = None,
        model_id: str | None = None,
        states: Sequence[str] = (),
        text: str = "",
        limit: int | None = None,
        offset: int = 0,
        pressing: bool = False,
    ) -> list[JobView]:
        """Jobs of a kind, of a model, in one of some states, with ``text`` in the title or at the beginning of the id.

        The newest first; ``pressing``: those that run, then those that wait in the order in which they will run, then the rest.
        """
        which = Which(kind=kind, model_id=model_id, states=states, text=text)
        rows = self.ledger.list(which, limit=limit, offset=offset, order="pressing" if pressing else "newest")
        return self._views(rows)

    def count_jobs(
        self, *, kind: str | None = None, model_id: str | None = None, states: Sequence[str] = (), text: str = ""
    ) -> dict[str, int]:
        """How many such jobs there are, by state; states without a job are left out."""
        return self.ledger.counts(Which(kind=kind, model_id=model_id, states=states, text=text))

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

    def job_log(self, key: str) -> str | None:
        """What a job's attempts wrote: its end, secrets masked; None where the log is not on this machine."""
        return read_job_log(self.settings, self._job_row(key).id)

    def run_again(self, key: str) -> str:
        """Queue what a job was asked to do once more; returns the new job's id. Raises MismatchError while it has not ended."""
        row = self._job_row(key)
        if row.state not in ENDED:
            raise MismatchError(f"Job {row.id[:8]} is {row.state}.", "Cancel it first, or wait for its end.")
        return self.submit(self.request(row.id), row.title)

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
        kept = ("queued", "running", "succeeded", "failed")
        return next(iter(self.jobs(kind="vet", model_id=model_id, states=kept, limit=1)), None)

    # -- inside --------------------------------------------------------------------------------------------------

    def _views(self, rows: Sequence[tuple[JobRow, dict[str, Any] | None]]) -> list[JobView]:
        now, workers = self.ledger.clock(), self.workers()
        return [view_of(row, summary, now, workers) for row, summary in rows]

    def _speed(self, model_id: str) -> float | None:
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

    def _publish(self, job_id: str, queue: str) -> bool:
        from worker.celery import publish

        return publish(self._celery, self.ledger, job_id, queue)

    def _job_row(self, key: str) -> JobRow:
        rows = self.ledger.find(key)
        if len(rows) != 1:
            problem = f"There is no job {key!r}." if not rows else f"{key!r} fits {len(rows)} jobs."
            raise NotFoundError(problem, "List them with `auditor jobs list`.")
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
