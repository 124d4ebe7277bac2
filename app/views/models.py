"""Models: the list, the card of one, and adding another."""

import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import streamlit as st

from app import lineage
from app.again_form import again_form
from app.class_match import class_match
from app.commands.show import when
from app.job_details import failure
from app.model_form import model_form
from app.render import draw_block, identifier
from app.state import client, parameter
from app.text import plain
from app.widgets import errors_shown
from auditor.auditing.vet import ClassifierCard
from auditor.kit.errors import NotFoundError
from auditor.models.own_code import stored_code
from auditor.show.blocks import Column, Measure, Measures, Table, Text
from worker.client import JobView
from worker.models import ModelRow


def catalogue(rows: list[ModelRow]) -> None:
    """Every model; a click opens its card."""
    table = [
        {
            "Name": row.name,
            "Architecture": row.architecture["kind"],
            "Parameters": row.manifest["parameters"],
            "Added (UTC)": when(row.created),
        }
        for row in rows
    ]
    columns = {
        "Name": st.column_config.TextColumn(width=132),  # all of them fit a window of 480 pixels
        "Architecture": st.column_config.TextColumn(width=90),
        "Parameters": st.column_config.NumberColumn("Params", width=60, format="compact"),
        "Added (UTC)": st.column_config.TextColumn(width=98),
    }
    event = st.dataframe(
        table, hide_index=True, on_select="rerun", selection_mode="single-row", column_config=columns, key="models"
    )
    chosen: list[int] = event["selection"]["rows"]
    if chosen:
        st.query_params["model"] = rows[chosen[0]].id


def card(row: ModelRow) -> None:
    """What is known of one model."""
    st.header(plain(row.name), anchor=False)
    with st.expander("Id and hash"):
        identifier("Id", row.id)
        identifier("SHA-256 of the weights", row.weights)
    code = stored_code(row.architecture)
    if code is not None:
        st.warning(plain(code.note()))
    for note in row.manifest["notes"]:
        st.info(plain(note))
    datasets = client().library.datasets()
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    names = {item.id: item.name for item in datasets}
    choice = left.selectbox(
        "Vet on", list(names), format_func=names.__getitem__, index=None, placeholder="no data", key="vet-on"
    )
    pressed = right.button("Vet now", key="vet-now")
    with errors_shown():
        match = class_match(row.id, choice, "vet") if choice is not None else {}
        if pressed:
            client().audits.vet(row.id, choice, match)
            st.rerun()
    st.download_button(
        "Download the weights (.zip)",
        data=lambda: weights(row.id),
        file_name=f"model-{row.id[:8]}.zip",
        mime="application/zip",
        icon=":material/download:",
        on_click="ignore",
        key="model-weights",
        help="As safetensors and as a state dict (.pt), with the architecture, the normalization and the hashes.",
    )
    label = "Audit this model"
    st.page_link("views/new_audit.py", label=label, icon=":material/play_arrow:", query_params={"model": row.id})
    if code is None:
        label = "Harden this model"
        st.page_link("views/harden.py", label=label, icon=":material/shield:", query_params={"model": row.id})
    again_form(row)
    model, why = st.session_state.get("vetted-without", ("", ""))
    if model == row.id:
        st.warning(plain(why))
    vetting(row)
    relatives = client().library.lineage(row.id)
    if len(relatives) > 1:
        st.subheader("Lineage", anchor=False)
        lineage.tree(relatives, row.id)


def weights(key: str) -> bytes:
    """The archive of a model's weights."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.zip"
        client().library.export_model(key, file)
        return file.read_bytes()


def _notes_of(dataset: str | None) -> Sequence[str]:
    """How a data set was read, as its own page says it; nothing where it is not known any more."""
    with suppress(NotFoundError):
        return list(client().library.dataset(dataset).manifest["notes"]) if dataset is not None else []
    return []


@st.fragment(run_every=1.0)
def vetting(row: ModelRow) -> None:
    """The newest vetting: its progress, then its card."""
    job = client().audits.latest_vet(row.id)
    if job is None:
        st.info("Not vetted yet.")
    elif job.state == "succeeded":
        vetted(client().audits.card(job.id))
    elif job.state == "failed":
        failure(job)
    else:
        progress(job)


def progress(job: JobView) -> None:
    st.progress(job.share, text=plain(f"Vetting: {job.step or job.state}. {job.notice}"))


def vetted(seen: ClassifierCard) -> None:
    """Numbers, doubts, and accuracy under every normalization that was tried."""
    items = [
        Measure(title="Parameters", value=seen.parameters),
        Measure(title="Classes", value=seen.num_classes),
        Measure(title="Layers", value=len(seen.layers), explanation=str(seen.layer_counts)),
    ]
    if seen.accuracy is not None:
        declared, one = seen.declared_accuracy, ", one draw per image" if seen.random else ""
        said = "" if declared is None else f"Declared: {100 * declared:.1f} %."
        items.append(seen.accuracy.measure(f"Accuracy on {seen.dataset}{one}", higher_is_better=True, explanation=said))
    draw_block(Measures(items=tuple(items)), "card", None, ())
    tones: dict[str, Any] = {"info": "note", "warning": "warning", "severe": "bad"}
    known = _notes_of(seen.dataset)
    for note in seen.notes:
        if note not in known:
            draw_block(Text(text=note, tone="note"), "note", None, ())
    if read := [note for note in seen.notes if note in known]:
        with st.expander(f"How {plain(str(seen.dataset))} was read"):
            for note in read:
                st.caption(plain(note))
    for flag in seen.flags:
        draw_block(Text(text=flag.text, tone=tones[flag.severity]), flag.name, None, ())
    if not seen.flags:
        draw_block(
            Text(text="No faults found: it runs, its logits are finite, and its gradient is not zero.", tone="good"),
            "good",
            None,
            (),
        )
    if seen.accuracy is not None:
        rows: list[dict[str, Any]] = [
            {"name": "declared", "values": str(seen.normalization), "accuracy": str(seen.accuracy)}
            | ({} if seen.robust is None else {"robust": str(seen.robust)})
        ]
        rows += [
            {
                "name": item.name,
                "values": str(item.normalization),
                "accuracy": str(item.accuracy),
                "lead": 100 * item.lead,
                "robust": "" if item.robust is None else str(item.robust),
            }
            for item in seen.candidates
        ]
        columns: tuple[Column, ...] = (
            Column(key="name", title="Normalization"),
            Column(key="values", title="Values"),
            Column(key="accuracy", title="Accuracy [95 %]"),
            Column(key="lead", title="Lead (points)", format="+.1f"),
        )
        if seen.ties:
            columns += (Column(key="robust", title="Under PGD [95 %]"),)
        caption = (
            f"Accuracy on the same {seen.samples} images under the declared normalization and the likely mistakes."
        )
        draw_block(
            Table(
                title="Is the normalization right?",
                columns=columns,
                rows=tuple(rows),
                caption=f"{caption} {seen.ties}".strip(),
            ),
            "n",
            None,
            (),
        )
    with st.expander(f"All {len(seen.layers)} layers"):
        st.dataframe(
            [layer.model_dump() | {"spatial": "x".join(map(str, layer.spatial))} for layer in seen.layers],
            hide_index=True,
        )


st.title("Models")
models = list(client().library.models())
if models:
    catalogue(models)
else:
    st.info("No models yet. Add one below.")
key = parameter("model")
if key:
    card(client().library.model(key))
with st.expander("Add a model", expanded=not models or parameter("add") == "1", icon=":material/upload:"):
    model_form()
