"""Ways to propose a match of classes, for a table that is then edited: automatically, by name, by number, or counted from 1."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from auditor.models.class_match import Sides, names_found, proposed_places
from auditor.models.class_numbers import all_numbers

Way = Literal["automatic", "name", "number", "one"]

TITLES: dict[Way, str] = {
    "automatic": "automatically",
    "name": "by name",
    "number": "by number",
    "one": "by number, counted from 1",
}


def proposals(sides: Sides) -> dict[Way, NDArray[np.int64]]:
    """The model's class of each label in every way that makes sense, int64 (L,), -1 for none. ``automatic``, always the first, is
    what is done without a match by hand; a way with the same result is left out."""
    labels, used = np.arange(len(sides.counts)), np.flatnonzero(sides.counts)
    found: dict[Way, NDArray[np.int64]] = {"automatic": proposed_places(*sides)}
    others: dict[Way, NDArray[np.int64]] = {"number": np.where(labels < sides.classes, labels, -1)}
    if sides.model_names is not None and sides.data_names is not None:
        others["name"] = names_found(sides.model_names, sides.data_names)
    counted = sides.data_names is None or all_numbers(sides.data_names)
    if counted and len(used) and used[0] >= 1 and used[-1] <= sides.classes:
        others["one"] = labels - 1
    for way, places in others.items():
        if not (places[used] == found["automatic"][used]).all() and (places[used] >= 0).any():
            found[way] = places
    return found


def by_hand(sides: Sides, places: NDArray[np.int64]) -> dict[str, int | str | None]:
    """The match by hand that says these classes of the model, (L,), -1 for none, of every class of the data that has images."""
    names = sides.data_names or [str(label) for label in range(len(sides.counts))]
    return {
        names[label]: int(places[label]) if places[label] >= 0 else None
        for label in np.flatnonzero(sides.counts).tolist()
    }
