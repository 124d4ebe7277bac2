"""The table of a defense: closed forms, the order of its rows, and what feeds the headline."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from auditor.attacking.attack import ATTACKS
from auditor.attacking.threat import Norm, ThreatModel
from auditor.defending.bench import Bench
from auditor.defending.defense import DEFENSES, Defense
from auditor.defending.measuring import measure_table
from auditor.defending.nip.adaptive import paper_attacks
from auditor.defending.nip.published import PublishedCode
from auditor.defending.spec import TableSpec
from auditor.defending.table import DefenseTable
from auditor.kit.errors import EvaluationError, SpecError
from auditor.kit.statistics.estimate import Rate
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from auditor.models.defended import NOTHING, FittedState
from auditor.models.drawing import View
from tests.narrow import known
from tests.nets import SHAPE, Linear, deeper_classifier, labelled, random_images

QUICK: dict[str, Any] = {
    "steps": 10, "restarts": 1, "draws": 2, "nearest": 3, "queries": 30, "decision_steps": 40, "batch_size": 16,
    "static": (ATTACKS.build("pgd", {"steps": 5}),),
}  # fmt: skip

EPSILON = 0.3


def table(
    defense: Defense, classifier: Classifier, data: ImageDataset, ids: np.ndarray, epsilon: float, **more: Any
) -> DefenseTable:
    state = defense.fit(classifier, data, np.arange(len(data)), seed=0) if defense.learns else NOTHING
    spec = TableSpec(**QUICK | {"threat": ThreatModel(epsilon=epsilon)} | more)
    return measure_table(classifier, [defense], [state], data, ids, spec)


@pytest.fixture(scope="module")
def nip() -> DefenseTable:
    classifier = deeper_classifier()
    data = labelled(classifier, 60, wrong=6)
    defense = DEFENSES.build("nip", {"front": 2, "tail": 2, "quorum": 0.8, "inputs": 20})
    published = (PublishedCode(front=2, tail=2, size=0.05), PublishedCode(size=0.05, direction="random"))
    return table(defense, classifier, data, np.arange(40), EPSILON, influence=paper_attacks(), published=published)


def test_on_a_linear_model_the_table_is_known() -> None:
    """Two classes split by w . x + b: an image holds at epsilon if |w . x + b| > epsilon sum |w|, where no pixel leaves the box;
    8 bits do nothing to images of a file."""
    weight = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    images = (80 + random_images(40) // 3).astype(np.uint8)
    raw = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    bias = -float((raw.flatten(1) @ weight.flatten()).median())
    classifier = Classifier(Linear(weight, bias), input_shape=SHAPE, num_classes=2)
    side = raw.flatten(1) @ weight.flatten() + bias
    data = ImageDataset(images, (side > 0).long().numpy())
    sizes = (side.abs() / weight.abs().sum()).sort().values
    epsilon = round(255 * float(sizes[20])) / 255  # a whole number of levels, so that 8 bits round nothing up
    expected = (side.abs() > epsilon * weight.abs().sum()).tolist()
    static = (ATTACKS.build("pgd", {"steps": 10}),)
    found = table(DEFENSES.build("bit-depth", {"bits": 8}), classifier, data, np.arange(40), epsilon, static=static)
    assert found.benign.value == found.benign_undefended.value == 1
    assert found.undefended[0].held == expected
    white = next(row for row in found.robust if row.knowledge == "white box")
    assert white.held == expected
    assert found.headline.accuracy.hits <= white.accuracy.hits
    fixed, minimal = found.static
    assert fixed.success.n == sum(not item for item in expected)
    assert minimal.success.n == 40
    assert fixed.success.hits == 0


def test_rows_are_in_bounds_and_the_headline_is_the_lowest(nip: DefenseTable) -> None:
    assert nip.headline.accuracy.hits == min(row.accuracy.hits for row in nip.robust if row.within)
    assert nip.worst.hits <= nip.headline.accuracy.hits
    for row in nip.robust:
        assert row.accuracy.n == len(row.held) == 40
        assert row.accuracy.hits == sum(row.held)
        assert row.accuracy.hits <= nip.benign.hits
        if row.within:
            assert (row.distances.largest or 0) <= EPSILON * (1 + 1e-3)
    assert {row.knowledge for row in nip.robust} == {"static", "white box", "black box", "influence"}


def test_every_kind_of_attack_is_in_the_table(nip: DefenseTable) -> None:
    names = [row.name for row in nip.robust]
    assert names == [
        "PGD on the undefended model",
        "APGD-CE, through the defense",
        "APGD-DLR, through the defense",
        "Square",
        "HopSkipJump",
        "SAA by PGD",
        "APGD-CE, mean of 3 nearest candidates",
        "APGD-CE, all of 3 nearest candidates",
        "ALA, as printed",
        "I-ALA, as printed",
        "ALA",
        "I-ALA",
        "S-ALA",
        "R-ALA",
    ]
    outside = {row.name for row in nip.robust if not row.within}
    assert outside == {"SAA by PGD", "ALA, as printed", "I-ALA, as printed"}


def test_the_published_oracles_stand_apart(nip: DefenseTable) -> None:
    assert [item.name for item in nip.reproductions[:2]] == [
        "published code, size 0.05, knows the clean twin and the right answer (reproduction only)",
        "random direction, size 0.05, knows the right answer (reproduction only)",
    ]
    assert len(nip.reproductions) == 4
    assert not any("reproduction" in row.name or "published" in row.name for row in nip.robust)
    assert "published" not in type(DEFENSES.build("nip", {})).parameters()


def test_static_rows_say_what_the_network_got(nip: DefenseTable) -> None:
    fixed, minimal = nip.static
    assert (fixed.budget, minimal.budget) == ("fixed", "minimal")
    assert fixed.quality_literal == pytest.approx(2 * (fixed.quality or 0))
    assert 0 <= (fixed.consistency or 0) <= 1
    assert (fixed.distances.smallest or 0) > 0.99 * EPSILON, (
        "within epsilon all steps are made: no image stops at the boundary"
    )
    assert (minimal.distances.smallest or 1) < 0.5 * EPSILON
    assert minimal.success.n >= fixed.success.n


def test_it_lives_on_as_json(nip: DefenseTable) -> None:
    assert DefenseTable.model_validate_json(nip.model_dump_json()) == nip


def test_the_same_spec_gives_the_same_verdicts_whatever_the_batch_size() -> None:
    """In float64: where rounding differs with the batch, NIP may take another candidate."""
    classifier = deeper_classifier().double()
    data = labelled(classifier, 60, wrong=6)
    defense = DEFENSES.build("nip", {"front": 2, "tail": 2, "quorum": 0.8, "inputs": 20})
    tables = [
        table(defense, classifier, data, np.arange(12), EPSILON, batch_size=size, queries=10) for size in (16, 5, 5)
    ]
    for other in tables[1:]:
        assert [row.held for row in other.robust] == [row.held for row in tables[0].robust]
        assert [row.success for row in other.static] == [row.success for row in tables[0].static]


@pytest.mark.parametrize("kind", ["jpeg", "sap", "gaussian-noise"])
def test_any_defense_can_be_evaluated(kind: str) -> None:
    classifier = deeper_classifier()
    values = {"passes": 2} if kind == "sap" else {}
    found = table(DEFENSES.build(kind, values), classifier, labelled(classifier, 20), np.arange(12), 0.05)
    flags = {flag.name for flag in found.flags}
    assert ("hidden gradient" in flags) is (kind == "jpeg")
    assert ("random defense" in flags) is (kind != "jpeg")
    assert found.seconds_per_1000 > 0


def test_l2_takes_the_boundary_attack_and_a_stack_works() -> None:
    classifier = deeper_classifier()
    data = labelled(classifier, 20)
    stack = [DEFENSES.build("spatial-smoothing", {}), DEFENSES.build("bit-depth", {})]
    spec = TableSpec(**QUICK | {"threat": ThreatModel(norm=Norm.L2, epsilon=0.5)})
    found = measure_table(classifier, stack, [FittedState(), FittedState()], data, np.arange(8), spec)
    assert "Boundary attack" in [row.name for row in found.robust]
    assert len(found.defenses) == 2


@pytest.mark.parametrize("kind", ["gaussian-noise", "random-direction"])
def test_fresh_draws_judge_what_attacks_on_a_random_defense_leave(kind: str) -> None:
    """The model draws other random numbers than the attacker: what fools the attacker's draws proves nothing, nor does one wrong
    answer among many asked. The rows say what 200 further draws of the model say of the same images."""
    classifier = deeper_classifier()
    data, defense = labelled(classifier, 60, wrong=0), DEFENSES.build(kind, {"size": 0.15})
    found = table(defense, classifier, data, np.arange(30), 0.2, draws=10, steps=20, restarts=3, queries=60)
    model = defense.wrap(classifier)
    bench = Bench(data, np.arange(30), ThreatModel(epsilon=0.2), 0, 16, draws=10)
    right, _ = bench.timed(model)
    view = model.seen(View(adaptive=True, draws=10))
    for name, target, attack in (
        ("APGD-CE, through the defense", view, ATTACKS.build("apgd-ce", {"steps": 20, "restarts": 3})),
        ("Square", view, ATTACKS.build("square", {"queries": 60})),
    ):
        row = next(row for row in found.robust if row.name == name)
        made = bench.attacked(target, attack, np.flatnonzero(right.ever), judge=model)
        answers = [bench.right(model.redrawn("test", draw), made.x_adv, made.positions) for draw in range(200)]
        expected = np.mean(answers, 0).sum() / 30
        assert row.accuracy.value == pytest.approx(expected, abs=0.08)  # 300 answers: one standard deviation is 0.026
        assert row.accuracy.value == pytest.approx(np.mean(row.held if row.share is None else row.share))
        agree = np.mean((np.mean(answers, 0) > 0.5) == np.array(row.held)[made.positions])
        assert agree > 0.85
    once = table(defense, classifier, data, np.arange(30), 0.2, draws=10, steps=20, restarts=1, queries=60)
    headline = known(found.headline.accuracy.value)
    assert headline <= known(once.headline.accuracy.value) + 0.06
    assert known(found.worst.value) <= headline + 0.06


def test_nothing_to_evaluate_is_refused() -> None:
    classifier = deeper_classifier()
    with pytest.raises(EvaluationError, match="Expected a defense and samples, got 0"):
        measure_table(classifier, [], [], labelled(classifier, 4), np.arange(4), TableSpec())
    with pytest.raises(SpecError):
        DEFENSES.build("nip", {"quorum": 0})


def test_a_row_beyond_epsilon_never_feeds_the_headline(nip: DefenseTable) -> None:
    outside = nip.robust[0].model_copy(update={"within": False, "held": [False] * 40, "accuracy": Rate.count(0, 40)})
    more = nip.model_copy(update={"robust": (outside, *nip.robust)})
    assert more.headline == nip.headline
    assert more.worst == nip.worst
