"""From fitted defenses to stored ones and back, and the folder that runs one without us."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import NamedTuple

from auditor.defending.defense import defended
from auditor.defending.evaluation import FittedDefense
from auditor.defending.export import export
from auditor.defending.files import read_stack, write_stack
from auditor.defending.fit import FitResult, FitSpec
from auditor.models.classifier import Classifier
from auditor.models.defended import DefendedClassifier
from worker.blobs import BlobStore
from worker.defenses import NewDefense
from worker.loading import architecture_of, load_classifier, load_dataset
from worker.models import DefenseRow
from worker.registry import Registry

EXPORT_TIME = (1980, 1, 1, 0, 0, 0)
"""Time of every file in an exported archive, so the same defense gives the same bytes."""


class Loaded(NamedTuple):
    """A stored defense, ready to be used: the undefended classifier, and the same behind the defense, as deployed."""

    undefended: Classifier
    defended: DefendedClassifier


def stored(
    spec: FitSpec, fitted: FitResult, name: str, model_id: str, dataset_id: str | None, blobs: BlobStore
) -> NewDefense:
    """The defense as a row to be, its file kept."""
    with blobs.staging() as folder:
        file = folder / "defense.safetensors"
        write_stack(file, spec.defenses, fitted.states, fitted.lineage)
        size = file.stat().st_size
        content = blobs.take(file)
    manifest = {
        "title": spec.title,
        "facts": [state.facts for state in fitted.states],
        "lineage": fitted.lineage.model_dump(mode="json"),
        "bytes": size,
        **({"classes": fitted.classes.model_dump(mode="json")} if fitted.classes is not None else {}),
        "notes": [*(flag.text for flag in fitted.flags), *fitted.notes],
    }
    return NewDefense(name, model_id, dataset_id, spec.model_dump(mode="json"), content, manifest)


def fitted_defense(row: DefenseRow, blobs: BlobStore, registry: Registry) -> FittedDefense:
    """A stored defense, its file checked against its hash. Raises SpecError when it is no longer installed."""
    stack = read_stack(blobs.path(row.content))
    training = load_dataset(registry.dataset(row.dataset_id), blobs) if row.dataset_id is not None else None
    return FittedDefense(FitSpec.load(row.spec), stack.states, stack.lineage, training)


def load_defended(row: DefenseRow, blobs: BlobStore, registry: Registry) -> Loaded:
    """The model as it is deployed behind the defense, with the random numbers of the fit's seed."""
    spec = FitSpec.load(row.spec)
    classifier = load_classifier(registry.model(row.model_id), blobs)
    states = read_stack(blobs.path(row.content)).states
    model = defended(classifier, spec.defenses, states, seed=spec.seed)
    assert isinstance(model, DefendedClassifier)
    return Loaded(classifier, model)


def export_folder(row: DefenseRow, blobs: BlobStore, registry: Registry, folder: Path) -> None:
    """Write the defended model as a folder that runs without us (see ``auditor.defending.export``)."""
    model = registry.model(row.model_id)
    spec, states = FitSpec.load(row.spec), read_stack(blobs.path(row.content)).states
    export(folder, load_classifier(model, blobs), architecture_of(model), spec.defenses, states, seed=spec.seed)


def export_archive(row: DefenseRow, blobs: BlobStore, registry: Registry, file: Path) -> None:
    """The same folder as one .zip."""
    with blobs.staging() as folder:
        export_folder(row, blobs, registry, folder / "export")
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted((folder / "export").rglob("*")):
                if path.is_file():
                    entry = zipfile.ZipInfo(path.relative_to(folder / "export").as_posix(), EXPORT_TIME)
                    entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
                    archive.writestr(entry, path.read_bytes())
