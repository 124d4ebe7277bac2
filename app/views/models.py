"""Models: the list, the card of one, and adding another."""

import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

import streamlit as st

from app import forms, lineage
from app.commands.show import when
from app.job_details import failure
from app.render import draw_block, identifier
from app.state import client, parameter
from app.text import plain
from auditor.architecture import ARCHITECTURES
from auditor.classifier import NORMALIZATIONS, Normalization
from auditor.declaration import parse_accuracy
from auditor.errors import AuditorError, SpecError
from auditor.report.blocks import Column, Measure, Measures, Table, Text
from auditor.vet import ClassifierCard
from worker.client import JobView
from worker.models import ModelRow

CUSTOM = "own values"
SUFFIXES = ("safetensors", "pt", "pth", "th", "ckpt", "bin")


def catalogue(rows: list[ModelRow]) -> None:
    """Every model; a click opens its card."""
    table = [
        {
            "Name": row.name,
            "Architecture": row.architecture["kind"],
            "Parameters": row.manifest["parameters"],
            "Added (UTC)": when(row.created),
            "Id": row.id[:8],
        }
        for row in rows
    ]
    event = st.dataframe(table, hide_index=True, on_select="rerun", selection_mode="single-row", key="models")
    chosen: list[int] = event["selection"]["rows"]
    if chosen:
        st.query_params["model"] = rows[chosen[0]].id


def card(row: ModelRow) -> None:
    """What is known of one model."""
    st.header(plain(row.name), anchor=False)
    with st.expander("Id and hash"):
        identifier("Id", row.id)
        identifier("SHA-256 of the weights", row.weights)
    for note in row.manifest["notes"]:
        st.info(plain(note))
    datasets = client().datasets()
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    names = {item.id: item.name for item in datasets}
    choice = left.selectbox(
        "Vet on", list(names), format_func=names.__getitem__, index=None, placeholder="no data", key="vet-on"
    )
    if right.button("Vet now", key="vet-now"):
        client().vet(row.id, choice)
        st.rerun()
    st.download_button(
        "Download the weights (.zip)",
        data=lambda: weights(row.id),
        file_name=f"model-{row.id[:8]}.zip",
        mime="application/zip",
        icon=":material/download:",
        on_click="ignore",
        key="model-weights",
        help="As safetensors and as a state dict (.pt), with the architecture, the normalisation and the hashes beside.",
    )
    st.page_link("views/harden.py", label="Harden this model", icon=":material/shield:", query_params={"model": row.id})
    vetting(row)
    relatives = client().lineage(row.id)
    if len(relatives) > 1:
        st.subheader("Lineage", anchor=False)
        lineage.tree(relatives, row.id)


def weights(key: str) -> bytes:
    """The archive of a model's weights."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.zip"
        client().export_model(key, file)
        return file.read_bytes()


@st.fragment(run_every=1.0)
def vetting(row: ModelRow) -> None:
    """The newest vetting: its progress, then its card."""
    job = client().latest_vet(row.id)
    if job is None:
        st.info("Not vetted yet.")
    elif job.state == "succeeded":
        vetted(client().card(job.id))
    elif job.state == "failed":
        failure(job)
    else:
        progress(job)


def progress(job: JobView) -> None:
    st.progress(job.share, text=plain(f"Vetting: {job.step or job.state}. {job.notice}"))


def vetted(seen: ClassifierCard) -> None:
    """Numbers, doubts, and accuracy under every normalisation that was tried."""
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
    for note in seen.notes:
        draw_block(Text(text=note, tone="note"), "note", None, ())
    for flag in seen.flags:
        draw_block(Text(text=flag.text, tone=tones[flag.severity]), flag.name, None, ())
    if not seen.flags:
        draw_block(
            Text(text="No doubts: it runs, its logits are finite, its gradient flows.", tone="good"), "good", None, ()
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
            Column(key="name", title="Normalisation"),
            Column(key="values", title="Values"),
            Column(key="accuracy", title="Accuracy [95 %]"),
            Column(key="lead", title="Lead (points)", format="+.1f"),
        )
        if seen.ties:
            columns += (Column(key="robust", title="Under PGD [95 %]"),)
        caption = (
            f"Accuracy on the same {seen.samples} images under the declared normalisation and the likely mistakes."
        )
        draw_block(
            Table(
                title="Is the normalisation right?",
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
            [layer | {"spatial": "x".join(map(str, layer["spatial"]))} for layer in seen.layers], hide_index=True
        )


def add() -> None:
    """The form for another model."""
    source = st.file_uploader(
        "Weights", type=SUFFIXES, key="model-file", help="Tensors only: a state dict, or a checkpoint that holds one."
    )
    waiting = [name for name in client().inbox() if name.rsplit(".", 1)[-1] in SUFFIXES]
    taken = st.selectbox("or a file of the server's inbox", waiting, index=None, key="model-inbox") if waiting else None
    name = st.text_input("Name", key="model-name", placeholder="by default the file's")
    titles = {member.kind_name(): f"{member.display_title()}: {member.summary()}" for member in ARCHITECTURES}
    kinds = list(titles)
    kind = st.selectbox("Architecture", kinds, format_func=titles.__getitem__, key="model-architecture")
    values = forms.fields(ARCHITECTURES[kind], f"model-{kind}", skip=("kind",))
    normalization = _normalization()
    classes = st.text_input(
        "Class names", key="model-classes", placeholder="comma-separated, in the order of the logits"
    )
    accuracy = st.text_input(
        "Declared accuracy (%)", key="model-accuracy", placeholder="not declared",
        help="The accuracy that the model is said to have on clean images. Vetting warns where it falls far short.",
    )  # fmt: skip
    datasets = {row.id: row.name for row in client().datasets()}
    vet_on = st.selectbox(
        "Vet on", list(datasets), format_func=datasets.__getitem__, index=0 if datasets else None, key="model-vet",
        help="A data set on which accuracy is measured under the declared and other normalisations.",
    )  # fmt: skip
    if not st.button("Add the model", type="primary", key="model-add"):
        return
    if source is None and taken is None:
        st.error("Choose a file of weights first.")
        return
    try:
        filename = source.name if source is not None else str(taken)
        stream = BytesIO(source.getbuffer()) if source is not None else client().open_inbox(str(taken))
        waiting_place = st.empty()
        with st.spinner("Checking the file in a sandbox"), stream:
            row = client().add_model(
                stream,
                filename,
                name=name or filename.rsplit(".", 1)[0],
                architecture=ARCHITECTURES.build(kind, values),
                normalization=normalization(),
                class_names=[item.strip() for item in classes.split(",")] if classes else None,
                declared_accuracy=parse_accuracy(accuracy),
                on_wait=waiting_place.info,
            )
        _vet(row, vet_on)
    except AuditorError as error:
        st.error(f"{plain(error.message)} {plain(error.hint)}".strip())
        return
    st.query_params["model"] = row.id
    st.rerun()


def _vet(row: ModelRow, dataset: str | None) -> None:
    """Vet on the chosen data; where it does not fit the model, without data."""
    try:
        client().vet(row.id, dataset)
    except AuditorError:
        client().vet(row.id)


def _normalization() -> Any:
    """The widgets of a normalisation; what is returned makes it, or raises SpecError."""
    names = [*NORMALIZATIONS, CUSTOM]
    columns = st.columns(3)
    shown = {key: f"{key}: {value}" for key, value in NORMALIZATIONS.items()} | {CUSTOM: CUSTOM}
    chosen = columns[0].selectbox(
        "Normalisation", names, format_func=shown.__getitem__, key="model-normalization",
        help="What the network expects after pixels in [0, 1]. A wrong one makes every robustness number wrong.",
    )  # fmt: skip
    order = columns[1].selectbox("Channel order", ["RGB", "BGR"], key="model-order")
    reach = columns[2].selectbox("Pixel range before mean and std", ["0-1", "0-255"], key="model-range")
    mean = std = ""
    if chosen == CUSTOM:
        mean = columns[0].text_input("Mean", "0.5, 0.5, 0.5", key="model-mean")
        std = columns[1].text_input("Std", "0.5, 0.5, 0.5", key="model-std")

    def make() -> Normalization:
        base: dict[str, Any] = {} if chosen == CUSTOM else NORMALIZATIONS[chosen].model_dump()
        if chosen == CUSTOM:
            base = {"mean": _numbers("mean", mean), "std": _numbers("std", std)}
        try:
            return Normalization(**base | {"channel_order": order, "value_range": reach})
        except ValueError as error:
            raise SpecError.from_validation("normalisation", error) from None  # type: ignore[arg-type]

    return make


def _numbers(what: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(item) for item in text.replace(",", " ").split())
    except ValueError:
        raise SpecError(f"{what}: expected numbers separated by commas, got {text!r}.") from None


st.title("Models")
models = list(client().models())
if models:
    catalogue(models)
else:
    st.info("No models yet. Add one below.")
key = parameter("model")
if key:
    card(client().model(key))
with st.expander("Add a model", expanded=not models or parameter("add") == "1", icon=":material/upload:"):
    add()
