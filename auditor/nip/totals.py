"""InfluenceTotals: the influence of neurons on images and their twins, summed up batch by batch."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor.nip.influence import Parts, chosen_mask, front_odds
from auditor.statistics.means import Mean

CURVE_POINTS = 100
"""Points of the curve of sorted influence; where a layer has more neurons, neighbours are averaged."""


class Influences(NamedTuple):
    """Some images and their twins. ``clean``, ``twin``: influence by which neurons are ordered, float64 (B, M);
    ``clean_value``, ``twin_value``: influence as it is shown."""

    clean: Tensor
    twin: Tensor
    clean_value: Tensor
    twin_value: Tensor


class InfluenceTotals:
    """Sums over images: each neuron's influence and parts, the sorted influence, and the overlap of each image."""

    def __init__(self, neurons: int) -> None:
        self.neurons, self.images = neurons, 0
        self.sums: dict[str, NDArray[np.float64]] = {}
        self.overlaps: dict[str, list[NDArray[np.float64]]] = {"front": [], "tail": []}

    def add(self, seen: Influences, clean: Parts, twin: Parts) -> None:
        self.images += len(seen.clean)
        order = torch.cat([clean.front, clean.remaining, clean.tail], 1)
        summed = {
            "influence_clean": seen.clean_value, "influence_twin": seen.twin_value,
            "sorted_clean": seen.clean_value.gather(1, order), "sorted_twin": seen.twin_value.gather(1, order),
        }  # fmt: skip
        for part in ("front", "tail"):
            both = [chosen_mask(getattr(parts, part), self.neurons) for parts in (clean, twin)]
            summed |= {f"{part}_clean": both[0].double(), f"{part}_twin": both[1].double()}
            # Neurons of no influence have no order: by index they would be the same ones on an image and on its twin.
            sign, count = (1 if part == "front" else -1), getattr(clean, part).shape[1]
            one, other = (front_odds(sign * values, count) for values in (seen.clean, seen.twin))
            self.overlaps[part].append(((one * other).sum(1) / count).cpu().numpy())
        for key, values in summed.items():
            self.sums[key] = self.sums.get(key, np.zeros(self.neurons)) + values.sum(0).cpu().numpy()

    def as_data(self, front: int, tail: int) -> dict[str, Any]:
        means = {key: total / self.images for key, total in self.sums.items()}
        groups = np.array_split(np.arange(self.neurons), min(self.neurons, CURVE_POINTS))
        sizes = {"front": front, "tail": tail}
        return {
            "images": self.images,
            "neurons": self.neurons,
            "curve": [
                {"position": float(group.mean() + 1)}
                | {key: float(means[f"sorted_{key}"][group].mean()) for key in ("clean", "twin")}
                for group in groups
            ],
            "overlap": {
                part: {"mean": Mean.of(np.concatenate(values)).model_dump(), "random": sizes[part] / self.neurons}
                for part, values in self.overlaps.items()
            },
            "by_neuron": {key: values.tolist() for key, values in means.items() if not key.startswith("sorted")},
        }
