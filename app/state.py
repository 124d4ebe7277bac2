"""What the pages share: the client, cached results, and the address of a view."""

from __future__ import annotations

import streamlit as st

from auditor.auditing.examples import Examples
from auditor.auditing.result import AuditResult
from auditor.defending.playground import Play
from auditor.models.dataset import ImageDataset
from auditor.report.defense_evaluation import evaluation_sections
from auditor.report.section import document
from auditor.show.blocks import Section
from worker.client import Client


@st.cache_resource(show_spinner=False)
def client() -> Client:
    """One client for all sessions; it holds a pool of connections and no state of a user."""
    return Client()


@st.cache_resource(show_spinner="Reading the result", max_entries=16)
def audit_result(job_id: str) -> AuditResult:
    """A result never changes, so it is read once."""
    return client().audits.result(job_id)


@st.cache_resource(show_spinner="Drawing the result", max_entries=16)
def sections(job_id: str) -> list[Section]:
    return document(audit_result(job_id))


@st.cache_resource(show_spinner=False, max_entries=16)
def examples(job_id: str, record: int) -> Examples:
    return client().audits.examples(job_id, record)


@st.cache_resource(show_spinner=False, max_entries=16)
def audited_data(job_id: str) -> ImageDataset:
    return client().audits.data(job_id)


@st.cache_data(show_spinner="Writing the report", max_entries=8)
def report(job_id: str) -> str:
    return client().audits.report(job_id)


@st.cache_resource(show_spinner="Drawing the evaluation", max_entries=16)
def defense_sections(job_id: str) -> list[Section]:
    return evaluation_sections(client().defenses.evaluation(job_id))


@st.cache_data(show_spinner="Writing the report", max_entries=8)
def defense_report(job_id: str) -> str:
    return client().defenses.report(job_id)


@st.cache_resource(show_spinner=False, max_entries=64)
def played(job_id: str) -> Play:
    return client().defenses.played(job_id)


def parameter(name: str) -> str:
    """A value of the page's address, empty when it is not there."""
    return str(st.query_params.get(name, ""))
