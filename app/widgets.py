"""What the pages' widgets share: a choice that stands in the page's address, the box of an error, a job's progress."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import streamlit as st

from app.commands.show import duration, when
from app.state import client, parameter
from app.text import plain
from auditor.kit.errors import AuditorError, NotFoundError
from worker.client import JobView
from worker.models import DatasetRow, ModelRow

LISTED = 200
"""Jobs listed in one select box. Older ones are on the Jobs page or open by their address."""

SHORTEST = 4
"""Characters of an id in an address that are enough to name it."""

Naming = Callable[[str], tuple[str | None, str]]
"""Which of the options an address names, or None and why, in a sentence."""


@contextmanager
def errors_shown() -> Iterator[None]:
    """An error inside is said in one box, and the page goes on after it."""
    try:
        yield
    except AuditorError as error:
        error_box(error.message, error.hint)


def error_box(message: str, hint: str) -> None:
    """What is wrong, and the remedy."""
    st.error(f"{plain(message)} {plain(hint)}".strip())


def progress_bar(job: JobView, before: str = "") -> None:
    """How far a job is, and about how long it takes yet."""
    time_left = f", about {duration(job.eta)} left" if job.eta is not None else ""
    st.progress(job.share, text=plain(f"{before}{100 * job.share:.0f} %: {job.step or job.state}{time_left}"))


@st.fragment(run_every=2.0)
def live(
    job_id: str, *, titled: bool = False, help: str | None = None, more: Callable[[str], None] | None = None
) -> None:
    """A job that has not ended: its progress, the button that cancels it (``help``), and what ``more`` draws of it.

    It draws itself again every two seconds, and the whole page when the job has ended.
    """
    job = client().jobs.get(job_id)
    if job.ended:
        st.rerun()
    left, right = st.columns([5, 1], vertical_alignment="center")
    with left:
        progress_bar(job, f"{job.title}, " if titled else "")
    if right.button("Cancel", key=f"cancel-{job_id}", help=help):
        client().jobs.cancel(job_id)
        st.rerun(scope="fragment")
    if job.notice:
        st.caption(plain(job.notice))
    if more is not None:
        more(job_id)


def choose(
    label: str,
    titles: Mapping[str, str],
    name: str,
    *,
    key: str,
    naming: Naming,
    first: str | None = None,
    placeholder: str = "Choose",
    alone: bool = False,
) -> str | None:
    """One of these ids, each shown by its title; an address that is new decides, then the select box.

    The id stands in the page's address under ``name``; with ``alone``, the rest of the address goes when another is chosen.
    ``first`` is chosen where neither says anything; else nothing is, which is None. The titles must not change while the page
    is open: the select box keeps its choice under its title.
    """
    asked, seen = parameter(name), f"{key}-address"
    named, fault = naming(asked) if asked else (None, "")
    new = bool(asked) and (key not in st.session_state or st.session_state.get(seen) != asked)
    chosen = named if new else st.session_state.get(key)
    st.session_state[key] = chosen if chosen in titles else first
    if fault and (new or st.session_state[key] is None):
        st.warning(f"{fault} Choose one of these.")
    chosen = st.selectbox(
        label, list(titles), index=None if first is None else 0, format_func=titles.__getitem__, placeholder=placeholder,
        key=key,
    )  # fmt: skip
    if chosen is not None and chosen != asked:
        if alone:
            st.query_params.clear()
        st.query_params[name] = chosen
    elif chosen is None and asked and not fault:  # the box was emptied
        del st.query_params[name]
    st.session_state[seen] = parameter(name)
    return chosen


def beginning(ids: Iterable[str], missing: str) -> Naming:
    """An id, or the beginning of one, names it; else ``missing`` is said, with the address in place of {}."""

    def naming(asked: str) -> tuple[str | None, str]:
        found = [one for one in ids if len(asked) >= SHORTEST and one.startswith(asked)]
        return (found[0], "") if len(found) == 1 else (None, missing.format(plain(asked)))

    return naming


def place(options: Iterable[str], name: str) -> int | None:
    """Where the option stands that the page's address names; None where it names none."""
    ids = list(options)
    return ids.index(parameter(name)) if parameter(name) in ids else None


def choose_row(
    label: str,
    rows: Sequence[ModelRow | DatasetRow],
    name: str,
    page: str,
    help: str | None = None,
    *,
    kept: bool = False,
) -> str | None:
    """A model or a data set by name; the only one is chosen at once. ``page`` begins the widget's key.

    Its id may stand in the page's address under ``name``, and does from then on where it is ``kept``.
    """
    names = {row.id: row.name for row in rows}
    index = place(names, name)
    chosen = st.selectbox(
        label, list(names), index=0 if index is None and len(names) == 1 else index, format_func=names.__getitem__,
        key=f"{page}-{name}", placeholder="Choose", help=help,
    )  # fmt: skip
    if chosen and kept:
        st.query_params[name] = chosen
    return chosen


def choose_job(
    label: str,
    name: str,
    *,
    kind: str = "audit",
    states: Sequence[str] = ("succeeded",),
    noun: str = "finished audit",
    what: str = "an audit",
) -> JobView | None:
    """One job, whose id stands in the page's address under ``name``. ``noun``, ``what``: what such a job is called."""
    jobs = {job.id: job for job in client().jobs.find(kind=kind, states=states, limit=LISTED)}
    key, asked = f"choose-{name}", parameter(name)
    named, fault = _job(asked, kind, states, noun) if asked else (None, "")
    for older in (named, st.session_state.get(key)):
        if older is not None and older not in jobs:
            jobs[older] = client().jobs.get(older)
    titles = {job.id: f"{job.title} · {when(job.created)} · {job.id[:8]}" for job in jobs.values()}
    chosen = choose(label, titles, name, key=key, naming=lambda _: (named, fault), placeholder=f"Choose {what}")
    total = sum(client().jobs.counts(kind=kind, states=states).values())
    if total > LISTED:
        st.page_link(
            "views/jobs.py",
            label=f"This box lists the newest {LISTED} of {total:,}. Find the others on the Jobs page.",
            query_params={"kind": kind},
        )
    return jobs[chosen] if chosen else None


def _job(asked: str, kind: str, states: Sequence[str], noun: str) -> tuple[str | None, str]:
    """The id of the job that an address names, or why it names none."""
    try:
        job = client().jobs.get(asked)
    except NotFoundError as error:
        return None, plain(f"There is no {noun} {asked}." if error.message.startswith("There is no") else error.message)
    if job.kind != kind:
        return None, plain(f"There is no {noun} {asked}: that job is of kind {job.kind}.")
    if job.state not in states:
        return None, plain(f"There is no {noun} {asked}: it is {job.state}. See the Jobs page for details.")
    return job.id, ""
