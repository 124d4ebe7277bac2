"""The controls of a defense: random moves of its own size, and for NIP and NIP_n a random candidate of their own pool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from auditor.defending.defense import DEFENSES, Defense
from auditor.models.dataset import Batch
from auditor.models.defended import NOTHING, DefendedClassifier, FittedState

RANDOM_CHOICE = {"nip": "random-candidate", "nip-n": "random-candidate-n"}
"""Which control takes any candidate of a defense's pool."""


SMALL = 0.008
"""Root mean square of a step that crosses the boundary near which closest adversarial images lie, and no more: the larger size
of NIP's published code. A direction as large as the defense's own move loses images to its size alone."""


class Control(NamedTuple):
    """Defenses and what they learnt, to be evaluated with the defense."""

    title: str
    defenses: tuple[Defense, ...]
    states: tuple[FittedState, ...]


def controls(defenses: Sequence[Defense], states: Sequence[FittedState], size: float) -> tuple[Control, ...]:
    """``size``: by how much the defenses move an image, root mean square; 0 where they reach into the network alone, and then
    no random move is a control for them. A random direction has this size, and a second one ``SMALL``, where that is less.
    NIP's own noise has NIP's own size; with other defenses it is absolute."""
    found: list[Control] = []
    if size > 0:
        noise: dict[str, str | float] = (
            {"scale": "nip"} if [one.kind for one in defenses] == ["nip"] else {"size": size}
        )
        moves: list[tuple[str, str, dict[str, str | float]]] = [
            ("Random direction of its size (control)", "random-direction", {"size": size}),
            ("Gaussian noise of its size (control)", "gaussian-noise", noise),
        ]
        if size > SMALL:
            moves.insert(1, (f"Random direction of {SMALL:g} (control)", "random-direction", {"size": SMALL}))
        found += [Control(title, (DEFENSES.build(kind, values),), (NOTHING,)) for title, kind, values in moves]
    place = next((at for at, one in enumerate(defenses) if one.kind in RANDOM_CHOICE), None)
    if place is not None:
        one = DEFENSES.build(RANDOM_CHOICE[defenses[place].kind], defenses[place].settings())
        stack = (*defenses[:place], one, *defenses[place + 1 :])
        # Its pool is made as that of the defense, from the same images.
        found.append(Control(one.display_title(), stack, tuple(states)))
    mine = {(*defenses,)}
    return tuple(item for item in found if item.defenses not in mine)


def size_of_change(model: DefendedClassifier, batches: Sequence[Batch]) -> float:
    """By how much the deployed defenses together move clean images: root mean square over all values."""
    squares, count = 0.0, 0
    for batch in batches:
        x = batch.images.to(model.device, model.dtype)
        moved = _moved(model, x)
        squares += float((moved.double() - x.double()).square().sum())
        count += x.numel()
    return float(np.sqrt(squares / count)) if count else 0.0


def _moved(model: DefendedClassifier, x: Tensor) -> Tensor:
    with torch.no_grad():
        while isinstance(model, DefendedClassifier):
            x = model.defense.changed(model.inner, x, model.passing(x))
            model = cast(DefendedClassifier, model.inner)
    return x
