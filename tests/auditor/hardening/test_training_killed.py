"""A training that is killed, four times at random moments, and ends with the weights of one that was left alone."""

from __future__ import annotations

import multiprocessing
import random
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from auditor.hardening.result import TrainingResult
from auditor.hardening.spec import TrainingSpec

KILLS = 4
METHODS: dict[str, dict[str, Any]] = {
    "pat": {"averaging": "ema"},
    "sns": {"averaging": "swa", "swa_start": 0.3},
}


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServerContext]:
    """Processes of their own that need not read torch anew.

    They would run this process's ``__main__``, which after a test of a page is that page.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.auditor.hardening.killed"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "__main__", ModuleType("__main__"))
        yield context


def begun(server: ForkServerContext, spec: TrainingSpec, folder: Path) -> tuple[ForkServerProcess, Connection]:
    ours, theirs = server.Pipe()
    from tests.auditor.hardening.killed import training  # it reads much, which is for the server

    process = server.Process(target=training, args=(spec.model_dump_json(), str(folder), theirs))
    process.start()
    theirs.close()
    return process, ours


def left_alone(server: ForkServerContext, spec: TrainingSpec, folder: Path) -> TrainingResult:
    process, told = begun(server, spec, folder)
    while not isinstance(message := told.recv(), str):
        told.send(None)
    process.join()
    return TrainingResult.model_validate_json(message)


@pytest.mark.parametrize("kind", list(METHODS))
def test_killed_four_times_it_ends_with_the_same_bits(kind: str, server: ForkServerContext, tmp_path: Path) -> None:
    hardening = {"kind": kind, "epsilon": 0.1, "steps": 3}
    if kind == "sns":
        hardening |= {"variant": "dyn", "pairs": 16, "renewal_pairs": 16}
    spec = TrainingSpec.load(
        {
            "hardening": hardening,
            "epochs": 6,
            "batch_size": 8,
            "validation_steps": 2,
            "learning_rate": 0.05,
            "device": "cpu",
        }
        | METHODS[kind]
    )
    alone = left_alone(server, spec, tmp_path / "alone")
    moments = random.Random(kind)
    deaths = []
    for _ in range(KILLS):
        process, told = begun(server, spec, tmp_path / "killed")
        for _ in range(moments.randint(10, 20)):
            share, _ = told.recv()
            told.send(None)
        time.sleep(moments.uniform(0, 0.02))
        process.kill()  # SIGKILL
        process.join()
        deaths.append((process.exitcode, share))
    assert [code for code, _ in deaths] == [-9] * KILLS
    assert len({share for _, share in deaths}) >= 3, "killed at different places"
    killed = left_alone(server, spec, tmp_path / "killed")
    for name in ("best", "last"):
        one, other = (load_file(tmp_path / run / f"{name}.safetensors") for run in ("alone", "killed"))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one), name
    assert alone.model_dump(exclude={"provenance": {"seconds"}}) == killed.model_dump(
        exclude={"provenance": {"seconds"}}
    )
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == ["best.safetensors", "last.safetensors"]
    assert any(name.startswith("momentum/") for name in one)
    assert any(name.startswith("average/") for name in one)
