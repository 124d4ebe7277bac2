"""Compare: two audits on the same samples, side by side."""

import streamlit as st

from app import render
from app.state import audit_result, choose_job, client
from auditor.comparison import compare

st.title("Compare")
finished = [job for job in client().jobs(kind="audit") if job.state == "succeeded"]
if len(finished) < 2:
    st.info("A comparison needs two finished audits on the same data set.")
    st.stop()
left, right = st.columns(2)
with left:
    first = choose_job("First audit", "a", finished)
with right:
    second = choose_job("Second audit", "b", finished)
if first and second:
    for part in compare(audit_result(first), audit_result(second)):
        render.section(part)
