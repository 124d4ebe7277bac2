"""Start: what this is, and the next step."""

import streamlit as st

from app.state import client
from app.text import plain

st.title("Neuron Auditor")
st.markdown(
    "Where and why does an image classifier break? Add a model and a data set, run an audit, and read what attacks do to it, "
    "layer by layer and neuron by neuron."
)
models, datasets, audits = client().models(), client().datasets(), client().jobs(kind="audit")
with st.container(horizontal=True):
    for title, count, page, label in (
        ("Models", len(models), "views/models.py", "Add or inspect a model"),
        ("Data sets", len(datasets), "views/datasets.py", "Add or inspect a data set"),
        ("Audits", len(audits), "views/new_audit.py", "Run an audit"),
    ):
        with st.container(border=True, width=260):
            st.metric(title, count)
            st.page_link(page, label=label)
finished = [job for job in audits if job.state == "succeeded"]
if finished:
    st.subheader("Finished audits")
    for job in finished[:8]:
        robust = (job.summary.get("robust") or [{}])[0]
        number = "not established" if job.summary.get("withheld") else f"{100 * robust.get('value', 0):.1f} %"
        left, right = st.columns([4, 1], vertical_alignment="center")
        left.markdown(f"**{plain(job.title)}**: {plain(number)} robust, {plain(str(robust.get('threat', '')))}")
        right.page_link("views/result.py", label="Open", query_params={"audit": job.id})
    if len(finished) > 1:
        pair = {"a": finished[1].id, "b": finished[0].id}
        st.page_link("views/compare.py", label="Compare the two newest", query_params=pair)
