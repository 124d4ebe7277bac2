"""Sharing of sensitive neurons between target classes against loops over classes, layers and images (eq. 1, 7-10)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from auditor.attacking.criterion import TargetedMisclassification
from auditor.models.classifier import Classifier
from auditor.neural.analyses.layer_sharing import LayerSharing
from auditor.neural.analysis import Finding, Subject, measured, section_of
from auditor.neural.ranking.agreement import levenshtein_similarity, random_jaccard
from auditor.neural.twins.stored import make_twins
from auditor.neural.twins.targeted import aimed_at, papers_pgd
from auditor.show.blocks import Table
from auditor.show.charts import draw
from tests.auditor.neural.analyses.given import attacked, plain
from tests.narrow import sequence, typed
from tests.nets import SHAPE, labelled, small_classifier

SMALL = {"images": 15, "top": 0.4, "fewest": 2}


@pytest.fixture
def classifier() -> Classifier:
    return small_classifier().double()


@pytest.fixture
def subject(classifier: Classifier, tmp_path: Path) -> Subject:
    return attacked(classifier, labelled(classifier, n=24), tmp_path, epsilon=0.2)


def sensitivities(subject: Subject, target: int, layer: int) -> list[np.ndarray]:
    """|change| of each neuron of a layer, image by image, for the twins that reach the target."""
    ids = aimed_at(subject, target, 15)
    criterion = TargetedMisclassification(torch.full((len(ids),), target))
    body = sequence(subject.classifier)[: layer + 1]
    found = []
    for pair in make_twins(subject, papers_pgd(subject, 10), criterion, ids=ids):
        for x, x_adv in zip(pair.x.double(), pair.x_adv.double(), strict=True):
            if int(subject.classifier(x_adv[None]).argmax()) == target:
                clean, moved = (body(subject.classifier.normalize(image[None]))[0] for image in (x, x_adv))
                found.append(
                    (clean - moved).abs().flatten(1).mean(1).numpy()
                    if clean.dim() > 1
                    else (clean - moved).abs().numpy()
                )
    return found


def test_every_layer_equals_the_restatement(subject: Subject) -> None:
    finding = LayerSharing(**SMALL).run(subject)
    for place, layer in enumerate((0, 1, 2, 5)):
        row = plain(finding)["layers"][place]
        classes = [sensitivities(subject, target, layer) for target in range(5)]
        assert [len(images) for images in classes] == [item["images"] for item in plain(finding)["classes"]]
        kept = [images for images in classes if len(images) >= 2]
        assert len(kept) == plain(finding)["compared"] >= 3
        count = {8: 3, 5: 2}[row["neurons"]]  # floor(0.4 * 8), floor(0.4 * 5)
        assert row["count"] == count
        front = [np.argsort(-np.mean(images, 0), kind="stable")[:count].tolist() for images in kept]
        assert row["front"] == [sum(m in members for members in front) for m in range(row["neurons"])]
        pairs = [
            float(levenshtein_similarity(np.array(a), np.array(b)))
            for i, a in enumerate(front)
            for j, b in enumerate(front)
            if i != j
        ]
        assert row["similarity"]["value"] == pytest.approx(np.mean(pairs), abs=1e-12)
        assert row["jaccard"] == len(set.intersection(*map(set, front))) / len(set.union(*map(set, front)))
        moving = sum(any(np.mean(images, 0)[m] > 0 for images in kept) for m in range(row["neurons"]))
        assert row["moving"] == moving
        assert row["random_jaccard"] == random_jaccard(moving, count, len(kept))
        halves = [
            [np.argsort(-np.mean(images[half::2], 0), kind="stable")[:count] for images in kept] for half in (0, 1)
        ]
        same = [float(levenshtein_similarity(a, b)) for a, b in zip(*halves, strict=True)]
        assert row["halves"]["value"] == pytest.approx(np.mean(same), abs=1e-12)


def test_classes_that_use_the_same_neurons_share_everything(subject: Subject) -> None:
    """All neurons, most sensitive first, where one filter is larger than the next by a factor of 100 each."""
    with torch.no_grad():
        sequence(subject.classifier)[0].weight *= (100.0 ** torch.arange(8)).view(-1, 1, 1, 1)
        sequence(subject.classifier)[0].bias *= 100.0 ** torch.arange(8)
        sequence(subject.classifier)[1].running_mean *= 100.0 ** torch.arange(8)
        sequence(subject.classifier)[1].running_var *= 100.0 ** (2 * torch.arange(8))
    row = LayerSharing(**SMALL | {"k": 8}).run(subject).data.model_dump()["layers"][0]
    assert row["count"] == 8
    assert (row["similarity"]["value"], row["halves"]["value"], row["jaccard"]) == (1, 1, 1)
    assert row["random_similarity"] < 0.7


def test_chance_is_that_of_the_neurons_that_can_be_sensitive(subject: Subject) -> None:
    """Five of eight filters at zero: whatever the classes do, they have the other three in common."""
    with torch.no_grad():
        sequence(subject.classifier)[0].weight[3:] = 0
    row = LayerSharing(**SMALL | {"k": 3}).run(subject).data.model_dump()["layers"][0]
    assert (row["neurons"], row["moving"]) == (8, 3)
    assert row["jaccard"] == row["random_jaccard"] == 1
    # Fewer than are compared: the rest is drawn from all of them.
    assert LayerSharing(**SMALL | {"k": 4}).run(subject).data.model_dump()["layers"][0]["random_jaccard"] < 1


@pytest.mark.parametrize("batch_size", [1, 7])
def test_the_batch_size_changes_nothing(subject: Subject, batch_size: int) -> None:
    analysis = LayerSharing(**SMALL | {"classes": 3})
    whole, parts = plain(analysis.run(subject)), plain(analysis.run(replace(subject, batch_size=batch_size)))
    assert whole["classes"] == parts["classes"]
    for one, other in zip(whole["layers"], parts["layers"], strict=True):
        for key in ("jaccard", "random_similarity", "random_jaccard"):
            assert one[key] == other[key]
        assert one["similarity"] == pytest.approx(other["similarity"])
        assert one["halves"] == pytest.approx(other["halves"])


def test_classes_with_few_successes_are_left_out_and_flagged(subject: Subject) -> None:
    finding = LayerSharing(**SMALL | {"fewest": 11}).run(subject)
    reached = [item["images"] for item in plain(finding)["classes"]]
    assert plain(finding)["compared"] == sum(images >= 11 for images in reached) < 5
    assert finding.flags[0].name == "few targeted successes"
    assert "compare" in measured(LayerSharing(**SMALL | {"fewest": 16}), subject).declined


def test_neurons_that_never_change_are_flagged(subject: Subject) -> None:
    with torch.no_grad():
        sequence(subject.classifier)[1].bias[:6] = -100
    finding = LayerSharing(**SMALL).run(subject)
    (flag,) = [flag for flag in finding.flags if flag.name == "silent neurons compared"]
    assert flag.evidence == "1 of 4 layers, the first: 2."


def test_the_section_builds_from_stored_data_and_draws(tmp_path: Path) -> None:
    """A network with two convolutions, so that there is a line to draw."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3)
    )
    classifier = Classifier(network, input_shape=SHAPE, num_classes=3)
    with torch.no_grad():  # no class far from the images
        sequence(classifier)[5].bias -= classifier(torch.rand(64, *SHAPE)).mean(0)
    subject = attacked(classifier, labelled(classifier, n=16, wrong=0), tmp_path, epsilon=0.5)
    heard: list[float] = []
    watched = replace(subject, on_progress=lambda share, _: heard.append(share))
    finding = LayerSharing(images=12, fewest=2, top=0.5).run(watched)
    assert heard == sorted(heard)
    section = section_of(Finding.model_validate_json(finding.model_dump_json()))
    figures = [block for block in section.blocks if block.type == "figure"]
    assert [figure.title.rpartition(": ")[2] for figure in figures] == ["convolutions", "activations"]
    for figure in figures:
        assert len(figure.rows) == 2 * 3
        assert draw(figure).to_dict()["layer"]
    assert len(typed(section.blocks[-1], Table).rows) == 5
