"""Analysis: a neuron-level measurement; it returns its numbers, its doubts and its own section of the report."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from auditor.capability import Capability, Catalog
from auditor.classifier import Classifier
from auditor.flag import Flag
from auditor.progress import OnProgress, no_progress
from auditor.report.blocks import AnyBlock, Section
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

    ``pairs_from`` says in words how the perturbed twins were made.
    """

    classifier: Classifier
    pairs: Pairs
    threat: ThreatModel
    pairs_from: str
    seed: int
    on_progress: OnProgress = no_progress


class Finding(BaseModel):
    """What an analysis found: its parameters, its numbers as plain data, and its doubts."""

    model_config = ConfigDict(frozen=True)

    kind: str
    settings: dict[str, Any]
    data: dict[str, Any]
    flags: tuple[Flag, ...] = ()


class Analysis(Capability):
    """A neuron-level measurement of a classifier. One subclass per file in ``auditor.analyses``.

    ``run`` measures and returns plain data; ``section`` and ``detail`` draw that data, at once or years later, for the
    page and the report alike.
    """

    @abstractmethod
    def run(self, subject: Subject) -> Finding:
        """Measure. Raises EvaluationError when the network does not allow the measurement."""

    @abstractmethod
    def section(self, finding: Finding) -> Section:
        """The section of the report that shows a finding of this analysis."""

    def detail(self, finding: Finding, path: tuple[str, ...]) -> tuple[AnyBlock, ...]:
        """What opens behind a mark: ``path`` holds the marks that were clicked, outermost first (layer, neuron)."""
        return ()


ANALYSES: Catalog[Analysis] = Catalog("auditor.analyses", Analysis)


def analysis_of(finding: Finding) -> Analysis:
    """The analysis that made a finding, with its parameters. Raises SpecError when it is no longer installed."""
    return ANALYSES.build(finding.kind, finding.settings)
