"""Compare: two audits on the same samples, side by side."""

import streamlit as st

from app import render
from app.state import audit_result, client
from app.widgets import choose_job
from auditor.report.comparison import compare

st.title("Compare")
if sum(client().jobs.counts(kind="audit", states=("succeeded",)).values()) < 2:
    st.info("A comparison needs two finished audits on the same data set.")
    st.stop()
left, right = st.columns(2)
with left:
    first = choose_job("First audit", "a")
with right:
    second = choose_job("Second audit", "b")
if first is not None and second is not None:
    for part in compare(audit_result(first.id), audit_result(second.id)):
        render.section(part)
