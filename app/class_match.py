"""The match of classes before an audit or a vetting: a table of the data's classes, in which the model's can be chosen."""

from collections.abc import Sequence

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from app.state import client
from app.text import plain
from app.widgets import error_box
from auditor.kit.errors import AuditorError
from auditor.models.class_match import Sides
from auditor.models.class_ways import TITLES, Way, by_hand, proposals
from auditor.models.hand_match import HandMatch

HEIGHT = 320
"""Of the table, in pixels: about eight classes; the rest is scrolled."""

LEFT_OUT = "left out"


def class_match(model: str, dataset: str, key: str, *, folded: bool = False) -> HandMatch:
    """The table of classes; returns the match by hand, which is empty where nothing was chosen or edited.

    ``key`` begins the keys of the widgets. ``folded``: unless something speaks against the automatic match.
    """
    sides = client().audits.class_sides(model, dataset)
    ways = proposals(sides)
    unfolded = not folded or not _is_plain(sides)
    with st.expander("Classes of the data and of the model", expanded=unfolded, icon=":material/compare_arrows:"):
        way: Way = "automatic"
        if len(ways) > 1:
            way = st.radio(
                "Match classes", list(ways), format_func=TITLES.__getitem__, horizontal=True, key=f"{key}-way",
                help="What the table begins with. Every class can then be changed in it.",
            )  # fmt: skip
        places = _edited(sides, ways[way], f"{key}-classes-{model}-{dataset}-{way}")
        used = np.flatnonzero(sides.counts)
        same = bool((places[used] == ways["automatic"][used]).all())
        chosen = {} if way == "automatic" and same else by_hand(sides, places)
        _say(sides, chosen)
    return chosen


def _is_plain(sides: Sides) -> bool:
    """Whether the automatic match is possible, and without a doubt."""
    try:
        return not sides.match().flags
    except AuditorError:
        return False


def _edited(sides: Sides, proposed: NDArray[np.int64], key: str) -> NDArray[np.int64]:
    """The table, and what it says in the end: the model's class of each label, (L,), -1 for one that is left out."""
    options = [LEFT_OUT, *(_called(number, sides.model_names) for number in range(sides.classes))]
    used = np.flatnonzero(sides.counts).tolist()
    rows = [
        {
            "data": _called(label, sides.data_names),
            "images": int(sides.counts[label]),
            "model": options[proposed[label] + 1],
        }
        for label in used
    ]
    edited = st.data_editor(
        rows,
        hide_index=True,
        num_rows="fixed",
        height=min(HEIGHT, 36 * (len(rows) + 1) + 3),
        disabled=["data", "images"],
        column_config={
            "data": st.column_config.TextColumn("Class of the data"),
            "images": st.column_config.NumberColumn("Images"),
            "model": st.column_config.SelectboxColumn(
                "Class of the model", options=options, required=True,
                help="What counts as right for these images. Images of a class that is left out are not used.",
            ),
        },
        key=key,
    )  # fmt: skip
    places = proposed.copy()
    for label, row in zip(used, edited, strict=True):
        places[label] = options.index(row["model"]) - 1
    return places


def _say(sides: Sides, chosen: HandMatch) -> None:
    """What is to be known of the match, and what speaks against it."""
    try:
        match = sides.match(chosen)
    except AuditorError as error:
        error_box(error.message, error.hint)
        return
    st.caption(plain(f"Matched {sides.table(match).describe()}. {' '.join(match.notes)}"))
    for flag in match.flags:
        show = st.error if flag.severity == "severe" else st.warning
        show(plain(flag.text))


def _called(number: int, names: Sequence[str] | None) -> str:
    return f"{number}: {names[number]}" if names is not None else str(number)
