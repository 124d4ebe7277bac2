"""The select box of finished jobs on the pages of results: any of them by its address, the newest by their title."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from app.commands.show import when
from app.state import client, parameter
from app.text import plain
from auditor.errors import NotFoundError
from worker.client import JobView

LISTED = 200
"""Jobs in one select box; older ones are found on the Jobs page, or by their address."""


def choose_job(
    label: str,
    name: str,
    *,
    kind: str = "audit",
    states: Sequence[str] = ("succeeded",),
    noun: str = "finished audit",
    what: str = "an audit",
) -> JobView | None:
    """One job, whose id stands in the page's address under ``name``; an address that is new decides, then the select box.

    ``noun``, ``what``: what such a job is called. None where nothing is chosen.
    """
    jobs = {job.id: job for job in client().jobs(kind=kind, states=states, limit=LISTED)}
    key, asked = f"choose-{name}", parameter(name)
    fault = ""
    if asked:
        named, fault = _named(asked, kind, states, noun)
        if key not in st.session_state or st.session_state.get(f"{key}-address") != asked:
            st.session_state[key] = named.id if named is not None else None
        st.session_state[f"{key}-address"] = asked
    current = st.session_state.get(key)
    if current is not None and current not in jobs:
        jobs[current] = client().job(current)
    titles = {job.id: f"{job.title} · {when(job.created)} · {job.id[:8]}" for job in jobs.values()}
    chosen = st.selectbox(
        label, list(titles), index=None, format_func=titles.__getitem__, placeholder=f"Choose {what}", key=key
    )
    if chosen:
        st.query_params[name] = st.session_state[f"{key}-address"] = chosen
    elif fault:
        st.warning(f"{fault} Choose one of these.")
    elif asked:  # the box was emptied
        del st.query_params[name]
    total = sum(client().count_jobs(kind=kind, states=states).values())
    if total > LISTED:
        st.page_link(
            "views/jobs.py",
            label=f"The box lists the newest {LISTED} of {total:,}. The Jobs page finds the others.",
            query_params={"kind": kind},
        )
    return jobs[chosen] if chosen else None


def _named(asked: str, kind: str, states: Sequence[str], noun: str) -> tuple[JobView | None, str]:
    """The job that an address names, or why it does not."""
    try:
        job = client().job(asked)
    except NotFoundError as error:
        return None, plain(f"There is no {noun} {asked}." if error.message.startswith("There is no") else error.message)
    if job.kind != kind:
        return None, plain(f"There is no {noun} {asked}: that job is of another kind ({job.kind}).")
    if job.state not in states:
        return None, plain(f"There is no {noun} {asked}: it is {job.state}. The Jobs page tells more.")
    return job, ""
