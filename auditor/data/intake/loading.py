"""load: an uploaded file of a model as tensors by name, in whichever of the formats it is."""

from __future__ import annotations

from pathlib import Path

from auditor.data.intake.asked import NOTHING_ASKED, Asked
from auditor.data.intake.checkpoints import Checkpoint, is_legacy, load_legacy, load_zip
from auditor.data.intake.found import FoundModel
from auditor.data.intake.magic import EMPTY_ZIP, ZIP, is_pickle, is_safetensors, kind_of, read_head
from auditor.data.intake.pickle_machine import RECIPE
from auditor.data.intake.readers import found_in
from auditor.data.intake.safe import load_safetensors
from auditor.data.intake.sets import averaged, contents, objects, part, unknown_choice
from auditor.data.intake.storages import TorchReader
from auditor.kit.errors import IntakeError
from auditor.kit.limits import Limits
from auditor.kit.wording import shown


def load(source: Path, name: str, limits: Limits, choice: str, asked: Asked = NOTHING_ASKED) -> Checkpoint | FoundModel:
    """What a file holds. ``choice``, ``asked``: see take_model; ``name`` is for errors. Raises IntakeError."""
    head = read_head(source, name, limits)
    if (found := found_in(source, name, head, limits, asked)) is not None:
        return found
    if head.startswith((ZIP, EMPTY_ZIP)):
        return load_zip(source, name, limits, choice)
    if is_legacy(head):
        return load_legacy(source, name, limits, choice)
    if is_safetensors(head):
        checkpoint = load_safetensors(source, name, limits)
        if not choice:
            tensors, start, note = averaged(checkpoint.tensors)
            return checkpoint._replace(tensors=tensors, wrapper=start or None, notes=(note,) if note else ())
        if inside := part(checkpoint.tensors, choice):
            return checkpoint._replace(tensors=inside, wrapper=choice)
        raise unknown_choice(choice, (), name)
    if is_pickle(head):
        _check_plain_pickle(source, name, limits)
    raise IntakeError(
        f"{shown(name)} is not a weights file but {kind_of(head)}; expected safetensors or a file written by torch.save.",
        RECIPE,
    )


def _check_plain_pickle(source: Path, name: str, limits: Limits) -> None:
    """Name the objects of a pickle that torch.save did not write. Raises IntakeError."""
    with source.open("rb") as file:
        root = TorchReader(file.read(limits.pickle_bytes), name, limits).read()
    if beside := contents(root, name).beside:
        raise objects(beside[0].kind, name)
