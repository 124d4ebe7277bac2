"""Several processes that train one network: the weights are those of one process, interrupted or not, and none is left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from auditor.hardening.hardening import Terms
from auditor.hardening.learning.team import Team, team_size
from auditor.hardening.result import TrainingResult
from auditor.hardening.training import train
from auditor.kit.errors import SpecError, TrainingError
from auditor.models.classifier import Classifier
from tests.auditor.hardening.test_training import Diverging, data_of, kept, last, same, spec_of
from tests.nets import deeper_classifier


@pytest.fixture(autouse=True)
def no_page() -> Iterator[None]:
    """Processes would run this one's ``__main__``, which after a test of a page is that page."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "__main__", ModuleType("__main__"))
        yield


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run(folder: Path, classifier: Classifier | None = None, **more: Any) -> TrainingResult:
    keys = ("on_point", "on_progress", "stop", "on_checkpoint")
    arguments = {key: more.pop(key) for key in keys if key in more}
    spec = spec_of(**{"epochs": 2, "sensitivity_samples": 0} | more)
    return train(spec, classifier or deeper_classifier(), data_of(40), folder=folder, checkpoint_seconds=0, **arguments)


def close(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.allclose(value, other[name], rtol=0, atol=tolerance), name


@pytest.mark.parametrize(
    "hardening",
    [
        # Attacks, two passes over the network in a step, and a gradient through a gradient.
        {"kind": "route_gradient", "base": "pat", "random_start": False, "steps": 2, "penalty": 0.1, "images": 16},
        {"kind": "fine_tune", "train_from": "4"},
    ],
    ids=lambda hardening: hardening["kind"],
)
def test_two_processes_end_with_the_weights_of_one(hardening: dict[str, Any], tmp_path: Path) -> None:
    """In float64; without what each does by itself: statistics of its part of the batch, random starts, dropout."""
    found: dict[int, TrainingResult] = {}
    for processes in (1, 2):
        told: list[float] = []
        classifier = deeper_classifier().double()
        found[processes] = run(
            tmp_path / str(processes), classifier, processes=processes, hardening=hardening, batch_norm="fixed",
            momentum=0.9, averaging="ema", on_progress=lambda share, what, told=told: told.append(share),
        )  # fmt: skip
    close(last(tmp_path / "1"), last(tmp_path / "2"), 1e-12)
    close(last(tmp_path / "1", "momentum"), last(tmp_path / "2", "momentum"), 1e-12)
    close(kept(tmp_path / "1"), kept(tmp_path / "2"), 1e-12)
    moved = last(tmp_path / "1")["4.weight"] - deeper_classifier().double().network.state_dict()["4.weight"]
    assert moved.abs().max() > 1e-3
    one, two = found.values()
    assert (one.training, one.validation, one.best) == (two.training, two.validation, two.best)
    assert (one.provenance.processes, two.provenance.processes) == (1, 2)
    for first, second in zip(one.points, two.points, strict=True):
        assert first.terms == pytest.approx(second.terms, abs=1e-12)
    assert (told, told[-1]) == (sorted(told), 1.0)


class Interrupted(Exception):
    """The caller's own."""


def test_killed_and_resumed_two_processes_end_with_the_same_bits(tmp_path: Path) -> None:
    """Batch statistics, random starts, crops and running statistics, each process with its own."""
    more: dict[str, Any] = {
        "processes": 2, "hardening": {"kind": "pat", "steps": 1, "epsilon": 0.1}, "augmentation": "crop_flip",
    }  # fmt: skip
    whole = run(tmp_path / "whole", **more)
    for _ in range(2):
        steps = count(1)

        def interrupt(share: float, what: str, steps: count[int] = steps) -> None:
            if what.startswith("epoch") and next(steps) == 3:
                raise Interrupted

        with pytest.raises(Interrupted):
            run(tmp_path / "parts", on_progress=interrupt, **more)
        assert multiprocessing.active_children() == []
    parts = run(tmp_path / "parts", **more)
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == ["best.safetensors", "last.safetensors"]
    same(kept(tmp_path / "whole"), kept(tmp_path / "parts"))
    same(kept(tmp_path / "whole", "last"), kept(tmp_path / "parts", "last"))
    assert whole.model_dump(exclude={"provenance": {"seconds"}}) == parts.model_dump(
        exclude={"provenance": {"seconds"}}
    )


def test_when_a_process_is_killed_all_end_and_the_error_says_which(tmp_path: Path) -> None:
    def kill(share: float, what: str) -> None:
        if what.startswith("epoch"):
            (second,) = (child for child in multiprocessing.active_children() if child.name == "rank 1")
            os.kill(second.pid or 0, signal.SIGKILL)

    with pytest.raises(TrainingError, match=r"Process 2 of the 2 .* was ended by signal 9 \(SIGKILL\)") as error:
        run(tmp_path, processes=2, on_progress=kill)
    assert "smaller batch_size" in error.value.hint
    assert multiprocessing.active_children() == []


@pytest.mark.filterwarnings("ignore:Pydantic serializer")  # the method is in no catalogue
def test_a_loss_that_is_no_number_in_one_process_stops_all_and_keeps_what_there_is(tmp_path: Path) -> None:
    spec = spec_of(processes=2, sensitivity_samples=0).model_copy(update={"hardening": DivergingHalf()})
    with pytest.raises(TrainingError, match=r"became NaN at step 7 of 12 \(epoch 2\): loss nan") as error:
        train(spec, deeper_classifier(), data_of(40), folder=tmp_path, checkpoint_seconds=0)
    result = error.value.result
    assert (result.stopped, result.steps, result.best.epoch) == ("diverged", 6, 1)
    assert all(value.isfinite().all() for value in last(tmp_path).values())


class DivergingHalf(Diverging):
    """Only in the processes that do not lead, whose seed is another."""

    def loss(self, step: Any) -> Terms:
        return super().loss(step) if step.seed else Diverging(at=10**6).loss(step)


def test_as_many_processes_as_gpus_that_share_a_batch_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 6)
    assert [team_size(spec_of(batch_size=size), cuda) for size in (128, 96, 125, 7, 8)] == [4, 6, 5, 1, 4]
    assert team_size(spec_of(), cpu) == 1
    assert [team_size(spec_of(processes=2), device) for device in (cuda, cpu)] == [2, 2]
    with pytest.raises(SpecError, match="expected at most 6, one for each GPU of this machine, got 8"):
        team_size(spec_of(processes=8, batch_size=64), cuda)
    for processes in (3, 8):
        with pytest.raises(SpecError, match="divides batches of 8 evenly, at least two images each"):
            spec_of(processes=processes)


def test_every_image_of_a_batch_belongs_to_one_process() -> None:
    rows = torch.randperm(12).numpy()
    parts = [Team(torch.device("cpu"), number, 3).share(rows) for number in range(3)]
    assert [len(part) for part in parts] == [4, 4, 4]
    assert [row for part in parts for row in part] == rows.tolist()
    assert len({Team(torch.device("cpu"), number, 3).seed(5) for number in range(3)}) == 3
    assert Team(torch.device("cpu")).seed(5) == 5


def test_what_cannot_be_handed_to_another_process_is_refused(tmp_path: Path) -> None:
    classifier = deeper_classifier()
    setattr(classifier.network, "hook", lambda: None)  # noqa: B010  # torch types attributes as tensors and modules
    with pytest.raises(SpecError, match=r"cannot be passed to other processes .*lambda") as error:
        run(tmp_path, classifier, processes=2)
    assert error.value.hint == "Set processes to 1."
    assert multiprocessing.active_children() == []
