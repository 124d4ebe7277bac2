"""A match of classes given by hand: which class of the model each class of the data is, or that its images are left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from auditor.kit.document import nothing
from auditor.kit.errors import MismatchError, meant
from auditor.kit.flag import Flag
from auditor.kit.wording import counted, listed, shown
from auditor.models.class_numbers import plain_name

HandMatch = Mapping[str, int | str | None]
"""From a class of the data, by its name or its number from 0, to the model's: a name, a number from 0, or None: left out."""

ByHand = Annotated[
    dict[str, int | str | None],
    Field(
        max_length=100_000,
        exclude_if=nothing,
        description="Classes matched by hand: a class of the data, by name or by number from 0, and the model's class that it "
        "counts as, by name or number; null leaves its images out. Classes that it does not name are matched automatically.",
    ),
]
"""A HandMatch as the field of a spec."""

_MOST = 10


def resolved(
    by_hand: HandMatch,
    model_names: Sequence[str] | None,
    classes: int,
    data_names: Sequence[str] | None,
    labels: int,
    name: str,
) -> dict[int, int]:
    """The model's class of each label that the match names, -1 for one that is left out. ``labels``: how many the data has;
    ``name``: the data set's. Raises MismatchError for a class that either side lacks, or one that is named twice.
    """
    found: dict[int, int] = {}
    for key, value in by_hand.items():
        label = _place(key, data_names, labels, f"The data set {name}")
        if label in found:
            raise MismatchError(
                f"match: class {shown(key)} of the data is named twice.", "Name each class of the data once."
            )
        found[label] = -1 if value is None else _place(value, model_names, classes, "The model")
    return found


def placed(base: NDArray[np.int64] | None, by_hand: Mapping[int, int], labels: int, classes: int) -> NDArray[np.int64]:
    """The model's class of each label, int64 (L,): by hand where it says so, else as in ``base``, else the label itself."""
    place = np.arange(labels) if base is None else base.copy()
    place[place >= classes] = -1
    for label, chosen in by_hand.items():
        place[label] = chosen
    return place


def names_by_hand(
    data_names: Sequence[str], place: NDArray[np.int64], used: NDArray[np.int64], classes: int
) -> list[str]:
    """Names for the classes of a model that has none, from those of the data that were put there."""
    rest = np.setdiff1d(np.arange(len(place)), used)
    names = []
    for number in range(classes):
        here = [label for part in (used, rest) for label in part.tolist() if place[label] == number]
        with_images = [label for label in here if label in used]
        names.append(" + ".join(data_names[label] for label in with_images or here[:1]) or f"class {number}")
    return names


def said_by_hand(
    changed: Mapping[int, int],
    place: NDArray[np.int64],
    counts: NDArray[np.int64],
    model_names: Sequence[str] | None,
    data_names: Sequence[str] | None,
) -> tuple[str, ...]:
    """What a reader should know of a match by hand: what it changes, classes that it joins, images that it leaves out.

    ``changed``: labels and their classes, where these are not the proposed ones; ``place``: the class of each label, (L,).
    """
    used = np.flatnonzero(counts)
    of_data = [shown(data_names[label]) if data_names else f"label {label}" for label in range(len(counts))]
    moved = [
        f"{of_data[label]} is class {_called(chosen, model_names)}" for label, chosen in changed.items() if chosen >= 0
    ]
    notes = [f"The match of classes was edited by hand: {listed(moved, _MOST)}."] if moved else []
    if not changed:
        notes = ["The match of classes was given by hand, as it was proposed."]
    for number in np.unique(place[used]).tolist():
        joined = [of_data[label] for label in used.tolist() if place[label] == number]
        if number >= 0 and len(joined) > 1:
            notes.append(
                f"{counted(len(joined), 'class')} of the data count as class {_called(number, model_names)} of the model: "
                f"{listed(joined, _MOST)}."
            )
    out = [label for label in used.tolist() if place[label] < 0]
    if out:
        images = counted(int(counts[out].sum()), "image")
        notes.append(
            f"{images} of {counted(len(out), 'class')} left out, as the match by hand says: "
            f"{listed([of_data[label] for label in out], _MOST)}."
        )
    return tuple(notes)


def against_names(
    by_hand: Mapping[int, int], by_name: NDArray[np.int64], model_names: Sequence[str], data_names: Sequence[str]
) -> tuple[Flag, ...]:
    """Classes that the hand puts elsewhere than their names, which both sides know. ``by_name``: the model's class of each
    name of the data, -1 for none, (L,)."""
    odd = [
        f"{shown(data_names[label])} counts as class {_called(chosen, model_names)}, and the model has it as class "
        f"{by_name[label]}"
        for label, chosen in by_hand.items()
        if chosen >= 0 and by_name[label] not in (-1, chosen)
    ]
    if not odd:
        return ()
    flag = Flag(
        name="class match",
        severity="warning",
        message="The match of classes was edited by hand, and it contradicts the names that the model and the data have in "
        "common.",
        evidence="; ".join(odd[:_MOST]),
        remedy="Take these classes out of the match, and they are matched by name; or correct the names.",
    )
    return (flag,)


def _called(number: int, names: Sequence[str] | None) -> str:
    return f"{number} ({shown(names[number])})" if names else str(number)


def _place(key: str | int, names: Sequence[str] | None, count: int, whose: str) -> int:
    """The class that a name or a number names, a name first. Raises MismatchError."""
    if isinstance(key, str):
        forms: tuple[Callable[[str], str], ...] = (str, plain_name)
        for form in forms:
            places = [index for index, item in enumerate(names or ()) if form(item) == form(key)]
            if len(places) == 1:
                return places[0]
        key = int(key) if key.isascii() and key.isdecimal() and len(key) < 10 else key
    if isinstance(key, int) and 0 <= key < count:
        return key
    numbers = f"a number from 0 to {count - 1}"
    known = list(names or ())
    hint = (
        f"{meant(str(key), known)} Its classes are {listed([shown(item) for item in known], _MOST)}; or give {numbers}."
    )
    raise MismatchError(
        f"match: {whose[0].lower()}{whose[1:]} has no class {shown(str(key))}.",
        hint.strip() if known else f"It has no class names: give {numbers}.",
    )
