"""Attacks on single neurons of each image: the most sensitive ones and two controls, and what they did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from auditor.kit.randomness import RowRandom
from auditor.neural.analysis import Pair, Pairs, Subject
from auditor.neural.delta.neuron_attack import NeuronAttack, Targets
from auditor.neural.delta.values import (
    Activations,
    Feasible,
    Ordering,
    activations_of,
    deltas_of,
    features_of,
    ordered,
    scores,
)
from auditor.neural.probes.head import Head, head_of

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


@dataclass(frozen=True)
class ListedAttacks:
    """Attacks the ``count`` neurons of each image with the lowest Delta, as many with the highest, and as many random ones.

    The controls come from the neurons that have a finite score, as the lowest do: aiming at others would make any ranking look
    better. Where fewer than ``count`` have one, all lists end with the same neurons without one, which aim at the largest Delta
    of their image. A neuron on several lists is attacked once. An image without a finite Delta is not attacked: nothing to aim
    at.
    """

    attack: NeuronAttack
    count: int
    ordering: Ordering
    feasible: Feasible
    fake_relu: FakeRelu

    def __call__(self, subject: Subject, pairs: Pairs, title: str) -> NeuronAttackOutcome:
        """On the clean images of some of the pairs, as many attacks at a time as the subject has images in a batch; ``title``:
        what is being done, for the progress."""
        head = head_of(subject.classifier)
        activations = activations_of(subject.classifier, head, subject.pairs)
        parts, done = list[NeuronAttackOutcome](), 0.0
        for pair in pairs:
            share = len(pair.sample) / len(pairs)
            parts.append(self._on(subject.during(done, done + share), head, activations, pair, title))
            done += share
        return NeuronAttackOutcome.joined(parts)

    def _on(
        self, subject: Subject, head: Head, activations: Activations, pair: Pair, title: str
    ) -> NeuronAttackOutcome:
        classifier, x, rows = subject.classifier, pair.x.to(subject.classifier.dtype), subject.batch_size
        features = features_of(classifier, head, x)
        _, deltas = deltas_of(classifier, head, x, activations.floor(self.feasible))
        known = deltas.value.isfinite()
        largest = deltas.value.masked_fill(~known, -torch.inf).amax(1, keepdim=True)
        change = torch.where(known, deltas.value, largest)
        predicted = classifier.logits(x).argmax(1)
        draws = RowRandom(subject.seed, "k-ns", [(sample,) for sample in pair.sample.tolist()]).uniform(features)
        score = scores(deltas.value, activations, self.ordering)
        ranked = score.isfinite()
        lists = [ordered(each.masked_fill(~ranked, torch.inf))[:, : self.count] for each in (score, draws, -score)]
        wanted = torch.zeros_like(known).scatter(1, torch.cat(lists, 1), True) & known.any(1, keepdim=True)
        owner, neuron = wanted.nonzero().unbind(1)
        changed, norm = torch.zeros_like(wanted), torch.full_like(features, torch.nan)
        for start in range(0, len(owner), rows):
            image, unit = owner[start : start + rows], neuron[start : start + rows]
            passing = torch.full_like(unit, self.fake_relu == "always", dtype=torch.bool) | (features[image, unit] == 0)
            found = self.attack(x[image], Targets(unit, change[image, unit], predicted[image], passing))
            changed[image, unit] = found.changed
            norm[image, unit] = self.attack.threat.ball(x[:1]).distance(found.x_adv, x[image]).double()
            subject.on_progress((start + len(image)) / len(owner), title)
        hits = [changed.gather(1, chosen) for chosen in lists]
        lengths = norm.gather(1, lists[0]).masked_fill(~hits[0], torch.nan)
        twin = classifier.logits(pair.x_adv.to(x)).argmax(1) != predicted
        arrays = (predicted, predicted == pair.labels, twin, ~known.any(1), *hits, lengths, wanted, changed)
        return NeuronAttackOutcome(*(array.cpu().numpy() for array in arrays))
