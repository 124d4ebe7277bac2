"""Whole models, saved with torch.save(model): their weights are read as data; an outside reader is state_dict() itself."""

from __future__ import annotations

import argparse
import io
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from auditor.data.intake.pickle_values import Skipped
from auditor.data.intake.sets import contents
from auditor.kit.errors import IntakeError
from tests.auditor.data.intake.conftest import Door, Saved, Tiny


class Odd(nn.Module):
    """A stranger's class: buffers that are not kept, tied weights, a parameter that is None, and code in its state."""

    def __init__(self, marker: str) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = self.first
        self.plain = nn.Conv2d(3, 4, 3, bias=False)
        self.register_buffer("kept", torch.arange(3.0))
        self.register_buffer("passing", torch.arange(4.0), persistent=False)
        self.register_parameter("absent", None)
        self.deep = nn.ModuleDict({"a.b".replace(".", "_"): nn.Sequential(nn.BatchNorm1d(2))})
        self.marker = marker

    def __setstate__(self, state: dict[str, Any]) -> None:
        Path(state["marker"]).touch()
        self.__dict__.update(state)


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_whole_model_is_read_as_its_state_dict(
    door: Door, saved: Saved, options: dict[str, Any], wrapped: bool
) -> None:
    network = Tiny(height=8, width=8).build()
    value = {"model": network, "args": argparse.Namespace(lr=0.1)} if wrapped else network
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch cannot find the source of some classes
        manifest = door.model(saved(value, **options))
    assert manifest.wrapper == ("model" if wrapped else None)
    assert manifest.notes[0] == (
        "The file holds a whole model (torch.nn.modules.container.Sequential): its weights were read as data, and nothing of "
        "it was run."
    )
    assert ("argparse.Namespace (args)" in " ".join(manifest.notes)) == wrapped
    stored = door.tensors()
    assert stored.keys() == network.state_dict().keys()
    assert all(torch.equal(stored[key], value) for key, value in network.state_dict().items())


def test_data_parallel_as_a_whole(door: Door, saved: Saved) -> None:
    network = Tiny(height=8, width=8).build()
    assert door.model(saved(nn.DataParallel(network))).prefix == "module."


def test_names_and_tensors_are_those_of_state_dict_and_no_code_of_the_class_runs(tmp_path: Any) -> None:
    from auditor.data.intake.checkpoints import load_zip
    from auditor.kit.limits import Limits

    marker = tmp_path / "marker"
    network = Odd(str(marker))
    torch.save(network, tmp_path / "whole.pt")
    read = load_zip(tmp_path / "whole.pt", "whole.pt", Limits()).tensors
    expected = network.state_dict()
    assert list(read) == list(expected)
    assert all(torch.equal(read[key], value) for key, value in expected.items())
    assert read["first.weight"].data_ptr() == read["second.weight"].data_ptr(), "tied, as in the file"
    assert not marker.exists()
    torch.load(tmp_path / "whole.pt", weights_only=False)
    assert marker.exists(), "the marker would have shown"


def module(**children: object) -> Skipped:
    made = Skipped("a.Module")
    made.state = {"_parameters": {}, "_buffers": {}, "_modules": dict(children)}
    return made


def test_modules_that_hold_themselves_or_each_other_too_often() -> None:
    own = module()
    own.state["_modules"]["again"] = own  # type: ignore[index]
    with pytest.raises(IntakeError, match="too many modules within modules"):
        contents(own, "x")
    doubled = module()
    for _ in range(60):  # 2**60 paths
        doubled = module(a=doubled, b=doubled)
    with pytest.raises(IntakeError, match="too many modules within modules"):
        contents(doubled, "x")


def test_an_empty_module_holds_no_weights(door: Door) -> None:
    stream = io.BytesIO()
    torch.save(nn.ReLU(), stream)
    door.refuse_model(stream.getvalue(), "Python objects (torch.nn.modules.activation.ReLU), not only weights")
