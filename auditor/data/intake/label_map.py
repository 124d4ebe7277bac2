"""Label maps: classes renamed, renumbered, merged or left out, as the user says; written as text, or as a JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from auditor.kit.errors import IntakeError, SpecError
from auditor.kit.limits import Limits
from auditor.kit.wording import counted, listed, shown
from auditor.models.class_numbers import MOST_CLASSES
from auditor.models.labels import check_class_names

LabelMap = Mapping[str, str | int | None]

_FORM = (
    'Write `a=0,b=1,c=` (c is left out), or give a JSON file: {"a": "animal", "b": "animal", "c": null}, or a list of the '
    "names in the order of the numbers."
)


class Mapped(NamedTuple):
    """``labels``: int64 of the samples that remain; ``keep``: which those are, bool (N,)."""

    labels: NDArray[np.int64]
    keep: NDArray[np.bool_]
    class_names: tuple[str, ...] | None
    notes: tuple[str, ...]


def parse_label_map(text: str, noun: str = "label map") -> dict[str, str | int | None]:
    """A map from its text: ``a=0,b=1,c=``, a JSON object, or a JSON list of names. ``noun``: what errors call it. Raises
    SpecError."""
    text = text.strip()
    if text.startswith(("{", "[")):
        try:
            value: Any = json.loads(text)
        except ValueError:
            raise SpecError(f"The {noun} is not valid JSON.", _FORM) from None
        if isinstance(value, list):
            value = {str(number): name for number, name in enumerate(value)}
        bad = [key for key, new in value.items() if isinstance(new, bool) or not isinstance(new, str | int | None)]
        if bad:
            raise SpecError(f"The {noun} gives {shown(bad[0])} neither a name nor a number.", _FORM)
        return {key: _target(new) if isinstance(new, str) else new for key, new in value.items()}
    found: dict[str, str | int | None] = {}
    for pair in filter(None, (pair.strip() for pair in text.split(","))):
        key, sign, new = (part.strip() for part in pair.rpartition("="))
        if not sign or not key:
            raise SpecError(f"The {noun} has {shown(pair)}; expected CLASS=NEW.", _FORM)
        if key in found:
            raise SpecError(f"The {noun} names {shown(key)} twice.", _FORM)
        found[key] = _target(new)
    return found


def _target(text: str) -> str | int | None:
    return None if not text else int(text) if text.isascii() and text.isdecimal() else text


def mapped(labels: NDArray[np.int64], class_names: Sequence[str] | None, label_map: LabelMap, limits: Limits) -> Mapped:
    """The labels (N,) as the map says. Classes that it does not name stay; new classes keep the order of the old ones, and
    where every class that remains has a number, that is its label. Raises IntakeError for classes that are not there.
    """
    count = len(class_names) if class_names is not None else int(labels.max(initial=-1)) + 1
    names = list(class_names) if class_names is not None else [str(number) for number in range(count)]
    place = {str(number): number for number in range(count)} | {name: number for number, name in enumerate(names)}
    if lost := [key for key in label_map if key not in place]:
        raise IntakeError(
            f"The label map names {counted(len(lost), 'class')} that the data set lacks: "
            f"{listed([shown(key) for key in lost], 5)}; it has {listed([shown(name) for name in names], 10)}.",
            "Call a class by its name, or by its number from 0.",
        )
    targets: list[str | int | None] = list(names)
    for key, new in label_map.items():
        targets[place[key]] = new
    remaining = [target for target in targets if target is not None]
    if not remaining:
        raise IntakeError("The label map leaves every class out.", "Keep at least one.")
    index = np.full(count, -1, np.int64)
    if all(isinstance(target, int) for target in remaining):
        numbers = [target for target in targets if isinstance(target, int)]
        if max(numbers) >= MOST_CLASSES or min(numbers) < 0:
            raise IntakeError(
                f"The label map gives the number {max(numbers):,}; the limit is {MOST_CLASSES - 1:,}.",
                "Number the classes from 0.",
            )
        joined: dict[int, list[str]] = {}
        for old, target in enumerate(targets):
            if isinstance(target, int):
                index[old] = target
                joined.setdefault(target, []).append(names[old])
        new_names: tuple[str, ...] | None = None
        if class_names is not None:
            new_names = tuple(" + ".join(joined.get(number, [f"#{number}"])) for number in range(max(numbers) + 1))
    else:
        order = {text: number for number, text in enumerate(dict.fromkeys(str(target) for target in remaining))}
        for old, target in enumerate(targets):
            if target is not None:
                index[old] = order[str(target)]
        new_names = tuple(order)
    if new_names is not None:
        new_names = check_class_names(new_names, limits)
    values = index[labels]
    keep = values >= 0
    out = [shown(names[old]) for old in range(count) if targets[old] is None]
    changed = [
        f"{names[old]} to {target}" for old, target in enumerate(targets) if target is not None and target != names[old]
    ]
    notes = []
    if changed:
        notes.append(f"Labels were mapped, as asked: {listed(changed, 10)}.")
    if out:
        notes.append(
            f"{counted(int((~keep).sum()), 'image')} of {counted(len(out), 'class')} left out, as asked: {listed(out, 10)}."
        )
    return Mapped(values[keep], keep, new_names, tuple(notes))
