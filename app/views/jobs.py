"""Jobs: live progress, time left, cancel, and why a job failed or waits; those that run first, then those that wait."""

from typing import Any, Literal

import streamlit as st

from app.commands.show import when
from app.job_details import details, run_again
from app.state import client, parameter
from app.text import plain
from app.widgets import error_box, place, progress_bar
from auditor.kit.errors import NotFoundError
from worker.client import JobView
from worker.job import JOBS

Colour = Literal["gray", "blue", "green", "red", "orange"]
MARKS: dict[str, Colour] = {
    "running": "blue",
    "queued": "gray",
    "succeeded": "green",
    "failed": "red",
    "cancelled": "orange",
}

PER_PAGE = 25

# What the jobs of the Defend page link to.
DEFEND = {"fit-defense": "Open the defense", "evaluate-defense": "Open the evaluation", "play": "Open the playground"}


def defend_address(job: JobView) -> dict[str, str]:
    """Where the Defend page shows what this job is about."""
    if job.kind == "fit-defense":
        return {"job": job.id}
    request: Any = client().jobs.request(job.id)
    if job.kind == "play":
        return {"defense": request.defense_id, "show": "Playground", "play": job.id}
    return {"defense": request.defense_id, "evaluation": job.id}


def card(job: JobView, *, opened: bool) -> None:
    """One job with what can be done about it."""
    with st.container(border=True):
        left, middle, right = st.columns([5, 2, 2], vertical_alignment="center")
        left.markdown(f"**{plain(job.title)}** · {job.kind} · `{job.id[:8]}`")
        middle.badge(job.state, color=MARKS[job.state])
        right.caption(f"{when(job.created)} UTC")
        if job.state == "running":
            progress_bar(job)
        if job.notice:
            st.caption(plain(job.notice))
        if job.error:
            error_box(job.error, job.hint)
        with st.container(horizontal=True):
            actions(job, opened=opened)
        if opened:
            details(job)


def actions(job: JobView, *, opened: bool) -> None:
    """What can be done with a job, side by side as far as there is room."""
    if job.state == "succeeded" and job.kind == "audit":
        st.page_link("views/result.py", label="Open the result", query_params={"audit": job.id})
    if job.state == "succeeded" and job.kind == "vet":
        st.page_link("views/models.py", label="Open the model's card", query_params={"model": str(job.model_id)})
    if job.kind == "harden":
        st.page_link("views/harden.py", label="Open the training", query_params={"job": job.id})
    if job.kind in DEFEND:
        st.page_link("views/defend.py", label=DEFEND[job.kind], query_params=defend_address(job))
    if not opened:
        label = "Why it failed" if job.state == "failed" else "Details"
        st.page_link("views/jobs.py", label=label, query_params={"job": job.id})
    if not job.ended and st.button("Cancel", key=f"cancel-{job.id}"):
        client().jobs.cancel(job.id)
        st.rerun(scope="fragment")
    if job.state in ("failed", "cancelled"):
        run_again(job)


def filters() -> dict[str, Any]:
    """Which jobs to show; the page's address may begin with a kind and a state."""
    kinds = {"": "Every kind"} | {member.kind_name(): member.display_title() for member in JOBS}
    states = {"": "Every state"} | {state: state.capitalize() for state in MARKS}
    left, middle, right = st.columns(3)
    kind = left.selectbox(
        "Kind", list(kinds), index=place(kinds, "kind") or 0, format_func=kinds.__getitem__, key="jobs-kind"
    )
    state = middle.selectbox(
        "State", list(states), index=place(states, "state") or 0, format_func=states.__getitem__, key="jobs-state"
    )
    text = right.text_input("Title or id", key="jobs-text", placeholder="any")
    return {"kind": kind or None, "states": (state,) if state else (), "text": text.strip()}


@st.fragment(run_every=1.0)
def board(which: dict[str, Any]) -> None:
    """The board refreshes itself; the rest of the page does not change. The job named in the address comes first."""
    named = parameter("job")
    if named:
        try:
            card(client().jobs.get(named), opened=True)
        except NotFoundError as error:
            st.warning(plain(error.message))
    counts = client().jobs.counts(**which)
    total = sum(counts.values())
    if not total:
        if not named:
            st.info(
                "No jobs yet. Queue one under New audit." if not any(which.values()) else "No job matches the filters."
            )
        return
    st.caption(", ".join(f"{counts[state]:,} {state}" for state in MARKS if state in counts) + ".")
    pages = -(-total // PER_PAGE)
    if st.session_state.get("jobs-page", 1) > pages:
        st.session_state["jobs-page"] = pages
    page = st.pagination(pages, key="jobs-page") if pages > 1 else 1
    for job in client().jobs.find(**which, pressing=True, limit=PER_PAGE, offset=(page - 1) * PER_PAGE):
        if not named or not job.id.startswith(named.lower()):
            card(job, opened=False)


st.title("Jobs")
board(filters())
