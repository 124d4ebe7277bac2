"""Remedies of refused weights are run: what they write is accepted; and what needs none is accepted at once."""

from __future__ import annotations

import argparse
import collections
import contextlib
import datetime
import pathlib
from typing import Any

import numpy as np
import pytest
import torch

BESIDE = {
    "best_acc": np.float64(91.2),
    "args": argparse.Namespace(lr=0.1, out=pathlib.PurePosixPath("runs")),
    "when": datetime.date(2026, 1, 2),
    "history": collections.defaultdict(list, loss=[1.0]),
}


def carried_out(hint: str, folder: pathlib.Path, content: bytes) -> bytes:
    """Do what the hint says, in a folder with the file; returns the weights.pt that it makes."""
    code = hint[hint.index("import torch") :]
    (folder / "upload.pt").write_bytes(content)
    with contextlib.chdir(folder):
        exec(code, {})
    return (folder / "weights.pt").read_bytes()


@pytest.mark.parametrize(
    ("made", "options", "said"),
    [
        (lambda state: {"state_dict": state} | BESIDE, {}, "Python objects (numpy"),
        (lambda state: {"state_dict": state, "args": BESIDE["args"]}, {}, "Python objects (argparse.Namespace)"),
        (lambda state: state | {"best_acc": np.float64(0.5)}, {}, "Python objects (numpy"),
        (lambda state: state, {"pickle_protocol": 4}, "pickle protocol 4 or later"),
        (lambda state: state, {"pickle_protocol": 5}, "pickle protocol 4 or later"),
        (lambda state: {"model": state, "epoch": 3}, {"pickle_protocol": 4}, "pickle protocol 4 or later"),
        (lambda state: {"student": state, "teacher": state}, {}, "several sets of weights ('student', 'teacher')"),
        (lambda state: (state, {"epoch": 3}), {}, "a tuple with 2 dictionaries"),
    ],
    ids=[
        "values beside",
        "Namespace",
        "scalar among tensors",
        "protocol 4",
        "protocol 5",
        "wrapped",
        "two sets",
        "two dictionaries",
    ],
)
def test_the_remedy_works_for_the_very_file(
    door: Any, state: Any, saved: Any, tmp_path: pathlib.Path, made: Any, options: Any, said: str
) -> None:
    content = saved(made(state), **options)
    refused = door.refuse_model(content, said, filename="upload.pt")
    weights = carried_out(refused.hint, tmp_path, content)
    assert door.model(weights).tensors == len(state)


def test_nobody_is_told_to_load_a_file_that_runs_code(door: Any, state: Any, saved: Any) -> None:
    """Values that are harmless by themselves, and a command after them."""

    class Command:
        def __reduce__(self) -> Any:
            return print, ("x",)

    for beside in ({"a": np.float64(1), "b": Command()}, {"b": Command()}, {"b": Command(), "a": np.float64(1)}):
        for options in ({}, {"pickle_protocol": 4}):
            refused = door.refuse_model(saved({"state_dict": state} | beside, **options), "Python objects (")
            assert "weights_only=False" not in refused.hint
            assert "state_dict()" in refused.hint


@pytest.mark.parametrize(
    ("made", "noted"),
    [
        (lambda state: (state, 0.93), "of its 2 items the dictionary was taken"),
        (lambda state: {"net_state_dict": state, "epoch": 3}, ""),
        (
            lambda state: {f"backbone.{k}": v for k, v in state.items()},
            "The prefix 'backbone.' was taken off every name",
        ),
        (
            lambda state: {f"model.{k}": v for k, v in state.items()} | {"criterion.weight": torch.ones(10)},
            "Left out, since the architecture has no place for them: 'criterion.weight'",
        ),
        (
            lambda state: state | {"total_ops": torch.zeros(1), "0.total_params": torch.zeros(1)},
            "'total_ops', '0.total_params'",
        ),
    ],
    ids=["tuple", "unknown wrapper", "any prefix", "Lightning", "profiler"],
)
def test_what_training_scripts_save_is_accepted_with_a_note(
    door: Any, state: Any, saved: Any, made: Any, noted: str
) -> None:
    manifest = door.model(saved(made(state)))
    assert manifest.tensors == len(state)
    assert noted in " ".join(manifest.notes)
    stored = door.destination.read_bytes()
    assert stored == (door.model(saved(state)), door.destination.read_bytes())[1], "the same weights, the same file"


def test_a_prefix_that_does_not_make_the_names_fit_stays(door: Any, state: Any, saved: Any) -> None:
    some = {f"backbone.{key}": value for key, value in state.items() if key != "5.bias"}
    door.refuse_model(saved(some), "missing")
