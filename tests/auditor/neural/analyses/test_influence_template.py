"""The neuron template against intersections of plain sets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from auditor.models.classifier import NORMALIZATIONS, Classifier
from auditor.neural.analyses.influence_template import InfluenceTemplate, TemplateNumbers
from auditor.neural.analysis import Finding, measured, section_of
from auditor.neural.influence import templates
from auditor.neural.influence.influence import expected_jaccard
from auditor.neural.influence.templates import ALL
from auditor.show.charts import draw
from tests.auditor.neural.analyses.given import Given, subject_of
from tests.narrow import sequence, typed
from tests.nets import SHAPE

N, M, K1, K2 = 40, 24, 2, 1


def exact() -> Classifier:
    torch.manual_seed(1)
    network = sequence(nn.Sequential(nn.Flatten(), nn.Linear(108, M), nn.ReLU(), nn.Linear(M, 3)))
    with torch.no_grad():
        network[3].bias[:] = torch.tensor([0.0, 0.0, 0.0])
    return Classifier(network, input_shape=SHAPE, num_classes=3, normalization=NORMALIZATIONS["half"]).double()


def pairs(batch_size: int = 7) -> Given:
    """Images that do not depend on each other, with the network's own answers as labels but for every fourth."""
    x = torch.rand(N, *SHAPE, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    labels = exact()(x).argmax(1)
    labels[::4] = (labels[::4] + 1) % 3
    return Given(x, x, batch_size, labels=labels)


def remaining(classifier: Classifier, image: Tensor) -> set[int]:
    """Definition 3 on one image, by autograd."""
    leaf = sequence(classifier)[:3]((image[None] - 0.5) / 0.5).detach().requires_grad_()
    p = sequence(classifier)[3](leaf)[0].softmax(0).max()
    (slope,) = torch.autograd.grad((p / (1 - p)).log(), leaf)
    order = np.argsort(-(slope * leaf)[0].detach().numpy(), kind="stable")
    return set(order[K1 : M - K2].tolist())


def benign() -> tuple[list[set[int]], list[int]]:
    """The remaining neurons of every correctly classified image, and the labels."""
    given, classifier = pairs(), exact()
    right = [i for i in range(N) if int(classifier(given.x[i : i + 1]).argmax()) == int(given.labels[i])]
    return [remaining(classifier, given.x[i]) for i in right], [int(given.labels[i]) for i in right]


def agreed(sets: list[set[int]], quorum: float) -> set[int]:
    return {n for n in range(M) if sum(n in part for part in sets) >= quorum * len(sets) - 1e-9}


@pytest.mark.parametrize("quorum", [1.0, 0.8])
def test_templates_curve_and_overlap_equal_the_restatement(quorum: float) -> None:
    data = (
        InfluenceTemplate(front=K1, tail=K2, quorum=quorum)
        .run(subject_of(exact(), pairs()))
        .data.model_dump(mode="json")
    )
    sets, labels = benign()
    assert data["images"] == len(sets) == 30
    assert set(data["template"]) == agreed(sets, quorum)
    for point in data["curve"]:
        assert point["size"] == len(agreed(sets[: int(point["images"])], quorum))
    if quorum == 1:
        sizes = [point["size"] for point in data["curve"]]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[0] == M - K1 - K2
    members = {ALL: agreed(sets, quorum)}
    for label in sorted(set(labels)):
        own = [part for part, its in zip(sets, labels, strict=True) if its == label]
        members[f"class {label}"] = agreed(own, quorum)
    assert {item["name"]: item["size"] for item in data["templates"]} == {k: len(v) for k, v in members.items()}
    assert len(members) > 2, "more than one class must be there"
    for cell in data["overlap"]:
        one, other = members[cell["row"]], members[cell["column"]]
        either = len(one | other)
        assert cell["value"] == (pytest.approx(len(one & other) / either) if either else None)
        if cell["row"] != cell["column"] and either:
            assert cell["random"] == expected_jaccard(len(one), len(other), M)


def test_the_random_expectation_is_that_of_drawing_front_and_tail() -> None:
    data = (
        InfluenceTemplate(front=K1, tail=K2, quorum=0.8).run(subject_of(exact(), pairs())).data.model_dump(mode="json")
    )
    # Each neuron remains with chance 1 - 3/24 on every one of 30 images, and has to on 24.
    expected = M * sum(stats.binom.pmf(k, 30, 1 - 3 / 24) for k in range(24, 31))
    assert data["templates"][0]["random"] == pytest.approx(expected, rel=1e-10)
    whole = InfluenceTemplate(front=K1, tail=K2).run(subject_of(exact(), pairs())).data.model_dump(mode="json")
    assert whole["templates"][0]["random"] == pytest.approx(M * (1 - 3 / 24) ** 30, rel=1e-10)


@pytest.mark.parametrize("batch_size", [1, N])
def test_the_batch_size_changes_nothing(batch_size: int) -> None:
    one, other = (InfluenceTemplate(front=K1, tail=K2).run(subject_of(exact(), pairs(n))).data for n in (7, batch_size))
    assert one == other


def test_an_empty_template_is_doubted_and_still_shown() -> None:
    finding = InfluenceTemplate(front=8, tail=8).run(subject_of(exact(), pairs()))
    assert typed(finding.data, TemplateNumbers).template == ()
    (flag,) = finding.flags
    assert flag.name == "empty template"
    sizes = [point["size"] for point in finding.data.model_dump(mode="json")["curve"]]
    assert f"after {1 + sizes.index(0)} of 30 images" in flag.evidence
    for block in section_of(Finding.model_validate_json(finding.model_dump_json())).blocks:
        if block.type == "figure":
            draw(block).to_dict()


def test_the_curve_holds_the_image_that_empties_the_template(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few its points are: the doubt is about that image."""
    monkeypatch.setattr(templates, "STEPS", 3)
    finding = InfluenceTemplate(front=8, tail=8).run(subject_of(exact(), pairs()))
    (flag,) = finding.flags
    empty = int(flag.evidence.split("after ")[1].split()[0])
    assert [point.images for point in typed(finding.data, TemplateNumbers).curve] == sorted({1, 16, 30, empty})
    monkeypatch.setattr(templates, "STEPS", 60)
    sizes = {
        point.images: point.size
        for point in InfluenceTemplate(front=8, tail=8).find(subject_of(exact(), pairs())).curve
    }
    assert len(sizes) == 30
    assert min(images for images, size in sizes.items() if size == 0) == empty


def test_without_a_correct_image_it_is_declined() -> None:
    given = pairs()
    given.labels = (exact()(given.x).argmax(1) + 1) % 3
    assert "needs correctly classified images" in measured(InfluenceTemplate(), subject_of(exact(), given)).declined


def test_the_section_builds_from_stored_data_and_draws() -> None:
    finding = InfluenceTemplate(front=K1, tail=K2, quorum=0.8).run(subject_of(exact(), pairs()))
    section = section_of(Finding.model_validate_json(finding.model_dump_json()))
    figures = [block for block in section.blocks if block.type == "figure"]
    assert len(figures) == 2
    for figure in figures:
        assert draw(figure).to_dict()["layer"]
        assert figure.reading.endswith(".")
    table = next(block for block in section.blocks if block.type == "table")
    own = [
        c
        for c in finding.data.model_dump(mode="json")["overlap"]
        if c["row"] == table.rows[1]["name"] and c["column"] not in (ALL, c["row"])
    ]
    assert table.rows[1]["overlap"] == pytest.approx(np.mean([cell["value"] for cell in own]))
