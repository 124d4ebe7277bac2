"""A random candidate of NIP, as a control."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from auditor.classifier import Classifier
from auditor.defended import Passing
from auditor.nip.pool import PerturbationPool


class RandomCandidate(PerturbationPool):
    """NIP with a random candidate in place of the most similar one: a control for template and similarity.

    Prepared as NIP is (arXiv 2112.13060); what NIP restores beyond this, its choice of the candidate has restored.
    """

    title: ClassVar[str] = "Random candidate (control)"
    kind: Literal["random-candidate"] = "random-candidate"
    random: ClassVar[bool] = True
    control: ClassVar[bool] = True

    def inner_passes(self, classes: int, nearest: int = 1) -> int:
        return nearest

    def chosen(self, inner: Classifier, x: Tensor, passing: Passing) -> Tensor:
        pool = len(passing.state.tensors["delta"])
        wanted = x.new_empty((len(x), min(passing.view.nearest, pool)), dtype=torch.float64)
        return (pool * passing.random.uniform(wanted)).long()
