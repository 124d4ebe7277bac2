"""A whole audit of a converted network: its layers are found, and the numbers are those of the network that was exported."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from auditor import AuditResult, AuditSpec, Classifier, audit, sample
from auditor.attacking.harness.fast import fast_copy
from auditor.data.intake.onnx.convert import convert
from auditor.data.samples import CLASS_NAMES
from auditor.models.neurons import list_layers
from tests.auditor.data.intake.onnx_files import EXPORTERS, network_of

SPEC = AuditSpec.load(
    {
        "threats": [{"norm": "linf", "epsilon": 0.05}],
        "attacks": [{"kind": "pgd", "steps": 5}],
        "samples": 24,
        "analyses": [{"kind": "neuron-sensitivity"}, {"kind": "critical-route"}, {"kind": "grad-cam"}],
        "checks": [],
        "curve": [],
        "curve_to_zero": False,
        "examples": 0,
    }
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Classifier, Classifier]:
    """The plain sample, and the same through a file."""
    original = sample("plain").classifier
    path = tmp_path_factory.mktemp("onnx") / "plain.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            original.network, (torch.rand(1, 1, 28, 28),), str(path), verbose=False, **EXPORTERS["not optimized"]
        )
    converted = convert(path, path.name)
    architecture = converted.architecture
    return original, Classifier(
        network_of(converted), input_shape=architecture.input_shape, num_classes=architecture.num_classes,
        class_names=CLASS_NAMES,
    )  # fmt: skip


def test_the_layers_are_those_of_the_original(pair: tuple[Classifier, Classifier]) -> None:
    original, converted = pair
    assert list_layers(converted) == list_layers(original)


def test_attacks_run_on_a_fast_copy(pair: tuple[Classifier, Classifier]) -> None:
    """torch.fx can trace the network, so batch norms are folded while it is attacked."""
    converted = pair[1]
    assert fast_copy(converted) is not converted


def names_in(data: Any) -> Iterator[str]:
    """Whatever a result calls a layer."""
    if isinstance(data, dict):
        for key, value in data.items():
            if key in ("layer", "name", "source", "target") and isinstance(value, str):
                yield value
            yield from names_in(value)
    elif isinstance(data, list):
        for value in data:
            yield from names_in(value)


def test_an_audit_finds_what_it_finds_in_the_original(pair: tuple[Classifier, Classifier]) -> None:
    data = sample("plain").dataset
    first, second = (audit(SPEC, classifier, data) for classifier in pair)
    assert isinstance(first, AuditResult)
    assert first.clean_accuracy == second.clean_accuracy
    assert [record.fooled for record in first.records] == [record.fooled for record in second.records]
    assert [finding.kind for finding in first.findings] == [finding.kind for finding in second.findings]
    for a, b in zip(first.findings, second.findings, strict=True):
        assert a.declined == b.declined == ""
        found = list(names_in(a.data.model_dump(mode="json")))
        assert found == list(names_in(b.data.model_dump(mode="json")))
        assert found or a.kind == "grad-cam"


def test_training_changes_the_layers_of_a_converted_network(pair: tuple[Classifier, Classifier]) -> None:
    """Each weight has a gradient, as hardening needs."""
    network = pair[1].network
    weights = [parameter.clone().requires_grad_() for parameter in network.parameters()]
    names = [name for name, _ in network.named_parameters()]
    logits = torch.func.functional_call(
        network,
        dict(zip(names, weights, strict=True)),
        (torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0)),),
    )
    assert isinstance(logits, torch.Tensor)
    gradients = torch.autograd.grad(logits.square().sum(), weights)
    assert [name for name, gradient in zip(names, gradients, strict=True) if not gradient.any()] == []
