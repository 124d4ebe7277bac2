"""Data sets: the list, a look into one, and adding another."""

import base64
from collections.abc import Sequence
from contextlib import AbstractContextManager
from io import BytesIO
from typing import Any, BinaryIO, Literal, get_args

import altair as alt
import streamlit as st
from pydantic import ValidationError
from streamlit.delta_generator import DeltaGenerator
from streamlit.runtime.uploaded_file_manager import UploadedFile

from app.commands.show import when
from app.render import identifier
from app.state import client, parameter
from app.text import plain
from app.widgets import errors_shown
from auditor.data.intake.bundle import Part, bundle_name, bundled
from auditor.data.intake.image_size import ImageSize
from auditor.data.intake.label_map import parse_label_map
from auditor.data.intake.presets import size_of_preset
from auditor.data.intake.reading import WAYS, Choice, Chosen, Reading
from auditor.kit.errors import AuditorError, SpecError
from auditor.show.blocks import Image
from worker.models import DatasetRow

TYPES = ("npz", "npy", "zip", "tar", "gz", "tgz", "parquet", "arrow")
AS_IS, WHOLE, CROP, PUBLISHED, PRESET = (
    "unchanged (all of one size)",
    "resize the whole image",
    "resize the shorter side, crop the centre",
    "resize the shorter side to a length, then crop the centre",
    "as published weights were evaluated",
)
INTERPOLATIONS: tuple[Literal["bilinear", "bicubic", "nearest", "lanczos"], ...] = get_args(
    ImageSize.model_fields["interpolation"].annotation
)
SEVERAL: tuple[Chosen, ...] = ("parts", "corruptions", "severities")
HELP: dict[Chosen, str] = {
    "inside": "A folder of the archive, or an .npz file in it.",
    "parts": "Such as train, val or test; several, with commas, are joined.",
    "images": "The array of an .npz file, or the column of a list.",
    "labels": "The array of an .npz file, or the column of a list.",
    "corruptions": "Of a set such as CIFAR-10-C; several with commas; all if it is empty.",
    "severities": "1 to 5; several with commas; all if it is empty.",
    "listing": "A CSV or text file of the archive that names each image and its label.",
}

CHANNELS = {
    "as": "as they are",
    "grey": "1: convert colour to grey",
    "colour": "3: copy grey to three equal channels",
}
CHANNEL_COUNTS: dict[str, Literal[1, 3] | None] = {"as": None, "grey": 1, "colour": 3}
FOLDERS: dict[Literal["numbers", "sorted"], str] = {
    "numbers": "are the numbers of the classes",
    "sorted": "are sorted as text, as torchvision does (0, 1, 10, 2)",
}


def catalogue(rows: list[DatasetRow]) -> None:
    """Every data set; a click opens it."""
    table = [
        {
            "Name": row.name,
            "Images": row.manifest["samples"],
            "Shape": "x".join(map(str, row.manifest["shape"])),
            "Classes": row.manifest["num_classes"],
            "Added (UTC)": when(row.created),
            "Id": row.id[:8],
        }
        for row in rows
    ]
    event = st.dataframe(table, hide_index=True, on_select="rerun", selection_mode="single-row", key="datasets")
    chosen: list[int] = event["selection"]["rows"]
    if chosen:
        st.query_params["dataset"] = rows[chosen[0]].id


@st.cache_data(show_spinner=False, max_entries=32)
def preview(dataset_id: str) -> list[Image]:
    return client().library.preview(dataset_id)


def look(row: DatasetRow) -> None:
    """Counts, notes and a few images of one data set."""
    st.header(plain(row.name), anchor=False)
    with st.expander("Id and hash"):
        identifier("Id", row.id)
        identifier("SHA-256 of the content", row.content)
    for text in row.manifest["notes"]:
        st.info(plain(text))
    for text in row.manifest["warnings"]:
        st.warning(plain(text))
    names = row.manifest["class_names"] or [f"class {index}" for index in range(row.manifest["num_classes"])]
    counts = [{"class": name, "images": count} for name, count in zip(names, row.manifest["class_counts"], strict=True)]
    chart = alt.Chart(alt.Data(values=counts)).mark_bar(color="#3b6fb6")
    chart = chart.encode(
        x=alt.X("class:N", sort=None, title=None), y=alt.Y("images:Q"), tooltip=["class:N", "images:Q"]
    )
    st.altair_chart(chart.properties(height=220), alt="Images of each class")
    with st.container(horizontal=True):
        for image in preview(row.id):
            st.image(base64.b64decode(image.data), caption=plain(image.caption), width=96)


def options(size: ImageSize | None, choices: Sequence[Choice]) -> Reading:
    """What is seldom needed: parts, arrays, channels, scales, labels that count from 1, files that cannot be used.

    ``choices``: what the file offers; each is a select box of that, else a text.
    """
    needed = [_label(choice.field) for choice in choices if choice.needed]
    if needed:
        st.info(f"The file can be read in several ways. Choose below: {', '.join(needed)}.")
    with st.expander("How the file is read", expanded=bool(needed)):
        offered = {choice.field: choice for choice in choices}
        chosen: dict[str, Any] = {}
        places = [place for _ in range(3) for place in st.columns(3)]
        for place, field in zip(places, WAYS, strict=False):
            chosen[field] = choice_of(place, field, _label(field), offered.get(field))
        label_map = places[7].text_input(
            "Label map", key="dataset-label-map", placeholder="a=0, b=1, c=",
            help="Rename, renumber, merge or leave out classes: a=0, b=1, c= (c is left out), or JSON.",
        )  # fmt: skip
        roi = st.checkbox(
            "Crop to the region of interest", key="dataset-roi",
            help="Columns Roi.X1, Roi.Y1, Roi.X2 and Roi.Y2 of the lists beside the images, as GTSRB has them.",
        )  # fmt: skip
        first, second, third = st.columns(3)
        channels = first.selectbox("Channels", list(CHANNELS), format_func=CHANNELS.__getitem__, key="dataset-channels")
        layout = second.selectbox(
            "Order of the axes",
            ["auto", "NHWC", "NCHW"],
            key="dataset-layout",
            help="For an array of images in an .npz file.",
        )
        largest = third.number_input(
            "Largest pixel value", 0, 65_535, 0, key="dataset-largest-value",
            help="White in 16-bit images and in integer arrays, such as 4095 for 12 bits; 0: the maximum of the type.",
        )  # fmt: skip
        start = first.number_input(
            "Labels count from", 0, 99_999, 0, key="dataset-first-label", help="1 if the first class is numbered 1."
        )
        folders = second.selectbox(
            "Class folders named by numbers", list(FOLDERS), format_func=FOLDERS.__getitem__, key="dataset-folders"
        )
        leave_out = st.checkbox(
            "Skip unusable files and images", key="dataset-leave-out",
            help="Files that are not readable images, and images with NaN, are listed and skipped; the rest is used.",
        )  # fmt: skip
        exclude = st.text_input(
            "Leave out", key="dataset-exclude", placeholder="*.gif, raw/*, #12-20",
            help="Files by patterns of their paths or names, samples by number; with commas between.",
        )  # fmt: skip
    return Reading(
        size=size, channels=CHANNEL_COUNTS[channels], layout=layout, largest_value=int(largest) or None,
        first_label=int(start), folders=folders, leave_out=leave_out, roi=roi, label_map=parse_label_map(label_map),
        exclude=tuple(part.strip() for part in exclude.split(",") if part.strip()), **chosen,
    )  # fmt: skip


def _label(field: Chosen) -> str:
    """What the page calls a choice."""
    return WAYS[field].label.split("'")[1]


def choice_of(place: DeltaGenerator, field: Chosen, label: str, choice: Choice | None) -> Any:
    """What is chosen of a field of the Reading: of what the file offers, or as it is typed."""
    key = f"dataset-{field}"
    several = field in SEVERAL
    if choice is not None and several:
        found = place.multiselect(
            label, choice.values, key=f"{key}-offered", placeholder="choose" if choice.needed else "all"
        )
    elif choice is not None:
        taken = place.selectbox(label, choice.values, index=None, key=f"{key}-offered")
        return taken or ""
    else:
        text = place.text_input(label, key=key, help=HELP[field])
        if not several:
            return text.strip()
        found = [item.strip() for item in text.split(",") if item.strip()]
    return tuple(int(item) if item.isdecimal() else 0 for item in found) if field == "severities" else tuple(found)


def upload_of(files: Sequence[UploadedFile]) -> AbstractContextManager[BinaryIO]:
    """One file as it is, several as one archive."""
    if len(files) == 1:
        return BytesIO(files[0].getbuffer())
    return bundled([Part(file.name, BytesIO(file.getbuffer())) for file in files])


def offers(files: Sequence[UploadedFile], taken: str | None) -> tuple[Choice, ...]:
    """What the chosen files leave open, as a sandbox finds it; asked once for each file and folder inside."""
    if not files and taken is None:
        return ()
    inside = str(st.session_state.get("dataset-inside-offered") or st.session_state.get("dataset-inside") or "")
    known = (tuple(file.file_id for file in files), taken, inside)
    if st.session_state.get("dataset-known") != known:
        names = [file.name for file in files] or [str(taken)]
        try:
            stream = upload_of(files) if files else client().library.open_inbox(str(taken))
            with st.spinner("Looking into the file in a sandbox"), stream as opened:
                found = client().library.look_into_dataset(opened, bundle_name(names), inside=inside).choices
        except AuditorError:
            found = ()  # adding it says why
        whole = st.session_state.get("dataset-choices", ()) if inside else ()
        kept = [choice for choice in whole if choice.field == "inside"]
        st.session_state["dataset-known"] = known
        st.session_state["dataset-choices"] = (
            *kept,
            *(choice for choice in found if choice.field != "inside" or not kept),
        )
    return tuple(st.session_state["dataset-choices"])


def size_chosen() -> ImageSize | None:
    """The size of the images, as the page asks for it. Raises SpecError for a preset that is unknown."""
    columns = st.columns(3)
    mode = columns[0].selectbox("Size of the images", [AS_IS, WHOLE, CROP, PUBLISHED, PRESET], key="dataset-size")
    if mode == AS_IS:
        return None
    if mode == PRESET:
        preset = columns[1].text_input(
            "Published weights", key="dataset-preset", placeholder="torchvision:resnet50.IMAGENET1K_V2",
            help="torchvision:MODEL.WEIGHTS or timm:MODEL.TAG; the sizes are asked of the installed library.",
        )  # fmt: skip
        if not preset.strip():
            return None
        size = size_of_preset(preset.strip())
        st.caption(plain(size.text()))
        return size
    height = columns[1].number_input("Height", 4, 1024, 224, key="dataset-height")
    width = columns[2].number_input("Width", 4, 1024, 224, key="dataset-width")
    first, second, third = st.columns(3)
    interpolation = first.selectbox("Interpolation", INTERPOLATIONS, key="dataset-interpolation")
    shorter = second.number_input("Shorter side", 1, 4096, 256, key="dataset-shorter") if mode == PUBLISHED else None
    antialias = third.checkbox(
        "Antialias", True, key="dataset-antialias", help="Average pixels when images become smaller, as Pillow does."
    )
    try:
        return ImageSize(
            height=int(height), width=int(width), mode="resize" if mode == WHOLE else "resize-crop",
            shorter_side=shorter, interpolation=interpolation, antialias=antialias,
        )  # fmt: skip
    except ValidationError as error:
        raise SpecError.from_validation("size", error) from None


def add() -> None:
    """The form for another data set."""
    source = st.file_uploader(
        "Images", type=TYPES, key="dataset-file", accept_multiple_files=True,
        help="An .npz with images and labels (and class_names), or a zip or tar of images in class folders or with a list. "
        "Several files, such as images.npy and labels.npy, are read together.",
    )  # fmt: skip
    waiting = [name for name in client().library.inbox() if name.endswith(tuple(f".{kind}" for kind in TYPES))]
    taken = (
        st.selectbox("or a file from the server's inbox", waiting, index=None, key="dataset-inbox") if waiting else None
    )
    name = st.text_input("Name", key="dataset-name", placeholder="by default the file's")
    try:
        size = size_chosen()
        reading = options(size, offers(source, taken))
    except AuditorError as error:
        st.error(f"{plain(error.message)} {plain(error.hint)}".strip())
        return
    if not st.button("Add the data set", type="primary", key="dataset-add"):
        return
    if not source and taken is None:
        st.error("Choose a file of images first.")
        return
    with errors_shown():
        filename = bundle_name([file.name for file in source] or [str(taken)])
        stream = upload_of(source) if source else client().library.open_inbox(str(taken))
        waiting_place = st.empty()
        with st.spinner("Checking the file in a sandbox"), stream as opened:
            row = client().library.add_dataset(
                opened, filename, name=name or filename.rsplit(".", 1)[0], reading=reading, on_wait=waiting_place.info
            )
        st.query_params["dataset"] = row.id
        st.rerun()


st.title("Data sets")
datasets = list(client().library.datasets())
if datasets:
    catalogue(datasets)
else:
    st.info("No data sets yet. Add one below.")
key = parameter("dataset")
if key:
    look(client().library.dataset(key))
with st.expander("Add a data set", expanded=not datasets, icon=":material/upload:"):
    add()
