"""What the pages share: the client, cached results, and the address of a view."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from auditor.dataset import ImageDataset
from auditor.defending.playground import Play
from auditor.examples import Examples
from auditor.report.blocks import Section
from auditor.report.defense_study import study_sections
from auditor.report.section import document
from auditor.result import AuditResult
from worker.client import Client
from worker.models import DatasetRow, ModelRow


@st.cache_resource(show_spinner=False)
def client() -> Client:
    """One client for all sessions; it holds a pool of connections and no state of a user."""
    return Client()


@st.cache_resource(show_spinner="Reading the result", max_entries=16)
def audit_result(job_id: str) -> AuditResult:
    """A result never changes, so it is read once."""
    return client().audit_result(job_id)


@st.cache_resource(show_spinner="Drawing the result", max_entries=16)
def sections(job_id: str) -> list[Section]:
    return document(audit_result(job_id))


@st.cache_resource(show_spinner=False, max_entries=16)
def examples(job_id: str, record: int) -> Examples:
    return client().examples(job_id, record)


@st.cache_resource(show_spinner=False, max_entries=16)
def audited_data(job_id: str) -> ImageDataset:
    return client().audited_data(job_id)


@st.cache_data(show_spinner="Writing the report", max_entries=8)
def report(job_id: str) -> str:
    return client().report(job_id)


@st.cache_resource(show_spinner="Drawing the evaluation", max_entries=16)
def defense_sections(job_id: str) -> list[Section]:
    return study_sections(client().defense_study(job_id))


@st.cache_data(show_spinner="Writing the report", max_entries=8)
def defense_report(job_id: str) -> str:
    return client().defense_report(job_id)


@st.cache_resource(show_spinner=False, max_entries=64)
def played(job_id: str) -> Play:
    return client().played(job_id)


def parameter(name: str) -> str:
    """A value of the page's address, empty when it is not there."""
    return str(st.query_params.get(name, ""))


def choose_row(label: str, rows: Sequence[ModelRow | DatasetRow], name: str, page: str, help: str) -> str | None:
    """A model or a data set by name; its id may stand in the page's address under ``name``. ``page`` begins the widget's key."""
    names = {row.id: row.name for row in rows}
    ids = list(names)
    index = ids.index(parameter(name)) if parameter(name) in ids else (0 if len(ids) == 1 else None)
    return st.selectbox(
        label, ids, index=index, format_func=names.__getitem__, key=f"{page}-{name}", placeholder="Choose", help=help
    )
