"""Delta-values of one layer, searched neuron by neuron and image by image, summed up as plain data."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor.delta.crossings import Crossings
from auditor.neurons import Layer
from auditor.statistics.association import spearman


def layer_data(
    layer: Layer, cut: bool, chosen: Tensor, std: Tensor, estimate: Tensor, crossings: list[Crossings]
) -> dict[str, Any]:
    """The Delta-values of one layer in numbers, as plain data.

    ``chosen``: the m neurons searched. ``std``: (M,). ``estimate``: first-order, (N, m). ``crossings``: of N
    images with m neurons each, image by image, in parts. Quantiles are of |Delta| / std.
    """
    scale = std[chosen].cpu().numpy()
    value = torch.cat([item.value for item in crossings]).view(len(estimate), len(chosen)).cpu().numpy()
    scaled, guess = np.abs(value) / scale, np.abs(estimate.cpu().numpy()) / scale
    finite = np.isfinite(value)
    both = finite & np.isfinite(guess)
    ratio = guess[both] / scaled[both]
    quantiles = {"q25": 0.25, "median": 0.5, "q75": 0.75}
    return {
        "layer": layer.name,
        "depth": layer.depth,
        "kind": layer.kind,
        "type": layer.type,
        "neurons": layer.neurons,
        "still": int((std == 0).sum()),
        "cut": cut,
        "pairs": value.size,
        "infinite": int((~finite).sum()),
        "raised": int((value[finite] > 0).sum()),
        "failed_beyond": sum(int(item.fails_beyond.sum()) for item in crossings),
        "failed_before": sum(int(item.fails_before.sum()) for item in crossings),
        **{name: _quantile(scaled.ravel(), share) for name, share in quantiles.items()},
        "nearest": _quantile(scaled.min(1), 0.5) if scaled.size else None,
        "compared": int(both.sum()),
        "within_factor_2": int(((ratio >= 0.5) & (ratio <= 2)).sum()),
        "spearman": spearman(guess[both], scaled[both]).value if both.sum() > 2 else None,
        "chosen": [
            {
                "neuron": neuron,
                "std": float(scale[place]),
                "median": _quantile(scaled[:, place], 0.5),
                "lowest": _quantile(scaled[:, place], 0.0),
                "images": len(scaled),
                "infinite": int((~finite[:, place]).sum()),
                "raised": int((value[finite[:, place], place] > 0).sum()),
                "first_order": _quantile(guess[:, place], 0.5),
            }
            for place, neuron in enumerate(chosen.tolist())
        ],
    }


def _quantile(values: NDArray[np.float64], share: float) -> float | None:
    """A value of the sample itself, so that infinite ones need no arithmetic; None where it is infinite or there is none."""
    found = float(np.quantile(values, share, method="inverted_cdf")) if values.size else math.inf
    return found if math.isfinite(found) else None
