"""Start: what this is, and the next step."""

import streamlit as st

from app.commands.show import robustness
from app.state import client
from app.text import plain

NEWEST = 8

st.title("Neuron Auditor")
st.markdown(
    "Where and why does an image classifier break? Add a model and a data set, run an audit, and read what attacks do to it, "
    "layer by layer and neuron by neuron."
)
models, datasets, audits = client().library.models(), client().library.datasets(), client().jobs.counts(kind="audit")
with st.container(horizontal=True):
    for title, count, page, label in (
        ("Models", len(models), "views/models.py", "Add or inspect a model"),
        ("Data sets", len(datasets), "views/datasets.py", "Add or inspect a data set"),
        ("Audits", sum(audits.values()), "views/new_audit.py", "Run an audit"),
    ):
        with st.container(border=True, width=260):
            st.metric(title, count)
            st.page_link(page, label=label)
finished = client().jobs.find(kind="audit", states=("succeeded",), limit=NEWEST)
if finished:
    st.subheader("Finished audits")
    for job in finished:
        left, right = st.columns([4, 1], vertical_alignment="center")
        left.markdown(f"**{plain(job.title)}**: {plain(robustness(job.summary))}")
        right.page_link("views/result.py", label="Open", query_params={"audit": job.id})
    if len(finished) > 1:
        pair = {"a": finished[1].id, "b": finished[0].id}
        st.page_link("views/compare.py", label="Compare the two newest", query_params=pair)
    if audits["succeeded"] > len(finished):
        label = f"All {audits['succeeded']:,} finished audits"
        st.page_link("views/jobs.py", label=label, query_params={"kind": "audit", "state": "succeeded"})
