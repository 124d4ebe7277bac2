"""take_dataset: an uploaded .npz or zip of image folders becomes our own data set file, or one sentence on why not."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from auditor.dataset import write_dataset
from auditor.errors import IntakeError
from auditor.intake import archive
from auditor.intake.arrays import ArrayReader
from auditor.intake.faults import Unusable
from auditor.intake.folders import FolderReader
from auditor.intake.images import ImageSize
from auditor.intake.limits import Limits
from auditor.intake.magic import EMPTY_ZIP, NUMPY, ZIP, kind_of, read_head
from auditor.intake.reading import Reading
from auditor.intake.survey import Samples, Survey
from auditor.intake.upload import replacing, sha256_of
from auditor.intake.wording import shown, source_name

_STORED = {"uint8": "U8", "float32": "F32"}
_EXPECTED = "expected an .npz file with images and labels, or a zip with one folder of images for each class"


class DatasetManifest(BaseModel):
    """What was accepted: the stored data set, and what the upload was like. Sizes in bytes, hashes in hex."""

    model_config = ConfigDict(frozen=True)

    sha256: str = Field(description="SHA-256 of the stored file.")
    size: int = Field(description="Bytes of the stored file.")
    samples: int = Field(description="Number of images.")
    shape: tuple[int, int, int] = Field(description="(C, H, W) of every image.")
    dtype: Literal["uint8", "float32"] = Field(description="Type of the stored pixels; float32 is in [0, 1].")
    num_classes: int = Field(description="Number of class names, or one more than the largest label.")
    class_names: tuple[str, ...] | None = Field(description="Names of the classes, where the upload has some.")
    class_counts: tuple[int, ...] = Field(description="Images of each class.")
    format: Literal["npz", "image folders"] = Field(description="Format of the upload.")
    source_sha256: str = Field(description="SHA-256 of the upload.")
    source_name: str = Field(description="What the uploader called the file.")
    notes: tuple[str, ...] = Field(description="What the user should know about how the file was read.")
    warnings: tuple[str, ...] = Field(description="Doubts about the data.")
    resized: ImageSize | None = Field(description="Size to which the images were brought, if one was asked for.")
    labels_from: Literal["integers", "names", "numbers", ""] = Field(
        "",
        description="What the labels were made of: integers, names in sorted order, or names that are numbers; empty where this "
        "was not yet recorded.",
    )


def take_dataset(
    source: Path,
    filename: str,
    destination: Path,
    *,
    reading: Reading | None = None,
    limits: Limits | None = None,
) -> DatasetManifest:
    """Read uploaded images and labels and store them at ``destination``; ``filename`` is only shown.

    ``reading``: what the user chose. Memory does not grow with the number of pixels. Raises IntakeError, and leaves nothing
    behind.
    """
    limits, reading = limits or Limits(), reading or Reading()
    name = source_name(filename)
    head = read_head(source, name, limits)
    if not head.startswith((ZIP, EMPTY_ZIP)):
        hint = "Save it with its labels: np.savez('data.npz', images=images, labels=labels)"
        raise IntakeError(
            f"{shown(name)} is not a data set but {kind_of(head)}; {_EXPECTED}.", hint if head.startswith(NUMPY) else ""
        )
    with archive.opened(source, name, limits, any_name=True) as file, replacing(destination) as temporary:
        is_npz = _is_npz(file, name)
        samples, survey = _written((ArrayReader if is_npz else FolderReader)(file, name, limits), reading, temporary)
        count, height, width, channels = samples.shape
        return DatasetManifest(
            sha256=sha256_of(temporary),
            size=temporary.stat().st_size,
            samples=count,
            shape=(channels, height, width),
            dtype=samples.dtype,
            num_classes=samples.num_classes,
            class_names=samples.class_names,
            class_counts=tuple(samples.class_counts.tolist()),
            format="npz" if is_npz else "image folders",
            source_sha256=sha256_of(source),
            source_name=name,
            notes=tuple(samples.notes),
            warnings=tuple(survey.warnings()),
            resized=reading.size,
            labels_from=samples.labels_from,
        )


def _written(reader: ArrayReader | FolderReader, reading: Reading, path: Path) -> tuple[Samples, Survey]:
    """The images at ``path``; what cannot be used is left out where that was asked for, and the rest is read again."""
    while True:
        try:
            samples = reader.samples(reading)
            survey = Survey(samples)
            write_dataset(
                path, survey.watch(), samples.shape, _STORED[samples.dtype], samples.labels,
                class_names=samples.class_names, names=samples.names, notes=samples.notes,
            )  # fmt: skip
            return samples, survey
        except Unusable as error:
            if not reading.leave_out:
                raise
            reader.leave_out(error)


def _is_npz(file: zipfile.ZipFile, name: str) -> bool:
    """Whether the archive holds arrays at its top; else it holds images. Raises IntakeError when it is neither."""
    entries = [entry.orig_filename for entry in file.infolist()]
    if not entries:
        raise IntakeError(f"{shown(name)} is an empty archive; {_EXPECTED}.")
    if any(entry.endswith("/data.pkl") for entry in entries):
        raise IntakeError(f"{shown(name)} holds a torch model, not a data set; {_EXPECTED}.")
    return any(entry.endswith(".npy") and "/" not in entry for entry in entries)
