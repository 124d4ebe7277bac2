"""What opens behind a job: its id, its times, what it was asked to do, its log; and running it again."""

from __future__ import annotations

import json

import streamlit as st

from app.commands.show import duration, when
from app.render import identifier
from app.state import client
from app.text import plain
from app.widgets import errors_shown
from auditor.kit.errors import AuditorError
from worker.client import JobView

LOG_HEIGHT = 400


def details(job: JobView) -> None:
    """The card of one job, opened."""
    identifier("Job id", job.id)
    st.caption(
        f"queued: {when(job.created)} UTC, attempts: {job.attempts}, time of the last attempt: {duration(job.seconds)}"
    )
    with st.expander("Request"):
        try:
            request = client().jobs.request(job.id).model_dump(mode="json")
            st.code(json.dumps(request, indent=2), language="json", height=LOG_HEIGHT)
        except AuditorError as error:  # a plug-in that is no longer installed
            st.caption(plain(str(error)))
    with st.expander("Log, for operators", expanded=job.state == "failed"):
        _log(job)


def failure(job: JobView, before: str = "") -> None:
    """Why a job has no result, and the way to its log and to running it again."""
    said = f"{job.error} {job.hint}".strip() or f"It was {job.state}."
    st.error(plain(f"{before} {said}".strip()))
    st.page_link("views/jobs.py", label="Open the job, to read its log or run it again", query_params={"job": job.id})


def run_again(job: JobView) -> None:
    """The button for a job that came to nothing."""
    if st.button(
        "Run again", key=f"again-{job.id}", icon=":material/replay:", help="Queues a new job with the same request."
    ):
        with errors_shown():
            st.query_params["job"] = client().jobs.run_again(job.id)
            st.rerun()


def _log(job: JobView) -> None:
    text = client().jobs.log(job.id)
    if text is None:
        st.caption(
            "No worker has started it yet." if not job.attempts
            else f"It is not on this machine. On its worker's machine it is logs/job-{job.id}.log in the home."
        )  # fmt: skip
        return
    st.code(text or "The log is empty.", language=None, height=LOG_HEIGHT, wrap_lines=True)
    st.download_button(
        "Download the log", text, f"job-{job.id}.log", "text/plain", on_click="ignore", key=f"log-{job.id}"
    )
