"""Reading an uploaded file in a sandbox: what runs inside it, and the calls into it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from auditor.data.intake.asked import NOTHING_ASKED, Asked
from auditor.kit.errors import AuditorError, IntakeError
from worker.budget import OnWait, reading_share, silent
from worker.sandbox import confined
from worker.settings import Settings

if TYPE_CHECKING:
    from auditor.data.intake.datasets import Contents
    from auditor.data.intake.inspection import Inspection
    from auditor.data.intake.reading import Reading
    from auditor.models.architecture import Architecture

M = TypeVar("M", bound=BaseModel)


def read_model(
    file: Path,
    filename: str,
    architecture: Architecture | None,
    destination: Path,
    settings: Settings,
    on_wait: OnWait = silent,
    choice: str = "",
    mapping: int = 1,
    asked: Asked = NOTHING_ASKED,
) -> dict[str, Any]:
    """Check uploaded weights against the architecture, or against the one that the file itself names if it is None, and
    write them as safetensors to ``destination``.

    Returns the manifest as plain data. Raises IntakeError; then nothing is at ``destination``. ``on_wait`` is told, in a
    sentence, when others take the memory that reading may take. ``choice``: which set of weights, where there are several;
    ``asked``: what an ONNX file leaves open.
    """
    from auditor.data.intake.weights import ModelManifest

    arguments = {
        "architecture": None if architecture is None else architecture.model_dump(mode="json"),
        "choice": choice,
        "mapping": mapping,
        "asked": asked._asdict(),
    }
    manifest = confined_reading(
        "worker.reading:read_model_inside",
        ModelManifest,
        file,
        filename,
        destination,
        settings,
        arguments,
        on_wait,
        preload=["auditor.data.intake.weights"],
    ).model_dump(mode="json")
    if architecture is None:
        try:
            architecture_from(manifest["architecture"])
        except (AuditorError, LookupError, TypeError):
            raise senseless(filename) from None
    return manifest


def inspect_model(
    file: Path,
    filename: str,
    scratch: Path,
    settings: Settings,
    on_wait: OnWait = silent,
    choice: str = "",
    asked: Asked = NOTHING_ASKED,
) -> Inspection:
    """What a file of a model holds, and the architectures that it may be of. ``scratch``: a folder for the sandbox.

    Raises IntakeError. ``choice``, ``asked`` and ``on_wait``: as for read_model.
    """
    from auditor.data.intake.inspection import Inspection

    return confined_reading(
        "worker.reading:inspect_model_inside", Inspection, file, filename, scratch / "unused", settings,
        {"choice": choice, "asked": asked._asdict()}, on_wait, preload=["auditor.data.intake.inspection"],
    )  # fmt: skip


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
    from auditor.data.intake.datasets import DatasetManifest

    arguments = {"reading": reading.model_dump(mode="json")}
    # torch resizes as it does by default; all else of a data set is read without it, seconds sooner.
    more = [] if reading.size is None or reading.size.antialias else ["torch"]
    return confined_reading(
        "worker.reading:read_dataset_inside",
        DatasetManifest,
        file,
        filename,
        destination,
        settings,
        arguments,
        on_wait,
        preload=[*more, "auditor.data.intake.datasets"],
    ).model_dump(mode="json")


def look_into_dataset(
    file: Path,
    filename: str,
    inside: str,
    scratch: Path,
    settings: Settings,
    on_wait: OnWait = silent,
) -> Contents:
    """What can be chosen of an uploaded archive of images. ``scratch``: a folder in which the sandbox may write.

    Raises IntakeError. ``on_wait``: as for a model.
    """
    from auditor.data.intake.datasets import Contents

    return confined_reading(
        "worker.reading:look_into_dataset_inside", Contents, file, filename, scratch / "unused", settings, {"inside": inside},
        on_wait, preload=["auditor.data.intake.datasets"],
    )  # fmt: skip


def confined_reading(
    function: str,
    manifest: type[M],
    file: Path,
    filename: str,
    destination: Path,
    settings: Settings,
    arguments: dict[str, Any],
    on_wait: OnWait,
    *,
    preload: Sequence[str],
    subject: str = "",
) -> M:
    """Call a reader into the sandbox: ``module:function``, which takes the file, its name, the destination and the arguments.

    What comes back may come from a process that the file took over, and is checked. ``preload``: modules that the sandbox has
    before its walls stand. ``subject``: what errors speak of, if not of the file alone. Raises IntakeError.
    """
    with reading_share(settings, on_wait) as memory:
        result = confined(
            function,
            arguments={"file": str(file), "filename": filename, "destination": str(destination), **arguments},
            readable=[file],
            writable=[destination.parent],
            memory=memory,
            seconds=settings.intake_seconds,
            preload=list(preload),
            subject=subject or filename,
        )
    try:
        return manifest.model_validate(result)
    except ValidationError:
        raise senseless(filename) from None


def senseless(filename: str) -> IntakeError:
    """The refusal of what a reader returned."""
    return IntakeError(f"{filename} could not be read: its reader returned an invalid answer.")


def read_model_inside(
    file: str,
    filename: str,
    destination: str,
    architecture: dict[str, Any] | None,
    choice: str,
    mapping: int,
    asked: dict[str, Any],
) -> dict[str, Any]:
    """Runs in the sandbox, where only the folder of the destination can be written."""
    from auditor.data.intake.weights import take_model

    tempfile.tempdir = str(Path(destination).parent)

    declared = None if architecture is None else architecture_from(architecture)
    taken = take_model(
        Path(file), filename, declared, Path(destination), choice=choice, second=mapping == 2, asked=_asked(asked)
    )
    return taken.model_dump(mode="json")


def _asked(data: Mapping[str, Any]) -> Asked:
    """From its plain data, in which a pair is a list."""
    return Asked(None if data["size"] is None else (data["size"][0], data["size"][1]), data["output"])


def architecture_from(data: Mapping[str, Any]) -> Architecture:
    """An architecture from its plain data. Raises SpecError when it is not installed, or its values are not usable."""
    from auditor.models.architecture import ARCHITECTURES

    values = {name: value for name, value in data.items() if name != "kind"}
    return ARCHITECTURES.build(str(data["kind"]), values)


def inspect_model_inside(
    file: str, filename: str, destination: str, choice: str, asked: dict[str, Any]
) -> dict[str, Any]:
    """Runs in the sandbox."""
    from auditor.data.intake.inspection import inspect

    tempfile.tempdir = str(Path(destination).parent)
    return inspect(Path(file), filename, choice=choice, asked=_asked(asked)).model_dump(mode="json")


def look_into_dataset_inside(file: str, filename: str, destination: str, inside: str) -> dict[str, Any]:
    """Runs in the sandbox."""
    from auditor.data.intake.datasets import look_into

    return look_into(Path(file), filename, inside=inside).model_dump(mode="json")


def read_dataset_inside(file: str, filename: str, destination: str, reading: dict[str, Any]) -> dict[str, Any]:
    """Runs in the sandbox."""
    from auditor.data.intake.datasets import take_dataset
    from auditor.data.intake.reading import Reading

    wanted = Reading.model_validate(reading)
    return take_dataset(Path(file), filename, Path(destination), reading=wanted).model_dump(mode="json")
