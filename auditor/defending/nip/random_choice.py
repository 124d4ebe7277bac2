"""A random candidate in place of the most similar one."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from auditor.defending.nip.pool import CandidateDefense
from auditor.models.classifier import Classifier
from auditor.models.defended import Passing


class RandomChoice(CandidateDefense):
    """A pool of candidates of which each image gets any, drawn by its own bytes: a control for template and similarity."""

    random: ClassVar[bool] = True
    control: ClassVar[bool] = True

    def inner_passes(self, classes: int, nearest: int = 1) -> int:
        return nearest

    def chosen(self, inner: Classifier, x: Tensor, passing: Passing) -> Tensor:
        pool = len(passing.state.tensors["delta"])
        wanted = x.new_empty((len(x), min(passing.view.nearest, pool)), dtype=torch.float64)
        return (pool * passing.random.uniform(wanted)).long()
