"""A training in a process of its own, to be killed; read by the server that such processes are forked from."""

from __future__ import annotations

import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from auditor.hardening.spec import TrainingSpec
from auditor.hardening.training import train
from tests.nets import deeper_classifier, labelled

torch.set_num_threads(1)  # a fork has no other threads


def training(spec: str, folder: str, told: Connection) -> None:
    """Tell every report of progress and wait for an answer; the result at the end."""

    def tell(share: float, what: str) -> None:
        told.send((share, what))
        told.recv()

    classifier = deeper_classifier()
    data = labelled(classifier, n=60)
    result = train(
        TrainingSpec.load(spec), classifier, data, folder=Path(folder), on_progress=tell, checkpoint_seconds=0
    )
    told.send(result.model_dump_json())


def read_all() -> None:
    """Whatever a training reads when it first needs it."""
    classifier = deeper_classifier()
    spec = TrainingSpec.load({"hardening": {"kind": "fine_tune"}, "epochs": 1, "validation_steps": 1, "device": "cpu"})
    with tempfile.TemporaryDirectory() as folder:
        train(spec, classifier, labelled(classifier, n=8), folder=Path(folder))


read_all()
