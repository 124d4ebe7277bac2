"""Datasets: the list, a look into one, and adding another."""

import base64
from io import BytesIO
from typing import Literal

import altair as alt
import streamlit as st

from app.commands.show import when
from app.render import identifier
from app.state import client, parameter
from app.text import plain
from auditor.errors import AuditorError
from auditor.intake.images import ImageSize
from auditor.intake.reading import Reading
from auditor.report.blocks import Image
from worker.models import DatasetRow

AS_IS, WHOLE, CROP = (
    "as they are (all of one size)",
    "resize the whole image",
    "resize the shorter side, cut out the centre",
)

CHANNELS = {
    "as": "as they are",
    "grey": "1: colours become grey",
    "colour": "3: grey images get three equal channels",
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
    return client().preview(dataset_id)


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
    images = preview(row.id)
    for column, image in zip(st.columns(len(images)), images, strict=True):
        column.image(base64.b64decode(image.data), caption=plain(image.caption), width="stretch")


def options(size: ImageSize | None) -> Reading:
    """What is seldom needed: channels, scales, labels that count from 1, files that cannot be used."""
    with st.expander("How the file is read"):
        first, second, third = st.columns(3)
        channels = first.selectbox("Channels", list(CHANNELS), format_func=CHANNELS.__getitem__, key="dataset-channels")
        layout = second.selectbox(
            "Order of the axes",
            ["auto", "NHWC", "NCHW"],
            key="dataset-layout",
            help="Of an array of images in an .npz.",
        )
        largest = third.number_input(
            "Largest pixel value", 0, 65_535, 0, key="dataset-largest-value",
            help="White in 16-bit images and in arrays of integers, such as 4095 where 12 bits are used; 0: that of the type.",
        )  # fmt: skip
        start = first.number_input(
            "Labels count from", 0, 99_999, 0, key="dataset-first-label", help="1 where the first class is called 1."
        )
        folders = second.selectbox(
            "Class folders called by numbers", list(FOLDERS), format_func=FOLDERS.__getitem__, key="dataset-folders"
        )
        leave_out = st.checkbox(
            "Leave out what cannot be used", key="dataset-leave-out",
            help="Files that are no readable image, and images with NaN, are named and left out; the rest is used.",
        )  # fmt: skip
    return Reading(
        size=size, channels=CHANNEL_COUNTS[channels], layout=layout, largest_value=int(largest) or None,
        first_label=int(start), folders=folders, leave_out=leave_out,
    )  # fmt: skip


def add() -> None:
    """The form for another data set."""
    source = st.file_uploader(
        "Images", type=("npz", "zip"), key="dataset-file",
        help="An .npz with images and labels (and class_names), or a zip of one folder of images per class.",
    )  # fmt: skip
    waiting = [name for name in client().inbox() if name.endswith((".npz", ".zip"))]
    taken = (
        st.selectbox("or a file of the server's inbox", waiting, index=None, key="dataset-inbox") if waiting else None
    )
    name = st.text_input("Name", key="dataset-name", placeholder="by default the file's")
    columns = st.columns(3)
    mode = columns[0].selectbox("Size of the images", [AS_IS, WHOLE, CROP], key="dataset-size")
    size = None
    if mode != AS_IS:
        height = columns[1].number_input("Height", 4, 1024, 224, key="dataset-height")
        width = columns[2].number_input("Width", 4, 1024, 224, key="dataset-width")
        size = ImageSize(height=int(height), width=int(width), mode="resize" if mode == WHOLE else "resize-crop")
    reading = options(size)
    if not st.button("Add the data set", type="primary", key="dataset-add"):
        return
    if source is None and taken is None:
        st.error("Choose a file of images first.")
        return
    try:
        filename = source.name if source is not None else str(taken)
        stream = BytesIO(source.getbuffer()) if source is not None else client().open_inbox(str(taken))
        waiting_place = st.empty()
        with st.spinner("Checking the file in a sandbox"), stream:
            row = client().add_dataset(
                stream, filename, name=name or filename.rsplit(".", 1)[0], reading=reading, on_wait=waiting_place.info
            )
    except AuditorError as error:
        st.error(f"{plain(error.message)} {plain(error.hint)}".strip())
        return
    st.query_params["dataset"] = row.id
    st.rerun()


st.title("Datasets")
datasets = list(client().datasets())
if datasets:
    catalogue(datasets)
else:
    st.info("No data sets yet. Add one below.")
key = parameter("dataset")
if key:
    look(client().dataset(key))
with st.expander("Add a data set", expanded=not datasets, icon=":material/upload:"):
    add()
