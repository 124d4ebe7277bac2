"""Result: the whole of one audit, and its report as a file."""

import streamlit as st

from app import render
from app.samples import browser
from app.state import audit_result, client, parameter, report, sections
from app.widgets import choose_job
from auditor.neural.analyses.neuron_sensitivity import NeuronSensitivity
from auditor.neural.analysis import detail_of, keyed

MANY = 4  # from more analyses on, a reader picks those to draw: a browser takes its time over a hundred charts


def chosen_analyses(titles: dict[str, str], standard: str) -> list[str]:
    """Which analyses to draw, by key; the choice stands in the page's address."""
    if len(titles) <= MANY:
        return list(titles)
    st.header("Neuron-level analyses", anchor="analyses")
    named = [key for key in parameter("analyses").split(",") if key in titles]
    picked = st.pills(
        f"Shown here, of {len(titles)}; the report contains all", list(titles), selection_mode="multi",
        default=named or [standard if standard in titles else next(iter(titles))],
        format_func=lambda key: titles[key], key=f"analyses-{chosen}",
    )  # fmt: skip
    st.query_params["analyses"] = ",".join(picked)
    return picked


st.title("Result")
if not client().jobs.counts(kind="audit", states=("succeeded",)):
    st.info("No audit has finished yet. See Jobs.")
    st.stop()
job = choose_job("Audit", "audit")
if job is None:
    st.stop()
chosen = job.id
result = audit_result(chosen)
started = result.provenance.started[:16].replace("T", " ")
st.caption(f"{len(result.samples)} samples, {started} UTC")
with st.expander("Id and hashes"):
    render.identifier("Audit", chosen)
    render.identifier("SHA-256 of the model", result.provenance.model.sha256)
    render.identifier("SHA-256 of the data set", result.provenance.dataset.sha256)
st.download_button(
    "Download the report",
    data=lambda: report(chosen),
    file_name=f"audit-{chosen[:8]}.html",
    mime="text/html",
    icon=":material/download:",
    on_click="ignore",
)
findings = keyed(result.findings)
parts = sections(chosen)
titles = {part.key: part.title for part in parts if part.key in findings}
drawn: list[str] | None = None
for part in parts:
    finding = findings.get(part.key)
    if finding is not None:
        if drawn is None:
            drawn = chosen_analyses(titles, NeuronSensitivity.kind_name())
        if part.key not in drawn:
            continue
    detail = (lambda path, finding=finding: detail_of(finding, path)) if finding is not None else None
    if part.key == "reproduce":  # what a reader of numbers looks for comes before what repeats them
        browser(chosen, result)
    render.section(part, detail)
