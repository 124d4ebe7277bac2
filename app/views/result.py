"""Result: the whole of one audit, and its report as a file."""

import streamlit as st

from app import render
from app.samples import browser
from app.state import audit_result, choose_job, client, report, sections
from auditor.analysis import detail_of, keyed

st.title("Result")
finished = [job for job in client().jobs(kind="audit") if job.state == "succeeded"]
if not finished:
    st.info("No audit has finished yet. See Jobs.")
    st.stop()
chosen = choose_job("Audit", "audit", finished)
if not chosen:
    st.stop()
result = audit_result(chosen)
started = result.provenance.started[:16].replace("T", " ")
st.caption(f"Audit {chosen[:8]}, {len(result.samples)} samples, {started} UTC")
st.download_button(
    "Download the report",
    data=lambda: report(chosen),
    file_name=f"audit-{chosen[:8]}.html",
    mime="text/html",
    icon=":material/download:",
    on_click="ignore",
)
findings = keyed(result.findings)
for part in sections(chosen):
    finding = findings.get(part.key)
    detail = (lambda path, finding=finding: detail_of(finding, path)) if finding is not None else None
    if part.key == "reproduce":  # what a reader of numbers looks for comes before what repeats them
        browser(chosen, result)
    render.section(part, detail)
