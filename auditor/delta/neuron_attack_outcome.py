"""Attacks on single neurons of each image, what they did, and their successes counted under each definition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from auditor.analysis import Pair
from auditor.delta.neuron_attack import NeuronAttack, Targets
from auditor.delta.values import Activations, Feasible, Ordering, deltas_of, features_of, ordered, scores
from auditor.metrics import paired_difference
from auditor.probes.head import Head
from auditor.randomness import RowRandom

LISTS = ("sensitive", "random", "least")
"""Of each image: its most sensitive neurons, and the two controls."""
FakeRelu = Literal["dead", "always", "never"]


class NeuronAttackOutcome(NamedTuple):
    """The attacks on K neurons of each of B images, one neuron at a time.

    ``predicted``: the clean prediction. ``correct``: whether it is the label. ``twin``: whether the audit's own attack changed
    it. ``aimless``: whether the image has no finite Delta; all (B,). ``sensitive``, ``random``, ``least``: which attacks changed
    the prediction, (B, K), on the most sensitive neurons from the first on, random ones, and the least sensitive from the last
    on. ``norm``: size of the perturbations on the most sensitive that did, NaN elsewhere, (B, K). ``attacked``, ``fell``: which
    of all M neurons were attacked, and which of these attacks succeeded, (B, M).
    """

    predicted: NDArray[np.int64]
    correct: NDArray[np.bool_]
    twin: NDArray[np.bool_]
    aimless: NDArray[np.bool_]
    sensitive: NDArray[np.bool_]
    random: NDArray[np.bool_]
    least: NDArray[np.bool_]
    norm: NDArray[np.float64]
    attacked: NDArray[np.bool_]
    fell: NDArray[np.bool_]

    @classmethod
    def joined(cls, parts: Sequence[NeuronAttackOutcome]) -> NeuronAttackOutcome:
        return cls(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def attack_images(
    attack: NeuronAttack,
    head: Head,
    activations: Activations,
    pair: Pair,
    *,
    count: int,
    ordering: Ordering,
    feasible: Feasible,
    fake_relu: FakeRelu,
    seed: int,
    rows: int,
    hear: Callable[[float], None],
) -> NeuronAttackOutcome:
    """Attack the ``count`` neurons of each image with the lowest Delta, as many with the highest, and as many random ones.

    The controls come from the neurons that have a finite score, as the lowest do: aiming at others would make any ranking look
    better. Where fewer than ``count`` have one, all lists end with the same neurons without one, which aim at the largest Delta
    of their image. A neuron on several lists is attacked once. An image without a finite Delta is not attacked: nothing to aim
    at. ``rows``: attacks at a time. ``hear`` is told the share done.
    """
    classifier, x = attack.classifier, pair.x.to(attack.classifier.dtype)
    features = features_of(classifier, head, x)
    _, deltas = deltas_of(classifier, head, x, activations.floor(feasible))
    known = deltas.value.isfinite()
    largest = deltas.value.masked_fill(~known, -torch.inf).amax(1, keepdim=True)
    change = torch.where(known, deltas.value, largest)
    predicted = classifier.logits(x).argmax(1)
    draws = RowRandom(seed, "k-ns", [(sample,) for sample in pair.sample.tolist()]).uniform(features)
    score = scores(deltas.value, activations, ordering)
    ranked = score.isfinite()
    lists = [ordered(each.masked_fill(~ranked, torch.inf))[:, :count] for each in (score, draws, -score)]
    wanted = torch.zeros_like(known).scatter(1, torch.cat(lists, 1), True) & known.any(1, keepdim=True)
    owner, neuron = wanted.nonzero().unbind(1)
    changed, norm = torch.zeros_like(wanted), torch.full_like(features, torch.nan)
    for start in range(0, len(owner), rows):
        image, unit = owner[start : start + rows], neuron[start : start + rows]
        passing = torch.full_like(unit, fake_relu == "always", dtype=torch.bool) | (features[image, unit] == 0)
        found = attack(x[image], Targets(unit, change[image, unit], predicted[image], passing))
        changed[image, unit] = found.changed
        norm[image, unit] = attack.threat.ball(x[:1]).distance(found.x_adv, x[image]).double()
        hear((start + len(image)) / len(owner))
    hits = [changed.gather(1, chosen) for chosen in lists]
    lengths = norm.gather(1, lists[0]).masked_fill(~hits[0], torch.nan)
    twin = classifier.logits(pair.x_adv.to(x)).argmax(1) != predicted
    arrays = (predicted, predicted == pair.labels, twin, ~known.any(1), *hits, lengths, wanted, changed)
    return NeuronAttackOutcome(*(array.cpu().numpy() for array in arrays))


def counted(seen: NeuronAttackOutcome, by_pgd: NDArray[np.bool_]) -> dict[str, Any]:
    """Successes as counts. An image among those tried (the clean one included) is in error when it is not of its label."""
    nested = {name: np.logical_or.accumulate(getattr(seen, name), axis=1) for name in LISTS}
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
        "by_neuron": {name: getattr(seen, name).sum(0).tolist() for name in ("attacked", "fell")},
        "norms": [float(pick(norms)) for pick in (np.min, np.median, np.max)] if len(norms) else None,
        "beyond_pgd": _difference(by_pgd, nested["sensitive"][:, -1]),
        "beyond_random": _difference(nested["random"][:, -1], nested["sensitive"][:, -1]),
        "first_beyond": {name: _difference(nested[name][:, 0], nested["sensitive"][:, 0]) for name in LISTS[1:]},
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
