"""What analyses say of every neuron, from findings written by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from auditor.neural.analyses.activation_distribution import ActivationDistribution
from auditor.neural.analyses.delta_values import DeltaValues
from auditor.neural.analyses.interior_delta import InteriorDelta
from auditor.neural.analyses.k_ns import KNeuronSensitivityAttack
from auditor.neural.analyses.layer_sharing import LayerSharing
from auditor.neural.analyses.neuron_importance import NeuronImportance
from auditor.neural.analyses.neuron_influence import NeuronInfluence
from auditor.neural.analysis import Analysis, Finding, MeasuredLayer, NeuronMeasure, measures_of, section_of
from auditor.neural.delta.activation_spread import LayerActivations, NeuronActivations
from auditor.neural.delta.neuron_successes import AttackedNeurons, NeuronSuccesses
from auditor.neural.delta.search import InteriorDeltas
from auditor.neural.delta.summary import SearchedLayer, SearchedNeuron
from auditor.neural.delta.tally import LastLayerDeltas, NeuronDeltas
from auditor.show.blocks import Table
from tests.auditor.neural.analyses.given import only
from tests.auditor.neural.analyses.stored import stored
from tests.narrow import typed


def said(analysis: Analysis[Any], data: Any) -> dict[str, NeuronMeasure]:
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
    each = only(NeuronDeltas, scaled=tuple(scaled))
    layer = layer_of(said(DeltaValues(), only(LastLayerDeltas, layer="fc", by_neuron=each))["delta"])
    assert math.isnan(layer.values[0])
    assert layer.values[1:].tolist() == scaled[1:]
    assert sorted(layer.marked.tolist()) == list(range(4, 20)), "the 16 lowest of 19"


def test_interior_delta_has_no_value_where_nothing_was_searched_or_found() -> None:
    medians = {1: 3.0, 3: 2.0, 4: None}
    chosen = tuple(only(SearchedNeuron, neuron=neuron, median=median) for neuron, median in medians.items())
    row = only(SearchedLayer, layer="conv1", kind="conv", neurons=6, chosen=chosen)
    (layer,) = said(InteriorDelta(), only(InteriorDeltas, layers=(row,)))["delta"].layers
    assert (layer.name, layer.kind) == ("conv1", "conv")
    assert layer.values.tolist() == pytest.approx([math.nan, 3, math.nan, 2, math.nan, math.nan], nan_ok=True)
    assert layer.marked.tolist() == [3]


def test_zeros_clean_and_their_rise_under_attack() -> None:
    each = only(NeuronActivations, zeros=(1.0, 0.25, 0.5), zeros_attacked=(1.0, 0.5, 0.0))
    found = said(ActivationDistribution(), only(LayerActivations, layer="fc", by_neuron=each))
    assert layer_of(found["zeros"]).values.tolist() == [1, 0.25, 0.5]
    assert layer_of(found["zeros_rise"]).values.tolist() == [0, 0.25, -0.5]
    assert layer_of(found["zeros"]).marked.tolist() == [0]


def test_how_many_classes_a_feature_is_important_for() -> None:
    rows = [
        {"images": 10, "important": [0, 2], "sensitive": [1, 2]},
        {"images": 20, "important": [2, 1], "sensitive": [0, 2]},
        {"images": 3, "important": [3, 1], "sensitive": [3, 1]},  # too few images to count
    ]
    classes = [{"class": place, "name": str(place), "tried": 30} | row for place, row in enumerate(rows)]
    data = stored("neuron_importance").data.model_dump() | {"layer": "fc", "neurons": 4, "k": 2}
    found = said(NeuronImportance(), data | {"classes": classes})
    assert layer_of(found["important"]).values.tolist() == [0.5, 0.5, 1, 0]
    assert layer_of(found["sensitive"]).values.tolist() == [0.5, 0.5, 1, 0]
    assert layer_of(found["important"]).marked.tolist() == [2]
    assert not said(NeuronImportance(), data | {"classes": classes[2:]})


def test_influence_and_its_change() -> None:
    each = {"influence_clean": [1.0, -0.5, 0.25], "influence_twin": [0.5, -0.25, 0.25], "front_clean": [0.5, 0, 1.0]}
    each |= {key: [0.0] * 3 for key in ("front_twin", "tail_clean", "tail_twin")}
    data = stored("neuron_influence").data.model_dump() | {"layer": "the input of fc", "by_neuron": each}
    found = said(NeuronInfluence(front=1), data)
    assert layer_of(found["clean"]).values.tolist() == [1, -0.5, 0.25]
    assert layer_of(found["change"]).values.tolist() == [-0.5, 0.25, 0]
    assert layer_of(found["front"]).values.tolist() == [0.5, 0, 1]
    assert layer_of(found["clean"]).marked.tolist() == [2], "the one most often front"


def test_success_of_the_attack_on_each_neuron() -> None:
    each = AttackedNeurons(attacked=(4, 0, 2), fell=(1, 0, 2))
    found = only(NeuronSuccesses, layer="fc", by_neuron=each)
    layer = layer_of(said(KNeuronSensitivityAttack(), found)["success"])
    assert layer.values.tolist() == pytest.approx([0.25, math.nan, 1], nan_ok=True)
    assert layer.marked.tolist() == [2]
    assert not said(KNeuronSensitivityAttack(), only(NeuronSuccesses, layer="fc", by_neuron=None))


def test_how_many_classes_share_a_sensitive_neuron() -> None:
    nothing = {"value": None, "low": None, "high": None, "n": 4}
    row = {
        "neurons": 3, "count": 1, "similarity": nothing, "random_similarity": 0.5, "halves": nothing, "jaccard": 0.5,
        "random_jaccard": 0.5, "silent": False,
    }  # fmt: skip
    conv, linear = row | {"name": "conv1", "kind": "conv"}, row | {"name": "fc", "kind": "linear"}
    data = {"attack": "", "classes": [], "compared": 4, "all_classes": 4}
    counted = [conv | {"moving": 3, "front": [4, 0, 1]}, linear | {"moving": 0, "front": [0, 0]}]
    one, other = said(LayerSharing(), data | {"layers": counted})["shared"].layers
    assert (one.name, one.kind, one.values.tolist(), one.marked.tolist()) == ("conv1", "conv", [1, 0, 0.25], [0])
    assert other.values.tolist() == [0, 0]
    old = Finding(kind="layer_sharing", settings={}, data=data | {"layers": [conv, linear]})
    assert not measures_of([old])
    assert [row[3] for row in typed(section_of(old).blocks[-1], Table).cells()] == ["–", "–"], (
        "it is drawn without what was not counted"
    )
