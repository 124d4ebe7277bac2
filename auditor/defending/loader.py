"""Loads an exported model; goes with it into its folder."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from auditor.defending.defense import DEFENSES, defended
from auditor.kit.errors import SpecError
from auditor.models.architecture import ARCHITECTURES
from auditor.models.classifier import Classifier, Normalization
from auditor.models.defended import FittedState


def load(folder: str | Path, network: nn.Module | None = None) -> Classifier:
    """The deployed model: float images (B, C, H, W) in [0, 1] to logits (B, K), the defenses included.

    ``network`` is needed where the folder does not hold the network's code; its weights are read from the folder. Raises
    SpecError when it is missing.
    """
    folder = Path(folder)
    described = json.loads((folder / "model.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    if network is None:
        architecture = described["architecture"]
        if architecture is None:
            raise SpecError("This folder does not hold the network's code.", "Give the network: load(folder, network).")
        network = ARCHITECTURES.build(architecture["kind"], architecture["settings"]).build()
    network.load_state_dict(_part(tensors, "network."))
    classifier = Classifier(
        network,
        input_shape=tuple(described["input_shape"]),
        num_classes=described["num_classes"],
        normalization=Normalization.model_validate(described["normalization"]),
        class_names=described["class_names"],
        name=described["name"],
        output=described.get("output"),
        copy=False,
    )
    defenses = [DEFENSES.build(item["kind"], item["settings"]) for item in described["defenses"]]
    states = [
        FittedState(_part(tensors, f"defense{index}."), item["facts"])
        for index, item in enumerate(described["defenses"])
    ]
    return defended(classifier, defenses, states, seed=described["seed"])


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
