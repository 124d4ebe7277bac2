"""The form that adds a model: its file, what that turned out to be, and what the file does not say."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import BytesIO
from typing import Any, BinaryIO, NamedTuple

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from app import forms
from app.normalization_form import normalization_form
from app.recognition import Chosen, recognized
from app.state import client
from app.text import plain
from auditor.auditing.declaration import parse_accuracy
from auditor.data.intake.asked import NOTHING_ASKED, Asked
from auditor.data.intake.inspection import Inspection
from auditor.data.intake.proposals import Proposal
from auditor.data.intake.readers import SUFFIXES, WHOLE
from auditor.data.intake.solving import from_data
from auditor.kit.errors import AuditorError, IntakeError
from auditor.models.architecture import ARCHITECTURES, Architecture
from worker.models import DatasetRow, ModelRow

BY_HAND = "another architecture"
ANOTHER_SIZE = "another size"


class Described(NamedTuple):
    """The architecture as the form gives it. ``make``: makes it, None for what the file itself says, or raises SpecError;
    ``ready``: whether the file need not be waited for."""

    make: Callable[[], Architecture | None]
    ready: bool = True

    @property
    def shape(self) -> tuple[int, int, int] | None:
        """Of the images, where it is known already."""
        with suppress(AuditorError):
            made = self.make()
            return None if made is None else made.input_shape
        return None


def model_form() -> None:
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
    filename = source.name if source is not None else str(taken or "")
    sets, seen = st.container(), st.container()  # what the file is stands above what is asked of it
    name = st.text_input("Name", key="model-name", placeholder="by default the file's")
    graph = filename.lower().endswith(".onnx")
    with sets if filename in st.session_state.get("model-choices", {}) else st.container():
        chosen_set = "" if graph else _weight_set(filename)
    asked = _asked(filename, graph)
    datasets = {row.id: row for row in client().library.datasets()}
    chosen = _chosen(source, filename, chosen_set, asked) if filename else None
    with seen:
        described = _architecture(chosen, list(datasets.values()))
    normalization = normalization_form("model")
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
    vet_on = _vet_on(datasets, described)
    if not st.button("Add the model", type="primary", key="model-add", disabled=not described.ready):
        return
    if chosen is None:
        st.error("Choose a file of weights first.")
        return
    try:
        waiting_place = st.empty()
        with st.spinner("Checking the file in a sandbox"), chosen.opened() as stream:
            row = client().library.add_model(
                stream,
                filename,
                name=name or filename.rsplit(".", 1)[0],
                architecture=described.make(),
                normalization=normalization(),
                class_names=[item.strip() for item in classes.split(",")] if classes else None,
                declared_accuracy=parse_accuracy(accuracy),
                weights=chosen_set,
                on_wait=waiting_place.info,
                mapping=2 if mapping == 2 else 1,
                asked=asked,
            )
        vet_added(row, vet_on)
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


def vet_added(row: ModelRow, dataset: str | None) -> None:
    """Vet on the chosen data; where it does not fit the model, without data, and the card says why."""
    try:
        client().audits.vet(row.id, dataset)
    except AuditorError as error:
        client().audits.vet(row.id)
        st.session_state["vetted-without"] = row.id, f"Vetted without data. {error.message} {error.hint}".strip()


def _chosen(source: Any, filename: str, weights: str, asked: Asked) -> Chosen:
    """The file of the form: what was uploaded, or else the one in the inbox."""

    def opened() -> BinaryIO:
        return BytesIO(source.getvalue()) if source is not None else client().library.open_inbox(filename)

    if source is not None:
        return Chosen(filename, source.file_id, source.size, opened, weights, asked)
    with opened() as stream:
        return Chosen(filename, "", os.fstat(stream.fileno()).st_size, opened, weights, asked)


def _is_whole(filename: str) -> bool:
    """Whether a file of this name says its own architecture."""
    return filename.lower().rpartition(".")[2] in WHOLE


def _architecture(chosen: Chosen | None, datasets: Sequence[DatasetRow]) -> Described:
    """What the file turned out to be, and the widgets of an architecture."""
    found, reading = _recognized(chosen) if chosen is not None else (None, False)
    if chosen is not None and _is_whole(chosen.name):
        if found is None and not reading:
            st.caption("The file says its own architecture.")
        return Described(lambda: None, ready=not reading)
    if reading and not st.toggle("Give the architecture by hand", key="model-by-hand"):
        return Described(lambda: None, ready=False)
    if found is not None and found.sets:
        return Described(lambda: None, ready=False)
    fitting = [] if found is None else [*found.proposals, *filter(None, [found.draft])]
    proposal = _proposal(fitting) if fitting else None
    if proposal is not None:
        size = _open_size(proposal, datasets)
        return Described(lambda: from_data({**proposal.architecture, **size}))
    titles = {
        member.kind_name(): f"{member.display_title()}: {member.summary()}"
        for member in ARCHITECTURES
        if member.by_hand
    }
    kind = st.selectbox("Architecture", list(titles), format_func=titles.__getitem__, key="model-architecture")
    values = forms.fields(ARCHITECTURES[kind], f"model-{kind}", skip=("kind",))
    return Described(lambda: ARCHITECTURES.build(kind, values))


def _recognized(chosen: Chosen) -> tuple[Inspection | None, bool]:
    """What the file turned out to be, and whether it is still being read."""
    if not _is_whole(chosen.name):
        chosen = chosen._replace(asked=NOTHING_ASKED)  # an output is a matter of the network
    found, reading = recognized(chosen)
    if found is None:
        return None, reading
    if found.sets:
        said = f"{found.what} Choose one under 'Set of weights'."
        if st.session_state.get("model-choices") != (choices := {chosen.name: (found.sets, said)}):
            st.session_state["model-choices"] = choices
            st.rerun()
        return found, False
    st.info(plain(found.what))
    return found, False


def _proposal(fitting: list[Proposal]) -> Proposal | None:
    """One of the architectures that fit; None for one that is given by hand."""
    texts = {each.text: each for each in fitting}
    chosen = st.selectbox("What fits", [*texts, BY_HAND], key="model-proposal")
    if chosen not in texts:
        return None
    st.caption(plain(texts[chosen].note))
    return texts[chosen]


def _open_size(chosen: Proposal, datasets: Sequence[DatasetRow]) -> dict[str, int]:
    """Height and width of the images, where the tensors leave them open: those of a data set, the usual ones, or others."""
    if not chosen.open_size:
        return {}
    own = from_data(chosen.architecture)
    sizes: dict[str, tuple[int, int]] = {}
    first = 0
    for row in datasets:
        channels, height, width = row.manifest["shape"]
        if channels == own.channels and (height, width) not in sizes.values():
            sizes[f"{height}x{width}, as in {row.name}"] = height, width
    fitting = {tuple(row.manifest["shape"][1:]) for row in datasets if row.manifest["num_classes"] == own.num_classes}
    usual = (own.height, own.width)
    if usual not in sizes.values():
        sizes[f"{own.height}x{own.width}, usual for this network"] = usual
    values = list(sizes.values())
    likely = next((size for size in values if size in fitting), usual)
    first = values.index(likely)
    key = f"model-size-{chosen.text}"
    text = "Of the images that the network was trained on, in pixels. It is not in the file."
    taken = st.selectbox("Size of the images", [*sizes, ANOTHER_SIZE], index=first, key=key, help=text)
    if taken in sizes:
        return {"height": sizes[taken][0], "width": sizes[taken][1]}
    left, right = st.columns(2)
    height = left.number_input("Height", 4, 1024, own.height, key=f"model-height-{chosen.text}", help=text)
    width = right.number_input("Width", 4, 1024, own.width, key=f"model-width-{chosen.text}", help=text)
    return {"height": int(height), "width": int(width)}


def _vet_on(datasets: dict[str, DatasetRow], described: Described) -> str | None:
    """The data set to vet on: at first the newest whose images the model takes."""
    shape = described.shape
    fitting = [key for key, row in datasets.items() if shape is not None and tuple(row.manifest["shape"]) == shape]
    first = list(datasets).index(fitting[0]) if fitting else 0
    key = "model-vet"
    if (
        st.session_state.get(f"{key}-first") != first
    ):  # another default, which a select box with a key does not take over
        st.session_state.pop(key, None)
        st.session_state[f"{key}-first"] = first
    return st.selectbox(
        "Vet on", list(datasets), format_func=lambda item: datasets[item].name, index=first if datasets else None, key=key,
        help="Vetting measures the accuracy on this data set under the declared and other normalizations.",
    )  # fmt: skip


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
