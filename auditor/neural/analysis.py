"""Analysis: a neuron-level measurement; it returns its numbers, its doubts and its own section of the report."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, JsonValue, SerializeAsAny, ValidationError, model_validator
from torch import Tensor

from auditor.attacking.attack import Attack
from auditor.attacking.threat import ThreatModel
from auditor.kit import plugins
from auditor.kit.capability import Capability, Catalog
from auditor.kit.errors import EvaluationError
from auditor.kit.flag import Flag
from auditor.kit.progress import OnProgress, no_progress, part_of
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from auditor.neural.found import Found, Nothing, Stored, Unread
from auditor.show.blocks import AnyBlock, Section, Text

AUDIT_SAMPLES = 500
"""Samples that an audit gives its analyses unless told otherwise; the cost of work on fewer is spread over them."""


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

    ``dataset`` and ``ids``: the samples of the pairs, in their order. ``pairs_from`` says how the perturbed twins were
    made; ``attacks`` are the audit's. ``folder`` is for files that the analysis needs while it runs. More twins, of
    another attack, another goal or another network: ``auditor.neural.twins.stored.make_twins``.
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

    def during(self, begin: float, end: float) -> Subject:
        """The same for a part of the work, whose progress goes from ``begin`` to ``end`` of the whole."""
        return replace(self, on_progress=part_of(self.on_progress, begin, end))


class MeasuredLayer(NamedTuple):
    """One layer under a measure: ``values`` (M,), NaN where undefined; ``marked``: indices of the neurons that stand out."""

    name: str
    kind: str
    values: NDArray[np.float64]
    marked: NDArray[np.int64]


def measured_layer(
    name: str, kind: str, values: Sequence[float | None] | NDArray[np.float64], marked: Iterable[int]
) -> MeasuredLayer:
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
    """What an analysis found: its parameters, its numbers as a model of its own, and its doubts.

    ``declined``: why the network does not allow the measurement, in a sentence; there are no numbers then. ``revision``: how
    many of the analysis's ``changes`` it knows; 0 for one stored before they were counted.
    """

    model_config = ConfigDict(frozen=True)

    kind: str
    settings: dict[str, JsonValue]
    data: SerializeAsAny[Found]
    flags: tuple[Flag, ...] = ()
    declined: str = ""
    revision: int = 0

    @model_validator(mode="before")
    @classmethod
    def _typed(cls, values: Any) -> Any:
        """Stored numbers in the model of their analysis; the kind tells which."""
        if not isinstance(values, dict) or not isinstance(values.get("data"), dict):
            return values
        member = ANALYSES.members.get(str(values.get("kind")))
        if values.get("declined"):
            data: Found = Nothing()
        elif member is None:
            data = Unread.model_validate(values["data"])
        else:
            data = member.read(values["data"], values.get("revision", 0))
        return values | {"data": data}


F = TypeVar("F", bound=Found)


class Analysis(Capability, Generic[F]):
    """A neuron-level measurement of a classifier. One subclass per file in ``auditor.neural.analyses``: ``class
    Name(Analysis[Numbers])``, where ``Numbers`` is the model of what it finds.

    ``find`` measures and ``doubts`` judges the numbers; ``blocks`` and ``detail`` draw them, at once or years later,
    for both the page and the report. ``standard``: whether an audit runs it unless told otherwise. ``heading``: the
    title of its section, if that differs from ``title``. ``changes``: one sentence for each time the numbers changed
    their meaning, oldest first, on what they meant before; a stored finding shows the changes made after it.
    ``passes``: its ``cost`` for one image, if that depends on nothing else.
    """

    standard: ClassVar[bool] = False
    heading: ClassVar[str] = ""
    changes: ClassVar[tuple[str, ...]] = ()
    passes: ClassVar[float] = 3.0

    @property
    def revision(self) -> int:
        """The revision of a new finding: how many ``changes`` there are."""
        return len(self.changes)

    def cost(self, images: int) -> float:
        """Approximate upper bound on the forward passes over single images for this many images; a backward pass counts
        as two."""
        return self.passes * images

    @abstractmethod
    def find(self, subject: Subject) -> F:
        """Measure. Raises EvaluationError when the network does not allow the measurement."""

    def doubts(self, found: F) -> Iterable[Flag]:
        """What should make a reader of these numbers careful."""
        return ()

    @abstractmethod
    def blocks(self, found: F) -> Iterable[AnyBlock]:
        """What the section of the report holds."""

    def detail(self, found: F, path: tuple[str, ...]) -> Iterable[AnyBlock]:
        """What a click on a mark opens: ``path`` holds the marks that were clicked, outermost first (layer, neuron)."""
        return ()

    def neuron_measures(self, found: F) -> Iterable[NeuronMeasure]:
        """The numbers that this analysis has for every neuron; nothing if it has none for single neurons."""
        return ()

    @classmethod
    def lift(cls, data: Stored, revision: int) -> Stored:
        """Stored numbers of an older form, converted to today's form; ``changes`` says if their meaning changed."""
        return data

    def run(self, subject: Subject) -> Finding:
        """Measure, and judge. Raises EvaluationError when the network does not allow the measurement."""
        found = self.find(subject)
        return Finding(
            kind=self.kind, settings=self.settings(), data=found, flags=tuple(self.doubts(found)), revision=self.revision
        )  # fmt: skip

    def each(self, subject: Subject, part: int = 1, of: int = 1) -> Iterator[Pair]:
        """The pairs, batch by batch, with progress; ``part`` ``of`` as many rounds over them."""
        done = (part - 1) * len(subject.pairs)
        for pair in subject.pairs:
            yield pair
            done += len(pair.sample)
            subject.on_progress(done / (of * len(subject.pairs)), self.title)

    @classmethod
    def numbers(cls) -> type[Found]:
        """The model of what it finds: the argument of ``Analysis[...]``."""
        for base in cls.__mro__:
            arguments = getattr(base, "__pydantic_generic_metadata__", {}).get("args", ())
            if arguments:
                return arguments[0]
        raise TypeError(f"{cls.__name__} does not say what it finds: class {cls.__name__}(Analysis[...])")

    @classmethod
    def read(cls, data: Stored, revision: int) -> Found:
        """Stored numbers; unread, as they are, if neither today's form nor ``lift`` fits them."""
        try:
            return cls.numbers().model_validate(cls.lift(data, revision))
        except (ValidationError, KeyError, TypeError):
            return Unread.model_validate(data)


ANALYSES: Catalog[Analysis[Any]] = Catalog("auditor.neural.analyses", Analysis, entry_points=plugins.ANALYSES)


def measured(analysis: Analysis[Any], subject: Subject) -> Finding:
    """Run an analysis; where the network does not allow it, a finding that says why."""
    try:
        return analysis.run(subject)
    except EvaluationError as error:
        return Finding(kind=analysis.kind, settings=analysis.settings(), data=Nothing(), declined=str(error))


def analysis_of(finding: Finding) -> Analysis[Any]:
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
    if finding.declined:
        return _note(analysis, f"Not measured: {finding.declined}")
    if isinstance(finding.data, Unread):
        return _note(
            analysis, "These numbers were stored in a form that this version cannot read. Audit again to see them."
        )
    old = tuple(
        Text(text=f"An older result. {change}", tone="warning") for change in analysis.changes[finding.revision :]
    )
    title = analysis.heading or analysis.display_title()
    return Section(key=finding.kind, title=title, blocks=(*old, *analysis.blocks(finding.data)))


def _note(analysis: Analysis[Any], text: str) -> Section:
    return Section(key=analysis.kind, title=analysis.display_title(), blocks=(Text(text=text, tone="note"),))


def readable(finding: Finding) -> bool:
    """Whether there are numbers to draw."""
    return not finding.declined and not isinstance(finding.data, Unread)


def measures_of(findings: Sequence[Finding]) -> dict[str, NeuronMeasure]:
    """What an audit's findings say of every neuron, by key; titles tell runs of the same analysis apart."""
    often = Counter(finding.kind for finding in findings)
    found = {}
    for key, finding in keyed(findings).items():
        analysis = analysis_of(finding)
        for measure in analysis.neuron_measures(finding.data) if readable(finding) else ():
            title = measure.title if often[finding.kind] == 1 else f"{measure.title}, {analysis.describe()}"
            found[f"{key}.{measure.key}"] = measure._replace(key=f"{key}.{measure.key}", title=title)
    return found


def detail_of(finding: Finding, path: tuple[str, ...]) -> tuple[AnyBlock, ...]:
    """What opens behind a mark of that section (see ``Analysis.detail``)."""
    return tuple(analysis_of(finding).detail(finding.data, path)) if readable(finding) else ()
