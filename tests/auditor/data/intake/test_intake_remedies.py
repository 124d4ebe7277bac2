"""What training scripts save is accepted as it is; where a choice is needed, what the refusal offers works."""

from __future__ import annotations

import argparse
import collections
import contextlib
import datetime
import enum
import io
import pathlib
import re
import zipfile
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.auditor.data.intake.conftest import Door, Saved, Tiny


class Mode(enum.Enum):
    FAST = 1


BESIDE = {
    "best_acc": np.float64(91.2),
    "args": argparse.Namespace(lr=0.1, out=pathlib.PurePosixPath("runs")),
    "when": datetime.date(2026, 1, 2),
    "history": collections.defaultdict(list, loss=[1.0]),
    "queue": collections.deque([1, 2]),
    "mode": Mode.FAST,
    "confusion": np.eye(3),
}
SAID = "argparse.Namespace (args), datetime.date (when), collections.deque (queue)"


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_values_beside_the_weights_are_skipped_and_named(
    door: Door, state: dict[str, Tensor], saved: Saved, protocol: int, legacy: bool
) -> None:
    options = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": not legacy}
    manifest = door.model(saved({"state_dict": state} | BESIDE, **options))
    (note,) = manifest.notes
    assert note.startswith(f"Beside the weights the file holds, and nothing of it was run: {SAID}, ")
    assert "Mode (mode)" in note
    assert "best_acc" not in note, "a number is no object"
    stored = door.destination.read_bytes()
    assert stored == (door.model(saved(state)), door.destination.read_bytes())[1], "the same weights, the same file"


@pytest.mark.parametrize(
    ("made", "options", "noted"),
    [
        (lambda state: (state, 0.93), {}, "of its 2 items the dictionary was taken"),
        (lambda state: (state, {"epoch": 3}), {}, "of its 2 items the dictionary was taken"),
        (lambda state: [{"epoch": 3}, {"net": {"weights": state}}], {}, "of its 2 items the dictionary was taken"),
        (lambda state: {"net_state_dict": state, "epoch": 3}, {}, ""),
        (lambda state: {"net_state_dict": state, "loss": torch.tensor(0.3)}, {}, ""),
        (lambda state: {"fold": {"best": [{"net_sd": state}]}, "rng": torch.get_rng_state()}, {}, ""),
        (lambda state: state | {"best_acc": np.float64(0.5)}, {}, "we ignored: 'best_acc'"),
        (lambda state: state, {"pickle_protocol": 4}, ""),
        (lambda state: {"model": state, "epoch": 3}, {"pickle_protocol": 5}, ""),
        (
            lambda state: {f"backbone.{k}": v for k, v in state.items()},
            {},
            "The prefix 'backbone.' was taken off every name",
        ),
        (
            lambda state: {f"model.{k}": v for k, v in state.items()} | {"criterion.weight": torch.ones(10)},
            {},
            "Left out, since the architecture has no place for them: 'criterion.weight'",
        ),
        (
            lambda state: state | {"total_ops": torch.zeros(1), "0.total_params": torch.zeros(1)},
            {},
            "'total_ops', '0.total_params'",
        ),
    ],
    ids=[
        "tuple",
        "two dictionaries",
        "list",
        "unknown wrapper",
        "loss beside",
        "deep",
        "scalar among tensors",
        "protocol 4",
        "protocol 5",
        "any prefix",
        "Lightning",
        "profiler",
    ],
)
def test_what_training_scripts_save_is_accepted_with_a_note(
    door: Door, state: dict[str, Tensor], saved: Saved, made: Any, options: Any, noted: str
) -> None:
    manifest = door.model(saved(made(state), **options))
    assert manifest.tensors == len(state)
    assert noted in " ".join(manifest.notes)
    assert bool(noted) == bool(manifest.notes)
    stored = door.destination.read_bytes()
    assert stored == (door.model(saved(state)), door.destination.read_bytes())[1], "the same weights, the same file"


@pytest.mark.parametrize(
    ("made", "names"),
    [
        (lambda a, b: {"student": a, "teacher": b}, ("student", "teacher")),
        (lambda a, b: {"student": a, "teacher": a}, ("student", "teacher")),
        (lambda a, b: {"nets": [a, b]}, ("nets.0", "nets.1")),
        (lambda a, b: (a, b), ("0", "1")),
        (lambda a, b: {"my net": {"sd": a}, "other": {"sd": b}}, ("my net.sd", "other.sd")),
    ],
    ids=["two", "one twice", "list", "tuple", "deep"],
)
def test_of_several_sets_the_option_chooses(
    door: Door, state: dict[str, Tensor], saved: Saved, made: Any, names: Any
) -> None:
    other = {key: value + 1 for key, value in state.items()}
    content = saved(made(state, other))
    refused = door.refuse_model(content, "several sets of weights ('", "'Set of weights' on the page")
    assert refused.choices == names
    option = re.search("`--weights '?([^'`]+)'?`", refused.hint)
    assert option is not None
    assert option[1] == names[0]
    stored = []
    for name in names:
        manifest = door.model(content, choice=name)
        assert manifest.wrapper == name
        assert f"'{name}' was taken" in manifest.notes[0]
        stored.append(door.destination.read_bytes())
    assert stored[0] == (door.model(saved(state)), door.destination.read_bytes())[1]
    assert (stored[0] == stored[1]) == (made(1, 2) == made(1, 1))


def test_a_choice_that_is_not_there_names_those_that_are(door: Door, state: dict[str, Tensor], saved: Saved) -> None:
    content = saved({"student": state, "teacher": state})
    refused = door.refuse_model(content, "no set of weights called 'master'", "'student', 'teacher'", choice="master")
    assert refused.choices == ("student", "teacher")
    alone = door.refuse_model(saved(state), "no set of weights called 'x'; it has one set", choice="x")
    assert "Leave out `--weights`" in alone.hint
    assert door.model(saved(state)).tensors == len(state)


def test_a_preferred_set_is_taken_and_the_note_says_how_to_take_another(
    door: Door, state: dict[str, Tensor], saved: Saved
) -> None:
    other = {key: value + 1 for key, value in state.items()}
    content = saved(
        {"state_dict": other, "state_dict_ema": state, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}}
    )
    (note,) = door.model(content).notes
    assert "several sets of weights (state_dict_ema, state_dict); 'state_dict_ema' was taken" in note
    option = re.search("`--weights ([^`]+)`", note)
    assert option is not None
    assert door.model(content, choice=option[1]).wrapper == "state_dict"
    assert torch.equal(door.tensors()["5.bias"], state["5.bias"] + 1)


def test_a_prefix_that_does_not_make_the_names_fit_stays(door: Door, state: dict[str, Tensor], saved: Saved) -> None:
    some = {f"backbone.{key}": value for key, value in state.items() if key != "5.bias"}
    door.refuse_model(saved(some), "missing")


def carried_out(hint: str, folder: pathlib.Path, **names: Any) -> bytes:
    """Do what the hint says; returns the weights.pt that it makes."""
    code = re.search("import torch; [^`]*?\\)(?= and|$)|torch.save\\(.*\\)", hint)
    assert code is not None, hint
    with contextlib.chdir(folder):
        exec(code[0], {"torch": torch, **names})
    return (folder / "weights.pt").read_bytes()


def test_a_file_without_weights_is_made_anew_where_the_model_is(
    door: Door, saved: Saved, tmp_path: pathlib.Path
) -> None:
    network = Tiny(height=8, width=8).build()
    for content in (saved(BESIDE["args"]), saved([1, 2]), saved({"epoch": 3})):
        refused = door.refuse_model(content)
        assert door.model(carried_out(refused.hint, tmp_path, model=network)).notes == ()


def test_a_compressed_file_is_saved_again(door: Door, state: dict[str, Tensor], saved: Saved) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved(state))) as file, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as copy:
        for member in file.infolist():
            copy.writestr(member.filename, file.read(member))
    refused = door.refuse_model(stream.getvalue(), "is compressed")
    assert refused.hint == "Save it again with torch.save."
    stream.seek(0)
    assert door.model(saved(torch.load(stream, weights_only=True))).tensors == len(state)


def test_weights_of_an_unusual_type_are_converted(
    door: Door, state: dict[str, Tensor], saved: Saved, tmp_path: pathlib.Path
) -> None:
    network = Tiny(height=8, width=8).build()
    narrow = {
        key: value.to(torch.float8_e4m3fn) if value.is_floating_point() else value for key, value in state.items()
    }
    refused = door.refuse_model(saved(narrow), "a tensor of an unusual type (8-bit float or unsigned integer)")
    assert refused.hint.startswith("Convert the model to ordinary float32 weights, then: ")
    network.load_state_dict({key: value.float() for key, value in narrow.items()})
    assert door.model(carried_out(refused.hint, tmp_path, model=network)).notes == ()
