"""The page frame: navigation, and the notice that no worker runs."""

from pathlib import Path

import streamlit as st

from app.state import client

PAGES = {
    "Audit": [
        st.Page("views/start.py", title="Start", icon=":material/home:", url_path="start", default=True),
        st.Page("views/new_audit.py", title="New audit", icon=":material/play_arrow:", url_path="new-audit"),
        st.Page("views/jobs.py", title="Jobs", icon=":material/list:", url_path="jobs"),
        st.Page("views/result.py", title="Result", icon=":material/monitoring:", url_path="result"),
        st.Page("views/neurons.py", title="Neurons", icon=":material/neurology:", url_path="neurons"),
        st.Page("views/compare.py", title="Compare", icon=":material/compare_arrows:", url_path="compare"),
    ],
    "Improve": [
        st.Page("views/harden.py", title="Harden", icon=":material/shield:", url_path="harden"),
        st.Page("views/defend.py", title="Defend", icon=":material/security:", url_path="defend"),
    ],
    "Library": [
        st.Page("views/models.py", title="Models", icon=":material/hub:", url_path="models"),
        st.Page("views/datasets.py", title="Data sets", icon=":material/image:", url_path="datasets"),
    ],
}

st.set_page_config(page_title="Neuron Auditor", page_icon=str(Path(__file__).parent / "icon.png"), layout="wide")
st.html(Path(__file__).parent / "page.css")
page = st.navigation(PAGES)
with st.sidebar:
    if not client().jobs.workers():
        st.warning("No worker is running: jobs wait. Start one with `auditor worker`.")
    if client().settings.token.get_secret_value().strip():
        st.html('<a href="/logout">Log out</a>')
page.run()
