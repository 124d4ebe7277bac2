"""Preparing a defense, and the list of those that are stored."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app import forms
from app.commands.show import duration, when
from app.job_details import failure
from app.render import identifier
from app.state import choose_row, client, parameter
from app.text import plain
from auditor.defense import DEFENSES
from auditor.defense_fit import MOST_IN_A_ROW, FitSpec
from auditor.errors import AuditorError
from auditor.scratch import scratch
from worker.defenses import DefenseView

QUORUM = 0.5
"""Where the form of a defense with a template begins."""


def prepare() -> None:
    """The form of a preparation."""
    models, datasets = list(client().models()), list(client().datasets())
    model = choose_row("Model", models, "model", "defend", "It stays as it is: the defense stands in front of it.")
    try:
        spec = _spec()
        dataset = None
        if spec.learns:
            told = "Training images, from which the defense learns. Evaluate it on another data set."
            dataset = choose_row("Training images", datasets, "dataset", "defend", told)
        else:
            st.caption("This defense learns nothing: it needs no training images and is ready at once.")
        name = st.text_input("Name", key="defend-name", placeholder="by default the defense's and the model's")
        ready = bool(model and (dataset or not spec.learns))
        if st.button("Prepare the defense", type="primary", key="defend-prepare", disabled=not ready):
            made = client().fit_defense(str(model), spec, str(dataset or ""), name)
            st.query_params.from_dict({"job": made.job_id} if made.job_id else {"defense": made.defense_id})
            st.session_state["defend-chosen"] = made.defense_id or None
            st.rerun()
    except AuditorError as error:
        st.error(f"{plain(error.message)} {plain(error.hint)}".strip())


def _spec() -> FitSpec:
    """Defenses of the catalogue in their order, with their parameters; a SpecError says what is wrong with a value."""
    members = {member.kind_name(): member for member in DEFENSES}
    with st.expander("Every defense in a sentence"):
        for member in members.values():
            st.markdown(f"**{plain(member.display_title())}**: {plain(member.summary())}")
    chosen = st.multiselect(
        "Defenses", list(members), ["nip"], key="defend-kinds", max_selections=MOST_IN_A_ROW,
        format_func=lambda kind: members[kind].display_title(), placeholder="Choose one, or several in a row",
        help="Several stand in a row: an image passes the first one first.",
    )  # fmt: skip
    defenses = []
    for place, kind in enumerate(chosen, 1):
        number = f"{place}. " if len(chosen) > 1 else ""
        st.caption(plain(f"{number}{members[kind].summary()}"))
        with st.expander(f"{number}{members[kind].display_title()}: settings"):
            has_template = "quorum" in members[kind].parameters()
            if has_template:
                st.caption(
                    "The paper's template asks for all images (quorum 1), which leaves no neuron where there are many images; so "
                    "the form begins with half of them."
                )
            start = {"quorum": QUORUM} if has_template else {}
            defenses.append(forms.capability(DEFENSES, kind, "defend", defaults=start))
    with st.expander("Preparation settings"):
        values = forms.fields(FitSpec, "defend-fit", skip=("defenses",))
    return FitSpec.load(values | {"defenses": defenses})


def under_way() -> None:
    """Preparations that have not ended, and what became of the one that the page's address names."""
    for job in client().jobs(kind="fit-defense", states=("queued", "running")):
        _live(job.id)
    wanted = parameter("job")
    if not wanted:
        return
    job = client().job(wanted)
    if not job.ended or job.kind != "fit-defense":
        return
    made = client().defense_made_by(job.id)
    if made is not None:
        st.session_state["defend-chosen"] = made.id
        st.query_params.from_dict({"defense": made.id})
    elif job.state == "succeeded":
        st.info("The defense that this job prepared was deleted.")
    else:
        failure(job, f"{job.title}:")


@st.fragment(run_every=1.5)
def _live(job_id: str) -> None:
    """How far a preparation is."""
    job = client().job(job_id)
    if job.ended:
        st.rerun()
    left, right = st.columns([5, 1], vertical_alignment="center")
    time_left = f", about {duration(job.eta)} left" if job.eta is not None else ""
    left.progress(job.share, text=plain(f"{job.title}, {100 * job.share:.0f} %: {job.step or job.state}{time_left}"))
    if right.button("Cancel", key=f"defend-cancel-{job_id}"):
        client().cancel(job_id)
        st.rerun(scope="fragment")
    if job.notice:
        st.caption(plain(job.notice))


def choose(views: list[DefenseView]) -> DefenseView | None:
    """One of the stored defenses; its id stands in the page's address."""
    st.table(
        [
            {
                "Defense": plain(view.row.name), "Of": plain(view.row.manifest["title"]), "Model": plain(view.model),
                "Learnt from": plain(_learnt_from(view)), "Evaluations": view.evaluations,
                "Prepared (UTC)": when(view.row.created),
            }
            for view in views
        ],
        hide_index=True,
    )  # fmt: skip
    by_id = {view.row.id: view for view in views}
    current = parameter("defense")
    named = [view.row.id for view in views if current and (view.row.id.startswith(current) or view.row.name == current)]
    if current and len(named) != 1:
        st.warning(f"There is no defense {plain(current)}. Choose one of these.")
    if st.session_state.get("defend-chosen") not in by_id:
        st.session_state["defend-chosen"] = named[0] if len(named) == 1 else views[0].row.id
    chosen = st.selectbox(
        "Defense", list(by_id), format_func=lambda item: by_id[item].row.name, key="defend-chosen",
        placeholder="Choose a defense",
    )  # fmt: skip
    if chosen is None:
        return None
    if st.query_params.get("defense") != chosen:
        st.query_params.from_dict({"defense": chosen})
    return by_id[chosen]


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
        help="The model behind the defense, as a folder that runs with PyTorch alone.",
    )  # fmt: skip
    with right.popover("Delete", icon=":material/delete:", disabled=view.evaluations > 0):
        st.markdown(f"Delete {plain(view.row.name)}? This cannot be undone.")
        if st.button("Delete it", type="primary", key="defend-delete"):
            _delete(view)
    if view.evaluations:
        st.caption("It has been evaluated, so that it stays: the results name it.")
    with st.expander("How it was made"):
        lineage = view.row.manifest["lineage"]
        facts: dict[str, Any] = {
            "Defenses": "; ".join(defense.describe() for defense in spec.defenses),
            "Model": f"{view.model}, tensors {lineage['weights']}",
            "Learnt from": _learnt_from(view),
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
    try:
        client().delete_defense(view.row.id)
    except AuditorError as error:
        st.error(f"{plain(error.message)} {plain(error.hint)}".strip())
        return
    st.query_params.clear()
    st.rerun()


def _archive(defense_id: str) -> bytes:
    with scratch("export") as folder:
        file = folder / "defense.zip"
        client().export_defense_archive(defense_id, file)
        return file.read_bytes()
