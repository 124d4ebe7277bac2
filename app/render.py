"""Draws the blocks of a section on the page; the report draws the same blocks as HTML."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable

import pyarrow as pa
import streamlit as st

from app.text import plain
from auditor.show.blocks import (
    AnyBlock,
    Figure,
    Images,
    Measures,
    Section,
    Table,
    Text,
    show_interval,
    show_measure,
)
from auditor.show.charts import PICK, draw
from auditor.show.export import as_csv, as_svg

MEASURE_PIXELS = 200
"""Room for the longest number at the size of a metric; Streamlit cuts what does not fit."""

Detail = Callable[[tuple[str, ...]], tuple[AnyBlock, ...]]
"""What opens behind a mark, by the path of marks that were clicked: (layer,), then (layer, neuron)."""


def section(item: Section, detail: Detail | None = None) -> None:
    """A whole section under its title."""
    st.header(item.title, anchor=item.key)
    for index, block in enumerate(item.blocks):
        draw_block(block, f"{item.key}-{index}", detail, ())


def draw_block(block: AnyBlock, key: str, detail: Detail | None, path: tuple[str, ...]) -> None:
    """One block; ``key`` is unique on the page."""
    match block:
        case Text():
            _text(block)
        case Measures():
            _measures(block)
        case Table():
            _table(block)
        case Figure():
            _figure(block, key, detail, path)
        case Images():
            images(block)


def _text(block: Text) -> None:
    show = {"note": st.info, "good": st.success, "warning": st.warning, "bad": st.error}.get(block.tone)
    if block.tone == "code":
        st.code(block.text, language="json", height=400)
    elif show is not None:
        show(plain(block.text))
    else:
        st.markdown(plain(block.text))


def identifier(label: str, value: str) -> None:
    """An id or a hash: whole, and with a button that copies it."""
    st.caption(plain(label))
    st.code(value, language=None, wrap_lines=True)


def _measures(block: Measures) -> None:
    """Side by side as far as there is room, then in further rows: a number is never cut."""
    with st.container(horizontal=True, gap="medium"):
        for item in block.items:
            with st.container(width=MEASURE_PIXELS, gap=None):
                st.metric(plain(item.title), show_measure(item), help=plain(item.explanation) or None)
                st.caption(plain(show_interval(item).replace("n = ", "n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}")))


def _table(block: Table) -> None:
    if block.title:
        st.subheader(plain(block.title), anchor=False)
    # Column by column, in their order. Streamlit reads titles and cells as markdown, so every one of them is escaped.
    cells = [[plain(cell) for cell in row] for row in block.cells()]
    columns = [pa.array([row[place] for row in cells], pa.string()) for place in range(len(block.columns))]
    st.table(pa.Table.from_arrays(columns, [plain(column.title) for column in block.columns]), hide_index=True)
    if block.caption:
        st.caption(plain(block.caption))


def _figure(block: Figure, key: str, detail: Detail | None, path: tuple[str, ...]) -> None:
    st.subheader(plain(block.title), anchor=False)
    if not block.select or detail is None:
        st.altair_chart(draw(block), key=key, alt=block.title)
        st.caption(plain(block.reading))
        _exports(block, key)
        return
    event = st.altair_chart(draw(block), key=key, on_select="rerun", selection_mode=PICK, alt=block.title)
    st.caption(plain(f"{block.reading} Click a mark, or choose below, to open it."))
    _exports(block, key)
    chosen = _chosen(block, key, event)
    if chosen:
        with st.container(border=True):
            for index, inner in enumerate(detail((*path, chosen))):
                draw_block(inner, f"{key}-{chosen}-{index}", detail, (*path, chosen))


def _exports(block: Figure, key: str) -> None:
    """The chart as files, made when they are asked for."""
    name = re.sub(r"[^a-z0-9]+", "-", block.title.lower()).strip("-")
    with st.popover("Export", icon=":material/download:"):
        st.download_button(
            "Data (.csv)", lambda: as_csv(block), f"{name}.csv", "text/csv", on_click="ignore", key=f"{key}-csv"
        )
        st.download_button(
            "Picture (.svg)", lambda: as_svg(block), f"{name}.svg", "image/svg+xml", on_click="ignore", key=f"{key}-svg"
        )


def _chosen(block: Figure, key: str, event: object) -> str:
    """The mark that is open: the last one clicked or chosen; it stands in the page's address, so a link opens it too."""
    names = list(dict.fromkeys(str(row[block.select]) for row in block.rows))
    picked = event["selection"].get(PICK) if isinstance(event, dict) else None
    clicked = str(picked[0][block.select]) if picked else ""
    box, seen = f"{key}-box", f"{key}-clicked"
    if clicked and clicked != st.session_state.get(seen):
        st.session_state[box] = clicked
    st.session_state[seen] = clicked
    if box not in st.session_state and st.query_params.get(block.select) in names:
        st.session_state[box] = st.query_params[block.select]
    chosen = st.selectbox(f"Open a {block.select}", names, index=None, key=box, placeholder=f"Choose a {block.select}")
    if chosen:
        st.query_params[block.select] = chosen
    return str(chosen or "")


def images(block: Images, beside: int = 2) -> None:
    """Rows of pictures, so many of them side by side."""
    st.caption(plain(block.reading))
    for start in range(0, len(block.rows), beside):
        for column, row in zip(st.columns(beside), block.rows[start : start + beside], strict=False):
            with column, st.container(border=True):
                st.markdown(f"**{plain(row.title)}**")
                for cell, image in zip(st.columns(len(row.images)), row.images, strict=True):
                    cell.image(base64.b64decode(image.data), caption=plain(image.caption), width="stretch")
