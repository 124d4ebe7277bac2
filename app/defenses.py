"""Fitting a defense, and the list of those that are stored."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app import forms
from app.class_match import class_match
from app.commands.show import when
from app.job_details import failure
from app.render import identifier
from app.state import client, parameter
from app.text import plain
from app.widgets import choose, choose_row, errors_shown, live
from auditor.defending.defense import DEFENSES
from auditor.defending.fit import MOST_IN_A_ROW, FitSpec
from auditor.kit.scratch import scratch
from auditor.models.class_table import ClassTable
from worker.defenses import DefenseView

QUORUM = 0.5
"""Where the form of a defense with a template begins."""


def fit_form() -> None:
    """The form of a fit."""
    models, datasets = list(client().library.models()), list(client().library.datasets())
    model = choose_row("Model", models, "model", "defend", "It is not changed: the defense is applied in front of it.")
    with errors_shown():
        spec = _spec()
        dataset = None
        if spec.learns:
            told = "Training images to fit the defense on. Evaluate it on another data set."
            dataset = choose_row("Training images", datasets, "dataset", "defend", told)
            if model and dataset:
                spec = spec.model_copy(update={"match": class_match(model, dataset, "defend", folded=True)})
        else:
            st.caption("This defense is not fitted: it needs no training images and is ready at once.")
        name = st.text_input("Name", key="defend-name", placeholder="by default the defense's and the model's")
        ready = bool(model and (dataset or not spec.learns))
        if st.button("Fit the defense", type="primary", key="defend-fit", disabled=not ready):
            made = client().defenses.fit(str(model), spec, str(dataset or ""), name)
            st.query_params.from_dict({"job": made.job_id} if made.job_id else {"defense": made.defense_id})
            st.rerun()


def _spec() -> FitSpec:
    """Defenses of the catalogue in their order, with their parameters; a SpecError says what is wrong with a value."""
    members = {member.kind_name(): member for member in DEFENSES}
    with st.expander("All defenses, one sentence each"):
        for member in members.values():
            st.markdown(f"**{plain(member.display_title())}**: {plain(member.summary())}")
    chosen = st.multiselect(
        "Defenses", list(members), ["nip"], key="defend-kinds", max_selections=MOST_IN_A_ROW,
        format_func=lambda kind: members[kind].display_title(), placeholder="Choose one or more, in order",
        help="Several are applied one after another, in this order.",
    )  # fmt: skip
    defenses = []
    for place, kind in enumerate(chosen, 1):
        number = f"{place}. " if len(chosen) > 1 else ""
        st.caption(plain(f"{number}{members[kind].summary()}"))
        with st.expander(f"{number}{members[kind].display_title()}: settings"):
            has_template = "quorum" in members[kind].parameters()
            if has_template:
                st.caption(
                    "The paper's template asks for all images (quorum 1), which leaves no neuron if there are many images. "
                    "The form therefore starts with half of them."
                )
            start = {"quorum": QUORUM} if has_template else {}
            defenses.append(forms.capability(DEFENSES, kind, "defend", defaults=start))
    with st.expander("Fit settings"):
        values = forms.fields(FitSpec, "defend-fit", skip=("defenses", "match"))
    return FitSpec.load(values | {"defenses": defenses})


def under_way() -> None:
    """Fits that have not ended, and the outcome of the one that the page's address names."""
    for job in client().jobs.find(kind="fit-defense", states=("queued", "running")):
        live(job.id, titled=True)
    wanted = parameter("job")
    if not wanted:
        return
    job = client().jobs.get(wanted)
    if not job.ended or job.kind != "fit-defense":
        return
    made = client().defenses.made_by(job.id)
    if made is not None:
        st.query_params.from_dict({"defense": made.id})
    elif job.state == "succeeded":
        st.info("The defense that this job fitted was deleted.")
    else:
        failure(job, f"{job.title}:")


def pick(views: list[DefenseView]) -> DefenseView | None:
    """The table of the stored defenses, and the one that is looked at, the newest at first."""
    st.table(
        [
            {
                "Defense": plain(view.row.name), "Of": plain(view.row.manifest["title"]), "Model": plain(view.model),
                "Fitted on": plain(_learnt_from(view)), "Evaluations": view.evaluations,
                "Fitted (UTC)": when(view.row.created),
            }
            for view in views
        ],
        hide_index=True,
    )  # fmt: skip
    by_id = {view.row.id: view for view in views}

    def naming(asked: str) -> tuple[str | None, str]:
        named = [view.row.id for view in views if view.row.id.startswith(asked) or view.row.name == asked]
        return (named[0], "") if len(named) == 1 else (None, f"There is no defense {plain(asked)}.")

    titles, newest = {key: view.row.name for key, view in by_id.items()}, views[0].row.id
    chosen = choose("Defense", titles, "defense", key="defend-chosen", naming=naming, first=newest, alone=True)
    return by_id[chosen] if chosen else None


def _learnt_from(view: DefenseView) -> str:
    count = view.row.manifest["lineage"]["count"]
    return f"{count:,} images of {view.dataset}" if view.dataset else "nothing"


def card(view: DefenseView) -> None:
    """What is known of a stored defense, and what can be done with it."""
    spec = FitSpec.load(view.row.spec)
    left, middle, right = st.columns([6, 2, 2], vertical_alignment="center")
    left.markdown(f"**{plain(view.row.name)}**, in front of {plain(view.model)}")
    middle.download_button(
        "Download (.zip)", data=lambda: _archive(view.row.id), file_name=f"defense-{view.row.id[:8]}.zip",
        mime="application/zip", icon=":material/download:", on_click="ignore", key="defend-download",
        help="The model with its defense, as a folder that needs only PyTorch.",
    )  # fmt: skip
    with right.popover("Delete", icon=":material/delete:", disabled=view.evaluations > 0):
        st.markdown(f"Delete {plain(view.row.name)}? This cannot be undone.")
        if st.button("Delete", type="primary", key="defend-delete"):
            _delete(view)
    if view.evaluations:
        st.caption("It cannot be deleted: evaluations refer to it.")
    with st.expander("How it was made"):
        lineage = view.row.manifest["lineage"]
        kept = view.row.manifest.get("classes")
        classes = None if kept is None else ClassTable.model_validate(kept)
        facts: dict[str, Any] = {
            "Defenses": "; ".join(defense.describe() for defense in spec.defenses),
            "Model": f"{view.model}, tensors {lineage['weights']}",
            "Fitted on": _learnt_from(view),
            **({"Classes of the data": f"matched {classes.describe()}"} if classes is not None else {}),
            "Seed": spec.seed,
            "File": f"{view.row.manifest['bytes'] / 1e6:.2f} MB",
        }
        st.table([{"What": name, "Value": plain(str(value))} for name, value in facts.items()], hide_index=True)
        identifier("Id", view.row.id)
        identifier("SHA-256 of the file", view.row.content)
        for note in view.row.manifest.get("notes", ()):
            st.info(plain(note))
        if any(view.row.manifest["facts"]):
            st.json(view.row.manifest["facts"], expanded=1)


def _delete(view: DefenseView) -> None:
    with errors_shown():
        client().defenses.delete(view.row.id)
        st.query_params.clear()
        st.rerun()


def _archive(defense_id: str) -> bytes:
    with scratch("export") as folder:
        file = folder / "defense.zip"
        client().defenses.export_archive(defense_id, file)
        return file.read_bytes()
