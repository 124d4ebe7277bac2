"""What a defense, or several in a row, learnt, as one file with its hash and its lineage."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from auditor.defending.defense import DEFENSES, Defense
from auditor.kit.errors import IntakeError
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from auditor.models.defended import FittedState

FORMAT = "neuron-auditor.defense.2"


class FitLineage(BaseModel):
    """What a defense was fitted on. ``weights``: hash of the network's tensors; ``samples``: hash of the ids, in order.

    Without a data set, for defenses that learn nothing, those entries are empty and ``count`` is 0.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    classifier: str
    weights: str
    dataset: str
    dataset_sha256: str
    samples: str
    count: int
    seed: int

    @classmethod
    def of(
        cls, classifier: Classifier, dataset: ImageDataset | None, ids: NDArray[np.int64], *, seed: int
    ) -> FitLineage:
        samples = hashlib.sha256(np.asarray(ids, "<i8").tobytes()).hexdigest()
        return cls(
            classifier=classifier.name, weights=weights_hash(classifier),
            dataset=dataset.name if dataset is not None else "",
            dataset_sha256=dataset.sha256 if dataset is not None else "",
            samples=samples if dataset is not None else "", count=len(ids), seed=seed,
        )  # fmt: skip


def weights_hash(classifier: Classifier) -> str:
    """Of the network's tensors, by name, whatever the file that they came from."""
    digest = hashlib.sha256()
    for name, value in sorted(classifier.network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class StoredStack(NamedTuple):
    """A file read back: defenses in the order in which an image passes them, and what each learnt. ``sha256``: of its bytes."""

    defenses: tuple[Defense, ...]
    states: tuple[FittedState, ...]
    lineage: FitLineage
    sha256: str


def write_stack(path: Path, defenses: Sequence[Defense], states: Sequence[FittedState], lineage: FitLineage) -> str:
    """Write one safetensors file; returns the hash of its bytes. The same fit gives the same bytes."""
    described = [
        {"kind": defense.kind, "settings": defense.settings(), "facts": state.facts}
        for defense, state in zip(defenses, states, strict=True)
    ]
    about = {"format": FORMAT, "defenses": described, "lineage": lineage.model_dump(mode="json")}
    # One entry: safetensors writes several in any order, and the bytes name the file.
    metadata = {"about": json.dumps(about, sort_keys=True)}
    tensors = {
        f"{index}.{name}": value.detach().cpu().contiguous()
        for index, state in enumerate(states)
        for name, value in state.tensors.items()
    }
    content = save(tensors, metadata=metadata)
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def read_stack(path: Path) -> StoredStack:
    """Read a file of ``write_stack``. Raises IntakeError if it is not one, SpecError if a defense is no longer installed."""
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["about"])
            if about["format"] != FORMAT:
                raise ValueError("another format")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        lineage = FitLineage.model_validate(about["lineage"])
        described = [(item["kind"], item["settings"], item["facts"]) for item in about["defenses"]]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, ValidationError):
        raise IntakeError(
            f"{path.name} is missing, damaged or not a stored defense: it cannot be read.", "Fit the defense again."
        ) from None
    states = tuple(
        FittedState(
            {name.partition(".")[2]: value for name, value in tensors.items() if name.startswith(f"{index}.")}, facts
        )
        for index, (_, _, facts) in enumerate(described)
    )
    defenses = tuple(DEFENSES.build(kind, settings) for kind, settings, _ in described)
    return StoredStack(defenses, states, lineage, hashlib.sha256(path.read_bytes()).hexdigest())
