"""Models: the list, the card of one, and adding another."""

import tempfile
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from app import forms, lineage
from app.class_match import class_match
from app.commands.show import when
from app.job_details import failure
from app.render import draw_block, identifier
from app.state import client, parameter
from app.text import plain
from app.widgets import errors_shown
from auditor.auditing.declaration import parse_accuracy
from auditor.auditing.vet import ClassifierCard
from auditor.data.intake.found import Asked
from auditor.data.intake.inspection import Inspection
from auditor.data.intake.proposals import Proposal
from auditor.data.intake.readers import SUFFIXES, WHOLE
from auditor.data.intake.solving import from_data
from auditor.kit.errors import AuditorError, IntakeError, SpecError
from auditor.models.architecture import ARCHITECTURES, Architecture
from auditor.models.classifier import NORMALIZATIONS, Normalization
from auditor.models.own_code import stored_code
from auditor.show.blocks import Column, Measure, Measures, Table, Text
from worker.client import JobView
from worker.models import ModelRow

CUSTOM = "own values"
OWN = "the file's own"
BY_HAND = "another architecture"


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
    for note in seen.notes:
        draw_block(Text(text=note, tone="note"), "note", None, ())
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


def add() -> None:
    """The form for another model."""
    source = st.file_uploader(
        "Weights",
        type=SUFFIXES,
        key="model-file",
        help="A state dict, a checkpoint that contains one, or a whole model saved with torch.save. Nothing of it is run.",
    )
    waiting = [name for name in client().library.inbox() if name.endswith(tuple(f".{suffix}" for suffix in SUFFIXES))]
    taken = (
        st.selectbox("or a file from the server's inbox", waiting, index=None, key="model-inbox") if waiting else None
    )
    name = st.text_input("Name", key="model-name", placeholder="by default the file's")
    filename = source.name if source is not None else str(taken or "")
    graph = filename.lower().endswith(".onnx")
    chosen_set = "" if graph else _weight_set(filename)
    asked = _asked(filename, graph)
    architecture = _architecture(filename, lambda: _inspected(source, filename, chosen_set, asked))
    normalization = _normalization()
    classes = st.text_input(
        "Class names", key="model-classes", placeholder="comma-separated, in the order of the logits"
    )
    accuracy = st.text_input(
        "Declared accuracy (%)", key="model-accuracy", placeholder="not declared",
        help="The model's published accuracy on clean images. Vetting warns if the model falls far short of it.",
    )  # fmt: skip
    mapping = 1 if _is_whole(filename) else st.selectbox(
        "Mapping", [1, 2], format_func={1: "the more likely one", 2: "the other"}.__getitem__, key="model-mapping",
        help="How tensors are matched whose names do not fit the architecture; a note says where their shapes fit in two ways.",
    )  # fmt: skip
    datasets = {row.id: row.name for row in client().library.datasets()}
    vet_on = st.selectbox(
        "Vet on", list(datasets), format_func=datasets.__getitem__, index=0 if datasets else None, key="model-vet",
        help="Vetting measures the accuracy on this data set under the declared and other normalizations.",
    )  # fmt: skip
    if not st.button("Add the model", type="primary", key="model-add"):
        return
    if source is None and taken is None:
        st.error("Choose a file of weights first.")
        return
    try:
        stream = _stream(source, filename)
        waiting_place = st.empty()
        with st.spinner("Checking the file in a sandbox"), stream:
            row = client().library.add_model(
                stream,
                filename,
                name=name or filename.rsplit(".", 1)[0],
                architecture=architecture(),
                normalization=normalization(),
                class_names=[item.strip() for item in classes.split(",")] if classes else None,
                declared_accuracy=parse_accuracy(accuracy),
                weights=chosen_set,
                on_wait=waiting_place.info,
                mapping=2 if mapping == 2 else 1,
                asked=asked,
            )
        _vet(row, vet_on)
    except AuditorError as error:
        said = f"{plain(error.message)} {plain(error.hint)}".strip()
        if isinstance(error, IntakeError) and error.choices:
            st.session_state["model-choices"] = {filename: (error.choices, said)}
            st.rerun()  # 'Set of weights' or 'Output' then offers them
        st.error(said)
        return
    st.session_state.pop("model-choices", None)
    st.query_params["model"] = row.id
    st.rerun()


def _stream(source: Any, filename: str) -> BinaryIO:
    """The chosen file: what was uploaded, or else the one in the inbox."""
    return BytesIO(source.getbuffer()) if source is not None else client().library.open_inbox(filename)


def _is_whole(filename: str) -> bool:
    """Whether a file of this name says its own architecture."""
    return filename.lower().rpartition(".")[2] in WHOLE


def _architecture(filename: str, inspected: Callable[[], Inspection | None]) -> Callable[[], Architecture | None]:
    """The widgets of an architecture; what is returned makes it, or raises SpecError. None for a file that says its own."""
    found = inspected() if filename else None
    if _is_whole(filename):
        if found is None:
            st.caption("The file says its own architecture.")
        return lambda: None
    fitting = [] if found is None else [*found.proposals, *filter(None, [found.draft])]
    chosen = _proposal(fitting) if fitting else None
    if chosen is not None:
        size = _open_size(chosen)
        return lambda: from_data({**chosen.architecture, **size})
    titles = {
        member.kind_name(): f"{member.display_title()}: {member.summary()}"
        for member in ARCHITECTURES
        if member.by_hand
    }
    kind = st.selectbox("Architecture", list(titles), format_func=titles.__getitem__, key="model-architecture")
    values = forms.fields(ARCHITECTURES[kind], f"model-{kind}", skip=("kind",))
    return lambda: ARCHITECTURES.build(kind, values)


def _inspected(source: Any, filename: str, chosen_set: str, asked: Asked) -> Inspection | None:
    """What the file turned out to be, once the button was pressed for it."""
    file = f"{filename} {chosen_set} {asked} {source.file_id if source is not None else ''}"
    if st.button(
        "What is this file?", key="model-inspect", help="The file itself, or names and shapes of its tensors, say it."
    ):
        place = st.empty()
        try:
            with st.spinner("Inspecting the file in a sandbox"), _stream(source, filename) as stream:
                found = client().library.inspect_model(
                    stream, filename, weights=chosen_set, on_wait=place.info, asked=asked
                )
        except AuditorError as error:
            st.error(f"{plain(error.message)} {plain(error.hint)}".strip())
            return None
        if found.sets:
            st.session_state["model-choices"] = {
                filename: (found.sets, f"{found.what} Choose one under 'Set of weights'.")
            }
            st.rerun()
        st.session_state["model-inspected"] = {file: found}
    kept: Inspection | None = st.session_state.get("model-inspected", {}).get(file)
    if kept is not None:
        st.info(plain(kept.what))
    return kept


def _proposal(fitting: list[Proposal]) -> Proposal | None:
    """One of the architectures that fit; None for one that is given by hand."""
    texts = {each.text: each for each in fitting}
    chosen = st.selectbox("What fits", [*texts, BY_HAND], key="model-proposal")
    if chosen not in texts:
        return None
    st.caption(plain(texts[chosen].note))
    return texts[chosen]


def _open_size(chosen: Proposal) -> dict[str, int]:
    """Height and width of the images, where the tensors leave them open; else nothing."""
    if not chosen.open_size:
        return {}
    own = from_data(chosen.architecture)
    first, second = st.columns(2)
    text = "Of the images that the network was trained on, in pixels."
    height = first.number_input("Height", 4, 1024, own.height, key=f"model-height-{chosen.text}", help=text)
    width = second.number_input("Width", 4, 1024, own.width, key=f"model-width-{chosen.text}", help=text)
    return {"height": int(height), "width": int(width)}


def _weight_set(filename: str) -> str:
    """Which set of weights is meant, of those that this file turned out to have; others can be typed in."""
    choices, said = st.session_state.get("model-choices", {}).get(filename, ((), ""))
    chosen = st.selectbox(
        "Set of weights", choices, index=None, key="model-set", accept_new_options=True,
        placeholder="choose one" if choices else "needed only for a file that holds several",
        help="Such as teacher, or model.state_dict: the keys under which the file holds the weights.",
    )  # fmt: skip
    if said and not chosen:
        st.error(said)
    return chosen or ""


def _asked(filename: str, graph: bool) -> Asked:
    """Which of several outputs holds the logits; and of a ``graph``, an ONNX file, the size of its images, if that is open."""
    choices, said = st.session_state.get("model-choices", {}).get(filename, ((), "")) if graph else ((), "")
    if not graph:
        return Asked(None, _output(st.container(), choices))
    first, second, third = st.columns(3)
    height, width = (
        place.number_input(
            name, 1, 1024, None, key=f"model-{name.lower()}", placeholder="the file's own",
            help="Of the images, in pixels; needed only where the file leaves it open.",
        )
        for place, name in ((first, "Height"), (second, "Width"))
    )  # fmt: skip
    output = _output(third, choices)
    if said and not output:
        st.error(said)
    size = (height or width, width or height)
    return Asked((int(size[0]), int(size[1])) if size[0] and size[1] else None, output)


def _output(place: DeltaGenerator, choices: Sequence[str]) -> str:
    """Which output of the network holds the logits: one of those that are known, else as it is typed in."""
    text = "Which output holds the logits, by its name or its number from 0; needed only for a network that returns several."
    if choices:
        chosen = place.selectbox(
            "Output", choices, index=None, key="model-output-offered", placeholder="choose one", help=text
        )
        return chosen or ""
    return place.text_input("Output", key="model-output", placeholder="the only one", help=text).strip()


def _vet(row: ModelRow, dataset: str | None) -> None:
    """Vet on the chosen data; where it does not fit the model, without data, and the card says why."""
    try:
        client().audits.vet(row.id, dataset)
    except AuditorError as error:
        client().audits.vet(row.id)
        st.session_state["vetted-without"] = row.id, f"Vetted without data. {error.message} {error.hint}".strip()


def _normalization() -> Any:
    """The widgets of a normalization; what is returned makes it, or raises SpecError."""
    names = [OWN, *NORMALIZATIONS, CUSTOM]
    columns = st.columns(3)
    shown = {OWN: OWN} | {key: f"{key}: {value}" for key, value in NORMALIZATIONS.items()} | {CUSTOM: CUSTOM}
    chosen = columns[0].selectbox(
        "Normalization", names, format_func=shown.__getitem__, key="model-normalization",
        help="What the network applies to pixels in [0, 1]. A wrong one makes every robustness number wrong. The file's own is "
        "the one that it holds or was published with, else none.",
    )  # fmt: skip
    order = columns[1].selectbox("Channel order", ["RGB", "BGR"], key="model-order")
    reach = columns[2].selectbox("Pixel range before mean and std", ["0-1", "0-255"], key="model-range")
    mean = std = ""
    if chosen == CUSTOM:
        mean = columns[0].text_input("Mean", "0.5, 0.5, 0.5", key="model-mean")
        std = columns[1].text_input("Std", "0.5, 0.5, 0.5", key="model-std")

    def make() -> Normalization | None:
        if chosen == OWN and (order, reach) == ("RGB", "0-1"):
            return None
        base: dict[str, Any] = {} if chosen in (CUSTOM, OWN) else NORMALIZATIONS[chosen].model_dump()
        if chosen == CUSTOM:
            base = {"mean": _numbers("mean", mean), "std": _numbers("std", std)}
        try:
            return Normalization(**base | {"channel_order": order, "value_range": reach})
        except ValueError as error:
            raise SpecError.from_validation("normalization", error) from None  # type: ignore[arg-type]

    return make


def _numbers(what: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(item) for item in text.replace(",", " ").split())
    except ValueError:
        raise SpecError(f"{what}: expected numbers separated by commas, got {text!r}.") from None


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
    add()
