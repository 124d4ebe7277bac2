"""Harden: train a more robust child of a model, watch the training, and compare the child with its parent."""

from collections.abc import Sequence
from typing import Any

import streamlit as st

from app import forms, lineage, render
from app.class_match import class_match
from app.commands.show import duration
from app.job_details import failure
from app.state import client, parameter
from app.text import plain
from app.widgets import choose_job, choose_row, errors_shown, live
from auditor.auditing.spec import AuditSpec
from auditor.hardening.hardening import HARDENINGS
from auditor.hardening.spec import TrainingSpec
from auditor.models.hand_match import HandMatch
from auditor.report.training import curves, outcome
from auditor.show.blocks import AnyBlock
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


def training(match: HandMatch) -> TrainingSpec:
    """The whole form, with this match of classes; a SpecError says what is wrong with a value."""
    hardening = method()
    values = forms.fields(TrainingSpec, "harden-training", only=FIRST)
    with st.expander("Training settings"):
        values |= forms.fields(TrainingSpec, "harden-training", skip=("hardening", "match", *FIRST))
    return TrainingSpec.load(values | {"hardening": hardening, "match": match})


def show_cost(model: str, dataset: str, spec: TrainingSpec) -> None:
    """What the training costs at most, before it is queued."""
    cost = client().trainings.estimate(model, dataset, spec)
    text = f"At most {cost.passes / cost.samples:,.0f} forward passes for each of {cost.samples:,} images"
    if cost.seconds is not None:
        text += f", about {duration(cost.seconds)} on the machine that vetted the model"
    st.caption(plain(f"{text}; a backward pass counts as two. A method's preparation adds to this."))


def add() -> None:
    """The form of a training."""
    models, datasets = list(client().library.models()), list(client().library.datasets())
    first, second = st.columns(2)
    with first:
        told = "The parent: training starts from its weights. It is not changed."
        model = choose_row("Model", models, "model", "harden", told)
    with second:
        told = "Images to train on. Some are held out to choose the weights. Audit on another data set."
        dataset = choose_row("Training images", datasets, "dataset", "harden", told)
    with errors_shown():
        wanted = training(class_match(model, dataset, "harden", folded=True) if model and dataset else {})
        name = st.text_input(
            "Name of the child", key="harden-name", placeholder="by default the model's and the method's"
        )
        if model and dataset:
            show_cost(model, dataset, wanted)
        if st.button("Queue the training", type="primary", key="harden-queue", disabled=not (model and dataset)):
            job_id = client().trainings.queue(str(model), str(dataset), wanted, name)
            st.query_params.from_dict({"job": job_id})
            st.rerun()


def curves_so_far(job_id: str) -> None:
    """The curves of a training that has not ended."""
    points = [point for _, point in client().trainings.points(job_id)]
    request: Any = client().jobs.request(job_id)
    draw(curves(points, request.training, ended=False), "harden-curve")


def draw(blocks: Sequence[AnyBlock], key: str) -> None:
    for index, block in enumerate(blocks):
        render.draw_block(block, f"{key}-{index}", None, ())


def ended(job: JobView) -> None:
    """The result of a training."""
    if job.error or job.state == "failed":
        failure(job)
    if not job.summary:
        st.info("The training produced no model." if job.state == "cancelled" else "The training has no result.")
        return
    result, child = client().trainings.result(job.id), client().trainings.child(job.id)
    if result.stopped == "cancelled":
        st.warning(
            plain(f"Cancelled after {result.epochs:.3g} epochs; the results below are of the best weights until then.")
        )
    if child is not None:
        st.subheader(plain(child.name), anchor=False)
        st.page_link("views/models.py", label="Open the model's card", query_params={"model": child.id})
    elif result.best.epoch:
        st.info("Its model was removed.")
    else:
        st.info("No epoch was completed, so no weights are kept.")
    draw(outcome(result), "harden-outcome")
    if child is not None:
        both(job, child)
    draw(curves(result.points, result.spec, ended=True), "harden-curve")
    with st.expander("The whole specification"):
        st.json(result.spec.model_dump(mode="json"), expanded=False)


def both(job: JobView, child: ModelRow) -> None:
    """The audit of parent and child on the same samples."""
    st.subheader("Compared with its parent", anchor=False)
    audits(child)
    rows = client().library.fitting(child.id)
    names = {row.id: row.name for row in rows}
    kept = [row.id for row in rows if row.id != job.dataset_id]
    left, middle, right = st.columns([3, 1, 1], vertical_alignment="bottom")
    dataset = left.selectbox(
        "Images of the audit", list(names), index=list(names).index(kept[0]) if kept else None, key="harden-audit-data",
        format_func=names.__getitem__, help="The same samples for both. Do not use the training images.",
    )  # fmt: skip
    samples = middle.number_input("Samples", 1, None, 1000, key="harden-audit-samples")
    if dataset == job.dataset_id:
        st.warning("The child was trained on these images: its accuracies on them are too high.")
    match: HandMatch = {}
    if dataset is not None:
        with errors_shown():
            match = class_match(child.id, dataset, "harden-audit", folded=True)
    if right.button("Audit parent and child", type="primary", key="harden-audit", disabled=dataset is None):
        with errors_shown():
            client().audits.queue_both(child.id, str(dataset), spec_of_both(job, int(samples), match))
            st.rerun()


def spec_of_both(job: JobView, samples: int, match: HandMatch) -> AuditSpec:
    """The usual audit, within the threat model of the training."""
    threat = client().trainings.result(job.id).spec.threat
    return AuditSpec.load({"threats": [threat.model_dump(mode="json")], "samples": samples, "match": match})


def audits(child: ModelRow) -> None:
    """The newest audits of parent and child: how far they are, then the way to Compare."""
    pair = client().audits.paired(child.id)
    if pair is None:
        st.caption("Parent and child have not been audited together yet. Queue both audits with one click.")
    elif all(job.state == "succeeded" for job in pair):
        label, query = "Compare parent and child", {"a": pair[0].id, "b": pair[1].id}
        st.page_link("views/compare.py", label=label, icon=":material/compare_arrows:", query_params=query)
    else:
        under_way(child.id)


@st.fragment(run_every=2.0)
def under_way(child_id: str) -> None:
    """How far the two audits are."""
    pair = client().audits.paired(child_id) or ()
    if all(job.ended for job in pair):
        st.rerun()
    for job in pair:
        step = job.step if job.state == "running" else job.state
        st.progress(job.share, text=plain(f"{job.title}: {step}. {job.notice}".strip()))


STATES = (*HOPEFUL, "failed", "cancelled")

st.title("Harden")
st.markdown(
    "Train a more robust child of a model and see what it gained and what it cost. The model itself is not changed."
)
if not client().library.models() or not client().library.datasets():
    st.info("A training needs a model and a data set. Add them under Models and Data sets.")
    st.stop()
trainings = client().jobs.counts(kind="harden")
with st.expander("New training", expanded=not trainings or bool(parameter("model")), icon=":material/model_training:"):
    add()
if trainings:
    picked = choose_job("Training", "job", kind="harden", states=STATES, noun="training", what="a training")
    if picked is not None:
        if picked.ended:
            ended(picked)
        else:
            kept = "Keeps the best weights so far as a model. Before the first checkpoint nothing is kept."
            live(picked.id, help=kept, more=curves_so_far)
        st.subheader("Lineage", anchor="lineage")
        own = client().trainings.child(picked.id)
        looked_at = own.id if own is not None else str(picked.model_id)
        lineage.tree(client().library.lineage(looked_at), looked_at)
