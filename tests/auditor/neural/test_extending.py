"""The analysis that docs/extending.md shows, run as it stands there."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from auditor.neural.analysis import Subject
from auditor.show.blocks import Table
from tests.auditor.neural.analyses.given import attacked
from tests.narrow import sequence
from tests.nets import labelled, small_classifier

GUIDE = (Path(__file__).parents[3] / "docs" / "extending.md").read_text()


@pytest.fixture
def guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    section = GUIDE[GUIDE.index("## An analysis: a file in") :]
    found = re.search(r"```python\n(.*?)```", section, re.S)
    assert found is not None
    file = tmp_path / "silent_neurons.py"
    file.write_text(found[1])
    spec = importlib.util.spec_from_file_location("silent_neurons", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "silent_neurons", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    """Of eight filters five are zero, so that five neurons of the convolution, but no constant after it, put out nothing."""
    classifier = small_classifier()
    with torch.no_grad():
        sequence(classifier)[0].weight[3:] = 0
        sequence(classifier)[0].bias[3:] = 0
    return attacked(classifier, labelled(classifier, n=20), tmp_path)


def test_the_analysis_of_the_guide_counts_silent_neurons(guide: ModuleType, subject: Subject) -> None:
    analysis = guide.SilentNeurons()
    finding = analysis.run(subject)
    found = finding.data
    first = found.layers[0]
    assert (first.name, first.kind, first.neurons, first.silent, first.share) == ("0", "conv", 8, 5, 5 / 8)
    output = sequence(subject.classifier)[0](
        subject.classifier.normalize(torch.cat([pair.x for pair in subject.pairs]))
    )
    assert first.largest == pytest.approx(output.abs().amax((0, 2, 3)).tolist(), rel=1e-5)
    assert [flag.name for flag in finding.flags] == ["mostly silent"]
    assert finding.flags[0].evidence.endswith("the first: 0")
    text, table = analysis.blocks(guide.SilentNeurons.read(found.model_dump(mode="json"), analysis.revision))
    assert text.text == "Neurons that put out zero on each of 20 clean images."
    assert isinstance(table, Table)
    assert table.cells()[0] == ["0", "conv", "8", "5", "62.5 %"]
    (measure,) = analysis.neuron_measures(found)
    assert measure.layers[0].marked.tolist() == [3, 4, 5, 6, 7]
    assert analysis.cost(7) == 7.0
