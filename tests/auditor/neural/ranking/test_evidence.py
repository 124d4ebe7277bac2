"""Verdicts on rankings: recomputed by loops, and rarely wrong about a ranking that knows nothing."""

from __future__ import annotations

import numpy as np
import pytest

from auditor.kit.statistics.estimate import Estimate, Rate
from auditor.neural.ranking.evidence import SIGN, Test, first_neurons, judge, random_order
from auditor.neural.ranking.methods import Ranking, alive
from tests.narrow import known

COUNTS = [1, 2, 4]


def test_random_orders_belong_to_the_seed_the_layer_and_the_draw() -> None:
    living = np.ones(50, bool)
    order = random_order(0, "layer", 3, living)
    assert sorted(order.tolist()) == list(range(50))
    assert random_order(0, "layer", 3, living).tolist() == order.tolist()
    for other in (
        random_order(1, "layer", 3, living),
        random_order(0, "other", 3, living),
        random_order(0, "layer", 4, living),
    ):
        assert other.tolist() != order.tolist()


def test_a_random_order_takes_dead_neurons_last() -> None:
    values = np.array([0.0, 2.0, 0.0, 0.0, 1.0, 3.0])
    never = np.array([0.0, 0.0, 0.0, 5.0, 1.0, 3.0])
    living = alive([Ranking("weight", np.ones(6)), Ranking("sensitivity", values), Ranking("activation", never)])
    assert living.tolist() == [False, True, False, True, True, True]
    orders = [random_order(0, "layer", draw, living).tolist() for draw in range(100)]
    assert all(set(order[4:]) == {0, 2} for order in orders)
    assert {order[0] for order in orders} == {1, 3, 4, 5}


def test_the_first_neurons_of_each_order() -> None:
    masks = first_neurons([np.array([2, 0, 1, 3]), np.array([3, 2, 1, 0])], [1, 3])
    assert masks.int().tolist() == [[0, 0, 1, 0], [1, 1, 1, 0], [0, 0, 0, 1], [0, 1, 1, 1]]


def rankings(count: int) -> tuple[Ranking, ...]:
    return tuple(Ranking("weight", np.zeros(8)) for _ in range(count))


@pytest.mark.parametrize("test", SIGN)
def test_every_number_by_loops(test: Test) -> None:
    rng = np.random.default_rng(0)
    answers = rng.random((30, (2 + 19) * 3)) < 0.4
    answers[:, :3] = rng.random((30, 3)) < 0.8
    found = judge({test: answers}, rankings(2), COUNTS)

    def right(image: int, order: int, place: int) -> float:
        return float(answers[image, order * 3 + place])

    sums = [SIGN[test] * sum(right(i, o, k) for i in range(30) for k in range(3)) for o in range(21)]
    for place, item in enumerate(found.rankings):
        differences = [
            np.mean([right(i, place, k) - np.mean([right(i, o, k) for o in range(2, 21)]) for k in range(3)])
            for i in range(30)
        ]
        expected = Estimate.of_mean(np.array(differences))
        assert item.difference[test].value == pytest.approx(expected.value, rel=1e-12)
        assert item.difference[test].low == pytest.approx(expected.low, rel=1e-12)
        assert item.p[test] == (1 + sum(other >= sums[place] for other in sums[2:])) / 20
        assert item.accuracy[test] == tuple(
            Rate.count(int(sum(right(i, place, k) for i in range(30))), 30) for k in range(3)
        )
    for k, random in enumerate(found.random[test]):
        shares = [np.mean([right(i, o, k) for i in range(30)]) for o in range(2, 21)]
        assert random.model_dump() == pytest.approx({"value": np.mean(shares), "low": min(shares), "high": max(shares)})
    words = ["better", "worse"] if SIGN[test] == 1 else ["worse", "better"]
    assert found.rankings[0].verdict[test] == f"{words[0]} than random neurons"


def test_a_ranking_that_knows_nothing_is_seldom_called_better() -> None:
    """Each set of neurons has an effect of its own, shared by all images: with many images the interval over the images alone
    would call two in five useless rankings better."""
    rng = np.random.default_rng(1)
    called, by_interval, trials = 0, 0, 400
    for _ in range(trials):
        effect = rng.uniform(0.2, 0.8, 20)
        answers = rng.random((200, 20, 1)) < effect[None, :, None]
        item = judge({"transplant": answers[:, :, 0]}, rankings(1), [1]).rankings[0]
        called += item.verdict["transplant"] == "better than random neurons"
        by_interval += known(item.difference["transplant"].low) > 0
    # At most 5 % in the mean; the standard error of 400 trials is 1.1 %.
    assert called <= 0.05 * trials + 3 * np.sqrt(0.05 * 0.95 * trials)
    assert by_interval > 0.3 * trials


def test_one_image_decides_nothing() -> None:
    answers = np.zeros((1, 20), bool)
    answers[:, 0] = True
    item = judge({"transplant": answers}, rankings(1), [1]).rankings[0]
    assert item.verdict["transplant"] == "not distinguishable"
