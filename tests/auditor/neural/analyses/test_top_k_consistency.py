"""Top-k consistency (eq. 13) and coverage against plain sets, layer by layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from auditor.models.classifier import Classifier
from auditor.neural.analyses.top_k_consistency import TopKConsistency
from auditor.neural.analysis import Finding, measured, section_of
from auditor.neural.influence.influence import expected_jaccard
from auditor.show.charts import draw
from tests.auditor.neural.analyses.given import Given, subject_of
from tests.narrow import sequence
from tests.nets import SHAPE, small_classifier, small_cnn

N, K = 11, 3


def twins() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(N, *SHAPE, generator=generator, dtype=torch.float64)
    noise = torch.rand(x.shape, generator=generator, dtype=torch.float64) - 0.5
    return x, (x + 0.6 * noise).clamp(0, 1)


def leading(image: Tensor, depth: int, by: str) -> set[int]:
    """The K neurons of a layer of small_cnn that lead on one image."""
    network = sequence(small_cnn().double().eval())
    leaf = network[: depth + 1]((image[None] - 0.5) / 0.5).detach().requires_grad_()
    p = network[depth + 1 :](leaf)[0].softmax(0).max()
    (slope,) = torch.autograd.grad((p / (1 - p)).log(), leaf)
    mean = leaf[0].mean((1, 2))
    values = slope[0].sum((1, 2)) * mean if by == "influence" else mean
    return set(np.argsort(-values.detach().numpy())[:K].tolist())


@pytest.mark.parametrize("by", ["influence", "activation"])
def test_every_layer_equals_the_restatement(by: str) -> None:
    x, x_adv = twins()
    finding = TopKConsistency(k=K, by=by).run(subject_of(small_classifier().double(), Given(x, x_adv, 4)))
    shares = np.zeros((3, N))
    covered = []
    for depth in range(3):
        sets = [[leading(image, depth, by) for image in part] for part in (x, x_adv)]
        shares[depth] = [len(one & other) / len(one | other) for one, other in zip(*sets, strict=True)]
        covered.append([len(set.union(*part)) for part in sets])
    rows = finding.data.model_dump(mode="json")["layers"]
    assert [row["name"] for row in rows] == ["0", "1", "2"], "the logits are left out"
    assert [row["consistency"]["value"] for row in rows] == pytest.approx(shares.mean(1).tolist(), rel=1e-12)
    assert [[row["covered_clean"], row["covered_twin"]] for row in rows] == covered
    assert all(row["random"] == expected_jaccard(K, K, 8) for row in rows)
    overall = finding.data.model_dump(mode="json")["overall"]
    assert overall["consistency"]["value"] == pytest.approx(shares.mean(), rel=1e-12)
    # The interval is that of the images, each the mean of its three layers.
    spread = shares.mean(0).std(ddof=1) / np.sqrt(N) * 2.228138852
    assert overall["consistency"]["high"] - overall["consistency"]["value"] == pytest.approx(spread, rel=1e-8)
    assert (overall["covered_clean"], overall["covered_twin"]) == tuple(np.sum(covered, axis=0))
    assert overall["neurons"] == 24


def test_an_identical_twin_has_the_same_neurons() -> None:
    x, _ = twins()
    finding = TopKConsistency(k=K).run(subject_of(small_classifier().double(), Given(x, x.clone(), 4)))
    for row in finding.data.model_dump(mode="json")["layers"]:
        assert row["consistency"] == {"value": 1, "low": 1, "high": 1, "n": N}
        assert row["covered_clean"] == row["covered_twin"]


@pytest.mark.parametrize("batch_size", [1, N])
def test_the_batch_size_changes_nothing(batch_size: int) -> None:
    found = [
        TopKConsistency(k=K).run(subject_of(small_classifier().double(), Given(*twins(), size))).data
        for size in (4, batch_size)
    ]
    assert found[0] == found[1]


def test_one_image_has_no_interval_and_a_k_near_the_width_is_doubted() -> None:
    x, x_adv = twins()
    finding = TopKConsistency(k=7).run(subject_of(small_classifier().double(), Given(x[:1], x_adv[:1], 1)))
    assert finding.data.model_dump(mode="json")["overall"]["consistency"]["low"] is None
    assert [flag.name for flag in finding.flags] == ["k close to the width"]
    assert section_of(finding).blocks


def test_where_every_neuron_leads_it_is_declined() -> None:
    subject = subject_of(small_classifier().double(), Given(*twins(), 4))
    assert "No layer before the logits has more than 8 neurons" in measured(TopKConsistency(k=8), subject).declined


def test_the_section_builds_from_stored_data_and_draws() -> None:
    x, x_adv = (part.float() for part in twins())
    finding = TopKConsistency(k=K).run(subject_of(small_classifier(), Given(x, x_adv, 4)))
    section = section_of(Finding.model_validate_json(finding.model_dump_json()))
    figures = [block for block in section.blocks if block.type == "figure"]
    assert len(figures) == 2
    for figure in figures:
        assert draw(figure).to_dict()["layer"]
        assert figure.reading.endswith(".")
    measures = next(block for block in section.blocks if block.type == "measures")
    assert measures.items[0].value == finding.data.model_dump(mode="json")["overall"]["consistency"]["value"]
    assert measures.items[1].value == finding.data.model_dump(mode="json")["overall"]["covered_clean"] / 24


def test_neurons_without_influence_are_not_consistent() -> None:
    """Neurons 2 to 11 are dead behind their ReLU: with k = 6 at least four of the six that lead say nothing."""
    torch.manual_seed(0)
    network = sequence(nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12 * 16, 5)))
    with torch.no_grad():
        network[0].bias[2:] = -100
    classifier = Classifier(network.eval(), input_shape=SHAPE, num_classes=5).double()
    generator = torch.Generator().manual_seed(3)
    x, x_adv = torch.rand(2, 300, *SHAPE, generator=generator, dtype=torch.float64)
    rows = TopKConsistency(k=6).run(subject_of(classifier, Given(x, x_adv, 50))).data.model_dump(mode="json")["layers"]
    relu = next(row for row in rows if row["type"] == "ReLU")
    # Of the living neurons both, one or none speak for the class; the rest of the six is drawn from ten that are alike.
    assert relu["consistency"]["value"] == pytest.approx(expected_jaccard(6, 6, 12), abs=0.15)
    assert relu["covered_clean"] <= 8, "a neuron that is drawn by chance does not count as covered"
    again = TopKConsistency(k=6).run(subject_of(classifier, Given(x, x_adv, 7))).data.model_dump(mode="json")["layers"]
    assert again == rows
