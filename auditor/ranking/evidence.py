"""Evidence for rankings: their first neurons against random ones, paired over the images, with a permutation test."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor.metrics import Rate
from auditor.randomness import derive_seed
from auditor.ranking.methods import Ranking
from auditor.statistics.means import Mean

SIGN = {"transplant": 1, "zero_twin": 1, "zero_clean": -1}
"""The tests, with what an ablation does that finds the neurons that matter: the accuracy rises, or it falls."""
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


def judge(
    right: dict[str, NDArray[np.bool_]], rankings: tuple[Ranking, ...], counts: list[int]
) -> dict[str, list[dict[str, Any]] | dict[str, Any]]:
    """Rates and verdicts from each test's answers, (N, orders * counts), rankings first and random orders behind them."""
    found: list[dict[str, Any]] = [
        {"method": item.method, "title": item.title, "accuracy": {}, "difference": {}, "p": {}, "verdict": {}}
        for item in rankings
    ]
    random: dict[str, Any] = {}
    for test, answers in right.items():
        by_order = answers.reshape(len(answers), -1, len(counts))
        ours, others = by_order[:, : len(rankings)], by_order[:, len(rankings) :]
        shares = others.mean(0)
        random[test] = [
            {"value": float(share.mean()), "low": float(share.min()), "high": float(share.max())} for share in shares.T
        ]
        for place, item in enumerate(found):
            own = ours[:, place]
            difference = Mean.of(own.mean(1) - others.mean((1, 2)))
            hits, chance = SIGN[test] * int(own.sum()), SIGN[test] * others.sum((0, 2))
            as_high, as_low = (float((1 + side.sum()) / (1 + len(chance))) for side in (chance >= hits, chance <= hits))
            item["accuracy"][test] = [Rate.of(column).model_dump() for column in own.T]
            item["difference"][test] = difference.model_dump()
            item["p"][test] = as_high
            item["verdict"][test] = _verdict(difference, SIGN[test], as_high, as_low)
    return {"rankings": found, "random": random}


def _verdict(difference: Mean, sign: int, as_high: float, as_low: float) -> str:
    """``as_high``, ``as_low``: share of sets that do at least, and at most, as well."""
    if difference.low is None or difference.high is None:
        return "not distinguishable"
    low, high = sorted((sign * difference.low, sign * difference.high))
    if as_high <= LEVEL and low > 0:
        return "better than random neurons"
    return "worse than random neurons" if as_low <= LEVEL and high < 0 else "not distinguishable"
