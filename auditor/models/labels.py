"""Labels and class names: what may be one, and a sentence with the places of those that may not."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from auditor.kit.errors import IntakeError
from auditor.kit.limits import MIB, Limits
from auditor.kit.wording import counted, listed, printable, shown, size_text
from auditor.models.class_numbers import class_numbers, number_names

NAMES_BYTES = 16 * MIB
"""All class names as JSON: they lie in the header of the stored file, which is read whole."""

_PLACES = 5

FROM_ONE = (
    "If the labels count from 1, say so: `--first-label 1` on the command line, 'Labels count from' on the page; in Python "
    "subtract 1."
)


class Labels(NamedTuple):
    """``values``: int64 (N,), from 0. ``class_names``: where there are some. ``notes``: how the labels were read."""

    values: NDArray[np.int64]
    class_names: tuple[str, ...] | None
    notes: tuple[str, ...] = ()


def read_labels(
    labels: NDArray[Any], key: str, class_names: tuple[str, ...] | None, limits: Limits, first_label: int = 0
) -> Labels:
    """Labels (N,) of any kind that says one class for each image: integers, whole numbers, names.

    ``key`` is what errors call the array; ``first_label`` is the number of the first class. Names become classes in sorted
    order, or those of ``class_names`` where there are some; names that are all numbers are those numbers. Raises IntakeError
    with the number of bad labels and the first places.
    """
    if labels.dtype.kind in "US":
        return _named(labels, key, class_names, limits, first_label)
    notes: tuple[str, ...] = ()
    if labels.dtype.kind == "b":
        labels, notes = labels.astype(np.int64), (f"{shown(key)} is true or false; false is class 0, true is class 1.",)
    elif labels.dtype.kind == "f":
        _whole(labels, key)
        notes = (f"{shown(key)} has the type {labels.dtype.name}; its whole numbers were taken as labels.",)
    elif labels.dtype.kind not in "iu":
        raise IntakeError(
            f"The array {shown(key)} has the type {labels.dtype.name} ({_first(labels)}); expected integers or names.",
            "Save one class number, or one class name, for each image.",
        )
    return Labels(_in_range(labels, key, class_names, limits, first_label), class_names, notes)


def one_hot(rows: Iterable[NDArray[Any]], count: int, key: str, images: str = "images") -> NDArray[np.int64]:
    """Labels (N,) of an array (N, K) that marks one class in each row. ``rows``: the array in pieces; ``images``: what the
    remedy calls the array of images.

    Raises IntakeError if a row marks several classes, or none.
    """
    classes = np.empty(count, np.int64)
    several = none = at = 0
    shares = True
    for part in rows:
        marked = (part != 0).sum(1)
        several, none = several + int((marked > 1).sum()), none + int((marked == 0).sum())
        shares = shares and part.dtype.kind == "f" and bool(np.allclose(part.sum(1), 1, atol=1e-3))
        classes[at : at + len(part)] = part.argmax(1)
        at += len(part)
    if not several + none:
        return classes
    found = [counted(several, "image") + " with several"] * bool(several) + [
        counted(none, "image") + " with none"
    ] * bool(none)
    raise IntakeError(
        f"The array {shown(key)} holds several labels for an image ({', '.join(found)}); an audit needs one class for each.",
        "They look like probabilities: save labels.argmax(1)."
        if shares
        else f"Keep the images with exactly one label: {_taken(images, key)}keep = (labels != 0).sum(1) == 1; "
        "np.savez('data.npz', images=images[keep], labels=labels[keep].argmax(1)).",
    )


def _taken(images: str, labels: str) -> str:
    """Where a remedy finds ``images`` and ``labels``, unless the arrays are called so."""
    if (images, labels) == ("images", "labels"):
        return ""
    return f"with the file as d, images, labels = d[{printable(images)!r}], d[{printable(labels)!r}]; "


def check_class_names(names: Sequence[str], limits: Limits) -> tuple[str, ...]:
    """Class names as they may be shown: printable, not empty, unique. Raises IntakeError."""
    if not names:
        raise IntakeError("The list of class names is empty; expected a name for every class.")
    if len(names) > limits.classes:
        raise IntakeError(f"There are {len(names):,} class names, the limit is {limits.classes:,}.")
    seen: set[str] = set()
    for name in names:
        if not name.strip() or len(name) > limits.name_length or not name.isprintable():
            raise IntakeError(
                f"The class name {shown(name)} is not supported: expected 1 to {limits.name_length} printable characters."
            )
        if name in seen:
            raise IntakeError(
                f"The class name {shown(name)} appears twice; expected a name of its own for every class."
            )
        seen.add(name)
    if (size := len(json.dumps(names))) > NAMES_BYTES:
        raise IntakeError(f"The class names have {size_text(size)} together, the limit is {size_text(NAMES_BYTES)}.")
    return tuple(names)


class Classes(NamedTuple):
    """``names`` of the classes, the ``label`` of each name that was given, and whether the names are the numbers of classes."""

    names: tuple[str, ...]
    label: dict[str, int]
    numbered: bool


def classes_of(given: Sequence[str], limits: Limits, *, first_label: int = 0, by_number: bool = True) -> Classes:
    """The classes that these names make: a number is the class of that number, other names are classes in sorted order.

    ``by_number``: False sorts numbers as text, too. Raises IntakeError.
    """
    names = sorted(given)
    numbers = class_numbers(names) if by_number else None
    if numbers is None:
        return Classes(check_class_names(names, limits), {name: index for index, name in enumerate(names)}, False)
    if min(numbers) < first_label:
        raise IntakeError(
            f"The class {shown(str(min(numbers)))} lies before the first label, {first_label}.",
            f"Let the labels count from {min(numbers)}.",
        )
    label = {name: number - first_label for name, number in zip(names, numbers, strict=True)}
    return Classes(check_class_names(number_names(numbers)[first_label:], limits), label, True)


def _named(
    labels: NDArray[Any], key: str, class_names: tuple[str, ...] | None, limits: Limits, first_label: int
) -> Labels:
    try:
        values = np.char.decode(labels, "utf-8") if labels.dtype.kind == "S" else labels
        given, place = np.unique(values, return_inverse=True)
    except UnicodeDecodeError:
        raise IntakeError(
            f"The array {shown(key)} holds names that are not valid UTF-8 text.", "Save it as dtype=str."
        ) from None
    names = [str(name) for name in given]
    if class_names is not None:
        known = {name: index for index, name in enumerate(class_names)}
        if lost := [name for name in names if name not in known]:
            raise IntakeError(
                f"The array {shown(key)} has {counted(len(lost), 'name')} that the class names lack: "
                f"{listed([shown(name) for name in lost], _PLACES)}.",
                "Add them to the class names, or leave the class names out.",
            )
        classes = Classes(class_names, known, False)
    else:
        classes = classes_of(names, limits, first_label=first_label)
    index = np.array([classes.label[name] for name in names], np.int64)
    how = "they are the numbers of the classes" if classes.numbered else "they became classes in sorted order"
    if class_names is not None:
        how = "they were looked up in the class names"
    note = f"{shown(key)} holds names; {how} ({listed([shown(name) for name in names])})."
    return Labels(index[place.reshape(-1)], classes.names, (note,))


def _whole(labels: NDArray[Any], key: str) -> None:
    missing = np.isnan(labels)
    bad = ~np.isfinite(labels) | (labels != np.floor(labels))
    if bad.any():
        raise IntakeError(
            f"The array {shown(key)} has {int(bad.sum()):,} labels that are not whole numbers ({_first(labels, bad)}); "
            "expected the number of a class for each image.",
            _leave_out("np.isfinite(labels)")
            if (bad == missing).all() and not missing.all()
            else "Labels that are measurements or probabilities say no class: save the class of each image, from 0.",
        )


def _in_range(
    labels: NDArray[Any], key: str, class_names: tuple[str, ...] | None, limits: Limits, first_label: int
) -> NDArray[np.int64]:
    """The labels less the first one, as int64 in [0, K); K is the number of class names, where there are some."""
    classes = len(class_names) if class_names is not None else limits.classes
    end = classes + first_label
    faults = []
    low = "negative" if first_label == 0 else f"below {first_label}"
    for bad, what in ((labels < first_label, low), (labels >= end, f"{end:,} or more")):
        if bad.any():
            faults.append(f"{int(bad.sum()):,} labels that are {what} ({_first(labels, bad)})")
    if not faults:
        return labels.astype(np.int64) - first_label
    lowest, highest = labels.min(), labels.max()
    if class_names is not None and (lowest, highest) == (first_label + 1, end):
        hint = FROM_ONE
    elif 0 <= lowest < first_label:
        where = "on the command line, 'Labels count from' on the page"
        hint = f"Give the number of the first class: `--first-label {lowest}` {where}."
    elif set(np.unique(labels).tolist()) == {-1, 1}:
        hint = "If -1 and 1 are the two classes, save labels > 0."
    elif lowest < first_label and highest < end:
        hint = _leave_out(f"labels >= {first_label}")
    elif lowest < first_label and class_names is None:
        hint = _leave_out(f"labels >= {first_label}", "np.unique(labels[keep], return_inverse=True)[1]")
    elif lowest < first_label:
        hint = _leave_out(f"(labels >= {first_label}) & (labels < {end})")
    elif class_names is None:
        hint = "Number the classes from 0: save np.unique(labels, return_inverse=True)[1]."
    else:
        hint = "Give a name for every class, in the order of their numbers."
    names = "" if class_names is None else " (the class names)"
    raise IntakeError(
        f"The array {shown(key)} has {' and '.join(faults)}; expected {first_label} to {end - 1:,}{names}.", hint
    )


def _leave_out(keep: str, labels: str = "labels[keep]") -> str:
    return f"Leave the images without a class out: keep = {keep}; np.savez('data.npz', images=images[keep], labels={labels})."


def _first(labels: NDArray[Any], bad: NDArray[np.bool_] | None = None) -> str:
    """``#3 is -1, #7 is -1``: the first bad labels with their positions."""
    places = np.arange(min(_PLACES, len(labels))) if bad is None else np.flatnonzero(bad)[:_PLACES]
    return ", ".join(f"#{place} is {str(labels[place])[:20]}" for place in places)
