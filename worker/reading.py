"""Reading an uploaded file behind walls: what runs inside the sandbox, and the calls into it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from auditor.errors import IntakeError
from worker.budget import OnWait, reading_share, silent
from worker.sandbox import confined
from worker.settings import Settings

if TYPE_CHECKING:
    from auditor.architecture import Architecture
    from auditor.intake.datasets import Reading


def read_model(
    file: Path,
    filename: str,
    architecture: Architecture,
    destination: Path,
    settings: Settings,
    on_wait: OnWait = silent,
) -> dict[str, Any]:
    """Check uploaded weights against the architecture and write them as safetensors to ``destination``.

    Returns the manifest as plain data. Raises IntakeError; then nothing is at ``destination``. ``on_wait`` is told, in a
    sentence, when others take the memory that reading may take.
    """
    from auditor.intake.weights import ModelManifest

    arguments = {"architecture": architecture.model_dump(mode="json")}
    return _confined(
        "read_model_inside", "weights", ModelManifest, file, filename, destination, settings, arguments, on_wait
    )


def read_dataset(
    file: Path,
    filename: str,
    reading: Reading,
    destination: Path,
    settings: Settings,
    on_wait: OnWait = silent,
) -> dict[str, Any]:
    """Check an uploaded archive of images and write it as a stored data set to ``destination``.

    Returns the manifest as plain data. Raises IntakeError; then nothing is at ``destination``. ``on_wait``: as for a model.
    """
    from auditor.intake.datasets import DatasetManifest

    arguments = {"reading": reading.model_dump(mode="json")}
    return _confined(
        "read_dataset_inside", "datasets", DatasetManifest, file, filename, destination, settings, arguments, on_wait
    )


def _confined(
    function: str,
    module: str,
    manifest: type[BaseModel],
    file: Path,
    filename: str,
    destination: Path,
    settings: Settings,
    arguments: dict[str, Any],
    on_wait: OnWait,
) -> dict[str, Any]:
    """The call into the sandbox. What comes back may come from a process that the file took over: it is checked."""
    with reading_share(settings, on_wait) as memory:
        result = confined(
            f"worker.reading:{function}",
            arguments={"file": str(file), "filename": filename, "destination": str(destination), **arguments},
            readable=[file],
            writable=[destination.parent],
            memory=memory,
            seconds=settings.intake_seconds,
            preload=[f"auditor.intake.{module}"],
            subject=filename,
        )
    try:
        return manifest.model_validate(result).model_dump(mode="json")
    except ValidationError:
        raise IntakeError(f"{filename} could not be read: the answer of its reader makes no sense.") from None


def read_model_inside(file: str, filename: str, destination: str, architecture: dict[str, Any]) -> dict[str, Any]:
    """Runs in the sandbox."""
    from auditor.architecture import ARCHITECTURES
    from auditor.intake.weights import take_model

    values = {name: value for name, value in architecture.items() if name != "kind"}
    built = ARCHITECTURES.build(architecture["kind"], values)
    return take_model(Path(file), filename, built, Path(destination)).model_dump(mode="json")


def read_dataset_inside(file: str, filename: str, destination: str, reading: dict[str, Any]) -> dict[str, Any]:
    """Runs in the sandbox."""
    from auditor.intake.datasets import Reading, take_dataset

    wanted = Reading.model_validate(reading)
    return take_dataset(Path(file), filename, Path(destination), reading=wanted).model_dump(mode="json")
