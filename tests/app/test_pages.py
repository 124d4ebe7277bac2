"""The pages without a browser: what they show, what they queue, and what they say to wrong files."""

from __future__ import annotations

import io
import json
import re
import time
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import streamlit as st
import torch
from onnx import helper
from safetensors.torch import load
from streamlit.testing.v1 import AppTest

from app.recognition import RECOGNIZING
from app.samples import PER_PAGE
from app.server import MAGIC_OFF
from app.text import JOINER
from auditor.auditing.sample_browser import Fate
from auditor.models.architecture import ARCHITECTURES
from auditor.neural.analyses.neuron_exemplars import LayerExemplars
from auditor.neural.analyses.neuron_sensitivity import Sensitivity
from auditor.neural.analysis import ANALYSES
from tests import hostile
from tests.auditor.data.intake.onnx_files import graph_file
from tests.narrow import typed
from tests.worker.world import World, make_world, quick_spec, run_here
from worker.jobs.audit import AuditJob
from worker.models import JobRow
from worker.settings import Settings

MAIN = str(Path(__file__).parents[2] / "app" / "main.py")


pytestmark = pytest.mark.usefixtures("warm_sandbox")


@pytest.fixture
def world(settings: Settings) -> World:
    st.cache_resource.clear()
    st.cache_data.clear()
    return make_world(settings)


def opened(view: str, **parameters: str) -> AppTest:
    for option, setting in MAGIC_OFF.items():
        st.config.set_option(option, setting)
    page = AppTest.from_file(MAIN, default_timeout=120)
    page.run()
    page.switch_page(f"views/{view}.py")
    for name, value in parameters.items():
        page.query_params[name] = value
    page.run()
    assert not page.exception
    return page


def recognized(page: AppTest) -> None:
    """Ask what the file is, unless the page does so itself, and wait for the answer."""
    for button in page.button:
        if button.key == "model-inspect":
            button.click().run()
    while RECOGNIZING in texts(page):
        time.sleep(0.1)
        page.run()


class Finished(NamedTuple):
    """What an audit of the tiny model left: its result, the numbers for lists, and its files by name."""

    content: bytes
    summary: dict[str, Any]
    files: dict[str, bytes]


_finished: dict[tuple[str, str], Finished] = {}
"""By the model's weights and the data set's content: the same audit of the same world is run once in a process."""


def finished_audit(world: World) -> str:
    """An audit with its result, as if a worker had run it."""
    client, ledger = world.client, world.client.ledger
    audited = client.library.model("tiny").weights, client.library.dataset("random").content
    job = client.audits.queue("tiny", "random", quick_spec())
    if (done := _finished.get(audited)) is None:
        result = ledger.result(run_here(client, job))
        assert result is not None
        files = {name: client.blobs.path(blob).read_bytes() for name, blob in ledger.result_files(job).items()}
        _finished[audited] = Finished(client.blobs.path(result.content).read_bytes(), result.summary, files)
        return job
    claim = ledger.claim(job, "test", 60)
    assert claim is not None
    blobs = {name: client.blobs.put(content) for name, content in done.files.items()}
    assert ledger.succeed(claim, client.blobs.put(done.content), done.summary, blobs)
    return job


def texts(page: AppTest) -> str:
    parts = [
        item.value
        for kind in (page.markdown, page.caption, page.error, page.warning, page.info, page.success)
        for item in kind
    ]
    return " ".join(
        str(part).replace("\\", "").replace(JOINER, "").replace("\N{NO-BREAK SPACE}", " ") for part in parts
    )


@pytest.mark.parametrize(
    "view", ["start", "new_audit", "jobs", "result", "neurons", "compare", "harden", "defend", "models", "datasets"]
)
def test_every_page_opens_on_an_empty_home(settings: Settings, view: str) -> None:
    from worker.client import Client

    st.cache_resource.clear()
    Client(settings).prepare()
    assert opened(view).title[0].value


@pytest.mark.parametrize(
    ("view", "parameters"),
    [
        ("models", {"model": "nobody"}), ("datasets", {"dataset": "nobody"}), ("result", {"audit": "nobody"}),
        ("neurons", {"audit": "nobody"}), ("harden", {"job": "nobody"}),
        ("defend", {"defense": "nobody"}), ("defend", {"job": "nobody"}),
        ("harden", {"model": "<script>"}), ("compare", {"a": "x", "b": "y"}),
        ("jobs", {"job": "nobody"}), ("new_audit", {"model": "<script>"}),
    ],
)  # fmt: skip
def test_an_address_of_nothing_is_answered_in_a_sentence(world: World, view: str, parameters: dict[str, str]) -> None:
    finished_audit(world)
    page = AppTest.from_file(MAIN, default_timeout=120)
    page.run()
    page.switch_page(f"views/{view}.py")
    for name, value in parameters.items():
        page.query_params[name] = value
    page.run()
    shown = texts(page) + " ".join(str(item.value) for item in page.exception)
    assert "Traceback" not in shown
    for item in page.exception:  # what the server turns into a sentence
        assert "There is no" in item.value


def test_the_form_of_an_audit_queues_exactly_what_it_shows(world: World) -> None:
    page = opened("new_audit", model=world.model_id, dataset=world.dataset_id)
    page.text_input(key="audit-epsilon").set_value("4/255, 8/255")
    page.multiselect(key="audit-attack").set_value(["pgd"]).run()
    page.number_input(key="audit-attack-pgd-steps").set_value(7)
    page.text_input(key="audit-samples").set_value("25")
    page.text_input(key="audit-curve").set_value("2").run()
    page.button(key="audit-queue").click().run()
    assert page.title[0].value == "Jobs"
    (job,) = world.client.jobs.find(kind="audit")
    spec = typed(world.client.jobs.request(job.id), AuditJob).audit
    assert [str(threat) for threat in spec.threats] == ["L∞ ε = 4/255", "L∞ ε = 8/255"]
    assert [attack.describe() for attack in spec.attacks] == [
        "pgd:budget=fixed,steps=7,step_size=0.25,random_start=true,restarts=1"
    ]
    assert (spec.samples, spec.curve, spec.batch_size) == (25, (2.0,), None)
    assert "No worker is running" in texts(page)


def test_the_corruptions_chosen_are_queued(world: World) -> None:
    page = opened("new_audit", model=world.model_id, dataset=world.dataset_id)
    page.multiselect(key="audit-corruption").set_value(["fog", "jpeg"]).run()
    page.number_input(key="audit-corruption-fog-severity").set_value(3).run()
    page.button(key="audit-queue").click().run()
    (job,) = world.client.jobs.find(kind="audit")
    spec = typed(world.client.jobs.request(job.id), AuditJob).audit
    assert [corruption.describe() for corruption in spec.corruptions] == ["fog:severity=3", "jpeg:severity=0"]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("audit-epsilon", "eight", "epsilon: expected a valid number"),
        ("audit-epsilon", "", "epsilon: expected at least one number"),
        ("audit-samples", "-3", "samples: expected greater than or equal to 1"),
        ("audit-curve", "a", "curve.0: expected a valid number"),
    ],
)
def test_a_wrong_value_is_named_and_nothing_is_queued(world: World, key: str, value: str, said: str) -> None:
    page = opened("new_audit", model=world.model_id, dataset=world.dataset_id)
    page.text_input(key=key).set_value(value).run()
    if any(button.key == "audit-queue" for button in page.button):
        page.button(key="audit-queue").click().run()
    assert said in texts(page)
    assert world.client.jobs.find() == []


def test_no_attack_is_no_audit(world: World) -> None:
    page = opened("new_audit", model=world.model_id, dataset=world.dataset_id)
    page.multiselect(key="audit-attack").set_value([]).run()
    assert "attacks: choose at least one" in texts(page)


def test_a_result_shows_its_headline_its_layers_and_a_neuron(world: World) -> None:
    job = finished_audit(world)
    result = world.client.audits.result(job)
    page = opened("result", audit=job[:8])
    robust = result.robust_accuracy(result.spec.threats[0])
    assert [metric.value for metric in page.metric][:2] == [
        f"{100 * (result.clean_accuracy.value or 0):.1f} %", f"{100 * (robust.value or 0):.1f} %",
    ]  # fmt: skip
    assert f"n = {len(result.samples)}" in texts(page)
    layers = next(box for box in page.selectbox if box.label == "Open a layer")
    layers.set_value("0").run()
    neurons = next(box for box in page.selectbox if box.label == "Open a neuron")
    neurons.set_value("3").run()
    shown = {metric.label.replace("\\", ""): metric.value for metric in page.metric}
    expected = typed(result.findings[0].data, Sensitivity).layers[0].sensitivity[3]
    assert shown["Sensitivity of neuron 3"] == f"{expected:.4g}"
    assert not page.exception


def test_the_sample_browser_filters_and_turns_pages(world: World) -> None:
    job = finished_audit(world)
    result = world.client.audits.result(job)
    page = opened("result", audit=job)
    assert f"{len(result.samples)} of {len(result.samples)} samples" in texts(page)
    page.selectbox(key="samples-outcome").set_value(Fate.FOOLED).run()
    page.selectbox(key="samples-attack").set_value(1).run()
    fooled = sum(result.records[1].fooled)
    assert fooled
    assert f"{fooled} of {len(result.samples)} samples" in texts(page)
    label = result.samples.labels[0]
    page.selectbox(key="samples-outcome").set_value(None).run()
    page.selectbox(key="samples-class").set_value(label).run()
    assert f"{result.samples.labels.count(label)} of {len(result.samples)} samples" in texts(page)
    page.selectbox(key="samples-class").set_value(None).run()
    last = -(-len(result.samples) // PER_PAGE)
    page.number_input(key="samples-page").set_value(last).run()
    assert not page.exception
    names = [f"**#{sample}: " for sample in result.samples.ids]
    shown = [name for name in names if any(name in item.value.replace("\\", "") for item in page.markdown)]
    assert shown[-1] == names[-1]
    page.selectbox(key="samples-outcome").set_value(Fate.WRONG_BEFORE).run()
    assert not page.exception, "fewer pages than the one that was open"


@pytest.mark.parametrize("how", ["damaged", "missing"])
def test_a_spoiled_file_of_examples_spoils_only_the_browser(world: World, how: str) -> None:
    job = finished_audit(world)
    for sha256 in world.client.ledger.result_files(job).values():
        path = world.client.blobs.path(sha256)
        path.write_bytes(b"spoiled") if how == "damaged" else path.unlink(missing_ok=True)
    page = opened("result", audit=job)
    assert [how in error.value for error in page.error] == [True]
    assert page.metric, "the numbers are still there"


def test_compare_shows_both_audits(world: World) -> None:
    first, second = finished_audit(world), finished_audit(world)
    page = opened("compare", a=first, b=second)
    assert "What differs" in [header.value for header in page.header]
    assert not page.error


def test_a_failed_job_shows_its_error_and_hint_and_a_queued_one_can_be_cancelled(world: World) -> None:
    ledger = world.client.ledger
    failed, waiting = (world.client.audits.queue("tiny", "random", quick_spec()) for _ in range(2))
    claim = ledger.claim(failed, "test", 60)
    assert claim is not None
    ledger.fail(claim, "It went <b>wrong</b>.", "Do [this](http://evil.example).")
    page = opened("jobs")
    assert "It went <b>wrong</b>. Do [this](http://evil.example)." in texts(page)
    assert r"\[this\]" in page.error[0].value, "what a job says is never markdown"
    page.button(key=f"cancel-{waiting}").click().run()
    assert world.client.jobs.get(waiting).state == "cancelled"


def test_the_page_says_what_a_mismatch_is(world: World) -> None:
    with world.client.backend.database.write() as session:
        dataset = world.client.library.dataset("random")
        dataset.manifest = dataset.manifest | {"shape": [1, 28, 28]}
        session.merge(dataset)
    page = opened("new_audit", model=world.model_id, dataset=world.dataset_id)
    page.button(key="audit-queue").click().run()
    assert "takes images of 3x6x6 (channels, height, width), the data set random has 1x28x28" in texts(page)


@pytest.mark.parametrize("name", hostile.MODELS)
def test_a_wrong_model_gets_one_sentence_and_leaves_nothing(world: World, name: str) -> None:
    filename, make, said = hostile.MODELS[name]
    page = opened("models", add="1")
    page.file_uploader(key="model-file").upload(filename, make(), "application/octet-stream")
    page.selectbox(key="model-architecture").set_value("resnet18-cifar").run()
    page.number_input(key="model-resnet18-cifar-width_factor").set_value(0.0625)
    page.button(key="model-add").click().run()
    refused(page, world, said)


def test_of_two_sets_of_weights_the_page_offers_both(world: World) -> None:
    state = hostile.tiny_state()
    content = hostile.saved({"student": state, "teacher": {key: value + 1 for key, value in state.items()}})
    page = opened("models", add="1")
    page.file_uploader(key="model-file").upload("two.pt", content, "application/octet-stream")
    page.selectbox(key="model-architecture").set_value("resnet18-cifar").run()
    page.number_input(key="model-resnet18-cifar-width_factor").set_value(0.0625)
    page.button(key="model-add").click().run()
    refused(page, world, "'student', 'teacher'.*Set of weights")
    assert page.selectbox(key="model-set").options == ["student", "teacher"]
    page.selectbox(key="model-set").set_value("teacher")
    page.button(key="model-add").click().run()
    assert not page.error
    row = world.client.library.model("two")
    assert row.manifest["wrapper"] == "teacher"
    assert "'teacher' was taken" in texts(page)


def test_a_file_that_says_its_architecture_is_not_asked_for_one(world: World, tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(size=(4, 3, 6, 6)).astype("float32")
    nodes = [helper.make_node("Conv", ["x", "conv.weight"], ["c"]), helper.make_node("Flatten", ["c"], ["y"])]
    content = graph_file(tmp_path / "net.onnx", nodes, {"conv.weight": weight}, shape=(1, 3, 6, 6)).read_bytes()
    page = opened("models", add="1")
    page.file_uploader(key="model-file").upload("net.onnx", content, "application/octet-stream").run()
    assert not [box for box in page.selectbox if box.key == "model-architecture"]
    recognized(page)
    assert "ONNX" in texts(page)
    assert "4 classes, images of 3x6x6" in texts(page)
    assert "The file says so itself." in texts(page)
    assert not [box for box in page.selectbox if box.key in ("model-proposal", "model-mapping")]
    page.button(key="model-add").click().run()
    assert not page.error
    row = world.client.library.model("net")
    assert (row.architecture["kind"], row.architecture["num_classes"]) == ("onnx", 4)


def test_what_a_file_is_fills_in_the_architecture(world: World) -> None:
    architecture = ARCHITECTURES.parse("preact-resnet:num_classes=7")
    content = hostile.saved({"student": architecture.build().state_dict(), "teacher": {}})
    page = opened("models", add="1")
    page.file_uploader(key="model-file").upload("pre.pt", content, "application/octet-stream").run()
    recognized(page)
    assert not page.exception
    assert "PreAct ResNet, depth 18, 7 classes, images of 3x32x32, 11.2 million parameters." in texts(page)
    fitting = page.selectbox(key="model-proposal")
    assert fitting.options == [
        "preact-resnet:num_classes=7",
        "preact-resnet:num_classes=7,shortcut_of=input",
        "another architecture",
    ]
    assert not [box for box in page.selectbox if box.key == "model-architecture"]
    fitting.set_value(fitting.options[1]).run()
    assert "Names and shapes do not decide: shortcut_of (activated or input)." in texts(page)
    page.button(key="model-add").click().run()
    assert not page.error
    row = world.client.library.model("pre")
    assert row.architecture == architecture.model_copy(update={"shortcut_of": "input"}).model_dump(mode="json")


def test_a_checkpoint_of_timm_gets_the_image_size_that_its_tensors_do_not_say(world: World) -> None:
    """timm's CheckpointSaver writes NAME.pth.tar; a ConvNeXt's tensors are the same for every image size."""
    timm = pytest.importorskip("timm")
    network = timm.create_model("convnext_atto", num_classes=3)
    content = hostile.saved({"epoch": 3, "arch": "convnext_atto", "state_dict": network.state_dict()})
    page = opened("models", add="1")
    uploader = page.file_uploader(key="model-file")
    assert ".pth.tar" in uploader.proto.type
    uploader.upload("last.pth.tar", content, "application/octet-stream").run()
    recognized(page)
    assert page.selectbox(key="model-proposal").value == "timm:model=convnext_atto,num_classes=3"
    assert "'Size of the images' on the page" in texts(page)
    size = page.selectbox(key="model-size-timm:model=convnext_atto,num_classes=3")
    assert size.options == ["6x6, as in random", "224x224, usual for this network", "another size"]
    assert size.value == "224x224, usual for this network", "the data set has 5 classes, the network 3"
    size.set_value("another size").run()
    sizes = [field for field in page.number_input if field.label in ("Height", "Width")]
    assert [field.value for field in sizes] == [224, 224]
    for field in sizes:
        field.set_value(64)
    page.button(key="model-add").click().run()
    assert not page.error
    architecture = world.client.library.models()[0].architecture
    assert (architecture["kind"], architecture["model"]) == ("timm", "convnext_atto")
    assert (architecture["height"], architecture["width"]) == (64, 64)


def test_another_architecture_than_those_that_fit_is_given_by_hand(world: World) -> None:
    state = hostile.tiny_state()
    content = hostile.saved({"student": state, "teacher": state})
    page = opened("models", add="1")
    page.file_uploader(key="model-file").upload("two.pt", content, "application/octet-stream").run()
    recognized(page)
    refused(page, world, "'two.pt' holds several sets of weights: student, teacher. Choose one under 'Set of weights'")
    page.selectbox(key="model-set").set_value("teacher").run()
    recognized(page)
    assert page.selectbox(key="model-proposal").options == [
        "resnet18-cifar:width_factor=0.0625",
        "another architecture",
    ]
    page.selectbox(key="model-proposal").set_value("another architecture").run()
    page.selectbox(key="model-architecture").set_value("lenet5").run()
    page.button(key="model-add").click().run()
    refused(page, world, "do not fit the architecture lenet5")


@pytest.mark.parametrize("name", hostile.DATASETS)
def test_a_wrong_data_set_gets_one_sentence_and_leaves_nothing(world: World, name: str) -> None:
    filename, make, said = hostile.DATASETS[name]
    page = opened("datasets")
    page.file_uploader(key="dataset-file").upload(filename, make(), "application/octet-stream").run()
    page.button(key="dataset-add").click().run()
    refused(page, world, said)


def refused(page: AppTest, world: World, said: str) -> None:
    assert not page.exception
    (error,) = page.error
    assert re.search(said, error.value.replace("\\", "")), error.value
    assert len(world.client.library.models()) == len(world.client.library.datasets()) == 1
    blobs = [path for path in world.client.settings.blobs.glob("??/*") if path.is_file()]
    assert len(blobs) == 2, "only the world's own two"
    assert list((world.client.settings.blobs / "staging").iterdir()) == []


def test_a_right_model_is_kept_and_vetted(world: World) -> None:
    page = opened("models", add="1")
    page.file_uploader(key="model-file").upload(
        "net.pt", hostile.saved(hostile.tiny_state()), "application/octet-stream"
    )
    page.text_input(key="model-name").set_value("my net")
    page.selectbox(key="model-architecture").set_value("resnet18-cifar").run()
    page.number_input(key="model-resnet18-cifar-width_factor").set_value(0.0625)
    page.button(key="model-add").click().run()
    assert not page.error
    row = world.client.library.model("my net")
    assert row.architecture["kind"] == "resnet18-cifar"
    (job,) = world.client.jobs.find(kind="vet")
    assert (job.model_id, job.dataset_id) == (row.id, None), "the data set does not fit, so it is vetted without"
    assert page.query_params["model"] == [row.id] or page.query_params["model"] == row.id
    assert isinstance(world.client.ledger.get(job.id), JobRow)
    (why,) = page.warning[1:]
    assert "Vetted without data. The model takes images of 3x32x32" in texts(page), why.value
    page.selectbox(key="vet-on").set_value(world.dataset_id).run()
    page.button(key="vet-now").click().run()
    assert "The model takes images of 3x32x32" in page.error[0].value
    assert page.button(key="vet-now"), "the rest of the page is still there"


def test_the_weights_are_downloaded_from_the_page(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    offered: dict[str, Any] = {}

    def button(label: str, data: Any, **options: Any) -> bool:
        offered.update(options, label=label, data=data)
        return False

    monkeypatch.setattr(st, "download_button", button)
    opened("models", model=world.model_id)
    assert offered["label"] == "Download the weights (.zip)"
    assert offered["file_name"] == f"model-{world.model_id[:8]}.zip"
    with zipfile.ZipFile(io.BytesIO(offered["data"]())) as archive:
        (weights,) = (name for name in archive.namelist() if name.endswith(".safetensors"))
        found = load(archive.read(weights))
    stored = load(world.client.blobs.path(world.client.library.model(world.model_id).weights).read_bytes())
    assert found.keys() == stored.keys()
    assert all(torch.equal(found[name], stored[name]) for name in stored)


def test_the_neurons_page_opens_a_module_a_layer_and_a_neuron_with_the_images_that_excite_it(world: World) -> None:
    spec = quick_spec().model_copy(
        update={"analyses": tuple(ANALYSES.build(kind, {}) for kind in ("neuron_sensitivity", "neuron_exemplars"))}
    )
    audit = run_here(world.client, world.client.audits.queue("tiny", "random", spec))
    page = opened("neurons", audit=audit)
    assert [box.label for box in page.selectbox][2:] == ["Measure", "Layers", "Open a layer"]
    assert "Each box is a layer" in texts(page)
    page.selectbox(key="neurons-kind").set_value("").run()
    page.toggle(key="neurons-modules").set_value(True).run()
    page.selectbox(key="neurons-map-box").set_value("1").run()
    inner = "neurons-map-1-0"
    page.selectbox(key=f"{inner}-box").set_value("1").run()
    assert "1: activation, " in texts(page)
    (exemplars,) = [
        layer
        for finding in world.client.audits.result(audit).findings
        if finding.kind == "neuron_exemplars"
        for layer in typed(finding.data, LayerExemplars).layers
        if layer.name == "1"
    ]
    best = exemplars.neurons[0]
    page.selectbox(key=f"{inner}-1-1-box").set_value(str(best)).run()
    assert not page.exception
    assert {"Neuron sensitivity", "Sensitivity ratio", "Change of excitation"} <= {item.label for item in page.metric}
    assert f"Neuron {best} of 1" in texts(page)
    assert page.query_params["layer"] == "1"


def test_of_many_analyses_a_reader_picks_those_to_draw_and_the_address_keeps_them(world: World) -> None:
    kinds = ("activation_distribution", "delta_values", "error_amplification", "neuron_exemplars", "neuron_sensitivity")
    spec = quick_spec().model_copy(update={"analyses": tuple(ANALYSES.build(kind, {}) for kind in kinds)})
    audit = run_here(world.client, world.client.audits.queue("tiny", "random", spec))
    page = opened("result", audit=audit)
    headers = [item.value for item in page.header]
    assert "Neuron sensitivity by layer" in headers
    assert "Error amplification" not in headers
    page = opened("result", audit=audit, analyses="error_amplification,unknown")
    headers = [item.value for item in page.header]
    assert "Error amplification" in headers
    assert "Neuron sensitivity by layer" not in headers
    page.button_group(key=f"analyses-{audit}").set_value(["neuron_exemplars", "delta_values"]).run()
    assert not page.exception
    assert {"What excites the neurons", "Delta-values of the last layer"} <= {item.value for item in page.header}
    assert page.query_params["analyses"] in ("neuron_exemplars,delta_values", ["neuron_exemplars,delta_values"])


def test_two_audits_stand_beside_each_other_on_one_scale(world: World) -> None:
    first = finished_audit(world)
    other = run_here(
        world.client,
        world.client.audits.queue("tiny", "random", quick_spec().model_copy(update={"analysis_samples": 5})),
    )
    page = opened("neurons", audit=first, beside=other)
    charts = [json.loads(item.proto.spec) for item in page.get("vega_lite_chart")]
    domains = [found for chart in charts for found in scales(chart)]
    assert len(domains) == 2
    assert domains[0] == domains[1]
    assert "used different samples" not in texts(page)


def scales(chart: dict[str, Any]) -> list[list[float]]:
    """The colour scales of a chart's layers."""
    encodings = [layer.get("encoding", {}).get("color", {}) for layer in chart.get("layer", [])]
    return [
        encoding["condition"]["scale"]["domain"] for encoding in encodings if "scale" in encoding.get("condition", {})
    ]


def test_an_audit_without_analyses_has_no_map(world: World) -> None:
    audit = run_here(
        world.client, world.client.audits.queue("tiny", "random", quick_spec().model_copy(update={"analyses": ()}))
    )
    assert "no analysis of single neurons" in texts(opened("neurons", audit=audit))
