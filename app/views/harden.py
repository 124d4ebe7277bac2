"""Harden: train a more robust child of a model, watch it, and set it beside its parent."""

from collections.abc import Sequence
from typing import Any

import streamlit as st

from app import forms, lineage, render
from app.choosing import choose_job
from app.commands.show import duration
from app.job_details import failure
from app.state import choose_row, client, parameter
from app.text import plain
from auditor.audit_spec import AuditSpec
from auditor.errors import AuditorError
from auditor.hardening import HARDENINGS
from auditor.report.blocks import AnyBlock
from auditor.report.training import curves, outcome
from auditor.training_spec import TrainingSpec
from worker.client import HOPEFUL
from worker.models import ModelRow
from worker.views import JobView

FIRST = ("epochs", "learning_rate", "batch_size")  # settings that stand before the others


def method() -> Any:
    """One method of the catalogue, with its parameters."""
    members = {member.kind_name(): member for member in HARDENINGS}
    with st.container(height=330, border=True):
        kind = st.radio(
            "Method", list(members), index=list(members).index("pat"), key="harden-method",
            format_func=lambda item: members[item].display_title(),
            captions=[plain(member.summary()) for member in members.values()],
        )  # fmt: skip
    with st.expander(f"{members[kind].display_title()}: settings"):
        return forms.capability(HARDENINGS, kind, "harden")


def training() -> TrainingSpec:
    """The whole form; a SpecError says what is wrong with a value."""
    hardening = method()
    values = forms.fields(TrainingSpec, "harden-training", only=FIRST)
    with st.expander("Training settings"):
        values |= forms.fields(TrainingSpec, "harden-training", skip=("hardening", *FIRST))
    return TrainingSpec.load(values | {"hardening": hardening})


def show_cost(model: str, dataset: str, spec: TrainingSpec) -> None:
    """What the training costs at most, before it is queued."""
    cost = client().training_estimate(model, dataset, spec)
    text = f"At most {cost.passes / cost.samples:,.0f} forward passes for each of {cost.samples:,} images"
    if cost.seconds is not None:
        text += f", about {duration(cost.seconds)} on the machine that vetted the model"
    st.caption(plain(f"{text}; a backward pass counts as two. What a method prepares before it begins comes on top."))


def add() -> None:
    """The form of a training."""
    models, datasets = list(client().models()), list(client().datasets())
    first, second = st.columns(2)
    with first:
        told = "The parent: training goes on from its weights. It stays as it is."
        model = choose_row("Model", models, "model", "harden", told)
    with second:
        told = "Images to train on. A part is kept back to choose the weights; audit on another data set."
        dataset = choose_row("Training images", datasets, "dataset", "harden", told)
    try:
        wanted = training()
        name = st.text_input(
            "Name of the child", key="harden-name", placeholder="by default the model's and the method's"
        )
        if model and dataset:
            show_cost(model, dataset, wanted)
        if st.button("Queue the training", type="primary", key="harden-queue", disabled=not (model and dataset)):
            job_id = client().harden(str(model), str(dataset), wanted, name)
            st.query_params.from_dict({"job": job_id})
            st.rerun()
    except AuditorError as error:
        st.error(f"{plain(error.message)} {plain(error.hint)}".strip())


@st.fragment(run_every=2.0)
def live(job_id: str) -> None:
    """A training that has not ended: how far it is, and its curves so far."""
    job = client().job(job_id)
    if job.ended:
        st.rerun()
    left, right = st.columns([5, 1], vertical_alignment="center")
    time_left = f", about {duration(job.eta)} left" if job.eta is not None else ""
    left.progress(job.share, text=plain(f"{100 * job.share:.0f} %: {job.step or job.state}{time_left}"))
    kept = "The best weights so far become a model; before the first checkpoint nothing is kept."
    if right.button("Cancel", key="harden-cancel", help=kept):
        client().cancel(job_id)
        st.rerun(scope="fragment")
    if job.notice:
        st.caption(plain(job.notice))
    points = [point for _, point in client().points(job_id)]
    request: Any = client().request(job_id)
    draw(curves(points, request.training, ended=False), "harden-curve")


def draw(blocks: Sequence[AnyBlock], key: str) -> None:
    for index, block in enumerate(blocks):
        render.draw_block(block, f"{key}-{index}", None, ())


def ended(job: JobView) -> None:
    """What came of a training."""
    if job.error or job.state == "failed":
        failure(job)
    if not job.summary:
        st.info("The training left no model." if job.state == "cancelled" else "The training has no result.")
        return
    result, child = client().training_result(job.id), client().child(job.id)
    if result.stopped == "cancelled":
        st.warning(plain(f"Cancelled after {result.epochs:.3g} epochs; what follows is of the weights kept so far."))
    if child is not None:
        st.subheader(plain(child.name), anchor=False)
        st.page_link("views/models.py", label="Open the model's card", query_params={"model": child.id})
    elif result.best.epoch:
        st.info("Its model was removed.")
    else:
        st.info("No epoch was done, so no weights are kept.")
    draw(outcome(result), "harden-outcome")
    if child is not None:
        both(job, child)
    draw(curves(result.points, result.spec, ended=True), "harden-curve")
    with st.expander("The whole specification"):
        st.json(result.spec.model_dump(mode="json"), expanded=False)


def both(job: JobView, child: ModelRow) -> None:
    """The audit of parent and child on the same samples."""
    st.subheader("Beside its parent", anchor=False)
    audits(child)
    rows = client().fitting(child.id)
    names = {row.id: row.name for row in rows}
    kept = [row.id for row in rows if row.id != job.dataset_id]
    left, middle, right = st.columns([3, 1, 1], vertical_alignment="bottom")
    dataset = left.selectbox(
        "Images of the audit", list(names), index=list(names).index(kept[0]) if kept else None, key="harden-audit-data",
        format_func=names.__getitem__, help="The same samples for both; not those of the training.",
    )  # fmt: skip
    samples = middle.number_input("Samples", 1, None, 1000, key="harden-audit-samples")
    if dataset == job.dataset_id:
        st.warning("The child was trained on these images: its accuracies on them are too high.")
    if right.button("Audit parent and child", type="primary", key="harden-audit", disabled=dataset is None):
        try:
            client().audit_both(child.id, str(dataset), spec_of_both(job, int(samples)))
        except AuditorError as error:
            st.error(f"{plain(error.message)} {plain(error.hint)}".strip())
            return
        st.rerun()


def spec_of_both(job: JobView, samples: int) -> AuditSpec:
    """The usual audit, within the threat model of the training."""
    threat = client().training_result(job.id).spec.threat
    return AuditSpec.load({"threats": [threat.model_dump(mode="json")], "samples": samples})


def audits(child: ModelRow) -> None:
    """The newest audits of parent and child: how far they are, then the way to Compare."""
    pair = client().paired_audits(child.id)
    if pair is None:
        st.caption("Not audited beside its parent yet: queue both audits with one click.")
    elif all(job.state == "succeeded" for job in pair):
        label, query = "Compare parent and child", {"a": pair[0].id, "b": pair[1].id}
        st.page_link("views/compare.py", label=label, icon=":material/compare_arrows:", query_params=query)
    else:
        under_way(child.id)


@st.fragment(run_every=2.0)
def under_way(child_id: str) -> None:
    """How far the two audits are."""
    pair = client().paired_audits(child_id) or ()
    if all(job.ended for job in pair):
        st.rerun()
    for job in pair:
        step = job.step if job.state == "running" else job.state
        st.progress(job.share, text=plain(f"{job.title}: {step}. {job.notice}".strip()))


STATES = (*HOPEFUL, "failed", "cancelled")

st.title("Harden")
st.markdown(
    "Train a more robust child of a model, and see what it gained and what it cost. The model itself stays as it is."
)
if not client().models() or not client().datasets():
    st.info("A training needs a model and a data set. Add them under Models and Datasets.")
    st.stop()
trainings = client().count_jobs(kind="harden")
with st.expander("New training", expanded=not trainings or bool(parameter("model")), icon=":material/model_training:"):
    add()
if trainings:
    picked = choose_job("Training", "job", kind="harden", states=STATES, noun="training", what="a training")
    if picked is not None:
        if picked.ended:
            ended(picked)
        else:
            live(picked.id)
        st.subheader("Lineage", anchor="lineage")
        own = client().child(picked.id)
        looked_at = own.id if own is not None else str(picked.model_id)
        lineage.tree(client().lineage(looked_at), looked_at)
