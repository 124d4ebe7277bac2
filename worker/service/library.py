"""Library: models and data sets: adding, finding, showing and exporting them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

from auditor.data.intake.asked import NOTHING_ASKED, Asked
from auditor.data.intake.reading import Reading
from auditor.data.intake.upload import Upload, take_upload
from auditor.hardening.hardening import HARDENINGS
from auditor.kit.errors import MismatchError, NotFoundError, SpecError
from auditor.kit.limits import Limits
from auditor.models.architecture import Architecture
from auditor.models.classifier import NORMALIZATIONS, Normalization
from auditor.models.labels import check_class_names
from auditor.models.own_code import OwnCode
from auditor.models.published import published_normalization
from auditor.show.blocks import Image
from auditor.show.pictures import picture
from worker.again import prepared_anew
from worker.budget import OnWait, silent
from worker.ledger import Which
from worker.lineage import Relative
from worker.loading import architecture_of, load_dataset
from worker.models import DatasetRow, ModelRow
from worker.owned import check_allowed, read_own_model
from worker.reading import architecture_from, inspect_model, look_into_dataset, read_dataset, read_model
from worker.service.backend import ClientPart
from worker.store import check_store
from worker.views import summary_of

if TYPE_CHECKING:
    from auditor.data.intake.datasets import Contents
    from auditor.data.intake.inspection import Inspection
    from worker.exporting import WeightsFormat


class Library(ClientPart):
    """Models and data sets: adding, finding, showing and exporting them."""

    def receive(self, stream: BinaryIO, folder: Path) -> Upload:
        """Stream an upload into ``folder`` while hashing it. Raises IntakeError over the limit, and OutageError if it would
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
        architecture: Architecture | None = None,
        normalization: Normalization | None = None,
        class_names: Sequence[str] | None = None,
        declared_accuracy: float | None = None,
        weights: str = "",
        on_wait: OnWait = silent,
        mapping: Literal[1, 2] = 1,
        asked: Asked = NOTHING_ASKED,
    ) -> ModelRow:
        """Check and keep a model. ``architecture``, ``normalization``, ``class_names``: None for what the file itself says;
        the architecture also for the only one that fits weights alone.
        ``declared_accuracy``: the share of images that it is said to classify correctly. ``weights``: which set of weights of
        the file is meant, such as ``teacher``, where it has several. ``on_wait`` is told, in a sentence, when other files take
        the memory that reading may take. ``mapping``: which of two ways, where the tensors' names do not fit and their shapes fit
        in both (the manifest's ``other``). ``asked``: the size that an ONNX file leaves open, and which
        of several outputs of the network holds the logits.

        An architecture of its owner's code (OwnCode) is read in the sandbox, where the administrator allows it.

        Raises IntakeError, SpecError or MismatchError; then nothing is kept. An IntakeError has ``choices`` where the file
        has several sets of weights, or several outputs.
        """
        if isinstance(architecture, OwnCode):
            check_allowed(self.settings)
        elif architecture is not None:
            _check_declared(architecture, normalization, class_names)
        with self.blobs.staging() as folder:
            upload = self.receive(stream, folder)
            stored = folder / "weights.safetensors"
            if isinstance(architecture, OwnCode):
                manifest, architecture = read_own_model(
                    upload.path,
                    filename,
                    architecture,
                    stored,
                    self.settings,
                    on_wait,
                    weights,
                    mapping,
                    asked.output,
                )
            else:
                manifest = read_model(
                    upload.path, filename, architecture, stored, self.settings, on_wait, weights, mapping, asked
                )
                architecture = architecture or architecture_from(manifest["architecture"])
            if normalization is None and manifest["normalization"] is not None:
                normalization = Normalization.model_validate(manifest["normalization"])
                manifest["notes"].append(f"The normalization is the file's own: {normalization}.")
            elif normalization is None:
                normalization, said = published_normalization(architecture)
                manifest["notes"] += [said] if said else []
            normalization = (normalization or NORMALIZATIONS["none"]).for_channels(architecture.channels)
            class_names = class_names if class_names is not None else manifest["class_names"]
            _check_declared(architecture, normalization, class_names)
            return self.registry.add_model(
                name,
                architecture=architecture.model_dump(mode="json"),
                normalization=normalization.model_dump(mode="json"),
                class_names=list(class_names) if class_names is not None else None,
                declared_accuracy=declared_accuracy,
                weights=self.blobs.take(stored),
                manifest=manifest,
            )

    def add_again(
        self,
        key: str,
        *,
        normalization: Normalization | None = None,
        size: tuple[int, int] | None = None,
        name: str = "",
    ) -> ModelRow:
        """Keep a model a second time, with the same stored weights and other preprocessing. None: as it was.

        ``size``: height and width of the images. ``name``: by default made of the first one's and what differs. Raises
        SpecError when nothing differs, when the weights fit no images of that size, and for a model that was trained here;
        MismatchError for a normalization of other channels.
        """
        row = self.model(key)
        if self.lineages.ancestors(row.id):
            raise SpecError(
                f"{row.name} was trained here, with the preprocessing of its parent.",
                "Add the parent again with the right preprocessing, and train a child of that.",
            )
        return self.registry.add_model(**prepared_anew(row, normalization, size, name))

    def inspect_model(
        self,
        stream: BinaryIO,
        filename: str,
        *,
        weights: str = "",
        on_wait: OnWait = silent,
        asked: Asked = NOTHING_ASKED,
    ) -> Inspection:
        """What a file of a model holds, and the architectures that it may be of. Raises IntakeError; nothing is kept.

        ``weights``, ``on_wait``, ``asked``: as for add_model.
        """
        with self.blobs.staging() as folder:
            upload = self.receive(stream, folder)
            return inspect_model(upload.path, filename, folder, self.settings, on_wait, weights, asked)

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

    def look_into_dataset(
        self, stream: BinaryIO, filename: str, *, inside: str = "", on_wait: OnWait = silent
    ) -> Contents:
        """What can be chosen of a data set before it is added: parts, arrays, folders. Raises IntakeError; nothing is kept."""
        with self.blobs.staging() as folder:
            upload = self.receive(stream, folder)
            return look_into_dataset(upload.path, filename, inside, folder, self.settings, on_wait)

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
        """What a model's weights are of, as JSON: architecture, normalization, classes, and the ``hashes`` of exported files."""
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

    def lineage(self, model: str) -> list[Relative]:
        """Everybody in a model's tree, from the root on, each before its children."""
        rows = {row.id: row for row in self.models()}
        origins = self.lineages.origins()
        found = []
        for model_id, depth in self.lineages.family(self.model(model).id):
            origin, method = origins.get(model_id), ""
            if origin is not None and (job := self.ledger.get(origin.job_id)) is not None:
                method = HARDENINGS[job.spec["training"]["hardening"]["kind"]].display_title()
            audits = self.ledger.list(Which(kind="audit", model_id=model_id, states=("succeeded",)), limit=1)
            done = next(((job.id, summary_of(job, summary)) for job, summary in audits), ("", {}))
            parent_id, job_id = (origin.parent_id, origin.job_id) if origin is not None else ("", "")
            found.append(Relative(rows[model_id], depth, parent_id, job_id, method, *done))
        return found


def _check_declared(
    architecture: Architecture, normalization: Normalization | None, class_names: Sequence[str] | None
) -> None:
    """Raises MismatchError if what is said of a model does not go together."""
    if normalization is not None:
        normalization.for_channels(architecture.channels)
    if class_names is None:
        return
    if len(class_names) != architecture.num_classes:
        raise MismatchError(
            f"The model has {architecture.num_classes} classes, but {len(class_names)} names were given."
        )
    check_class_names(class_names, Limits())
