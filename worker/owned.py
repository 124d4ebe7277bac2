"""Models that run their owner's code: who may, what runs in the sandbox, and the calls into it."""

from __future__ import annotations

import importlib
import math
import os
import re
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditor.kit.errors import IntakeError, MismatchError, NotFoundError, ServiceError, SpecError
from auditor.kit.progress import OnProgress
from auditor.models import own_code
from auditor.models.own_code import INSTEAD, OwnCode, stored_code
from worker import sandbox
from worker.blobs import BlobStore
from worker.budget import OnWait, reading_memory, silent
from worker.job import Context, Job, Output
from worker.models import DatasetRow, ModelRow
from worker.queues import GPU
from worker.reading import confined_reading, senseless
from worker.registry import Registry
from worker.sandbox import RUN, WALLS, capabilities, confined, tell
from worker.settings import Settings

if TYPE_CHECKING:
    from auditor.data.intake.weights import ModelManifest

CONTENT = "content"
"""The file in which a job in the sandbox leaves its result."""

LARGEST_RESULT = 256 << 20
"""Bytes of one file."""

MOST_FILES = 10_000
_TABLES = ("migrations",)
"""What rows need to be imported, and does not lie in our packages."""

TOLD_SECONDS = 0.25
SETTING = "AUDITOR_ALLOW_CODE"


def check_allowed(settings: Settings) -> None:
    """Raises SpecError where the administrator does not allow owners' code, ServiceError where this machine cannot confine it."""
    if not settings.allow_code:
        raise SpecError(
            "A model that runs its owner's code needs the administrator's leave, and has none here.",
            f"Set {SETTING}=1 where it is added and for every worker, and restart the workers. {INSTEAD}",
        )
    report = capabilities()
    if not (report.landlock and report.seccomp and report.rlimits):
        raise ServiceError(
            f"This machine cannot confine an owner's code: {'; '.join(report.sentences)}.",
            "Run it on Linux 5.13 or later; `auditor doctor` says what is missing.",
        )


def read_own_model(
    file: Path,
    filename: str,
    code: OwnCode,
    destination: Path,
    settings: Settings,
    on_wait: OnWait = silent,
    choice: str = "",
    mapping: int = 1,
    output: str = "",
) -> tuple[dict[str, Any], OwnCode]:
    """As `worker.reading.read_model`, for a network that is its owner's code; also returns that with its number of classes.

    ``output``: which of several outputs of the network holds the logits.
    """
    from auditor.data.intake.weights import ModelManifest

    check_allowed(settings)
    manifest = confined_reading(
        "worker.owned:read_own_model_inside", ModelManifest, file, filename, destination, settings,
        {"code": code.model_dump(mode="json"), "choice": choice, "mapping": mapping, "output": output}, on_wait,
        preload=[*_TABLES, "auditor.data.intake.weights"], subject=f"{filename} with {code.file}",
    )  # fmt: skip
    try:
        counted = _with_classes(code, manifest)
    except ValueError:
        raise senseless(filename) from None
    return manifest.model_dump(mode="json") | {"architecture": counted.facts(), "output": output}, counted


def _with_classes(code: OwnCode, manifest: ModelManifest) -> OwnCode:
    """Nothing else of what the code says of itself is taken."""
    classes = (manifest.architecture or {}).get("num_classes")
    if not isinstance(classes, int) or classes < 1 or code.num_classes not in (0, classes):
        raise ValueError(classes)
    return OwnCode.model_validate({**code.model_dump(), "num_classes": classes})


def read_own_model_inside(
    file: str, filename: str, destination: str, code: dict[str, Any], choice: str, mapping: int, output: str
) -> dict[str, Any]:
    """Runs in the sandbox."""
    from auditor.data.intake.weights import take_model

    tempfile.tempdir = str(Path(destination).parent)
    counted = _permitted(code).counted(output)
    with counted.blamed():
        taken = take_model(
            Path(file), filename, counted, Path(destination), choice=choice, second=mapping == 2, advise=False
        )
    return taken.model_dump(mode="json")


def run_job(job: Job, context: Context, settings: Settings, *, seconds: float) -> Output:
    """Run a job; what measures a model that runs its owner's code is done in the sandbox, and its result says so.

    Raises SpecError where that is not allowed, or for a kind of job that does not do it.
    """
    if (code := check_runs_code(job, context.registry)) is None:
        return job.run(context)
    check_allowed(settings)
    row = context.registry.model(job.model_id)
    dataset = context.registry.dataset(job.dataset_id) if job.dataset_id is not None else None
    context.on_progress(0.0, "Starting the sandbox")
    blobs = [row.weights, *([dataset.content] if dataset is not None else [])]
    names = confined(
        "worker.owned:run_job_inside",
        arguments={
            "kind": f"{type(job).__module__}:{type(job).__name__}",
            "job": job.model_dump(mode="json"),
            "model": _values(row),
            "dataset": None if dataset is None else _values(dataset),
            "folder": str(context.folder),
            "blobs": str(context.blobs.folder),
            "trained_on": context.registry.trained_on(row.id),
        },
        readable=[context.blobs.path(sha256, verify=False) for sha256 in blobs],
        writable=[context.folder],
        memory=reading_memory(settings),
        seconds=seconds,
        preload=[*_TABLES, type(job).__module__, "auditor.data.intake.weights"],
        subject=f"the model {row.name}",
        folders=True,
        threads=_threads(),
        verb=RUN,
        on_progress=context.on_progress,
    )  # fmt: skip
    files = tuple(_taken(context.folder, name) for name in names[:MOST_FILES]) if isinstance(names, list) else ()
    made = job.adopted(_taken(context.folder, CONTENT).read_bytes(), row, code)
    return made._replace(files=files)


def check_runs_code(job: Job, registry: Registry) -> OwnCode | None:
    """The code of a job's model; None for a model without, or none at all.

    Raises SpecError for a job that is not run for such a model, MismatchError for one that asks for a GPU.
    """
    code = None
    with suppress(NotFoundError):  # which the job itself says
        code = stored_code(registry.model(job.model_id).architecture)
    if code is None:
        return None
    if not job.runs_code:
        raise SpecError(
            f"{code.file} is its owner's code, which can be vetted and audited, not used for this: {job.display_title()}.",
            INSTEAD,
        )
    if job.queue == GPU:
        raise MismatchError(
            f"{code.file} is its owner's code, and the sandbox in which it runs has no GPU.",
            "Choose device auto or cpu.",
        )
    return code


def run_job_inside(
    kind: str,
    job: dict[str, Any],
    model: dict[str, Any],
    dataset: dict[str, Any] | None,
    folder: str,
    blobs: str,
    trained_on: list[str],
) -> list[str]:
    """Runs in the sandbox. Leaves the result in the folder; returns the names of its files."""
    code = _permitted(model["architecture"])
    rows = _Rows(ModelRow(**model), DatasetRow(**dataset) if dataset is not None else None, trained_on)
    module, _, name = kind.partition(":")
    wanted: Job = getattr(importlib.import_module(module), name).model_validate(job)
    place = Path(folder)
    with code.blamed():
        made = wanted.run(Context(rows, BlobStore(Path(blobs)), _seldom(tell), place, place))
    (place / CONTENT).write_bytes(made.content)
    return [file.name for file in made.files]


class _Rows(Registry):
    """What a job in the sandbox knows of the database: its own model and data set."""

    def __init__(self, model: ModelRow, dataset: DatasetRow | None, trained_on: list[str]) -> None:
        self._model, self._dataset, self._trained_on = model, dataset, trained_on

    def model(self, key: str) -> ModelRow:
        return self._model

    def dataset(self, key: str) -> DatasetRow:
        assert self._dataset is not None
        return self._dataset

    def trained_on(self, model_id: str) -> list[str]:
        return self._trained_on


def _permitted(code: dict[str, Any]) -> OwnCode:
    """The code, ready to be built. Raises ServiceError unless every wall stands around this process."""
    if missing := set(WALLS) - sandbox.walls_here():
        raise ServiceError(
            f"Owners' code runs in the sandbox alone, and here is no {' and no '.join(sorted(missing))}."
        )
    own_code.permit()
    return OwnCode.model_validate(code)


def _values(row: ModelRow | DatasetRow) -> dict[str, Any]:
    return {column.key: getattr(row, column.key) for column in row.__table__.columns}


def _threads() -> int:
    """As many as the job itself would compute with."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    return int(said) if said.isdecimal() and int(said) else len(os.sched_getaffinity(0))


def _seldom(tell: OnProgress) -> OnProgress:
    last = -math.inf

    def on_progress(share: float, what: str) -> None:
        nonlocal last
        if time.monotonic() - last >= TOLD_SECONDS:
            last = time.monotonic()
            tell(share, what)

    return on_progress


def _taken(folder: Path, name: object) -> Path:
    """A file that the sandbox left. Raises IntakeError for what is none, or too large."""
    if isinstance(name, str) and re.fullmatch(r"[\w-][\w.-]{0,99}", name, re.ASCII):
        file = folder / name
        if file.is_file() and not file.is_symlink() and file.stat().st_size <= LARGEST_RESULT:
            return file
    raise IntakeError("The owner's code left a result that is no file, or too large.")
