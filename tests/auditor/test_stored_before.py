"""Results that version 0.1.0 stored, before the modules of the core moved: read, drawn, compared and exported as they were.

See ``make_stored_before.py`` for where they come from and ``stored_before.py`` for what is expected of them. On a processor that
rounds as the one that made them, every number is equal to the last bit; on another one to nine digits.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from auditor import AuditResult, ImageDataset, TrainingResult, TrainingSpec, train_classifier
from auditor.auditing.vet import ClassifierCard
from auditor.defending.defense import defended
from auditor.defending.evaluation import DefenseEvaluation
from auditor.defending.export import export
from auditor.defending.files import read_stack, write_stack
from auditor.defending.loader import load
from auditor.defending.playground import as_bytes
from auditor.models.dataset import write_dataset
from tests.auditor.stored_before import (
    ARCHITECTURE,
    AUDITS,
    DRAWINGS,
    FOLDER,
    NAMES,
    STUDIES,
    TRAININGS,
    audit,
    classifier,
    dataset,
    drawn,
    examples,
    expected,
    one_thread,
    play,
    probe,
    text_of,
)

ANSWERS: dict[str, Any] = json.loads(text_of("answers"))
TO_THE_BIT = probe() == ANSWERS["how it rounds"]
DATA_FILE = "ac8edd33b6f43d6810716c36eca76c6d6c5282266192059850bdf3f478321488"
STORED: dict[str, Any] = {
    **{f"audit-{name}": AuditResult for name in AUDITS},
    **{f"training-{name}": TrainingResult for name in TRAININGS},
    **{f"study-{name}": DefenseEvaluation for name in STUDIES},
    "card": ClassifierCard,
}


def differences(found: list[str], wanted: list[str]) -> str:
    """The first lines that differ, or nothing."""
    return "\n".join(list(difflib.unified_diff(wanted, found, "stored", "now", lineterm="", n=1))[:40])


def same_number(found: str, wanted: str, bits: bool) -> bool:
    if found == wanted or bits or "–" in (found, wanted):
        return found == wanted
    try:
        return math.isclose(float(found), float(wanted), rel_tol=1e-9, abs_tol=1e-12)
    except ValueError:
        return False


def same_numbers(found: list[str], wanted: list[str], *, bits: bool) -> bool:
    pairs = [(one.split(), other.split()) for one, other in zip(found, wanted, strict=False)]
    return len(found) == len(wanted) and all(
        len(one) == len(other) and all(same_number(*numbers, bits) for numbers in zip(one, other, strict=True))
        for one, other in pairs
    )


def same_tensors(found: dict[str, Tensor], wanted: dict[str, Tensor], *, bits: bool = True) -> None:
    assert found.keys() == wanted.keys()
    for name, value in found.items():
        if bits:
            assert torch.equal(value, wanted[name]), name
        else:
            assert torch.allclose(value, wanted[name], rtol=1e-3, atol=1e-4), name


@pytest.mark.parametrize("name", DRAWINGS)
def test_what_is_drawn(name: str) -> None:
    """First the numbers, of which none may change (but the last bit of Wilson's interval of a mean over draws: the two formulas
    that there were are one now, in scipy's order); then the page and the report, which also hold the words."""
    found, wanted = drawn(name), expected(name)
    assert wanted.page, "nothing is expected"
    if not same_numbers(found.numbers, wanted.numbers, bits=TO_THE_BIT and "random" not in name):
        pytest.fail(f"numbers of {name}:\n{differences(found.numbers, wanted.numbers)}")
    for part in ("page", "report"):
        told = differences(getattr(found, part), getattr(wanted, part))
        if told:
            pytest.fail(f"{part} of {name}:\n{told}")


@pytest.mark.parametrize("name", STORED)
def test_what_is_written_again_is_what_was_stored(name: str) -> None:
    text = text_of(name)
    read = STORED[name].model_validate_json(text)
    found, wanted = json.loads(read.model_dump_json()), in_todays_form(json.loads(text))
    assert found.keys() == wanted.keys()
    for field, value in wanted.items():
        if (name, field) == ("audit-random", "headlines"):  # the last bit, as above; and the page says them, too
            numbers = (str(flat(item)).replace(",", "").split() for item in (found[field], value))
            assert same_numbers(*([" ".join(words)] for words in numbers), bits=False)
        else:
            assert found[field] == value, field
    assert STORED[name].model_validate_json(read.model_dump_json()) == read


def in_todays_form(stored: dict[str, Any]) -> dict[str, Any]:
    """What versions 2 of trainings and studies moved: where, when and with what they were made."""
    made = {"versions", "revision", "device", "processes", "seconds", "started"}
    stored = tables_in_todays_form(stored)
    if "versions" not in stored:
        return {"version": 1} | stored
    provenance = {key: stored.pop(key) for key in made & stored.keys()}
    return stored | {"version": 2, "provenance": {"started": ""} | provenance}


def tables_in_todays_form(value: Any) -> Any:
    """The tables of an evaluation have a version."""
    if isinstance(value, dict):
        version = {"version": 1} if "benign_undefended" in value else {}
        return version | {key: tables_in_todays_form(item) for key, item in value.items()}
    return [tables_in_todays_form(item) for item in value] if isinstance(value, list) else value


def flat(value: Any) -> list[Any]:
    """The leaves of plain data, in their order."""
    if isinstance(value, dict):
        value = list(value.values())
    return [leaf for item in value for leaf in flat(item)] if isinstance(value, list) else [value]


def test_the_play_is_written_as_it_was() -> None:
    """The images to the bit; what is said of them has a version since."""
    parts = []
    for content in (as_bytes(play()), (FOLDER / "play-nip.safetensors").read_bytes()):
        start = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:start])
        parts.append((json.loads(header["__metadata__"]["about"]), header["images"], content[start:]))
    (about, *rest), (about_stored, *rest_stored) = parts
    assert rest == rest_stored
    assert about == about_stored | {"version": 1}


def test_kept_adversarial_images_are_exported(tmp_path: Path) -> None:
    """Against the arrays that the audit wrote and the numbers of its result."""
    examples().export(dataset(), tmp_path / "kept.npz")
    record = audit("every-analysis").records[1]
    samples = audit("every-analysis").samples
    kept = [position for position in record.positions if position < 8]
    with np.load(tmp_path / "kept.npz") as found:
        assert found["x_adv"].tobytes() == np.load(FOLDER / "examples-001-00000.npy").tobytes()
        assert found["id"].tolist() == [samples.ids[position] for position in kept]
        assert np.array_equal(found["x"], dataset().images(found["id"]).numpy())
        assert found["fooled"].tolist() == [record.fooled[record.positions.index(position)] for position in kept]
        assert found["distance"].tolist() == [record.distance[record.positions.index(position)] for position in kept]
        assert json.loads(str(found["about"]))["attack"]["kind"] == "pgd"


@one_thread()
def test_a_training_goes_on_from_a_stored_checkpoint(tmp_path: Path) -> None:
    """From the midst of the second epoch of three; it ends with the weights and the curves of the one that went through."""
    for file in ("last", "best"):
        shutil.copyfile(FOLDER / f"checkpoint-{file}.safetensors", tmp_path / f"{file}.safetensors")
    whole = TrainingResult.model_validate_json(text_of("training-sns"))
    steps: list[int] = []
    result = train_classifier(
        TrainingSpec.load(whole.spec.model_dump(mode="json")), classifier(), dataset("training"), folder=tmp_path,
        on_checkpoint=steps.append, checkpoint_seconds=0,
    )  # fmt: skip
    assert (steps[0], result.steps) == (9, 15)
    same_tensors(
        load_file(tmp_path / "best.safetensors"), load_file(FOLDER / "resumed-best.safetensors"), bits=TO_THE_BIT
    )
    assert [point.step for point in result.points] == [point.step for point in whole.points]
    assert result.training == whole.training
    assert result.validation == whole.validation
    if TO_THE_BIT:
        assert result.points == whole.points
        assert (result.best, result.best_sha256) == (whole.best, whole.best_sha256)


def test_a_data_set_is_stored_in_the_same_bytes_and_opens(tmp_path: Path) -> None:
    """The SHA-256 of its file is what audits and checkpoints know it by; version 0.1.0 wrote this one."""
    with np.load(FOLDER / "data.npz") as arrays:
        images, labels = arrays["images"], arrays["labels"]
    write_dataset(tmp_path / "data", [images], images.shape, "U8", labels, class_names=NAMES, notes=["Read anew."])
    assert hashlib.sha256((tmp_path / "data").read_bytes()).hexdigest() == DATA_FILE
    opened = ImageDataset.open(tmp_path / "data")
    assert (opened.class_names, opened.notes, opened.labels.tolist()) == (NAMES, ("Read anew.",), labels.tolist())


@pytest.mark.parametrize("name", ["parent", "child"])
def test_stored_weights_load(name: str) -> None:
    model = classifier(f"{name}.safetensors", name)
    wanted = load_file(FOLDER / f"{name}.safetensors")
    same_tensors(dict(model.network.state_dict()), {key: wanted[key] for key in model.network.state_dict()})
    same_answers(model, name)


def test_a_stored_defense_loads_and_is_written_and_exported_as_it_was(tmp_path: Path) -> None:
    stack = read_stack(FOLDER / "defense.safetensors")
    write_stack(tmp_path / "again.safetensors", stack.defenses, stack.states, stack.lineage)
    assert (tmp_path / "again.safetensors").read_bytes() == (FOLDER / "defense.safetensors").read_bytes()
    same_answers(defended(classifier(), stack.defenses, stack.states, seed=0), "defended")
    export(tmp_path / "home", classifier(), ARCHITECTURE, stack.defenses, stack.states, seed=0)
    found, wanted = (
        json.loads(file.read_text()) for file in (tmp_path / "home/model.json", FOLDER / "exported-model.json")
    )
    assert found == wanted
    same_tensors(load_file(tmp_path / "home/model.safetensors"), load_file(FOLDER / "exported-model.safetensors"))


def test_a_defended_model_that_was_taken_home_loads(tmp_path: Path) -> None:
    for file in ("model.json", "model.safetensors"):
        shutil.copyfile(FOLDER / f"exported-{file}", tmp_path / file)
    same_answers(load(tmp_path), "defended")


def same_answers(model: Any, name: str) -> None:
    """Where tensors lie in memory moves the rounding of logits, so these are equal but for that."""
    assert torch.allclose(model.logits(dataset().images(np.arange(10))), torch.tensor(ANSWERS[name]), atol=1e-5)
