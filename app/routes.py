"""The critical route of an audit, or of two on the same scales: of the model, of a class, of an image."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from app import render, state
from app.text import plain
from app.widgets import error_box
from auditor.auditing.result import AuditResult
from auditor.auditing.sample_browser import pictures
from auditor.kit.errors import AuditorError
from auditor.neural.analyses.critical_route import CriticalRoute
from auditor.neural.analysis import Analysis, Finding, analysis_of, keyed, readable
from auditor.neural.routes.critical import Critical
from auditor.neural.routes.route_map import (
    LayerRoute,
    class_route,
    classes_in,
    image_route,
    route_figure,
    route_table,
    samples_in,
    stored_model_route,
)
from auditor.show.blocks import Images


class RouteFinding(NamedTuple):
    """An audit with a finding of the critical route."""

    job_id: str
    result: AuditResult
    finding: Finding

    @property
    def model(self) -> str:
        return self.result.provenance.model.name

    @property
    def critical(self) -> Critical:
        """What was found."""
        assert isinstance(self.finding.data, Critical)
        return self.finding.data


@st.fragment
def critical_route(audits: dict[str, AuditResult]) -> None:
    """Audits by the id of their job, the one that is looked at first; nothing where it has no critical route."""
    (job_id, result), *others = audits.items()
    runs = {key: finding for key, finding in keyed(result.findings).items() if _has_route(finding)}
    if not runs:
        return
    st.header("Critical route", anchor="critical-route")
    key = next(iter(runs))
    if len(runs) > 1:
        key = st.selectbox(
            "Run", list(runs), format_func=lambda item: analysis_of(runs[item]).describe(), key="route-run"
        )
    first = RouteFinding(job_id, result, runs[key])
    _compare(first, [routed for other, found in others if (routed := _counterpart(first, other, found))])


def _has_route(finding: Finding) -> bool:
    return finding.kind == CriticalRoute.kind_name() and readable(finding)


def _counterpart(first: RouteFinding, job_id: str, result: AuditResult) -> RouteFinding | None:
    """The run of the other audit that has the same settings, or the first there is, with a word about it."""
    runs = [finding for finding in result.findings if _has_route(finding)]
    if not runs:
        st.warning("The other audit did not measure the critical route.")
        return None
    same = [finding for finding in runs if finding.settings == first.finding.settings]
    if not same:
        st.warning("The other audit measured the route with other settings: widths and layers may differ.")
    return RouteFinding(job_id, result, (same or runs)[0])


def _compare(first: RouteFinding, others: list[RouteFinding]) -> None:
    left, right = st.columns([1, 2], vertical_alignment="bottom")
    data, model = first.critical, first.result.provenance.model
    classes, samples = classes_in(data), {sample.id: sample for sample in samples_in(data)}
    kinds = ["Model", *(["Class"] if classes else []), *(["Image"] if samples else [])]
    kind = left.radio("Route of", kinds, horizontal=True, key="route-of")
    if kinds == ["Model"]:
        st.caption("This audit is older than the routes of classes and images. Run it again to see them.")
    if kind == "Class":
        label = right.selectbox(
            "Class", list(classes), key="route-class",
            format_func=lambda item: f"{model.class_name(item)} ({classes[item]} images)",
        )  # fmt: skip
        what = f"of the class {model.class_name(label)}"
    elif kind == "Image":
        sample = right.selectbox(
            "Image", list(samples), key="route-image",
            format_func=lambda item: f"#{item}: {model.class_name(samples[item].label)}",
        )  # fmt: skip
        what = f"of sample #{sample}"
    st.caption(plain(_meaning(kind, analysis_of(first.finding))))
    for place, routed in enumerate([first, *others]):
        data = routed.critical
        name = f" ({routed.model})" if others else ""
        if kind == "Model":
            _draw(stored_model_route(data), f"Critical route of the model{name}", place)
        elif kind == "Class" and label in classes_in(data):
            _draw(class_route(data, label), f"Critical route {what}{name}", place)
        elif kind == "Image" and _same_data(first, routed) and sample in {one.id for one in samples_in(data)}:
            with _draw(image_route(data, sample), f"Critical route {what}{name}", place):
                _picture(routed, sample)
        else:
            st.info(f"The audit of {plain(routed.model)} did not keep the route {plain(what)}.")


def _same_data(one: RouteFinding, other: RouteFinding) -> bool:
    """Whether the id of a sample means the same image in both."""
    return one.result.provenance.dataset.sha256 == other.result.provenance.dataset.sha256


def _meaning(kind: str, analysis: Analysis[Any]) -> str:
    """What a route is, in a sentence."""
    assert isinstance(analysis, CriticalRoute)
    if kind == "Image":
        return f"Of each layer, the {100 * analysis.width:g} % of the neurons that pass most on of this image, or of its twin."
    images = "images" if kind == "Model" else "this class's images"
    share = f"{100 * analysis.model_width:g} %"
    return (
        f"Of each layer, the {share} of the neurons that are most often on the routes of {images}, or of their twins."
    )


def _draw(route: tuple[LayerRoute, ...], title: str, place: int) -> DeltaGenerator:
    """Figure and table; returns the column of the table, where there is room below."""
    left, right = st.columns([3, 2], gap="medium")
    with left:
        render.draw_block(route_figure(route, title), f"route-{place}", None, ())
    with right:
        render.draw_block(route_table(route), f"route-{place}-table", None, ())
    return right


def _picture(routed: RouteFinding, sample: int) -> None:
    """The sample, and what the model says of it and of the twin that was routed; a kept adversarial image next to it."""
    result = routed.result
    names = result.provenance.model.class_name
    one = next(item for item in samples_in(routed.critical) if item.id == sample)
    st.markdown(
        f"The class is {plain(names(one.label))}; the model predicts {plain(names(one.clean))} of the image and "
        f"{plain(names(one.adversarial))} of the twin whose route is drawn ({plain(routed.critical.pairs)})."
    )
    record = _likest(result)
    try:
        examples, data = state.examples(routed.job_id, record), state.audited_data(routed.job_id)
        rows = pictures(examples, data, np.array([result.samples.ids.index(sample)]))
    except AuditorError as error:
        error_box(error.message, error.hint)
        return
    reading = (
        f"Twins are not kept. The image shown instead is what {result.records[record].attack.display_title()} made of the image "
        "for the headline, where the attack may stop at its first success."
    )
    render.images(Images(rows=rows, reading=reading), beside=1)


def _likest(result: AuditResult) -> int:
    """The record, among those of the headline, of the attack that made the twins; else the first of its threat model."""
    spec = result.spec
    shown = [
        (record.attack != spec.analysis_attack, place)
        for place, record in enumerate(result.records)
        if record.role == "headline" and record.threat == spec.threats[0]
    ]
    return min(shown)[1]
