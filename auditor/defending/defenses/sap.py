"""Stochastic activation pruning."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from auditor.defending.defense import Defense
from auditor.kit.errors import EvaluationError
from auditor.kit.randomness import RowRandom
from auditor.models.classifier import Classifier
from auditor.models.defended import Passing
from auditor.models.neurons import LayerKind, list_layers, watch


class SAP(Defense):
    """Stochastic activation pruning (Dhillon et al. 2018, arXiv 1803.01442): small activations are dropped at random.

    After every activation layer, r = ``share`` x units are drawn with replacement, each with probability p = |h| / sum |h|; the
    units that were drawn are kept and divided by the probability 1 - (1 - p)^r of being drawn, so the mean stays h.
    ``bernoulli`` keeps each unit by itself with that same probability, which is faster. The answer is the mean probability of
    ``passes`` passes. Backwards, what was drawn counts as constant. Broken by averaging over draws (Athalye et al. 2018,
    arXiv 1802.00420).
    """

    title: ClassVar[str] = "SAP"
    kind: Literal["sap"] = "sap"
    random: ClassVar[bool] = True
    inside: ClassVar[bool] = True
    share: float = Field(1.0, gt=0, le=10, description="Draws per layer, as a share of its units.")
    passes: int = Field(100, ge=1, le=1000, description="Passes whose probabilities are averaged for one answer.")
    sampling: Literal["multinomial", "bernoulli"] = Field(
        "multinomial", description="Draw units with replacement, or each one independently with the same probability."
    )

    @property
    def draws(self) -> int:
        return self.passes

    def check(self, classifier: Classifier) -> None:
        if not any(layer.kind == "activation" for layer in list_layers(classifier)):
            raise EvaluationError("The network has no activation layer, so there is nothing to prune.")

    def logits(self, inner: Classifier, x: Tensor, passing: Passing) -> Tensor:
        def change(name: str, kind: LayerKind, type_name: str, output: Tensor) -> Tensor | None:
            return self.pruned(output, passing.random) if kind == "activation" else None

        with watch(inner.network, change):
            return inner(x)

    def pruned(self, output: Tensor, random: RowRandom) -> Tensor:
        """A layer's output (B, ...) after pruning, with the random numbers of its rows."""
        size = output.detach().double().flatten(1)
        total = size.abs().sum(1, keepdim=True)
        chance = torch.where(total > 0, size.abs() / total, 0.0)
        draws = max(1, round(self.share * size.shape[1]))
        kept = -torch.expm1(draws * torch.log1p(-chance.clamp(max=1 - 1e-12)))
        if self.sampling == "bernoulli":
            taken = random.uniform(chance) < kept
        else:
            places = random.uniform(chance.new_empty(len(chance), draws))
            ends = chance.cumsum(1)
            drawn = torch.searchsorted(ends, places * ends[:, -1:], right=True).clamp(max=size.shape[1] - 1)
            taken = torch.zeros_like(chance, dtype=torch.bool).scatter(1, drawn, True)
        weight = torch.where(taken & (kept > 0), 1 / kept.clamp_min(1e-300), 0.0)
        return output * weight.view_as(output).to(output)
