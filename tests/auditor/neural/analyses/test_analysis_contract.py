"""What holds for every analysis: it runs on a small network, lives on as data, and every chart of it draws."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from auditor.neural.analysis import ANALYSES, Finding, Subject, detail_of, measured, measures_of, section_of
from auditor.report.neuron_map import layer_blocks, network_map
from auditor.show.blocks import Figure, Text
from auditor.show.charts import draw
from tests.auditor.neural.analyses.given import attacked
from tests.narrow import typed
from tests.nets import deeper_classifier, labelled

KINDS = list(ANALYSES.members)


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    classifier = deeper_classifier()
    made = attacked(classifier, labelled(classifier, n=40), tmp_path_factory.mktemp("pairs"), epsilon=0.5)
    return replace(made, batch_size=128)


@pytest.fixture(scope="module", params=KINDS)
def finding(request: pytest.FixtureRequest, subject: Subject) -> Finding:
    """Of a run with the defaults, read back from its JSON."""
    found = measured(ANALYSES.build(request.param, {}), subject)
    return Finding.model_validate_json(found.model_dump_json())


def test_a_finding_draws_itself_from_its_data(finding: Finding) -> None:
    section = section_of(finding)
    assert section.key == finding.kind
    assert section.blocks
    assert not finding.declined, "it works on convolutions, normalization, ReLU, a pool and linear layers"
    for block in section.blocks:
        if isinstance(block, Figure):
            assert draw(block).to_dict()
            assert block.reading.endswith("."), block.title
            for name in sorted({str(row[block.select]) for row in block.rows} if block.select else set())[:2]:
                for inner in detail_of(finding, (name,)):
                    assert not isinstance(inner, Figure) or draw(inner).to_dict()


def test_a_finding_of_today_is_none_of_yesterday(finding: Finding) -> None:
    analysis = ANALYSES.build(finding.kind, finding.settings)
    assert finding.revision == analysis.revision == len(analysis.changes)
    assert not any(isinstance(block, Text) and "older result" in block.text for block in section_of(finding).blocks)
    older = section_of(finding.model_copy(update={"revision": 0}))
    assert [typed(block, Text).text for block in older.blocks[: analysis.revision]] == [
        f"An older result. {change}" for change in analysis.changes
    ]


def test_no_flag_of_an_analysis_withholds_a_headline(finding: Finding) -> None:
    """What an analysis doubts is itself; robust accuracy is the attacks' and the checks' affair."""
    assert "severe" not in {flag.severity for flag in finding.flags}


def test_what_is_said_of_neurons_fits_the_map(finding: Finding) -> None:
    for measure in measures_of([finding]).values():
        assert measure.reading.endswith(".")
        assert draw(network_map(measure, collapse=True)).to_dict()
        for layer in measure.layers:
            assert layer.values.dtype == np.float64
            assert set(layer.marked.tolist()) <= set(range(len(layer.values)))
            assert layer_blocks(measure, layer.name)
