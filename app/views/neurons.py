"""Neurons: the network of one audit, or of two on the same scale, coloured by what the analyses say of its neurons."""

import streamlit as st

from app import render
from app.routes import critical_route
from app.state import audit_result, audited_data, client
from app.text import plain
from app.widgets import choose_job, errors_shown
from auditor.auditing.result import AuditResult
from auditor.neural.analyses.neuron_exemplars import LayerExemplars
from auditor.neural.analyses.neuron_sensitivity import NeuronSensitivity
from auditor.neural.analysis import NeuronMeasure
from auditor.report.neuron_map import layer_blocks, measure_csv, measures_in, network_map, neuron_blocks, of_kind
from auditor.show.blocks import AnyBlock, ImageRow, Images
from auditor.show.pictures import picture

MANY = 40  # from so many layers on, the map begins with modules


def choose_measure(measures: dict[str, NeuronMeasure]) -> NeuronMeasure:
    """What colours the map, and on which kind of layers."""
    left, middle, right = st.columns([4, 4, 3], vertical_alignment="bottom")
    keys = list(measures)
    first = next((keys.index(name) for name in keys if name.startswith(NeuronSensitivity.kind_name())), 0)
    key = left.selectbox(
        "Measure", keys, index=first, format_func=lambda name: measures[name].title, key="neurons-measure"
    )
    measure = measures[key]
    kinds = ["", *dict.fromkeys(layer.kind for layer in measure.layers)]
    kind = middle.selectbox(
        "Layers", kinds, format_func=lambda item: item or "all", index=kinds.index("activation") if "activation" in kinds else 0,
        key="neurons-kind",
        help="Layers of different kinds have different scales.",
    )  # fmt: skip
    measure = of_kind(measure, kind)
    right.toggle("Modules", value=len(measure.layers) > MANY, key="neurons-modules", help="One box for each module.")
    return measure


def exciting(result: AuditResult, job_id: str, layer: str, neuron: int) -> tuple[AnyBlock, ...]:
    """The images that excite a neuron, where the audit kept which they are."""
    for finding in result.findings:
        if not isinstance(finding.data, LayerExemplars):
            continue
        for one in finding.data.layers:
            if one.name == layer and neuron in one.neurons:
                place = one.neurons.index(neuron)
                data = audited_data(job_id)
                images = tuple(
                    picture(
                        data.images([sample])[0],
                        f"excitation {clean:.3g}, under attack {attacked:.3g}",
                        data.sample_name(sample),
                    )
                    for sample, clean, attacked in zip(
                        one.samples[place], one.clean[place], one.attacked[place], strict=True
                    )
                )
                row = ImageRow(title=f"Neuron {neuron} of {layer}", images=images)
                return (Images(rows=(row,), reading="The images that activate it most, strongest first."),)
    return ()


def titled_for(blocks: tuple[AnyBlock, ...], model: str) -> tuple[AnyBlock, ...]:
    """The figures of the other model, under its name and with nothing to click."""
    figures = [block for block in blocks if block.type == "figure"]
    return tuple(block.model_copy(update={"title": f"{block.title} ({model})", "select": ""}) for block in figures)


st.title("Neurons")
if not client().jobs.counts(kind="audit", states=("succeeded",)):
    st.info("No audit has finished yet. See Jobs.")
    st.stop()
left, right = st.columns(2)
with left:
    job = choose_job("Audit", "audit")
with right:
    job_beside = choose_job("Compare with", "beside")
if job is None:
    st.stop()
chosen, second = job.id, job_beside.id if job_beside is not None else ""
result, other = audit_result(chosen), audit_result(second) if second else None
measures = measures_in(result)
if not measures:
    st.info("This audit has no analysis of single neurons. Choose some under New audit.")
    st.stop()
measure = choose_measure(measures)
collapse = bool(st.session_state["neurons-modules"])
twin = None
if other is not None:
    twin = measures_in(other).get(measure.key)
    kinds = {layer.kind for layer in measure.layers}
    if twin is None:
        st.warning(f"The other audit did not measure {plain(measure.title)}.")
    else:
        twin = twin._replace(layers=tuple(layer for layer in twin.layers if layer.kind in kinds))
    if (other.samples.ids, other.provenance.dataset.sha256) != (result.samples.ids, result.provenance.dataset.sha256):
        st.warning("The two audits used different samples: their numbers cannot be compared.")
    if other.spec.goal != result.spec.goal:
        goals = f"{result.goal} here, {other.goal} in the other"
        st.warning(
            f"The attackers had different goals ({plain(goals)}): numbers of attacked images cannot be compared."
        )
beside = (twin,) if twin is not None else ()


def detail(path: tuple[str, ...]) -> tuple[AnyBlock, ...]:
    """What opens behind a box or a bar: a module's layers, a layer's neurons, a neuron."""
    if collapse and len(path) == 1:
        return (network_map(measure, collapse=False, module=path[0], beside=beside),)
    layer, *neuron = path[1:] if collapse else path
    if neuron:
        every = [one for one in measures.values() if any(item.name == layer for item in one.layers)]
        return (*neuron_blocks(every, layer, int(neuron[0])), *exciting(result, chosen, layer, int(neuron[0])))
    blocks = layer_blocks(measure, layer, beside)
    if twin is not None and other is not None and any(item.name == layer for item in twin.layers):
        blocks += titled_for(layer_blocks(twin, layer, (measure,)), other.provenance.model.name)
    return blocks


with errors_shown():
    render.draw_block(network_map(measure, collapse=collapse, beside=beside), "neurons-map", detail, ())
    if twin is not None and other is not None:
        (figure,) = titled_for((network_map(twin, collapse=collapse, beside=(measure,)),), other.provenance.model.name)
        render.draw_block(figure, "neurons-beside", None, ())
st.download_button(
    "Download every neuron's value (.csv)",
    data=lambda: measure_csv(measure),
    file_name=f"audit-{chosen[:8]}-{measure.key}.csv",
    mime="text/csv",
    icon=":material/download:",
    on_click="ignore",
    key="neurons-csv",
)
critical_route({chosen: result} | ({second: other} if other is not None else {}))
