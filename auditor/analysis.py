"""Analysis: a neuron-level measurement; it returns its numbers, its doubts and its own section of the report."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from auditor.attack import Attack
from auditor.capability import Capability, Catalog
from auditor.classifier import Classifier
from auditor.dataset import ImageDataset
from auditor.errors import EvaluationError
from auditor.flag import Flag
from auditor.progress import OnProgress, no_progress
from auditor.report.blocks import AnyBlock, Section, Text
from auditor.threat import ThreatModel


class Pair(NamedTuple):
    """Some images and their perturbed twins.

    ``sample``: ids (B,). ``x``, ``x_adv``: (B, C, H, W) on the classifier's device. ``labels``: (B,), on the device too.
    ``fooled``: whether the attack on it succeeded, bool (B,).
    """

    sample: NDArray[np.int64]
    x: Tensor
    x_adv: Tensor
    labels: Tensor
    fooled: NDArray[np.bool_]


class Pairs(Protocol):
    """Clean images and their perturbed twins, read batch by batch and as often as needed."""

    def __iter__(self) -> Iterator[Pair]: ...

    def __len__(self) -> int:
        """Number of samples."""


@dataclass(frozen=True)
class Subject:
    """What an analysis may look at: the model, the pairs that the audit made for it, and where they come from.

    ``dataset`` and ``ids``: the samples of the pairs, in their order. ``pairs_from`` says in words how the perturbed twins
    were made; ``attacks`` are the audit's. ``folder`` is for files that the analysis needs while it runs. More twins, of
    another attack, another goal or another network: ``auditor.twins.stored.make_twins``.
    """

    classifier: Classifier
    pairs: Pairs
    dataset: ImageDataset
    ids: NDArray[np.int64]
    threat: ThreatModel
    attacks: tuple[Attack, ...]
    pairs_from: str
    seed: int
    batch_size: int
    folder: Path
    on_progress: OnProgress = no_progress


class MeasuredLayer(NamedTuple):
    """One layer under a measure: ``values`` (M,), NaN where undefined; ``marked``: indices of the neurons that stand out."""

    name: str
    kind: str
    values: NDArray[np.float64]
    marked: NDArray[np.int64]


def measured_layer(name: str, kind: str, values: Sequence[float | None], marked: Iterable[int]) -> MeasuredLayer:
    """From plain data, None where undefined."""
    return MeasuredLayer(name, kind, np.array(values, np.float64), np.array(list(marked), np.int64))


def before_head(head: str, values: Sequence[float | None], marked: Iterable[int]) -> MeasuredLayer:
    """The inputs of the last linear layer, ``head``, under a name that is the same whatever is measured."""
    return measured_layer(f"the input of {head}", "linear", values, marked)


class NeuronMeasure(NamedTuple):
    """A number for every neuron, layer by layer from input to output, for the map of the network.

    ``unit`` is what an axis says, ``reading`` a sentence on what a large value means, ``marked_as`` what marked neurons are
    called. ``key`` is unique within the analysis.
    """

    key: str
    title: str
    unit: str
    reading: str
    marked_as: str
    layers: tuple[MeasuredLayer, ...]


class Finding(BaseModel):
    """What an analysis found: its parameters, its numbers as plain data, and its doubts.

    ``declined``: why the network does not allow the measurement, in a sentence; there are no numbers then. ``revision``: how
    many of the analysis's ``changes`` it knows; 0 for one stored before they were counted.
    """

    model_config = ConfigDict(frozen=True)

    kind: str
    settings: dict[str, Any]
    data: dict[str, Any]
    flags: tuple[Flag, ...] = ()
    declined: str = ""
    revision: int = 0


class Analysis(Capability):
    """A neuron-level measurement of a classifier. One subclass per file in ``auditor.analyses``.

    ``run`` measures and returns plain data; ``section`` and ``detail`` draw that data, at once or years later, for the
    page and the report alike. ``standard``: whether an audit runs it unless told otherwise. ``changes``: a sentence for each
    time that its numbers got another meaning, oldest first, on what they were before; a stored finding shows those that came
    after it.
    """

    standard: ClassVar[bool] = False
    changes: ClassVar[tuple[str, ...]] = ()

    @property
    def revision(self) -> int:
        """What a finding of today carries."""
        return len(self.changes)

    @property
    def cost(self) -> float:
        """Forward passes for each image, about; a backward pass counts as two."""
        return 3.0

    @abstractmethod
    def run(self, subject: Subject) -> Finding:
        """Measure. Raises EvaluationError when the network does not allow the measurement."""

    @abstractmethod
    def section(self, finding: Finding) -> Section:
        """The section of the report that shows a finding of this analysis."""

    def detail(self, finding: Finding, path: tuple[str, ...]) -> tuple[AnyBlock, ...]:
        """What opens behind a mark: ``path`` holds the marks that were clicked, outermost first (layer, neuron)."""
        return ()

    def neuron_measures(self, finding: Finding) -> tuple[NeuronMeasure, ...]:
        """What this analysis says of every neuron; empty where it says nothing of single neurons."""
        return ()


ANALYSES: Catalog[Analysis] = Catalog("auditor.analyses", Analysis)


def measured(analysis: Analysis, subject: Subject) -> Finding:
    """Run an analysis; where the network does not allow it, a finding that says why."""
    try:
        return analysis.run(subject)
    except EvaluationError as error:
        return Finding(kind=analysis.kind, settings=analysis.settings(), data={}, declined=str(error))


def analysis_of(finding: Finding) -> Analysis:
    """The analysis that made a finding, with its parameters. Raises SpecError when it is no longer installed."""
    return ANALYSES.build(finding.kind, finding.settings)


def keyed(findings: Sequence[Finding]) -> dict[str, Finding]:
    """Findings by a key that is unique within an audit: the kind, and ``kind-2``, ``kind-3`` where an analysis ran more often."""
    seen: Counter[str] = Counter()
    found = {}
    for finding in findings:
        seen[finding.kind] += 1
        number = seen[finding.kind]
        found[finding.kind if number == 1 else f"{finding.kind}-{number}"] = finding
    return found


def sections_of(findings: Sequence[Finding]) -> dict[str, Section]:
    """The sections of an audit's findings by key; where an analysis ran more than once, titles say with which parameters."""
    often = Counter(finding.kind for finding in findings)
    sections = {}
    for key, finding in keyed(findings).items():
        section = section_of(finding)
        title = section.title if often[finding.kind] == 1 else f"{section.title}, {analysis_of(finding).describe()}"
        sections[key] = section.model_copy(update={"key": key, "title": title})
    return sections


def section_of(finding: Finding) -> Section:
    """The section of the report that shows a finding."""
    analysis = analysis_of(finding)
    if not finding.declined:
        section = analysis.section(finding)
        old = tuple(
            Text(text=f"An older result. {change}", tone="warning") for change in analysis.changes[finding.revision :]
        )
        return section.model_copy(update={"blocks": (*old, *section.blocks)}) if old else section
    text = f"Not measured: {finding.declined}"
    return Section(key=finding.kind, title=analysis.display_title(), blocks=(Text(text=text, tone="note"),))


def measures_of(findings: Sequence[Finding]) -> dict[str, NeuronMeasure]:
    """What an audit's findings say of every neuron, by key; titles tell runs of the same analysis apart."""
    often = Counter(finding.kind for finding in findings)
    found = {}
    for key, finding in keyed(findings).items():
        analysis = analysis_of(finding)
        for measure in () if finding.declined else analysis.neuron_measures(finding):
            title = measure.title if often[finding.kind] == 1 else f"{measure.title}, {analysis.describe()}"
            found[f"{key}.{measure.key}"] = measure._replace(key=f"{key}.{measure.key}", title=title)
    return found


def detail_of(finding: Finding, path: tuple[str, ...]) -> tuple[AnyBlock, ...]:
    """What opens behind a mark of that section (see ``Analysis.detail``)."""
    return () if finding.declined else analysis_of(finding).detail(finding, path)
