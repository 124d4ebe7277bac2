"""Defend: put defenses in front of a model, learn what they are worth against attackers who know them, and play with one."""

import streamlit as st

from app.defenses import card, fit_form, pick, under_way
from app.evaluations import evaluations
from app.playground import playground
from app.state import client, parameter

VIEWS = ["Evaluation", "Playground"]

st.title("Defend")
st.markdown(
    "Put a defense in front of a model and measure it: against attacks that do not know the defense, and against an "
    "attacker who does. The model itself is not changed."
)
if not client().library.models():
    st.info("To fit a defense, first add a model under Models.")
    st.stop()
under_way()
stored = client().defenses.find()
asked = bool(parameter("model"))
with st.expander("Fit a defense", expanded=not stored or asked, icon=":material/security:"):
    fit_form()
if not stored:
    st.info("No defense is stored yet. Fit one above.")
    st.stop()
st.subheader("Stored defenses", anchor="stored")
if "defend-view" not in st.session_state:
    st.session_state["defend-view"] = parameter("show") if parameter("show") in VIEWS else VIEWS[0]
picked = pick(stored)
if picked is not None:
    card(picked)
    look = st.segmented_control("Show", VIEWS, required=True, key="defend-view")
    if look == "Playground":
        playground(picked)
    else:
        evaluations(picked)
