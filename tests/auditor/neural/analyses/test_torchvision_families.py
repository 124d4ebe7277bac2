"""Every analysis on one member of every family of torchvision's classifiers: it measures, or says in a sentence why not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from auditor.models.architecture import ARCHITECTURES
from auditor.models.classifier import NORMALIZATIONS, Classifier
from auditor.models.dataset import ImageDataset
from auditor.neural.analysis import ANALYSES, Finding, Subject, measured, section_of
from auditor.show.blocks import Figure
from auditor.show.charts import draw
from tests.auditor.neural.analyses.given import attacked
from tests.nets import random_images

pytestmark = pytest.mark.slow

FAMILIES = {
    "alexnet": 64, "convnext_tiny": 32, "densenet121": 32, "efficientnet_b0": 32, "googlenet": 32, "inception_v3": 75,
    "maxvit_t": 224, "mnasnet0_5": 32, "mobilenet_v2": 32, "mobilenet_v3_small": 32, "regnet_y_400mf": 32, "resnet18": 32,
    "shufflenet_v2_x0_5": 32, "squeezenet1_1": 32, "swin_t": 32, "vgg11_bn": 32, "vit_b_32": 32,
}  # fmt: skip
"""The smallest member of each source file of torchvision, with the side of an image that it takes."""

SMALL: dict[str, dict[str, Any]] = {
    "feature_transplant": {"layers": 1, "widths": 1, "first": 1},
    "grad_cam": {"images": 1},
    "interior_delta": {"neurons": 1, "images": 1, "points": 2},
    "k_ns": {"neurons": 1, "iterations": 1, "images": 2, "pgd_steps": 1, "pgd_restarts": 1},
    "layer_sharing": {"classes": 2, "images": 2, "steps": 1, "fewest": 2},
    "neuron_importance": {"classes": 2, "images": 2, "steps": 1, "fewest": 2},
    "neuron_influence": {"images": 2},
    "neuron_pruning": {"steps": 1, "draws": 1},
    "neuron_segmentation": {"neurons": 1, "shown": 1, "images": 2},
    "ranking_agreement": {"inner": 1, "images": 4},
    "ranking_evidence": {"draws": 19, "inner": 1, "images": 4},
    "route_deactivation": {"widths": 1, "betas": 1},
    "sample_hardness": {"steps": 1},
    "sensitivity_by_epsilon": {"multiples": (0.5, 1.0), "images": 2, "steps": 1},
    "suppression": {"betas": (0.5,), "white_box_betas": (0.5,), "draws": 1, "images": 2, "steps": 1},
}
EVERYWHERE = {
    "neuron_sensitivity",
    "neuron_exemplars",
    "error_amplification",
    "sensitivity_by_epsilon",
    "interior_delta",
}
"""They ask nothing of a network but layers."""


@pytest.fixture(scope="module", params=FAMILIES)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    side = FAMILIES[request.param]
    torch.manual_seed(0)
    architecture = ARCHITECTURES.build(
        "torchvision", {"model": request.param, "height": side, "width": side, "num_classes": 4}
    )
    network = architecture.build()
    for name, weight in network.named_parameters():
        if (
            name.startswith("heads.") and not weight.any()
        ):  # a vision transformer begins with a head that knows no class
            torch.nn.init.normal_(weight, std=0.1)
    classifier = Classifier(
        network, input_shape=(3, side, side), num_classes=4, normalization=NORMALIZATIONS["imagenet"]
    )
    data = ImageDataset(random_images(4, (3, side, side)), np.arange(4))
    return attacked(classifier, data, tmp_path_factory.mktemp("pairs"), attack="pgd:steps=2", epsilon=0.1)


@pytest.mark.parametrize("kind", ANALYSES.members)
def test_it_measures_or_says_why_not(subject: Subject, kind: str) -> None:
    found = measured(ANALYSES.build(kind, SMALL.get(kind, {})), subject)
    finding = Finding.model_validate_json(found.model_dump_json())
    print(kind, finding.declined or "measured")
    assert bool(finding.data) != bool(finding.declined)
    assert kind not in EVERYWHERE or not finding.declined
    if finding.declined:
        assert finding.declined.endswith(".")
    for block in section_of(finding).blocks:
        assert not isinstance(block, Figure) or draw(block).to_dict()
