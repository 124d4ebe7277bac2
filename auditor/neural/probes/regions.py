"""The regions of images that neurons look at (Bau et al. 2017, arXiv 1704.05796): maps, thresholds, and how regions overlap."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from auditor.models.classifier import Classifier
from auditor.models.neurons import LayerKind, watch
from auditor.neural.analysis import Pairs

DARK = 0.2
"""Brightness of what a neuron does not look at."""


class Maps(NamedTuple):
    """Maps of some neurons of one layer on N images and on their twins, float32 (N, neurons, H, W), and the images' ids (N,)."""

    samples: NDArray[np.int64]
    clean: Tensor
    moved: Tensor


def maps_of(
    classifier: Classifier,
    pairs: Pairs,
    layer: str,
    neurons: NDArray[np.int64],
    samples: NDArray[np.int64],
    *,
    on_progress: Callable[[float], None],
) -> Maps:
    """The maps of some neurons of a layer on those of the pairs whose ids are among ``samples``; told the share read."""
    index = torch.from_numpy(neurons).to(classifier.device)
    found: list[NDArray[np.int64]] = []
    clean: list[Tensor] = []
    moved: list[Tensor] = []
    seen = 0

    def see(name: str, kind: LayerKind, type_name: str, output: Tensor) -> None:
        if name == layer:
            before, after = output[:, index].float().cpu().chunk(2)
            clean.append(before)
            moved.append(after)

    for pair in pairs:
        chosen = np.flatnonzero(np.isin(pair.sample, samples))
        if len(chosen):
            rows = torch.from_numpy(chosen).to(pair.x.device)
            with torch.no_grad(), watch(classifier.network, see):
                classifier(torch.cat([pair.x[rows], pair.x_adv[rows]]).to(classifier.dtype))
            found.append(pair.sample[chosen])
        seen += len(pair.sample)
        on_progress(seen / len(pairs))
    return Maps(np.concatenate(found), torch.cat(clean), torch.cat(moved))


def thresholds_of(clean: Tensor, share: float) -> NDArray[np.float64]:
    """What a share of each neuron's activations exceeds, over all images and places; ``clean``: (N, neurons, H, W)."""
    values = clean.double().transpose(0, 1).flatten(1).numpy()
    return np.asarray(np.quantile(values, 1 - share, axis=1))


def darkened(x: Tensor, activity: Tensor, threshold: float) -> Tensor:
    """The image (C, H, W) with everything darkened where the enlarged map (H', W') is not above the threshold."""
    enlarged = interpolate(activity[None, None], size=x.shape[1:], mode="bilinear", align_corners=False)[0]
    return torch.where(enlarged > threshold, x, DARK * x)


def overlaps(clean: Tensor, moved: Tensor, thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of the places above the threshold, on images and twins, (N, neurons); NaN if there are none.

    ``clean``, ``moved``: (N, neurons, H, W); on the grid of the layer itself.
    """
    level = torch.from_numpy(thresholds).view(1, -1, 1, 1)
    before, after = clean.double() > level, moved.double() > level
    both, either = (before & after).sum((2, 3)).double(), (before | after).sum((2, 3)).double()
    return np.asarray((both / either).numpy())
