"""A data set's classes on a model's: by name where both have names, else by number; and the doubts that follow."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from auditor.classifier import Classifier
from auditor.dataset import ImageDataset
from auditor.errors import MismatchError
from auditor.flag import Flag

SHOWN = 5
"""Classes that a sentence names; the rest is counted."""


class ClassMatch(NamedTuple):
    """``place``: the model's class of each label of the data, int64 (L,), -1 for a label that no image has and the model lacks;
    None where labels are taken as they are. ``flags``: doubts. ``notes``: what a reader should know, without doubt.
    """

    place: NDArray[np.int64] | None
    flags: tuple[Flag, ...] = ()
    notes: tuple[str, ...] = ()


class Matched(NamedTuple):
    """A data set in the model's own order of classes, its ``notes`` grown, and the doubts about that order."""

    dataset: ImageDataset
    flags: tuple[Flag, ...]


def matched(classifier: Classifier, dataset: ImageDataset) -> Matched:
    """The data set with its labels in the model's order. Raises MismatchError where the model lacks its shape or classes."""
    if len(dataset) == 0:
        raise MismatchError(f"The data set {dataset.name} holds no images.")
    check_shape(classifier.input_shape, dataset.shape, dataset.name)
    match = match_classes(
        classifier.class_names, classifier.num_classes, dataset.class_names, dataset.class_counts, dataset.name
    )
    if match.place is not None:
        dataset = dataset.relabelled(match.place, classifier.class_names)
    return Matched(dataset.with_notes(match.notes), match.flags)


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
    hints.append("Or declare the model's input as it was trained.")
    wanted_text, came_text = ("x".join(map(str, shape)) for shape in (wanted, came))
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
) -> ClassMatch:
    """Where the model has the classes of the data. ``counts``: images of each label, (L,); ``name``: the data set's, for errors.

    Names count where both sides have some and the model knows every name that has an image. Numbers as names are only
    compared with numbers. Raises MismatchError when an image's class is beyond the model's.
    """
    used = np.flatnonzero(counts)
    if model_names is None or data_names is None or _numbers(model_names) != _numbers(data_names):
        _check_range(used, classes, name)
        doubts = () if data_names is None else _numbers_against_labels(data_names, used)
        return ClassMatch(None, doubts, _gaps(model_names or data_names, classes, used))
    places = _places(model_names)
    found = np.array([places.get(plain_name(item), -1) for item in data_names], np.int64)
    if (found[used] < 0).any():
        _check_range(used, classes, name)
        return ClassMatch(None, (_unknown(model_names, data_names, found, used),), _gaps(model_names, classes, used))
    gaps = _gaps(model_names, classes, found[used])
    if (found[used] == used).all():
        _check_range(used, classes, name)
        return ClassMatch(None, (), gaps)
    moved = [
        f"'{data_names[label]}' is label {label} of the data set and class {found[label]} of the model"
        for label in used.tolist()
        if found[label] != label
    ]
    evidence = "; ".join(moved[:SHOWN])
    if not _numbers(data_names):
        note = f"The data set lists {len(moved)} of its classes at another place than the model; labels were matched by name: "
        return ClassMatch(found, (), (f"{note}{evidence}{'; ...' * (len(moved) > SHOWN)}.", *gaps))
    doubt = Flag(
        name="class names",
        severity="severe",
        message="Names and labels of the data set contradict each other: its class names are numbers, and they differ from the "
        "labels that they name. Labels were matched by name.",
        evidence=evidence,
        remedy="Save the data set without class names if its labels are right, or with labels that are the numbers.",
    )
    return ClassMatch(found, (doubt,), gaps)


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
    if not _numbers(names) or {int(names[label]) - int(label) for label in used} in ({0}, {1}):
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


def _places(names: Sequence[str]) -> dict[str, int]:
    """The class of each name; a name that several classes share fits none."""
    places: dict[str, int] = {}
    for index, name in enumerate(map(plain_name, names)):
        places[name] = -1 if name in places else index
    return places


def plain_name(name: str) -> str:
    """A name without case and punctuation: ``T-shirt/top`` and ``t_shirt top`` are one class; numbers lose leading zeros."""
    plain = re.sub(r"[\W_]+", " ", name.casefold()).strip() or name.strip()
    return str(int(plain)) if _number(plain) else plain


def _number(name: str) -> bool:
    return name.isascii() and name.isdecimal()


def _numbers(names: Sequence[str]) -> bool:
    return all(_number(name.strip()) for name in names)


def _some(names: Sequence[str], *, quote: bool = True) -> str:
    shown = ", ".join(f"'{name}'" if quote else name for name in names[:SHOWN])
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
