"""Successes of attacks on single neurons under each definition: counted, and drawn."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from auditor.kit.statistics.estimate import Rate
from auditor.kit.statistics.paired import PairedDifference, paired_difference
from auditor.neural.delta.neuron_attack_outcome import NeuronAttackOutcome
from auditor.neural.found import Found
from auditor.show.blocks import AnyBlock, Column, Figure, Measures, Row, Table, Text

KS = (1, 4, 8, 16)
"""Numbers of neurons that the paper's Table 1 gives."""
DRAWN = "Random and least sensitive neurons are among those with a finite score, as the most sensitive are."
LISTS: dict[str, str] = {
    "sensitive": "most sensitive neurons",
    "random": "random neurons",
    "least": "least sensitive neurons",
}
"""Of each image: its most sensitive neurons, and the two controls."""


class Successes(Found):
    """Counts of images: ``changed``: the prediction is another. ``error``: one of those tried (the clean image included) is not
    of the image's label. ``error_correct``: those of them that were right before."""

    changed: int
    error: int
    error_correct: int

    @classmethod
    def of(cls, changed: NDArray[np.bool_], correct: NDArray[np.bool_]) -> Successes:
        """From outcomes (n,)."""
        return cls(
            changed=int(changed.sum()),
            error=int((changed | ~correct).sum()),
            error_correct=int((changed & correct).sum()),
        )


class NestedSuccesses(Found):
    """Successes when any of the first k neurons of a list is attacked, for k = 1, 2, ..."""

    changed: tuple[int, ...]
    error: tuple[int, ...]
    error_correct: tuple[int, ...]

    @classmethod
    def of(cls, changed: NDArray[np.bool_], correct: NDArray[np.bool_]) -> NestedSuccesses:
        """From outcomes of each neuron on its own, (n, k)."""
        upto = [Successes.of(hits, correct) for hits in np.logical_or.accumulate(changed, axis=1).T]
        return cls(**{key: tuple(getattr(item, key) for item in upto) for key in Successes.model_fields})

    def first(self, k: int) -> Successes:
        """Of the first k neurons."""
        return Successes(changed=self.changed[k - 1], error=self.error[k - 1], error_correct=self.error_correct[k - 1])


class AttackedNeurons(Found):
    """Of every neuron: images on which it was ``attacked``, and where it ``fell``."""

    attacked: tuple[int, ...]
    fell: tuple[int, ...]

    @property
    def rates(self) -> list[float | None]:
        """The share of these attacks that succeeded; None for a neuron that was never attacked."""
        counts = zip(self.attacked, self.fell, strict=True)
        return [fell / attacked if attacked else None for attacked, fell in counts]


class NeuronSuccesses(Found):
    """Successes as counts of the ``images``, of which ``correct`` were right before; ``aimless`` ones have no finite Delta.

    ``layer``: the head whose inputs are the neurons. ``twins``: how the twins were made whose attack is ``audit``.
    ``identity_relu``: whether some gradients passed the last ReLU unchanged.
    ``by_rank``: successes of each neuron of a list on its own. ``norms``: lowest, median and highest of the perturbations that
    succeeded on sensitive neurons. ``beyond_pgd``, ``beyond_random``: how many more the sensitive neurons change than PGD, and
    than random neurons, and ``first_beyond`` the same of the first neuron alone, by the control.
    """

    layer: str
    threat: str
    twins: str
    identity_relu: bool
    images: int
    correct: int
    aimless: int
    pgd: Successes
    audit: Successes
    sensitive: NestedSuccesses
    random: NestedSuccesses
    least: NestedSuccesses | None
    by_rank: dict[str, tuple[int, ...]]
    by_neuron: AttackedNeurons | None
    norms: tuple[float, float, float] | None
    beyond_pgd: PairedDifference
    beyond_random: PairedDifference
    first_beyond: dict[str, PairedDifference]

    @property
    def lists(self) -> dict[str, NestedSuccesses]:
        """By the name of the list."""
        return {name: hits for name in LISTS if (hits := getattr(self, name))}

    @property
    def most(self) -> int:
        """How many neurons of each image were attacked."""
        return len(self.sensitive.changed)

    def rate(self, hits: int) -> Rate:
        """A count as a share of all images."""
        return Rate.count(hits, self.images)

    @classmethod
    def of(
        cls,
        seen: NeuronAttackOutcome,
        by_pgd: NDArray[np.bool_],
        *,
        layer: str,
        threat: str,
        twins: str,
        identity_relu: bool,
    ) -> NeuronSuccesses:
        """``by_pgd``: whether PGD changed the prediction, (B,)."""
        any_of = {name: np.logical_or.accumulate(getattr(seen, name), axis=1) for name in LISTS}
        norms = seen.norm[~np.isnan(seen.norm)]
        return cls(
            layer=layer,
            threat=threat,
            twins=twins,
            identity_relu=identity_relu,
            images=len(seen.correct),
            correct=int(seen.correct.sum()),
            aimless=int(seen.aimless.sum()),
            pgd=Successes.of(by_pgd, seen.correct),
            audit=Successes.of(seen.twin, seen.correct),
            sensitive=NestedSuccesses.of(seen.sensitive, seen.correct),
            random=NestedSuccesses.of(seen.random, seen.correct),
            least=NestedSuccesses.of(seen.least, seen.correct),
            by_rank={name: getattr(seen, name).sum(0).tolist() for name in LISTS},
            by_neuron=AttackedNeurons(attacked=seen.attacked.sum(0).tolist(), fell=seen.fell.sum(0).tolist()),
            norms=(float(norms.min()), float(np.median(norms)), float(norms.max())) if len(norms) else None,
            beyond_pgd=paired_difference(by_pgd, any_of["sensitive"][:, -1]),
            beyond_random=paired_difference(any_of["random"][:, -1], any_of["sensitive"][:, -1]),
            first_beyond={
                name: paired_difference(getattr(seen, name)[:, 0], seen.sensitive[:, 0]) for name in ("random", "least")
            },
        )


def success_blocks(found: NeuronSuccesses) -> Iterator[AnyBlock]:
    """The rates with all neurons, then with fewer, rank by rank, and under each definition."""
    yield _measures(found)
    yield Figure(
        chart="lines",
        title="Predictions changed against the number of neurons",
        rows=tuple(_curve(found)),
        options={"x": "k, neurons attacked one at a time", "y": "images with a changed prediction", "share": True},
        reading="An image counts when any of its first k neurons' attacks changes the prediction, so the lines "
        "cannot fall. PGD aims at the whole output; where a line lies above it, PGD overstates the robustness. "
        "Bands are 95 % Wilson intervals.",
    )
    yield Figure(
        chart="lines",
        title="Success of each single neuron",
        rows=tuple(
            _point(rank, LISTS[name], found.rate(hits))
            for name in found.lists
            for rank, hits in enumerate(found.by_rank[name], 1)
        ),
        options={"x": "rank of the neuron in its list", "y": "images with a changed prediction", "share": True},
        reading="The attack on the neuron of this rank alone, rank 1 of the least sensitive being the last of all. A "
        "falling line means that sensitive neurons are easier targets; random neurons have no rank and stay level.",
    )
    yield _table(found)
    yield Text(text=_norms(found))


def _measures(found: NeuronSuccesses) -> Measures:
    """Of all neurons of each list, and of PGD."""
    said = {
        "sensitive": (f"{found.most}-NS changes the prediction", ""),
        "random": (
            f"{found.most} random neurons",
            f"A control: the same attack. {DRAWN}" if found.least else "A control: the same attack.",
        ),
        "least": (
            f"{found.most} least sensitive neurons",
            "A control: the same attack on the neurons whose change would have to be largest.",
        ),
    }
    rates = [(found.rate(hits.changed[-1]), *said[name]) for name, hits in found.lists.items()]
    rates.append((found.rate(found.pgd.changed), "PGD changes the prediction", ""))
    return Measures(
        items=tuple(rate.measure(title, higher_is_better=False, explanation=why) for rate, title, why in rates)
    )


def _point(x: int, series: str, rate: Rate) -> Row:
    return {"x": x, "series": series, **rate.model_dump(exclude={"hits"})}


def _curve(found: NeuronSuccesses) -> Iterator[Row]:
    for name, hits in found.lists.items():
        yield from (_point(k, LISTS[name], found.rate(changed)) for k, changed in enumerate(hits.changed, 1))
    for series, whole in (("PGD", found.pgd), ("the audit's attack", found.audit)):
        yield from (_point(k, series, found.rate(whole.changed)) for k in sorted({1, found.most}))


def _table(found: NeuronSuccesses) -> Table:
    called = {"sensitive": "NS", "random": "random", "least": "least sensitive"}
    ks = sorted({k for k in KS if k <= found.most} | {found.most})
    lines = [(f"{k}-{called[name]}", hits.first(k)) for name, hits in found.lists.items() for k in ks]
    lines += [("PGD", found.pgd), (f"the audit's twins: {found.twins}", found.audit)]
    return Table(
        title="Success under each definition",
        columns=(
            Column(key="attack", title="Attack"),
            Column(key="changed", title="Prediction changed"),
            Column(key="error", title="Wrong, of all"),
            Column(key="error_correct", title="Wrong, of those right before"),
        ),
        rows=tuple(
            {
                "attack": name,
                "changed": str(found.rate(hits.changed)),
                "error": str(found.rate(hits.error)),
                "error_correct": str(Rate.count(hits.error_correct, found.correct)),
            }
            for name, hits in lines
        ),
        caption=f"'Changed': another class than for the clean image, of all {found.images} images. 'Wrong, of all': not the "
        "label, the clean image being one of the attacker's choices (1 - accuracy). The two versions of the paper use one each. "
        f"'Of those right before': of the {found.correct} images classified correctly."
        + (f" {DRAWN}" if found.least else ""),
    )


def _norms(found: NeuronSuccesses) -> str:
    if found.norms is None:
        return "No attack on a sensitive neuron succeeded."
    low, middle, high = found.norms
    # Findings without ``by_neuron`` are from when every attack ran to its end.
    when = "each at the step that made its success certain" if found.by_neuron else "after all steps"
    return (
        f"Norm of the perturbations that succeeded, {when}: {low:.4g} to {high:.4g}, median {middle:.4g}. "
        "They are not the smallest that would do."
    )
