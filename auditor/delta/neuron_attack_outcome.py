"""What attacks on single neurons did to each image, and their successes counted under each definition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from auditor.metrics import paired_difference


class NeuronAttackOutcome(NamedTuple):
    """The attacks on K neurons of each of B images, one neuron at a time; the first of a row is the most sensitive.

    ``predicted``: the clean prediction. ``correct``: whether it is the label. ``twin``: whether the audit's own attack changed
    it. ``aimless``: whether the image has no finite Delta; all (B,). ``sensitive``, ``random``: which attacks changed the
    prediction, (B, K). ``norm``: size of the perturbations on sensitive neurons that did, NaN elsewhere, (B, K).
    """

    predicted: NDArray[np.int64]
    correct: NDArray[np.bool_]
    twin: NDArray[np.bool_]
    aimless: NDArray[np.bool_]
    sensitive: NDArray[np.bool_]
    random: NDArray[np.bool_]
    norm: NDArray[np.float64]

    @classmethod
    def joined(cls, parts: Sequence[NeuronAttackOutcome]) -> NeuronAttackOutcome:
        return cls(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def counted(seen: NeuronAttackOutcome, by_pgd: NDArray[np.bool_]) -> dict[str, Any]:
    """Successes as counts. An image among those tried (the clean one included) is in error when it is not of its label."""
    nested = {name: np.logical_or.accumulate(getattr(seen, name), axis=1) for name in ("sensitive", "random")}
    norms = seen.norm[~np.isnan(seen.norm)]
    return {
        "images": len(seen.correct),
        "correct": int(seen.correct.sum()),
        "aimless": int(seen.aimless.sum()),
        "pgd": {name: value.item() for name, value in _hits(by_pgd[:, None], seen.correct).items()},
        "audit": {name: value.item() for name, value in _hits(seen.twin[:, None], seen.correct).items()},
        **{
            name: {key: hits.tolist() for key, hits in _hits(any_, seen.correct).items()}
            for name, any_ in nested.items()
        },
        "by_rank": {name: getattr(seen, name).sum(0).tolist() for name in nested},
        "norms": [float(pick(norms)) for pick in (np.min, np.median, np.max)] if len(norms) else None,
        "beyond_pgd": _difference(by_pgd, nested["sensitive"][:, -1]),
        "beyond_random": _difference(nested["random"][:, -1], nested["sensitive"][:, -1]),
    }


def _hits(changed: NDArray[np.bool_], correct: NDArray[np.bool_]) -> dict[str, NDArray[np.int64]]:
    """Of (n, k) outcomes: predictions changed; images in error; images in error that were right before. Each (k,)."""
    return {
        "changed": changed.sum(0),
        "error": (changed | ~correct[:, None]).sum(0),
        "error_correct": (changed & correct[:, None]).sum(0),
    }


def _difference(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> dict[str, float]:
    return {name: float(value) for name, value in paired_difference(one, other)._asdict().items()}
