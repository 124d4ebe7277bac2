"""Neuron selecting."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from auditor.defending.defense import Defense
from auditor.kit.errors import EvaluationError
from auditor.kit.progress import OnProgress, no_progress
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from auditor.models.defended import FittedState, Passing
from auditor.models.neurons import LayerKind, altered, watch


class NeuronSelecting(Defense):
    """Neuron selecting (as arXiv 2112.13060 describes a paper of ICICS 2019): one pass per class, with the neurons of that class.

    We could not obtain the paper itself; this is our reading. In every activation layer, a class keeps the neurons of
    the largest mean activation over the correctly classified training images of the class; in its pass all others are
    zero. The score of a class is its log probability in its own pass. A class with no such image keeps all neurons.
    """

    title: ClassVar[str] = "Neuron selecting (our reading)"
    kind: Literal["neuron-selecting"] = "neuron-selecting"
    learns: ClassVar[bool] = True
    inside: ClassVar[bool] = True
    share: float = Field(0.7, gt=0, le=1, description="Share of each layer's neurons that a class keeps.")

    def inner_passes(self, classes: int, nearest: int = 1) -> int:
        return classes

    def fit(
        self,
        classifier: Classifier,
        dataset: ImageDataset,
        ids: NDArray[np.int64],
        *,
        seed: int,
        batch_size: int = 64,
        on_progress: OnProgress = no_progress,
    ) -> FittedState:
        """Which neurons each class keeps, by layer, bool (K, M). Raises EvaluationError if the network has no activation."""
        sums: dict[str, Tensor] = {}
        counts = torch.zeros(classifier.num_classes, dtype=torch.float64)
        done = 0
        for batch in dataset.batches(ids, batch_size):
            means, logits = _mean_outputs(classifier, batch.images.to(classifier.device, classifier.dtype))
            right = (logits.argmax(1).cpu() == batch.labels).double()
            member = torch.nn.functional.one_hot(batch.labels, classifier.num_classes).double() * right[:, None]
            counts += member.sum(0)
            for name, mean in means.items():
                sums[name] = sums.get(name, 0.0) + member.T @ mean.cpu()
            done += len(batch.ids)
            on_progress(done / len(ids), self.display_title())
        if not sums:
            raise EvaluationError("The network has no activation layer, so there are no neurons to select.")
        kept = {name: self._kept(total, counts) for name, total in sums.items()}
        images = [int(count) for count in counts.tolist()]
        return FittedState(
            {f"layer{index}": mask for index, mask in enumerate(kept.values())},
            {"layers": list(kept), "images": images},
        )

    def _kept(self, total: Tensor, counts: Tensor) -> Tensor:
        neurons = total.shape[1]
        first = total.sort(dim=1, descending=True, stable=True).indices[:, : max(1, round(self.share * neurons))]
        mask = torch.zeros(total.shape, dtype=torch.bool).scatter(1, first, True)
        return mask | (counts == 0)[:, None]

    def logits(self, inner: Classifier, x: Tensor, passing: Passing) -> Tensor:
        layers, masks = passing.state.facts["layers"], passing.state.tensors
        scores = []
        for label in range(inner.num_classes):
            changes = {name: _only(masks[f"layer{index}"][label]) for index, name in enumerate(layers)}
            with altered(inner.network, changes):
                scores.append(inner(x).log_softmax(1)[:, label])
        return torch.stack(scores, 1)


def _mean_outputs(classifier: Classifier, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Spatial mean of every activation layer's neurons, float64 (B, M), by name, and the logits."""
    means: dict[str, Tensor] = {}

    def keep(name: str, kind: LayerKind, type_name: str, output: Tensor) -> None:
        if kind == "activation":
            values = output.double()
            means[name] = values.flatten(2).mean(2) if values.dim() > 2 else values.clone()

    with torch.no_grad(), watch(classifier.network, keep):
        logits = classifier(x)
    return means, logits


def _only(kept: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda output: output * kept.view(1, -1, *[1] * (output.dim() - 2)).to(output)
