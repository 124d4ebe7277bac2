"""Evaluations of a stored defense: the form, their progress, and their results."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app import forms, render
from app.class_match import class_match
from app.commands.show import duration, rate, when
from app.job_details import failure
from app.playground import threat_form
from app.state import client, defense_report, defense_sections
from app.text import plain
from app.widgets import beginning, choose, errors_shown, live
from auditor.attacking.attack import ATTACKS, Attack, Ensemble
from auditor.attacking.threat import ThreatModel
from auditor.defending.effort import EFFORTS
from auditor.defending.evaluation import EvaluationSpec
from auditor.defending.fit import FitSpec
from auditor.defending.nip.adaptive import paper_attacks
from auditor.defending.nip.pool import CandidateDefense
from auditor.defending.nip.published import levels
from auditor.defending.spec import TableSpec
from auditor.defending.sweep import Sweep
from worker.defenses import DefenseView
from worker.service.defenses import EvaluationView


def evaluations(view: DefenseView) -> None:
    """All of them, a form for another, and the one that is looked at."""
    known = client().defenses.evaluations(view.row.id)
    with st.expander("New evaluation", expanded=not known, icon=":material/play_arrow:"):
        _add(view)
    if not known:
        return
    if len(known) > 1:
        _outcomes(known)
    job_id = _pick(known)
    if job_id is None:
        return
    job = next(item.job for item in known if item.job.id == job_id)
    if not job.ended:
        live(job_id)
    elif job.state != "succeeded":
        failure(job, "The evaluation has no result.")
    else:
        st.download_button(
            "Download the report", data=lambda: defense_report(job_id), file_name=f"defense-{job_id[:8]}.html",
            mime="text/html", icon=":material/download:", on_click="ignore", key="defend-report",
        )  # fmt: skip
        for section in defense_sections(job_id):
            render.section(section)


def _add(view: DefenseView) -> None:
    rows = {row.id: row for row in client().library.fitting(view.row.model_id)}
    ids = list(rows)
    if not ids:
        st.info("No data set has images that this model takes. Add one under Data sets.")
        return
    others = [item for item in ids if item != view.row.dataset_id]
    dataset = st.selectbox(
        "Test images", ids, index=ids.index(others[0]) if others else 0, format_func=lambda item: rows[item].name,
        key="evaluate-data", help="Do not use the images that the defense was fitted on.",
    )  # fmt: skip
    seen = dataset == view.row.dataset_id
    if seen:
        st.warning("The defense was fitted on images of this data set. Its numbers on those images are too high.")
    with errors_shown():
        match = class_match(view.row.model_id, dataset, "evaluate", folded=True)
        spec = _spec(view, seen).model_copy(update={"match": match})
        _show_cost(view, dataset, spec)
        if st.button("Evaluate", type="primary", key="evaluate-queue"):
            job_id = client().defenses.evaluate(view.row.id, dataset, spec)
            st.query_params.from_dict({"defense": view.row.id, "evaluation": job_id})
            st.rerun()


def _show_cost(view: DefenseView, dataset: str, spec: EvaluationSpec) -> None:
    """What the evaluation costs at most, before it is queued."""
    cost = client().defenses.estimate(view.row.id, dataset, spec)
    text = f"At most {cost.passes / cost.samples:,.0f} forward passes of the model for each of {cost.samples:,} images"
    if cost.seconds is not None:
        text += f", about {duration(cost.seconds)} on the machine that vetted it"
    st.caption(plain(f"{text}; images fooled early save much of this, and the defense's own computation adds to it."))


def _spec(view: DefenseView, seen: bool) -> EvaluationSpec:
    """The whole form; a SpecError says what is wrong with a value."""
    threat = threat_form("evaluate")
    titles = {name: effort.title for name, effort in EFFORTS.items()}
    name = st.segmented_control(
        "Effort", list(titles), default="quick", required=True, format_func=titles.__getitem__, key="evaluate-effort"
    )
    effort = EFFORTS[name or "quick"]
    st.caption(plain(effort.summary))
    values: dict[str, Any] = {}
    values["controls"] = st.checkbox(
        "Evaluate controls", value=True, key="evaluate-controls",
        help="Random moves of the same size; for NIP and NIP_n a random candidate. Each takes as long as the defense.",
    )  # fmt: skip
    if seen:
        values["unseen"] = st.checkbox("Only images that it was not fitted on", value=True, key="evaluate-unseen")
    chosen: dict[str, Any] = {**effort.values, "threat": threat}
    if any(isinstance(defense, CandidateDefense) for defense in FitSpec.load(view.row.spec).defenses):
        if st.checkbox("The NIP paper's own adaptive attacks", value=True, key="evaluate-paper"):
            chosen["influence"] = paper_attacks()
        told = "With its oracles, and a random direction with the same knowledge. They do not count for the headline."
        if st.checkbox("Reproduce the published code", value=False, key="evaluate-published", help=told):
            chosen["published"] = levels()
    with st.expander("All settings"):
        values |= forms.fields(
            EvaluationSpec,
            f"evaluate-{name}",
            only=("samples", "sweep_samples", "device"),
            defaults={"samples": effort.samples},
        )
        chosen |= forms.fields(
            TableSpec, f"evaluate-{name}", skip=("threat", "static", "influence", "published"), defaults=effort.values
        )
        chosen["static"] = _static(threat)
        sweeps = st.text_area(
            "Sweeps", "", key="evaluate-sweeps", placeholder="k=1+5+10\nepsilon=2/255+8/255", height=80,
            help="One parameter and its values per line. Each value is a full evaluation on fewer images.",
        )  # fmt: skip
    values["sweeps"] = [Sweep.parse(line) for line in sweeps.splitlines() if line.strip()]
    return forms.checked(
        EvaluationSpec, values | {"evaluation": forms.checked(TableSpec, chosen, "evaluation")}, "evaluation"
    )


def _static(threat: ThreatModel) -> list[Attack]:
    """The attacks on the undefended model, with their parameters."""
    fitting = {
        member.kind_name(): member for member in ATTACKS
        if threat.norm in member.norms and not member.control and not issubclass(member, Ensemble)
    }  # fmt: skip
    kinds = st.multiselect(
        "Static attacks", list(fitting), [kind for kind in ("fgsm", "pgd") if kind in fitting],
        format_func=lambda kind: fitting[kind].display_title(), key=f"evaluate-static-{threat.norm}",
        help="Run on the undefended model, each within epsilon and for the closest image.",
    )  # fmt: skip
    made = []
    for kind in kinds:
        st.markdown(f"**{plain(fitting[kind].display_title())}**: {plain(fitting[kind].summary())}")
        usual = {"steps": 40} if kind == "pgd" else {}
        made.append(forms.capability(ATTACKS, kind, "evaluate-static", skip=("budget",), defaults=usual))
    return made


def _pick(known: list[EvaluationView]) -> str | None:
    """Which evaluation to show, the newest at first."""
    titles = {view.job.id: _title(view) for view in known}
    naming = beginning(titles, "There is no evaluation {} of this defense.")
    return choose("Evaluation", titles, "evaluation", key="evaluate-chosen", naming=naming, first=known[0].job.id)


def _title(view: EvaluationView) -> str:
    return f"{view.dataset}, {when(view.job.created)} · {view.job.id[:8]}"


def _outcomes(known: list[EvaluationView]) -> None:
    st.table(
        [
            {
                "Evaluation": view.job.id[:8], "Images": plain(view.dataset), "Queued (UTC)": when(view.job.created),
                "Outcome": plain(
                    f"at most {rate(view.job.summary['headline'])}, n = {view.job.summary['headline']['n']}, within "
                    f"{view.job.summary['threat']}"
                    if view.job.state == "succeeded" else view.job.state
                ),
            }
            for view in known
        ],
        hide_index=True,
    )  # fmt: skip
