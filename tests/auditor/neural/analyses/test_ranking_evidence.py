"""A planted neuron that carries the failure is found; a ranking that misses it is not called better than random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from auditor.models.classifier import Classifier
from auditor.neural.analyses.ranking_evidence import RankingEvidence
from auditor.neural.analysis import Finding, measured, section_of
from auditor.neural.ranking.ablation import ablate_layer
from auditor.neural.ranking.evidence import random_order
from auditor.neural.ranking.methods import rank_layers
from auditor.show.charts import draw
from tests.auditor.neural.analyses.given import Given, attacked, subject_of
from tests.narrow import sequence
from tests.nets import SHAPE, labelled, small_classifier

N, M, PLANTED = 40, 60, 7


def planted() -> tuple[Classifier, Given]:
    """Neuron j reads pixel j. All together they keep class 0 in front by 1.5 to 2.5; only neuron 7 can put class 1 in front.

    The attack raises pixel 7 from 0.05 to 0.6, which turns the difference by 5.5, and shakes the others by little.
    """
    network = sequence(nn.Sequential(nn.Flatten(), nn.Linear(108, M), nn.ReLU(), nn.Linear(M, 2)))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        network[1].weight[:] = torch.eye(M, 108)
        network[1].bias[:] = 0
        network[3].weight[:] = 0
        network[3].weight[1] = 0.05 * (torch.rand(M, generator=generator) - 0.5)
        network[3].weight[1, PLANTED] = 10
        network[3].bias[:] = torch.tensor([2.5, 0])
    classifier = Classifier(network, input_shape=SHAPE, num_classes=2).double()
    x = 0.2 + 0.2 * torch.rand(N, 108, generator=generator, dtype=torch.float64)
    x[:, PLANTED] = 0.05
    x_adv = x + 0.05 * (torch.rand(N, 108, generator=generator, dtype=torch.float64) - 0.5)
    x_adv[:, PLANTED] = 0.6
    x, x_adv = x.view(N, *SHAPE), x_adv.view(N, *SHAPE)
    assert (classifier(x).argmax(1) == 0).all()
    assert (classifier(x_adv).argmax(1) == 1).all()
    return classifier, Given(x, x_adv, 16)


def verdicts(layer: dict[str, Any], test: str = "transplant") -> dict[str, str]:
    return {item["method"]: item["verdict"][test] for item in layer["rankings"]}


def test_the_planted_neuron_is_found_and_a_useless_ranking_is_not_distinguishable() -> None:
    classifier, given = planted()
    finding = RankingEvidence(inner=1, draws=99, images=N).run(subject_of(classifier, given))
    assert (finding.data.model_dump(mode="json")["ranked_on"], finding.data.model_dump(mode="json")["judged_on"]) == (
        20,
        20,
    )
    assert (
        finding.data.model_dump(mode="json")["clean"]["value"],
        finding.data.model_dump(mode="json")["twin"]["value"],
    ) == (1, 0)
    last, inner = finding.data.model_dump(mode="json")["layers"]
    assert last["counts"] == inner["counts"] == [1, 6, 24]
    for layer in (last, inner):
        found = verdicts(layer)
        # Clean, neuron 7 is the least active; the rankings that see the change or the weight put it first.
        assert found["sensitivity"] == found["gradient"] == "better than random neurons"
        assert found["activation"] == found["influence"] == "not distinguishable"
        first = next(item for item in layer["rankings"] if item["method"] == "sensitivity")
        assert [rate["value"] for rate in first["accuracy"]["transplant"]] == [1, 1, 1]
        missed = next(item for item in layer["rankings"] if item["method"] == "activation")
        assert [rate["value"] for rate in missed["accuracy"]["transplant"]] == [0, 0, 0]
    assert verdicts(last)["weight"] == verdicts(last)["importance"] == "better than random neurons"
    # Silencing the planted neuron restores the twin as well, and does the clean image no harm.
    assert verdicts(last, "zero_twin")["sensitivity"] == "better than random neurons"
    assert verdicts(last, "zero_clean")["sensitivity"] == "not distinguishable"
    # The same neurons before the head and in the ReLU that makes them: the same answers.
    for one in inner["rankings"]:
        other = next(item for item in last["rankings"] if item["method"] == one["method"])
        assert one["accuracy"] == other["accuracy"]


def test_the_rates_are_those_of_the_judging_half_ranked_by_the_other() -> None:
    classifier, (x, x_adv) = small_classifier().double(), torch.rand(2, 30, *SHAPE, dtype=torch.float64)
    labels = classifier(x).argmax(1)
    finding = RankingEvidence(inner=1, images=30, top=0.5).run(
        subject_of(classifier, Given(x, x_adv, 7, labels=labels))
    )
    layer = finding.data.model_dump(mode="json")["layers"][1]
    assert layer["name"] == "2"
    assert layer["counts"] == [1, 4]  # 8 / 32 -> 1, 8 / 8 -> 1, 8 / 2 -> 4
    ranked = rank_layers(classifier, Given(x[::2], x_adv[::2], 7, labels=labels[::2]), ["2"])["2"]
    orders = [item.order for item in ranked] + [random_order(0, "2", draw, np.ones(8, bool)) for draw in range(20)]
    masks = torch.zeros(len(orders) * 2, 8, dtype=torch.bool)
    for row, (order, count) in enumerate((order, count) for order in orders for count in (1, 4)):
        masks[row, order[:count].tolist()] = True
    right = ablate_layer(classifier, "2", x[1::2], x_adv[1::2], labels[1::2], masks)
    for test in ("zero_clean", "zero_twin", "transplant"):
        shares = getattr(right, test).double().mean(0).view(-1, 2)
        for place, item in enumerate(layer["rankings"]):
            assert [rate["value"] for rate in item["accuracy"][test]] == pytest.approx(shares[place].tolist())
        chance = [item["value"] for item in layer["random"][test]]
        assert chance == pytest.approx(shares[len(ranked) :].mean(0).tolist())


@pytest.mark.parametrize("batch_size", [1, 40])
def test_the_batch_size_changes_nothing(batch_size: int) -> None:
    classifier, given = planted()
    one = RankingEvidence(inner=1).run(subject_of(classifier, given)).data
    given.batch_size = batch_size
    assert RankingEvidence(inner=1).run(subject_of(classifier, given)).data == one


def test_nothing_fooled_and_few_images_are_doubted() -> None:
    classifier, given = planted()
    pairs = Given(given.x[:8], given.x[:8], 4, np.zeros(8, bool))
    finding = RankingEvidence(inner=0).run(subject_of(classifier, pairs))
    assert [flag.name for flag in finding.flags] == ["nothing to restore", "few images"]
    (layer,) = finding.data.model_dump(mode="json")["layers"]
    assert set(verdicts(layer).values()) == {"not distinguishable"}
    single = measured(RankingEvidence(), subject_of(classifier, Given(given.x[:1], given.x_adv[:1], 1)))
    assert "at least two pairs" in single.declined


def test_the_section_builds_from_stored_data_and_draws(tmp_path: Path) -> None:
    classifier = small_classifier()
    said: list[float] = []
    subject = attacked(classifier, labelled(classifier, 24), tmp_path, epsilon=0.1)
    subject = subject.__class__(**vars(subject) | {"on_progress": lambda share, what: said.append(share)})
    finding = RankingEvidence(inner=1).run(subject)
    assert said == sorted(said)
    assert said[-1] == 1
    section = section_of(Finding.model_validate_json(finding.model_dump_json()))
    figures = [block for block in section.blocks if block.type == "figure"]
    assert len(figures) == 4
    for figure in figures:
        assert draw(figure).to_dict()["layer"]
        assert figure.reading.endswith(".")
    tables = [block for block in section.blocks if block.type == "table"]
    ranking = finding.data.model_dump(mode="json")["layers"][0]["rankings"][0]
    assert tables[0].rows[0]["verdict.transplant"] == ranking["verdict"]["transplant"]
