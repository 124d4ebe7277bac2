"""Evidence for rankings: their first neurons against random ones, paired over the images, with a permutation test."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from auditor.kit.randomness import derive_seed
from auditor.kit.statistics.estimate import Estimate, Rate
from auditor.models.classifier import Classifier
from auditor.neural.analysis import Pair
from auditor.neural.found import Found, shown
from auditor.neural.ranking.ablation import ablate
from auditor.neural.ranking.methods import Ranking, alive, layer_title
from auditor.show.blocks import Row

Test = Literal["transplant", "zero_twin", "zero_clean"]
SIGN: dict[Test, int] = {"transplant": 1, "zero_twin": 1, "zero_clean": -1}
"""The tests, with what an ablation does that finds the neurons that matter: the accuracy rises, or it falls."""
WORDS: dict[Test, str] = {
    "transplant": "restored on the twin",
    "zero_twin": "silenced on the twin",
    "zero_clean": "silenced on the clean image",
}
"""The tests, in the words of the report. "Better" is a higher accuracy on the twin, and a lower one on the clean image."""
LEVEL = 0.05


def random_order(seed: int, layer: str, draw: int, alive: NDArray[np.bool_]) -> NDArray[np.int64]:
    """A random order of a layer's neurons; its first k are the control of every ranking's first k.

    Dead neurons come last, as they do in any ranking: with them in the draw, a ranking that does no more than leave them out
    would be better than random neurons. ``alive``: (M,).
    """
    order = np.random.default_rng(derive_seed(seed, "random neurons", layer, draw)).permutation(len(alive))
    return order[np.argsort(~alive[order], kind="stable")].astype(np.int64)


def first_neurons(orders: list[NDArray[np.int64]], counts: list[int]) -> Tensor:
    """The first neurons of each order, for each count in turn: bool (orders * counts, M)."""
    sets = torch.zeros(len(orders) * len(counts), len(orders[0]), dtype=torch.bool)
    for row, (order, count) in enumerate((order, count) for order in orders for count in counts):
        sets[row, torch.from_numpy(order[:count].copy())] = True
    return sets


class Spread(Found):
    """Accuracy with random sets: its mean, and the lowest and the highest."""

    value: float
    low: float
    high: float


class JudgedRanking(Found):
    """One ranking by each test: the accuracy for each number of its first neurons; their difference to random ones, mean over the
    numbers of neurons; the share ``p`` of sets that do at least as well; and the verdict."""

    method: str
    title: str = shown("Ranking")
    accuracy: dict[Test, tuple[Rate, ...]]
    difference: dict[Test, Estimate]
    p: dict[Test, float]
    verdict: dict[Test, str]


class Accuracy(Found):
    """Accuracies with this many neurons ablated, as text."""

    title: str = shown("Neurons")
    count: int = shown("How many")
    transplant: str = shown(f"Accuracy, {WORDS['transplant']}")
    zero_twin: str = shown(f"Accuracy, {WORDS['zero_twin']}")
    zero_clean: str = shown(f"Accuracy, {WORDS['zero_clean']}")


class JudgedLayer(Found):
    """The rankings of one layer, and ``draws`` random sets by each test, for each number of neurons ablated. ``dead``: neurons
    that random sets take last, unknown in old findings."""

    name: str
    neurons: int
    counts: tuple[int, ...]
    draws: int
    dead: int | None = Field(None, exclude_if=lambda dead: dead is None)
    rankings: tuple[JudgedRanking, ...]
    random: dict[Test, tuple[Spread, ...]]

    def curves(self, test: Test) -> Iterator[Row]:
        """Rows of a chart of the accuracy against the number of neurons, the random ones as a band."""
        for ranking in self.rankings:
            for count, rate in zip(self.counts, ranking.accuracy[test], strict=True):
                yield {"x": count, "series": ranking.title, "value": rate.value}
        for count, share in zip(self.counts, self.random[test], strict=True):
            yield {"x": count, "series": "random neurons"} | share.model_dump()

    def accuracies(self) -> Iterator[Accuracy]:
        """Of each ranking's first neurons, and of random ones."""
        for ranking in self.rankings:
            for place, count in enumerate(self.counts):
                words = {test: str(ranking.accuracy[test][place]) for test in WORDS}
                yield Accuracy(title=ranking.title, count=count, **words)
        for place, count in enumerate(self.counts):
            words = {test: f"{100 * self.random[test][place].value:.1f} %" for test in WORDS}
            yield Accuracy(title="random neurons", count=count, **words)


class Judgement(NamedTuple):
    """Of the rankings of one layer, compared with random sets by each test and number of neurons."""

    rankings: tuple[JudgedRanking, ...]
    random: dict[Test, tuple[Spread, ...]]


def judge(right: dict[Test, NDArray[np.bool_]], rankings: tuple[Ranking, ...], counts: list[int]) -> Judgement:
    """Rates and verdicts from each test's answers, (N, orders * counts), rankings first and random orders behind them."""
    found = tuple(
        JudgedRanking(method=item.method, title=item.title, accuracy={}, difference={}, p={}, verdict={})
        for item in rankings
    )
    random: dict[Test, tuple[Spread, ...]] = {}
    for test, answers in right.items():
        by_order = answers.reshape(len(answers), -1, len(counts))
        ours, others = by_order[:, : len(rankings)], by_order[:, len(rankings) :]
        shares = others.mean(0).T
        random[test] = tuple(Spread(value=share.mean(), low=share.min(), high=share.max()) for share in shares)
        for place, item in enumerate(found):
            own = ours[:, place]
            difference = Estimate.of_mean(own.mean(1) - others.mean((1, 2)))
            hits, chance = SIGN[test] * int(own.sum()), SIGN[test] * others.sum((0, 2))
            as_high, as_low = (float((1 + side.sum()) / (1 + len(chance))) for side in (chance >= hits, chance <= hits))
            item.accuracy[test] = tuple(Rate.of(column) for column in own.T)
            item.difference[test] = difference
            item.p[test] = as_high
            item.verdict[test] = _verdict(difference, SIGN[test], as_high, as_low)
    return Judgement(found, random)


def judge_layer(
    classifier: Classifier,
    layer: str,
    rankings: tuple[Ranking, ...],
    pairs: Iterable[Pair],
    *,
    counts: list[int],
    draws: int,
    seed: int,
) -> JudgedLayer:
    """Ablate, on the judging pairs, the first ``counts`` neurons of each ranking and of ``draws`` random orders. ``layer``: the
    empty name is the features before the head."""
    living = alive(rankings)
    orders = [ranking.order for ranking in rankings]
    orders += [random_order(seed, layer, draw, living) for draw in range(draws)]
    right = ablate(classifier, layer, pairs, first_neurons(orders, counts))
    judged = judge({test: getattr(right, test).cpu().numpy() for test in WORDS}, rankings, counts)
    return JudgedLayer(
        name=layer_title(classifier, layer),
        neurons=len(living),
        counts=tuple(counts),
        draws=draws,
        dead=int((~living).sum()),
        rankings=judged.rankings,
        random=judged.random,
    )


def _verdict(difference: Estimate, sign: int, as_high: float, as_low: float) -> str:
    """``as_high``, ``as_low``: share of sets that do at least, and at most, as well."""
    if difference.low is None or difference.high is None:
        return "not distinguishable"
    low, high = sorted((sign * difference.low, sign * difference.high))
    if as_high <= LEVEL and low > 0:
        return "better than random neurons"
    return "worse than random neurons" if as_low <= LEVEL and high < 0 else "not distinguishable"
