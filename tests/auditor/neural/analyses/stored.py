"""One stored finding of every analysis, measured once on a small network, so that what is drawn of it is the same everywhere.

``python -m tests.auditor.neural.analyses.stored KIND ...`` measures some anew, without names those that are missing.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from auditor.models.classifier import NORMALIZATIONS, Classifier
from auditor.neural.analysis import ANALYSES, Finding, measured
from tests.auditor.neural.analyses.given import attacked
from tests.narrow import sequence
from tests.nets import SHAPE, labelled, random_images

FOLDER = Path(__file__).parents[2] / "stored" / "findings"


def stored(kind: str) -> Finding:
    file = FOLDER / f"{kind}.json"
    assert file.exists(), f"{kind} has no stored finding: run python -m tests.auditor.neural.analyses.stored {kind}"
    return Finding.model_validate_json(file.read_text())


def wide_classifier() -> Classifier:
    """Two convolutions, and 48 features before the head: enough that no column stays empty. It gives every class some images."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(8, 10, 3, padding=1), nn.BatchNorm2d(10), nn.ReLU(), nn.Flatten()]
    network = sequence(nn.Sequential(*layers, nn.Linear(90, 48), nn.ReLU(), nn.Linear(48, 5)))
    with torch.no_grad():
        network.train()(torch.randn(64, *SHAPE))
        network.eval()
        network[-1].weight *= 4
        seen = network((torch.from_numpy(random_images(200)).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5)
        network[-1].bias -= seen.mean(0)
    names = ("ant", "bee", "cat", "dog", "elk")
    half = NORMALIZATIONS["half"]
    return Classifier(network, input_shape=SHAPE, num_classes=5, normalization=half, class_names=names, name="wide")


def measure(kinds: list[str]) -> None:
    classifier = wide_classifier()
    with TemporaryDirectory() as folder:
        made = attacked(classifier, labelled(classifier, n=40), Path(folder), epsilon=0.1)
        for kind in kinds:
            found = measured(ANALYSES.build(kind, {}), replace(made, batch_size=128))
            assert not found.declined, found.declined
            text = json.dumps(_short(found.model_dump(mode="json")), ensure_ascii=False)
            (FOLDER / f"{kind}.json").write_text(text + "\n")


def _short(value: Any) -> Any:
    """Plain data with six digits of every number."""
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_short(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


if __name__ == "__main__":
    measure(sys.argv[1:] or [kind for kind in ANALYSES.members if not (FOLDER / f"{kind}.json").exists()])
