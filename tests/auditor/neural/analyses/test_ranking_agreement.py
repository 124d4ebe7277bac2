"""Agreement of rankings against the textbook formulas."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn

from auditor.models.classifier import Classifier
from auditor.neural.analyses.ranking_agreement import RankingAgreement
from auditor.neural.analysis import Finding, section_of
from auditor.neural.influence.influence import expected_jaccard
from auditor.neural.probes.head import head_of
from auditor.neural.ranking.methods import rank_features
from auditor.show.charts import draw
from tests.auditor.neural.analyses.given import Given, attacked, subject_of
from tests.narrow import sequence
from tests.nets import SHAPE, labelled, small_classifier


def given(batch_size: int = 4) -> Given:
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(10, *SHAPE, generator=generator, dtype=torch.float64)
    noise = torch.rand(x.shape, generator=generator, dtype=torch.float64) - 0.5
    return Given(x, (x + 0.3 * noise).clamp(0, 1), batch_size)


def exact() -> Classifier:
    """Twelve last features that differ in everything, so that no ranking has ties."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(108, 12), nn.Softplus(), nn.Linear(12, 4))
    return Classifier(network, input_shape=SHAPE, num_classes=4).double()


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Eq. 6 of Zhang et al. 2020: without ties, from the squared differences of the ranks."""
    n = len(one)
    ranks = [np.argsort(np.argsort(-values)) for values in (one, other)]
    return 1 - 6 * float(((ranks[0] - ranks[1]) ** 2).sum()) / (n**3 - n)


def kendall(one: np.ndarray, other: np.ndarray) -> float:
    """Pairs in the same order minus pairs in the other, over all pairs."""
    signs = [np.sign((one[i] - one[j]) * (other[i] - other[j])) for i, j in combinations(range(len(one)), 2)]
    return float(np.mean(signs))


@pytest.mark.parametrize(("measure", "formula"), [("spearman", spearman), ("kendall", kendall)])
def test_the_matrix_equals_the_formulas(
    measure: Literal["spearman", "kendall"], formula: Callable[[np.ndarray, np.ndarray], float]
) -> None:
    classifier = exact()
    data = (
        RankingAgreement(measure=measure, top=0.25, inner=0)
        .run(subject_of(classifier, given()))
        .data.model_dump(mode="json")
    )
    rankings = {item.title: item for item in rank_features(classifier, head_of(classifier), given())}
    (layer,) = data["layers"]
    assert (layer["neurons"], layer["count"]) == (12, 3)
    assert layer["random_jaccard"] == expected_jaccard(3, 3, 12)
    assert len(layer["cells"]) == len(rankings) ** 2 == 49
    untied = 0
    for cell in layer["cells"]:
        one, other = rankings[cell["row"]], rankings[cell["column"]]
        if len(set(one.values)) == len(set(other.values)) == 12:
            assert cell["correlation"] == pytest.approx(formula(one.values, other.values), abs=1e-12)
            untied += 1
        first, second = set(one.order[:3].tolist()), set(other.order[:3].tolist())
        assert cell["jaccard"] == len(first & second) / len(first | second)
        if one is other:
            assert cell["jaccard"] == 1
            assert cell["correlation"] == pytest.approx(1)
    assert untied >= 36


@pytest.mark.parametrize("batch_size", [1, 10])
def test_the_batch_size_changes_nothing(batch_size: int) -> None:
    one, other = (RankingAgreement().run(subject_of(exact(), given(size))).data for size in (4, batch_size))
    assert one == other


def test_a_ranking_of_equal_values_has_no_correlation() -> None:
    classifier = exact()
    with torch.no_grad():
        sequence(classifier)[3].weight.copy_(torch.where(sequence(classifier)[3].weight > 0, 0.5, -0.5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        finding = RankingAgreement(inner=0).run(subject_of(classifier, given()))
    weights = [
        cell
        for cell in finding.data.model_dump(mode="json")["layers"][0]["cells"]
        if cell["row"] == "L1 norm of outgoing weights"
    ]
    assert all(cell["correlation"] is None for cell in weights)
    for block in section_of(Finding.model_validate_json(finding.model_dump_json())).blocks:
        if block.type == "figure":
            draw(block).to_dict()


def test_the_section_builds_from_stored_data_and_draws(tmp_path: Path) -> None:
    classifier = small_classifier()
    finding = RankingAgreement(inner=3).run(attacked(classifier, labelled(classifier, 24), tmp_path, epsilon=0.1))
    assert [layer["name"] for layer in finding.data.model_dump(mode="json")["layers"]] == ["the input of 5", "2"]
    section = section_of(Finding.model_validate_json(finding.model_dump_json()))
    figures = [block for block in section.blocks if block.type == "figure"]
    assert len(figures) == 4
    for figure in figures:
        assert draw(figure).to_dict()["layer"]
        assert figure.reading.endswith(".")
    cells = finding.data.model_dump(mode="json")["layers"][0]["cells"]
    assert [row["value"] for row in figures[0].rows] == [cell["correlation"] for cell in cells]
