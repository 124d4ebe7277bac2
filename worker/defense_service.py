"""DefenseService: preparing defenses, keeping and exporting them, evaluating them, and what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from auditor.disk import outages_named
from auditor.errors import EvaluationError, SpecError
from auditor.scratch import scratch
from worker.defenses import Defenses, DefenseView
from worker.job import JOBS
from worker.ledger import HOPEFUL, Which
from worker.loading import architecture_of, check_fit, load_classifier
from worker.models import DefenseRow
from worker.registry import usable
from worker.service import Service
from worker.views import Estimate, JobView, shape_of

if TYPE_CHECKING:
    from auditor.defending.playground import Play, PlaySpec
    from auditor.defending.table import DefenseEvaluation
    from auditor.defense_fit import FitSpec
    from auditor.defense_study import DefenseStudy, StudySpec
    from worker.defending import Loaded


class Preparation(NamedTuple):
    """A job that prepares a defense, or, where nothing had to be learnt, the defense; the other one is empty."""

    job_id: str
    defense_id: str


class EvaluationView(NamedTuple):
    """An evaluation of a stored defense; the numbers are in ``job.summary`` when it has ended."""

    job: JobView
    defense_id: str
    defense: str
    dataset: str


class DefenseService(Service):
    """The service with stored defenses."""

    @property
    def _defenses(self) -> Defenses:
        return Defenses(self.database)

    # -- preparing -----------------------------------------------------------------------------------------------

    def fit_defense(self, model: str, spec: FitSpec, dataset: str = "", name: str = "") -> Preparation:
        """Queue the preparation of a defense for a model; one that learns nothing is kept at once.

        ``dataset``: training images; not needed where nothing learns. ``name``: where it is free; by default made of defense and
        model. Raises SpecError where the data set is missing or the name is none, MismatchError when model and data cannot fit,
        and for a defense that learns nothing MismatchError or EvaluationError when the network cannot be defended so.
        """
        model_row = self.model(model)
        title = f"{spec.title} for {model_row.name}"
        wanted = usable(name) if name.strip() else title[:200]
        if not spec.learns:
            return Preparation("", self._keep(spec, model_row.id, wanted))
        if not dataset:
            raise SpecError(f"{spec.title} learns from training images, and no data set is given.", "Name a data set.")
        dataset_row = self.dataset(dataset)
        check_fit(model_row, dataset_row)
        values = {"model_id": model_row.id, "dataset_id": dataset_row.id, "name": wanted, "fit": spec}
        return Preparation(self.submit(JOBS.build("fit-defense", values), title), "")

    def _keep(self, spec: FitSpec, model_id: str, name: str) -> str:
        from auditor.defense_fit import fit
        from worker.defending import stored

        fitted = fit(spec, load_classifier(self.model(model_id), self.blobs), None)
        return self._defenses.add(stored(spec, fitted, name, model_id, None, self.blobs)).id

    # -- stored --------------------------------------------------------------------------------------------------

    def defenses(self, model: str = "") -> list[DefenseView]:
        """All stored defenses, or those of one model, with their lineage; the newest first."""
        return self._defenses.views(self.model(model).id if model else None)

    def defense(self, key: str) -> DefenseView:
        """By id, name, or an unambiguous beginning of the id. Raises NotFoundError."""
        row = self._defenses.get(key)
        return next(view for view in self._defenses.views(row.model_id) if view.row.id == row.id)

    def defense_made_by(self, job: str) -> DefenseRow | None:
        """The defense that a job prepared; None where there is none (any more)."""
        return self._defenses.made_by(self._job_row(job).id)

    def rename_defense(self, key: str, name: str) -> None:
        """Raises NotFoundError, or SpecError when the name is taken or unusable."""
        self._defenses.rename(self._defenses.get(key), name)

    def delete_defense(self, key: str) -> None:
        """Raises NotFoundError, or MismatchError while an evaluation names it."""
        self._defenses.remove(self._defenses.get(key))

    def defended_model(self, key: str) -> Loaded:
        """A stored defense's model, by itself and behind the defense as it is deployed."""
        from worker.defending import load_defended

        return load_defended(self._defenses.get(key), self.blobs, self.registry)

    def export_defense(self, key: str, folder: Path) -> None:
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

    def export_defense_archive(self, key: str, file: Path) -> None:
        """Write the same folder as one .zip."""
        from worker.defending import export_archive

        export_archive(self._defenses.get(key), self.blobs, self.registry, file)

    # -- evaluating ----------------------------------------------------------------------------------------------

    def evaluate_defense(self, defense: str, dataset: str, spec: StudySpec) -> str:
        """Queue the evaluation of a stored defense; returns the job's id. Raises MismatchError when model and data cannot fit,
        SpecError for a sweep that the defense does not know, or an epsilon beyond all images."""
        from auditor.defense_fit import FitSpec

        row, dataset_row = self._defenses.get(defense), self.dataset(dataset)
        check_fit(self.model(row.model_id), dataset_row)
        spec.evaluation.threat.check(shape_of(dataset_row))
        fitted = FitSpec.load(row.spec)
        for sweep in spec.sweeps:
            sweep.points(fitted.defenses, spec.evaluation.threat)
        values = {"model_id": row.model_id, "dataset_id": dataset_row.id, "defense_id": row.id, "study": spec}
        return self.submit(JOBS.build("evaluate-defense", values), f"{row.name} on {dataset_row.name}")

    def evaluation_estimate(self, defense: str, dataset: str, spec: StudySpec) -> Estimate:
        """What an evaluation would cost at most, but for what the defense does to each image, before it runs.

        Raises SpecError for a sweep that the defense does not know.
        """
        from auditor.defense_fit import FitSpec
        from auditor.defense_study import study_cost

        row = self._defenses.get(defense)
        model_row, dataset_row = self.model(row.model_id), self.dataset(dataset)
        spec.evaluation.threat.check(shape_of(dataset_row))
        total = int(dataset_row.manifest["samples"])
        samples = min(total, spec.samples or total)
        passes = study_cost(spec, FitSpec.load(row.spec).defenses, samples, architecture_of(model_row).num_classes)
        speed = self._speed(model_row.id)
        return Estimate.at(speed, samples, passes)

    def defense_evaluations(self, defense: str = "", limit: int | None = None) -> list[EvaluationView]:
        """The evaluations of one stored defense, or of all, the newest first, whatever became of them."""
        wanted = self._defenses.get(defense).id if defense else None
        jobs = self._views(self.ledger.list(Which(kind="evaluate-defense", defense_id=wanted), limit=limit))
        of = self._defenses.evaluated_by([job.id for job in jobs])
        names = {view.row.id: view.row.name for view in self._defenses.views()}
        datasets = {row.id: row.name for row in self.datasets()}
        return [EvaluationView(job, of[job.id], names[of[job.id]], datasets[str(job.dataset_id)]) for job in jobs]

    def defense_study(self, key: str) -> DefenseStudy:
        """All that came of an evaluation. Raises NotFoundError when the job is none or has no result (yet)."""
        from auditor.defense_study import DefenseStudy

        return DefenseStudy.model_validate_json(self._content(key, "evaluate-defense"))

    def defense_report(self, key: str) -> str:
        """The report of an evaluation, as HTML."""
        from auditor.report.defense_study import render_study

        return render_study(self.defense_study(key), title=self.job(key).title)

    def defense_evaluation(self, key: str) -> DefenseEvaluation:
        """The defense's own table of an evaluation. Raises NotFoundError as ``defense_study`` does."""
        return self.defense_study(key).evaluation

    # -- playing -------------------------------------------------------------------------------------------------

    def play(self, defense: str, dataset: str, sample: int, spec: PlaySpec) -> str:
        """Queue the playground for one image; returns the job's id, that of an earlier run of the same where there is one.

        Raises MismatchError when model and data cannot fit, EvaluationError where there is no such image, SpecError for an
        epsilon beyond all images.
        """
        row, dataset_row = self._defenses.get(defense), self.dataset(dataset)
        check_fit(self.model(row.model_id), dataset_row)
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
        return self.submit(job, f"{row.name}, image {sample} of {dataset_row.name}")

    def plays(self, defense: str) -> list[JobView]:
        """The runs of the playground with one stored defense, the newest first, whatever became of them."""
        row = self._defenses.get(defense)
        listed = self.ledger.list(Which(kind="play", model_id=row.model_id))
        return self._views([(job, summary) for job, summary in listed if job.spec["defense_id"] == row.id])

    def played(self, key: str) -> Play:
        """What came of a run of the playground. Raises NotFoundError when the job is none or has no result (yet)."""
        from auditor.defending.playground import from_bytes

        return from_bytes(self._content(key, "play"))
