"""DeltaTally: the Delta-values of many images as running numbers, per neuron, per histogram bin, and a few per image."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from auditor.delta.log_bins import LogBins
from auditor.delta.values import ORDERINGS, Activations, agreement, scores
from auditor.metrics import CONFIDENCE

TOP = 16
"""Neurons of each image that the orderings are compared on: as many as the largest k-NS attack of the paper targets."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class DeltaTally:
    """``images``: those counted. ``tied``: those left out, counted by the caller. ``infinite``: (image, neuron) pairs."""

    def __init__(self, activations: Activations, classes: int) -> None:
        self.activations, self.images, self.tied, self.infinite = activations, 0, 0, 0
        device, neurons = activations.mean.device, len(activations.mean)
        self.finite, self.raised, self.first, self.total = (
            torch.zeros(neurons, dtype=torch.float64, device=device) for _ in range(4)
        )
        self.targets = torch.zeros(neurons, classes, dtype=torch.int64, device=device)
        self.every = {"raw": LogBins(), "scaled": LogBins()}
        self.lowest = {"raw": LogBins(), "scaled": LogBins()}
        self.nearest: dict[str, list[float]] = {"raw": [], "scaled": []}
        self.agreement: dict[tuple[str, str], list[tuple[float, float, float]]] = {
            pair: [] for pair in combinations(ORDERINGS, 2)
        }

    def add(self, delta: Tensor, target: Tensor) -> None:
        """``delta`` and ``target``: (B, M)."""
        finite = delta.isfinite()
        self.images += len(delta)
        self.infinite += int((~finite).sum())
        self.finite += finite.sum(0)
        self.raised += (finite & (delta > 0)).sum(0)
        self.total += delta.abs().masked_fill(~finite, 0.0).sum(0)
        self.targets.scatter_add_(1, target.clamp_min(0).T, finite.T.long())
        by_score = {ordering: scores(delta, self.activations, ordering) for ordering in ORDERINGS}
        for scale, values in (("raw", delta.abs()), ("scaled", by_score["abs_scaled"])):
            self.every[scale].add(values)
            self.lowest[scale].add(values.amin(1))
            self.nearest[scale] += [value for value in values.amin(1).tolist() if math.isfinite(value)]
        lowest, neuron = by_score["abs_scaled"].min(1)
        self.first += neuron[lowest.isfinite()].bincount(minlength=len(self.first))
        for (one, other), found in self.agreement.items():
            rows = zip(by_score[one].cpu().numpy(), by_score[other].cpu().numpy(), strict=True)  # type: ignore[index]
            found += [item for pair in rows if (item := agreement(*pair, top=TOP))]

    def as_data(self) -> dict[str, Any]:
        std = self.activations.std
        raw = self.total / self.finite
        reached, target = self.targets.max(1)
        columns = {
            "lowest |Δ| / σ of each image": self.nearest["scaled"],
            "lowest |Δ| of each image": self.nearest["raw"],
            "mean |Δ| / σ of each neuron": [value for value in (raw / std).tolist() if math.isfinite(value)],
        }
        return {
            "images": self.images,
            "tied": self.tied,
            "neurons": len(std),
            "classes": self.targets.shape[1],
            "infinite": self.infinite,
            "bins": {
                scale: {"all": self.every[scale].as_data(), "lowest of each image": self.lowest[scale].as_data()}
                for scale in self.every
            },
            "median": _median(self.nearest["scaled"]),
            "quantiles": [{"what": what} | _quantiles(values) for what, values in columns.items()],
            "by_neuron": {
                "finite": self.finite.long().tolist(),
                "raised": self.raised.long().tolist(),
                "nearest": self.first.long().tolist(),
                "raw": [_plain(value) for value in raw.tolist()],
                "scaled": [_plain(value) for value in (raw / std).tolist()],
                "target": target.masked_fill(reached == 0, -1).tolist(),
                "reached": reached.tolist(),
                "mean": self.activations.mean.tolist(),
                "std": std.tolist(),
            },
            "orderings": [
                {"one": one, "other": other} | _summary(found) for (one, other), found in self.agreement.items()
            ],
        }


def _summary(found: list[tuple[float, float, float]]) -> dict[str, Any]:
    """Mean and standard deviation over the images of the agreement of two orderings."""
    names = ("spearman", "spearman_std", "overlap", "overlap_std", "chance")
    if not found:
        return dict.fromkeys(names) | {"n": 0}
    (spearman, overlap, chance), (spread, width, _) = np.mean(found, 0).tolist(), np.std(found, 0).tolist()
    return {"n": len(found)} | dict(zip(names, (spearman, spread, overlap, width, chance), strict=True))


def _median(nearest: list[float]) -> dict[str, Any]:
    """Median over the images and its exact interval, from order statistics (Conover 1999, section 3.2)."""
    if not nearest:
        return {"value": None, "low": None, "high": None, "n": 0}
    interval = stats.quantile_test(nearest, p=0.5).confidence_interval(CONFIDENCE)
    low, high = (None if math.isnan(value) else float(value) for value in interval)
    return {"value": float(np.median(nearest)), "low": low, "high": high, "n": len(nearest)}


def _quantiles(values: list[float]) -> dict[str, Any]:
    found = np.quantile(values, QUANTILES).tolist() if values else [None] * len(QUANTILES)
    return {"n": len(values)} | {f"{share:g}": value for share, value in zip(QUANTILES, found, strict=True)}


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
