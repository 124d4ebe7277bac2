"""A data set's classes on a model's: by name where both have names, else by number; and the doubts that follow."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from auditor.kit.errors import MismatchError
from auditor.kit.flag import Flag
from auditor.models.class_numbers import all_numbers, plain_name
from auditor.models.class_table import ClassTable, How, class_table
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from auditor.models.hand_match import HandMatch, against_names, names_by_hand, placed, resolved, said_by_hand

AUTOMATIC: HandMatch = MappingProxyType({})
"""No class is matched by hand."""

SHOWN = 5
"""Classes that a sentence names; the rest is counted."""


class ClassMatch(NamedTuple):
    """``place``: the model's class of each label of the data, int64 (L,), -1 for a label whose images are left out or that no
    image has and the model lacks; None where labels are taken as they are. ``flags``: doubts. ``notes``: what a reader should
    know, without doubt. ``changed``: the labels that a match by hand puts elsewhere than the automatic one; None without one.
    """

    place: NDArray[np.int64] | None
    flags: tuple[Flag, ...] = ()
    notes: tuple[str, ...] = ()
    changed: tuple[int, ...] | None = None


class Sides(NamedTuple):
    """The classes of a model and of a data set called ``name``. ``counts``: images of each label, int64 (L,); names are None
    where a side has none."""

    model_names: Sequence[str] | None
    classes: int
    data_names: Sequence[str] | None
    counts: NDArray[np.int64]
    name: str

    def match(self, by_hand: HandMatch = AUTOMATIC) -> ClassMatch:
        return match_classes(*self, by_hand)

    def table(self, match: ClassMatch) -> ClassTable:
        """The match as a table of the classes that have images."""
        used, by_name = np.flatnonzero(self.counts), np.full(len(self.counts), -1)
        if self.model_names is not None and self.data_names is not None:
            by_name = names_found(self.model_names, self.data_names)
        places = np.arange(len(self.counts)) if match.place is None else match.place
        how: How = "name" if (by_name[used] == places[used]).all() else "number"
        if match.changed is not None:
            how = "hand"
        return class_table(how, match.place, self.counts, self.data_names, match.changed or ())


class Matched(NamedTuple):
    """A data set in the model's own order of classes, its ``notes`` grown, the doubts about that order, and the match itself."""

    dataset: ImageDataset
    flags: tuple[Flag, ...]
    classes: ClassTable


def matched(classifier: Classifier, dataset: ImageDataset, by_hand: HandMatch = AUTOMATIC) -> Matched:
    """The data set with its labels in the model's order. ``by_hand``: see ``match_classes``. Raises MismatchError if the model
    lacks its shape or classes."""
    if len(dataset) == 0:
        raise MismatchError(f"The data set {dataset.name} holds no images.")
    check_shape(classifier.input_shape, dataset.shape, dataset.name)
    names, data_names = classifier.class_names, dataset.class_names
    sides = Sides(names, classifier.num_classes, data_names, dataset.class_counts, dataset.name)
    match = sides.match(by_hand)
    if match.place is not None:
        if names is None and data_names is not None:
            used = np.flatnonzero(sides.counts)
            names = tuple(names_by_hand(data_names, match.place, used, classifier.num_classes))
        dataset = dataset.relabelled(match.place, names)
    return Matched(dataset.with_notes(match.notes), match.flags, sides.table(match))


def check_shape(wanted: tuple[int, int, int], came: tuple[int, int, int], name: str) -> None:
    """Whether images of the shape ``came`` fit a model's input, both (C, H, W). Raises MismatchError."""
    if came == wanted:
        return
    hints = []
    if came[1:] != wanted[1:]:
        hints.append(
            f"Add the data set again with its images resized: `--resize {wanted[1]}x{wanted[2]}` on the command line, "
            "'Size of the images' on the page."
        )
    if came[0] != wanted[0]:
        how = "the channel of grey images is repeated" if wanted[0] == 3 else "colours become grey"
        hints.append(
            f"Add the data set again with `--channels {wanted[0]}` ('Channels' on the page): {how}."
            if wanted[0] in (1, 3)
            else f"A data set has 1 or 3 channels; this model takes {wanted[0]}."
        )
    wanted_text, came_text = ("x".join(map(str, shape)) for shape in (wanted, came))
    hints.append(
        f"Or, if the model was trained on images of {came_text}, add it again with `--input {came_text}` beside "
        "`--architecture` ('Channels', 'Height' and 'Width' on the page)."
    )
    raise MismatchError(
        f"The model takes images of {wanted_text} (channels, height, width), the data set {name} has {came_text}.",
        " ".join(hints),
    )


def match_classes(
    model_names: Sequence[str] | None,
    classes: int,
    data_names: Sequence[str] | None,
    counts: NDArray[np.int64],
    name: str,
    by_hand: HandMatch = AUTOMATIC,
) -> ClassMatch:
    """Where the model has the classes of the data. ``counts``: images of each label, (L,); ``name``: the data set's, for errors.

    Names count where both sides have some and the model knows every name that has an image. Numbers as names are only
    compared with numbers. ``by_hand`` places single classes, and the rest is matched without them. Raises MismatchError when
    an image's class is beyond the model's, or the match by hand names a class that is not there.
    """
    if not by_hand:
        match = _automatic(model_names, classes, data_names, counts, name)
        used = np.flatnonzero(counts)
        gaps = _gaps(model_names or data_names, classes, used if match.place is None else match.place[used])
        return match._replace(notes=(*match.notes, *gaps))
    chosen = resolved(by_hand, model_names, classes, data_names, len(counts), name)
    rest = counts.copy()
    rest[list(chosen)] = 0
    try:
        base = _automatic(model_names, classes, data_names, rest, name)
    except MismatchError as error:
        beyond = next(label for label in np.flatnonzero(rest).tolist() if label >= classes)
        raise MismatchError(
            error.message,
            f"Name the rest of these classes in the match, too: `{beyond}=` leaves the images of class {beyond} out.",
        ) from None
    place = placed(base.place, chosen, len(counts), classes)
    used = np.flatnonzero(counts)
    if not (place[used] >= 0).any():
        raise MismatchError(
            f"match: it leaves out every image of the data set {name}.",
            "Give a class of the model for at least one class of the data.",
        )
    proposal = proposed_places(model_names, classes, data_names, counts, name)
    changed = tuple(label for label in sorted(chosen) if counts[label] and place[label] != proposal[label])
    doubts: tuple[Flag, ...] = ()
    if model_names is not None and data_names is not None:
        doubts = against_names(chosen, names_found(model_names, data_names), model_names, data_names)
    notes = said_by_hand({label: chosen[label] for label in changed}, place, counts, model_names, data_names)
    names = model_names or (names_by_hand(data_names, place, used, classes) if data_names is not None else None)
    gaps = _gaps(names, classes, place[used])
    return ClassMatch(place, (*base.flags, *doubts), (*base.notes, *notes, *gaps), changed)


def proposed_places(
    model_names: Sequence[str] | None,
    classes: int,
    data_names: Sequence[str] | None,
    counts: NDArray[np.int64],
    name: str,
) -> NDArray[np.int64]:
    """The model's class of each label without any match by hand, int64 (L,); -1 for a label beyond the model's classes."""
    try:
        place = _automatic(model_names, classes, data_names, counts, name).place
    except MismatchError:
        place = None
    return placed(place, {}, len(counts), classes)


def _automatic(
    model_names: Sequence[str] | None,
    classes: int,
    data_names: Sequence[str] | None,
    counts: NDArray[np.int64],
    name: str,
) -> ClassMatch:
    """The match without any edit by hand, and without the note of gaps."""
    used = np.flatnonzero(counts)
    if model_names is None or data_names is None or all_numbers(model_names) != all_numbers(data_names):
        _check_range(used, classes, name)
        doubts = () if data_names is None else _numbers_against_labels(data_names, used)
        return ClassMatch(None, doubts)
    found = names_found(model_names, data_names)
    if (found[used] < 0).any():
        _check_range(used, classes, name)
        return ClassMatch(None, (_unknown(model_names, data_names, found, used),))
    if (found[used] == used).all():
        _check_range(used, classes, name)
        return ClassMatch(None)
    moved = [
        f"'{data_names[label]}' is label {label} of the data set and class {found[label]} of the model"
        for label in used.tolist()
        if found[label] != label
    ]
    evidence = "; ".join(moved[:SHOWN])
    if not all_numbers(data_names):
        note = f"The data set lists {len(moved)} of its classes at another place than the model; labels were matched by name: "
        return ClassMatch(found, (), (f"{note}{evidence}{'; ...' * (len(moved) > SHOWN)}.",))
    doubt = Flag(
        name="class names",
        severity="severe",
        message="Names and labels of the data set contradict each other: its class names are numbers, and they differ from the "
        "labels that they name. Labels were matched by name.",
        evidence=evidence,
        remedy="Save the data set without class names if its labels are right, or with labels that are the numbers.",
    )
    return ClassMatch(found, (doubt,))


def _check_range(used: NDArray[np.int64], classes: int, name: str) -> None:
    """Raises MismatchError unless every label that has images is a class of the model."""
    if not len(used) or used[-1] < classes:
        return
    if used[0] == 1 and used[-1] == classes:
        hint = (
            "Labels that count from 1 are read with `auditor datasets add --first-label 1` ('Labels count from' on the page); "
            "in Python subtract 1 from them. Add the data set again, and class 1 becomes the model's class 0."
        )
    else:
        hint = "Use the data set that the model was trained for, or declare the number of classes that the model has."
    raise MismatchError(
        f"The data set {name} has labels from {used[0]} to {used[-1]}, the model only {classes} classes (0 to {classes - 1}).",
        hint,
    )


def _unknown(
    model_names: Sequence[str], data_names: Sequence[str], found: NDArray[np.int64], used: NDArray[np.int64]
) -> Flag:
    """Names that cannot be matched: labels stay where they are, and that is severe unless only a spelling differs."""
    known = used[found[used] >= 0]
    unknown = [data_names[label] for label in used[found[used] < 0]]
    spelling = len(known) > len(unknown) and bool((found[known] == known).all())
    common = "no name is common to both" if not len(known) else f"{len(known)} of {len(used)} names are common to both"
    agree = ", each at the same place" if spelling else ""
    return Flag(
        name="class names",
        severity="warning" if spelling else "severe",
        message=f"The model does not know {len(unknown)} of the data set's {len(used)} classes by name; labels were taken by "
        "position.",
        evidence=f"not among the model's names: {_some(unknown)}; {common}{agree}; the model's are {_some(model_names)}",
        remedy="Give the model and the data set the same names, or only one of them names: labels are then matched by name, or "
        "by number.",
    )


def _numbers_against_labels(names: Sequence[str], used: NDArray[np.int64]) -> tuple[Flag, ...]:
    """Names that are numbers, and not those of their labels, nor all one more (counted from 1)."""
    if not all_numbers(names) or {int(names[label]) - int(label) for label in used} in ({0}, {1}):
        return ()
    odd = [label for label in used if int(names[label]) != label]
    return (
        Flag(
            name="class names",
            severity="warning",
            message="The data set's class names are numbers that differ from its labels; labels were taken by position.",
            evidence="; ".join(f"label {label} is called '{names[label]}'" for label in odd[:SHOWN]),
            remedy="If the names are the model's class numbers, add the data set with folders read as numbers, or relabel it.",
        ),
    )


def _gaps(names: Sequence[str] | None, classes: int, used: NDArray[np.int64]) -> tuple[str, ...]:
    """That the data set lacks some of the model's classes."""
    empty = sorted(set(range(classes)) - set(used.tolist()))
    if not empty:
        return ()
    shown = [f"{index} ('{names[index]}')" if names and index < len(names) else str(index) for index in empty]
    return (
        f"The data set has images of {classes - len(empty)} of the model's {classes} classes, none of class "
        f"{_some(shown, quote=False)}.",
    )


def names_found(model_names: Sequence[str], data_names: Sequence[str]) -> NDArray[np.int64]:
    """The model's class of each name of the data, int64 (L,), -1 for none; a name that several classes share fits none."""
    places: dict[str, int] = {}
    for index, name in enumerate(map(plain_name, model_names)):
        places[name] = -1 if name in places else index
    return np.array([places.get(plain_name(item), -1) for item in data_names], np.int64)


def _some(names: Sequence[str], *, quote: bool = True) -> str:
    shown = ", ".join(f"'{name}'" if quote else name for name in names[:SHOWN])
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
