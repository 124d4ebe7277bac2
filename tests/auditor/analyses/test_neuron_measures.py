"""What analyses say of every neuron, from findings written by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from auditor.analyses.activation_distribution import ActivationDistribution
from auditor.analyses.delta_values import DeltaValues
from auditor.analyses.interior_delta import InteriorDelta
from auditor.analyses.k_ns import KNeuronSensitivityAttack
from auditor.analyses.layer_sharing import LayerSharing
from auditor.analyses.neuron_importance import NeuronImportance
from auditor.analyses.neuron_influence import NeuronInfluence
from auditor.analysis import Analysis, Finding, MeasuredLayer, NeuronMeasure, measures_of


def said(analysis: Analysis, data: dict[str, Any]) -> dict[str, NeuronMeasure]:
    """By key, without the analysis's name."""
    finding = Finding(kind=analysis.kind, settings=analysis.settings(), data=data)
    return {key.removeprefix(f"{analysis.kind}."): measure for key, measure in measures_of([finding]).items()}


def layer_of(measure: NeuronMeasure) -> MeasuredLayer:
    """The only one: the inputs of the head."""
    (layer,) = measure.layers
    assert (layer.name, layer.kind) == ("the input of fc", "linear")
    return layer


def test_delta_values_and_the_lowest_are_marked() -> None:
    scaled = [None, *(float(20 - neuron) for neuron in range(1, 20))]
    layer = layer_of(said(DeltaValues(), {"layer": "fc", "by_neuron": {"scaled": scaled}})["delta"])
    assert math.isnan(layer.values[0])
    assert layer.values[1:].tolist() == scaled[1:]
    assert sorted(layer.marked.tolist()) == list(range(4, 20)), "the 16 lowest of 19"


def test_interior_delta_has_no_value_where_nothing_was_searched_or_found() -> None:
    chosen = [{"neuron": 1, "median": 3.0}, {"neuron": 3, "median": 2.0}, {"neuron": 4, "median": None}]
    layers = [{"layer": "conv1", "kind": "conv", "neurons": 6, "chosen": chosen}]
    (layer,) = said(InteriorDelta(), {"layers": layers})["delta"].layers
    assert (layer.name, layer.kind) == ("conv1", "conv")
    assert layer.values.tolist() == pytest.approx([math.nan, 3, math.nan, 2, math.nan, math.nan], nan_ok=True)
    assert layer.marked.tolist() == [3]


def test_zeros_clean_and_their_rise_under_attack() -> None:
    each = {"zeros": [1.0, 0.25, 0.5], "zeros_attacked": [1.0, 0.5, 0.0]}
    found = said(ActivationDistribution(), {"layer": "fc", "by_neuron": each})
    assert layer_of(found["zeros"]).values.tolist() == [1, 0.25, 0.5]
    assert layer_of(found["zeros_rise"]).values.tolist() == [0, 0.25, -0.5]
    assert layer_of(found["zeros"]).marked.tolist() == [0]


def test_how_many_classes_a_feature_is_important_for() -> None:
    rows = [
        {"images": 10, "important": [0, 2], "sensitive": [1, 2]},
        {"images": 20, "important": [2, 1], "sensitive": [0, 2]},
        {"images": 3, "important": [3, 1], "sensitive": [3, 1]},  # too few images to count
    ]
    found = said(NeuronImportance(), {"layer": "fc", "neurons": 4, "k": 2, "classes": rows})
    assert layer_of(found["important"]).values.tolist() == [0.5, 0.5, 1, 0]
    assert layer_of(found["sensitive"]).values.tolist() == [0.5, 0.5, 1, 0]
    assert layer_of(found["important"]).marked.tolist() == [2]
    assert not said(NeuronImportance(), {"layer": "fc", "neurons": 4, "k": 2, "classes": rows[2:]})


def test_influence_and_its_change() -> None:
    each = {"influence_clean": [1.0, -0.5, 0.25], "influence_twin": [0.5, -0.25, 0.25], "front_clean": [0.5, 0, 1.0]}
    found = said(NeuronInfluence(front=1), {"layer": "the input of fc", "by_neuron": each})
    assert layer_of(found["clean"]).values.tolist() == [1, -0.5, 0.25]
    assert layer_of(found["change"]).values.tolist() == [-0.5, 0.25, 0]
    assert layer_of(found["front"]).values.tolist() == [0.5, 0, 1]
    assert layer_of(found["clean"]).marked.tolist() == [2], "the one most often front"


def test_success_of_the_attack_on_each_neuron() -> None:
    each = {"attacked": [4, 0, 2], "fell": [1, 0, 2]}
    layer = layer_of(said(KNeuronSensitivityAttack(), {"layer": "fc", "by_neuron": each})["success"])
    assert layer.values.tolist() == pytest.approx([0.25, math.nan, 1], nan_ok=True)
    assert layer.marked.tolist() == [2]
    assert not said(KNeuronSensitivityAttack(), {"layer": "fc"})


def test_how_many_classes_share_a_sensitive_neuron() -> None:
    rows = [{"name": "conv1", "kind": "conv", "front": [4, 0, 1]}, {"name": "fc", "kind": "linear", "front": [0, 0]}]
    one, other = said(LayerSharing(), {"compared": 4, "layers": rows})["shared"].layers
    assert (one.name, one.kind, one.values.tolist(), one.marked.tolist()) == ("conv1", "conv", [1, 0, 0.25], [0])
    assert other.values.tolist() == [0, 0]
    assert not said(LayerSharing(), {"compared": 4, "layers": [{"name": "conv1"}]})
