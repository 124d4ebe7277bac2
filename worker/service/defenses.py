"""StoredDefenses: fitting defenses, keeping and exporting them, evaluating them, and the playground."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from auditor.kit.disk import outages_named
from auditor.kit.errors import EvaluationError, SpecError
from auditor.kit.scratch import scratch
from worker.defenses import Defenses, DefenseView
from worker.job import JOBS
from worker.ledger import HOPEFUL, Which
from worker.loading import architecture_of, check_compatible, class_sides, left_out, load_classifier
from worker.models import DefenseRow
from worker.registry import usable_name
from worker.service.audits import Audits
from worker.service.backend import Backend, ClientPart
from worker.service.jobs import Jobs
from worker.service.library import Library
from worker.views import CostEstimate, JobView, shape_of

if TYPE_CHECKING:
    from auditor.defending.evaluation import DefenseEvaluation, EvaluationSpec
    from auditor.defending.fit import FitSpec
    from auditor.defending.playground import Play, PlaySpec
    from auditor.defending.table import DefenseTable
    from worker.defending import Loaded


class QueuedFit(NamedTuple):
    """A job that fits a defense, or, where nothing had to be learnt, the defense; the other one is empty."""

    job_id: str
    defense_id: str


class EvaluationView(NamedTuple):
    """An evaluation of a stored defense; the numbers are in ``job.summary`` when it has ended."""

    job: JobView
    defense_id: str
    defense: str
    dataset: str


class StoredDefenses(ClientPart):
    """Fitting defenses, keeping and exporting them, evaluating them, and the playground."""

    def __init__(self, backend: Backend, library: Library, jobs: Jobs, audits: Audits) -> None:
        super().__init__(backend)
        self.library, self.jobs, self.audits = library, jobs, audits

    @property
    def _defenses(self) -> Defenses:
        return Defenses(self.database)

    def fit(self, model: str, spec: FitSpec, dataset: str = "", name: str = "") -> QueuedFit:
        """Queue the fit of a defense to a model; one that learns nothing is kept at once.

        ``dataset``: training images; not needed where nothing learns. ``name``: where it is free; by default made of defense and
        model. Raises SpecError if the data set is missing or the name is unusable, MismatchError when model and data
        cannot fit, and for a defense that learns nothing MismatchError or EvaluationError when the network cannot be
        defended so.
        """
        model_row = self.library.model(model)
        title = f"{spec.title} for {model_row.name}"
        wanted = usable_name(name) if name.strip() else title[:200]
        if not spec.learns:
            return QueuedFit("", self._keep(spec, model_row.id, wanted))
        if not dataset:
            raise SpecError(f"{spec.title} learns from training images, and no data set is given.", "Name a data set.")
        dataset_row = self.library.dataset(dataset)
        check_compatible(model_row, dataset_row, spec.match)
        values = {"model_id": model_row.id, "dataset_id": dataset_row.id, "name": wanted, "fit": spec}
        return QueuedFit(self.jobs.submit(JOBS.build("fit-defense", values), title), "")

    def _keep(self, spec: FitSpec, model_id: str, name: str) -> str:
        from auditor.defending.fit import fit
        from worker.defending import stored

        fitted = fit(spec, load_classifier(self.library.model(model_id), self.blobs), None)
        return self._defenses.add(stored(spec, fitted, name, model_id, None, self.blobs)).id

    def find(self, model: str = "") -> list[DefenseView]:
        """All stored defenses, or those of one model, with their lineage; the newest first."""
        return self._defenses.views(self.library.model(model).id if model else None)

    def get(self, key: str) -> DefenseView:
        """By id, name, or an unambiguous beginning of the id. Raises NotFoundError."""
        row = self._defenses.get(key)
        return next(view for view in self._defenses.views(row.model_id) if view.row.id == row.id)

    def made_by(self, job: str) -> DefenseRow | None:
        """The defense that a job fitted; None if there is none (any more)."""
        return self._defenses.made_by(self.backend.job_row(job).id)

    def rename(self, key: str, name: str) -> None:
        """Raises NotFoundError, or SpecError when the name is taken or unusable."""
        self._defenses.rename(self._defenses.get(key), name)

    def delete(self, key: str) -> None:
        """Raises NotFoundError, or MismatchError while an evaluation names it."""
        self._defenses.remove(self._defenses.get(key))

    def load(self, key: str) -> Loaded:
        """A stored defense's model, by itself and behind the defense as it is deployed."""
        from worker.defending import load_defended

        return load_defended(self._defenses.get(key), self.blobs, self.registry)

    def export(self, key: str, folder: Path) -> None:
        """Write the defended model as a folder that runs without this package, whole or not at all. Raises SpecError for a folder
        in use, OutageError for a full disk.
        """
        from worker.defending import export_folder

        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise SpecError(f"{folder} is there already.", "Name a new or an empty folder.")
        row = self._defenses.get(key)
        with outages_named(folder.parent):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with scratch("export", folder.parent) as beside:
                export_folder(row, self.blobs, self.registry, beside / "export")
                if folder.exists():
                    folder.rmdir()  # it is empty
                (beside / "export").rename(folder)

    def export_archive(self, key: str, file: Path) -> None:
        """Write the same folder as one .zip."""
        from worker.defending import export_archive

        export_archive(self._defenses.get(key), self.blobs, self.registry, file)

    def evaluate(self, defense: str, dataset: str, spec: EvaluationSpec) -> str:
        """Queue the evaluation of a stored defense; returns the job's id. Raises MismatchError when model and data cannot fit,
        SpecError for a sweep that the defense does not know, or an epsilon beyond all images."""
        from auditor.defending.fit import FitSpec

        row, dataset_row = self._defenses.get(defense), self.library.dataset(dataset)
        check_compatible(self.library.model(row.model_id), dataset_row, spec.match)
        spec.evaluation.threat.check(shape_of(dataset_row))
        fitted = FitSpec.load(row.spec)
        for sweep in spec.sweeps:
            sweep.points(fitted.defenses, spec.evaluation.threat)
        values = {"model_id": row.model_id, "dataset_id": dataset_row.id, "defense_id": row.id, "study": spec}
        return self.jobs.submit(JOBS.build("evaluate-defense", values), f"{row.name} on {dataset_row.name}")

    def estimate(self, defense: str, dataset: str, spec: EvaluationSpec) -> CostEstimate:
        """What an evaluation would cost at most, but for what the defense does to each image, before it runs.

        Raises SpecError for a sweep that the defense does not know.
        """
        from auditor.defending.evaluation import evaluation_cost
        from auditor.defending.fit import FitSpec

        row = self._defenses.get(defense)
        model_row, dataset_row = self.library.model(row.model_id), self.library.dataset(dataset)
        spec.evaluation.threat.check(shape_of(dataset_row))
        total = int(dataset_row.manifest["samples"]) - left_out(class_sides(model_row, dataset_row), spec.match)
        samples = min(total, spec.samples or total)
        passes = evaluation_cost(spec, FitSpec.load(row.spec).defenses, samples, architecture_of(model_row).num_classes)
        speed = self.audits.speed(model_row.id)
        return CostEstimate.at(speed, samples, passes)

    def evaluations(self, defense: str = "", limit: int | None = None) -> list[EvaluationView]:
        """The evaluations of one stored defense, or of all, the newest first, whatever became of them."""
        wanted = self._defenses.get(defense).id if defense else None
        jobs = self.jobs.views(self.ledger.list(Which(kind="evaluate-defense", defense_id=wanted), limit=limit))
        of = self._defenses.evaluated_by([job.id for job in jobs])
        names = {view.row.id: view.row.name for view in self._defenses.views()}
        datasets = {row.id: row.name for row in self.library.datasets()}
        return [EvaluationView(job, of[job.id], names[of[job.id]], datasets[str(job.dataset_id)]) for job in jobs]

    def evaluation(self, key: str) -> DefenseEvaluation:
        """The result of an evaluation. Raises NotFoundError when the job is not an evaluation or has no result
        (yet)."""
        from auditor.defending.evaluation import DefenseEvaluation

        return DefenseEvaluation.load(self.backend.content(key, "evaluate-defense"))

    def report(self, key: str) -> str:
        """The report of an evaluation, as HTML."""
        from auditor.report.defense_evaluation import render_evaluation

        return render_evaluation(self.evaluation(key), title=self.jobs.get(key).title)

    def table(self, key: str) -> DefenseTable:
        """The defense's own table of an evaluation. Raises NotFoundError as ``evaluation`` does."""
        return self.evaluation(key).table

    def play(self, defense: str, dataset: str, sample: int, spec: PlaySpec) -> str:
        """Queue the playground for one image; returns the job's id, that of an earlier run of the same where there is one.

        Raises MismatchError when model and data cannot fit, EvaluationError if there is no such image, SpecError for an
        epsilon beyond all images.
        """
        row, dataset_row = self._defenses.get(defense), self.library.dataset(dataset)
        check_compatible(self.library.model(row.model_id), dataset_row, spec.match)
        spec.threat.check(shape_of(dataset_row))
        count = int(dataset_row.manifest["samples"])
        if not 0 <= sample < count:
            raise EvaluationError(f"Expected an image from 0 to {count - 1}, got {sample}.")
        values = {
            "model_id": row.model_id, "dataset_id": dataset_row.id, "defense_id": row.id, "sample": sample, "play": spec,
        }  # fmt: skip
        job = JOBS.build("play", values)
        wanted = job.model_dump(mode="json")
        for known, _ in self.ledger.list(Which(kind="play", model_id=row.model_id, states=HOPEFUL)):
            if known.spec == wanted:
                return known.id
        return self.jobs.submit(job, f"{row.name}, image {sample} of {dataset_row.name}")

    def plays(self, defense: str) -> list[JobView]:
        """The runs of the playground with one stored defense, the newest first, whatever became of them."""
        row = self._defenses.get(defense)
        listed = self.ledger.list(Which(kind="play", model_id=row.model_id))
        return self.jobs.views([(job, summary) for job, summary in listed if job.spec["defense_id"] == row.id])

    def played(self, key: str) -> Play:
        """The result of a playground run. Raises NotFoundError if the job is of another kind or has no result (yet)."""
        from auditor.defending.playground import from_bytes

        return from_bytes(self.backend.content(key, "play"))
