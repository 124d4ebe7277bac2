"""The sample browser: the samples of a result one page at a time, filtered by attack, outcome and class."""

from __future__ import annotations

from collections import Counter

import streamlit as st

from app import render, state
from app.state import client
from app.widgets import errors_shown
from auditor.auditing.result import AuditResult
from auditor.auditing.sample_browser import Fate, matching, pictures
from auditor.kit.scratch import scratch
from auditor.show.blocks import Images

PER_PAGE = 8


@st.fragment
def browser(job_id: str, result: AuditResult) -> None:
    """A fragment of its own: turning the page does not draw the whole result again; a damaged file spoils only this part."""
    st.header("All samples", anchor="all-samples")
    with errors_shown():
        _browse(job_id, result)


def _browse(job_id: str, result: AuditResult) -> None:
    titles = _titles(result)
    columns = st.columns(4)
    chosen = columns[0].selectbox("Attack", list(titles), format_func=titles.__getitem__, key="samples-attack")
    fate = columns[1].selectbox(
        "Outcome", [None, Fate.FOOLED, Fate.RESISTED, Fate.WRONG_BEFORE],
        format_func=lambda item: "Any" if item is None else item.capitalize(), key="samples-outcome",
    )  # fmt: skip
    model = result.provenance.model
    label = columns[2].selectbox(
        "True class", [None, *sorted(set(result.samples.labels))],
        format_func=lambda item: "Any" if item is None else model.class_name(item), key="samples-class",
    )  # fmt: skip
    positions = matching(result, result.records[chosen], fate, label)
    pages = max(1, -(-len(positions) // PER_PAGE))
    if st.session_state.get("samples-page", 1) > pages:
        st.session_state["samples-page"] = pages
    page = columns[3].number_input(f"Page, 1 to {pages}", 1, pages, key="samples-page")
    st.caption(f"{len(positions):,} of {len(result.samples):,} samples.")
    examples = state.examples(job_id, chosen)
    if len(examples.positions):
        st.download_button(
            f"Download {len(examples.positions):,} adversarial images (.npz)",
            data=lambda: _npz(job_id, chosen),
            file_name=f"audit-{job_id[:8]}-{examples.record.attack.kind_name()}.npz",
            mime="application/octet-stream",
            icon=":material/download:",
            on_click="ignore",
            key="samples-export",
        )
    shown = pictures(examples, state.audited_data(job_id), positions[(page - 1) * PER_PAGE : page * PER_PAGE])
    reading = "Every sample under the chosen attack: original, attacked, and the enlarged difference."
    render.draw_block(Images(rows=shown, reading=reading), "samples", None, ())


def _titles(result: AuditResult) -> dict[int, str]:
    """What each attack is called; with its parameters where the name alone fits several."""
    headline = {index: record for index, record in enumerate(result.records) if record.role == "headline"}
    short = {index: f"{record.attack.display_title()}, {record.threat}" for index, record in headline.items()}
    shared = {title for title, count in Counter(short.values()).items() if count > 1}
    return {
        index: f"{headline[index].attack.describe()}, {headline[index].threat}" if title in shared else title
        for index, title in short.items()
    }


def _npz(job_id: str, record: int) -> bytes:
    with scratch("export") as folder:
        file = folder / "examples.npz"
        client().audits.export_examples(job_id, record, file)
        return file.read_bytes()
