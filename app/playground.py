"""The playground of the Defend page: an image clean, attacked, defended, attacked through the defense."""

from __future__ import annotations

import base64
from typing import Any

import streamlit as st

from app import forms, render
from app.class_match import class_match
from app.commands.show import when
from app.job_details import failure
from app.state import client, played
from app.text import plain
from app.widgets import beginning, choose, errors_shown, live
from auditor.attacking.attack import ATTACKS
from auditor.attacking.threat import Norm, ThreatModel
from auditor.defending.playground import PlaySpec
from auditor.report.playground import READINGS, playground_blocks
from auditor.show.blocks import Image
from worker.client import JobView
from worker.defenses import DefenseView

PER_PAGE = 8


@st.cache_data(show_spinner=False, max_entries=64)
def thumbnails(dataset_id: str, start: int) -> list[Image]:
    return client().library.preview(dataset_id, PER_PAGE, start)


def threat_form(key: str) -> ThreatModel:
    """Norm and epsilon; a SpecError says what is wrong."""
    left, right = st.columns(2)
    norm = left.selectbox("Norm", list(Norm), format_func=lambda item: item.symbol, key=f"{key}-norm")
    epsilon = right.text_input(
        "Epsilon", "8/255", key=f"{key}-epsilon",
        help="Largest perturbation of pixels in [0, 1]: a number or a fraction.",
    )  # fmt: skip
    return forms.checked(ThreatModel, {"norm": norm, "epsilon": epsilon}, "threat")


@st.fragment
def playground(view: DefenseView) -> None:
    """A fragment of its own: turning pages of images does not draw the rest again."""
    rows = {row.id: row for row in client().library.fitting(view.row.model_id)}
    if not rows:
        st.info("No data set has images that this model takes. Add one under Data sets.")
        return
    ids = list(rows)
    others = [item for item in ids if item != view.row.dataset_id]
    left, right = st.columns([3, 1])
    dataset = left.selectbox(
        "Images", ids, index=ids.index((others or ids)[0]), format_func=lambda item: rows[item].name, key="play-data"
    )
    count = int(rows[dataset].manifest["samples"])
    pages = -(-count // PER_PAGE)
    page = right.number_input(f"Page, 1 to {pages:,}", 1, pages, key=f"play-page-{dataset}")
    start = (int(page) - 1) * PER_PAGE
    sample = _pick(dataset, start)
    with errors_shown():
        match = class_match(view.row.model_id, dataset, "play", folded=True)
        spec = _spec().model_copy(update={"match": match})
        if st.button(f"Play with image {sample}", type="primary", key="play-run"):
            st.query_params["play"] = client().defenses.play(view.row.id, dataset, sample, spec)
    job_id = _chosen(view)
    if job_id:
        _outcome(job_id)


def _chosen(view: DefenseView) -> str | None:
    """One of the runs with this defense, which stay."""
    known = client().defenses.plays(view.row.id)
    if not known:
        return None
    titles = {job.id: f"{_what(job)} · {when(job.created)} UTC · {job.id[:8]}" for job in known}
    naming = beginning(titles, "There is no run {} of the playground with this defense.")
    return choose(
        "Result",
        titles,
        "play",
        key=f"play-job-{view.row.id}",
        naming=naming,
        placeholder=f"Choose one of {len(known)}",
    )


def _what(job: JobView) -> str:
    """The image, attack and threat of a run."""
    request: Any = client().jobs.request(job.id)
    attack = request.play.attack.display_title()
    return f"image {request.sample} of {client().library.dataset(request.dataset_id).name}, {attack}, {request.play.threat}"


def _pick(dataset: str, start: int) -> int:
    """Pictures side by side; a click below one picks it."""
    key = f"play-sample-{dataset}"
    shown = thumbnails(dataset, start)
    chosen = int(st.session_state.get(key, 0))
    for place, (column, image) in enumerate(zip(st.columns(PER_PAGE), shown, strict=False)):
        sample = start + place
        column.image(base64.b64decode(image.data), caption=plain(image.caption), width="stretch")
        column.button(
            f"{sample}", key=f"play-pick-{sample}", type="primary" if sample == chosen else "secondary", width="stretch",
            help="Pick this image", on_click=_picked, args=(key, sample),
        )  # fmt: skip
    return chosen


def _picked(key: str, sample: int) -> None:
    st.session_state[key] = sample


def _spec() -> PlaySpec:
    threat = threat_form("play")
    with st.expander("Attack"):
        st.caption("The same attack runs on the network without the defense, and through the defense.")
        fitting = {
            member.kind_name(): member for member in ATTACKS
            if threat.norm in member.norms and member.uses_gradients and not member.control
        }  # fmt: skip
        kinds = list(fitting)
        kind = st.selectbox(
            "Attack", kinds, index=kinds.index("pgd") if "pgd" in fitting else 0, key=f"play-attack-{threat.norm}",
            format_func=lambda item: fitting[item].display_title(),
        )  # fmt: skip
        attack = forms.capability(ATTACKS, kind, "play", defaults={"steps": 40} if kind == "pgd" else {})
        values = forms.fields(PlaySpec, "play", only=("draws", "seed"))
    return forms.checked(PlaySpec, values | {"threat": threat, "attack": attack}, "playground")


def _outcome(job_id: str) -> None:
    job = client().jobs.get(job_id)
    if not job.ended:
        live(job_id)
        return
    if job.state != "succeeded":
        failure(job)
        return
    names = client().library.class_names(str(job.model_id), str(job.dataset_id))
    reading = st.segmented_control(
        "Influence on", list(READINGS), default="own", required=True, format_func=READINGS.__getitem__,
        key="play-reading", help="NIP uses the class that the network predicts for each image.",
    )  # fmt: skip
    for index, block in enumerate(playground_blocks(played(job_id), names, reading or "own")):
        if block.type == "images":
            render.images(block, beside=1)
        else:
            render.draw_block(block, f"play-{job_id}-{index}", None, ())
