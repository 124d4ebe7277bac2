"""CandidateDefense: what NIP, NIP_n and the random candidate share: a pool of candidates, and one of them for each image."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from auditor.defending.defense import Defense, boxed
from auditor.defending.nip.candidates import (
    ObservedLayer,
    Similarity,
    inverse_perturbations,
    nearest_candidates,
    normalized,
    predicted_influence,
    similarity,
)
from auditor.kit.errors import EvaluationError
from auditor.kit.progress import OnProgress, no_progress
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from auditor.models.defended import FittedState, Passing, surest
from auditor.models.drawing import averaged
from auditor.neural.influence.influence import Parts, chosen_mask, split_parts, template


class CandidateDefense(Defense):
    """A pool of candidates, made from correctly classified training images; each image gets the one whose similarity is nearest.

    The template (eq. 3) and the similarities (eq. 4) are those of the images that the candidates come from.
    """

    learns: ClassVar[bool] = True
    inside: ClassVar[bool] = True

    layer: str = Field(
        "",
        max_length=200,
        pattern=r"^[^,:]*$",
        description="Layer whose neurons are used; empty for the input of the last linear layer.",
    )
    front: int = Field(5, ge=0, le=1000, description="Neurons of the largest influence that count as front (k1).")
    tail: int = Field(5, ge=0, le=1000, description="Neurons of the smallest influence that count as tail (k2).")
    quorum: float = Field(
        1.0, gt=0, le=1, description="Share of the images in which a neuron must remain to be in the template."
    )
    similarity: Similarity = Field(
        "index", description="Cosine of the neurons' indices, as the paper has it, or of their membership."
    )
    eta: float = Field(1.0, gt=0, le=10, description="Candidates per expected unknown input.")
    inputs: int = Field(1000, ge=1, le=100_000, description="Expected number of unknown inputs.")

    @property
    def candidates(self) -> int:
        """Candidates in the pool, if there are so many correctly classified images."""
        return max(1, round(self.eta * self.inputs))

    def inner_passes(self, classes: int, nearest: int = 1) -> int:
        """One to choose the candidates, and one with each."""
        return 1 + nearest

    def check(self, classifier: Classifier) -> None:
        ObservedLayer.of(classifier, self.layer)

    @abstractmethod
    def candidate(self, classifier: Classifier, place: ObservedLayer, x: Tensor, parts: Parts, neurons: int) -> Tensor:
        """The candidate of each image, (B, ...)."""

    @abstractmethod
    def answer(self, inner: Classifier, x: Tensor, passing: Passing, candidate: Tensor) -> Tensor:
        """Logits with one candidate for each image."""

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
        """Template and candidates from the first correctly classified of these images. Raises EvaluationError if the template
        is empty, or no image is classified correctly."""
        place = ObservedLayer.of(classifier, self.layer)
        pool: list[Tensor] = []
        remaining: list[Tensor] = []
        neurons = found = 0
        for batch in dataset.batches(ids, batch_size):
            x = batch.images.to(classifier.device, classifier.dtype)
            influence, predicted = predicted_influence(classifier, place, x)
            right = (predicted.cpu() == batch.labels).nonzero().squeeze(1)[: self.candidates - found].to(x.device)
            neurons, found = influence.shape[1], found + len(right)
            if len(right):
                parts = split_parts(influence[right], self.front, self.tail)
                pool.append(self.candidate(classifier, place, x[right], parts, neurons).cpu())
                remaining.append(parts.remaining)
            on_progress(found / self.candidates, self.display_title())
            if found == self.candidates:
                break
        if not found:
            raise EvaluationError(
                f"{self.display_title()} needs correctly classified images, but there are none.", "Check the labels."
            )
        rest = torch.cat(remaining)
        members = template(chosen_mask(rest, neurons).sum(0).cpu().numpy(), found, self.quorum)
        delta = similarity(rest, torch.from_numpy(members).to(rest.device), neurons, self.similarity).cpu()
        order = delta.argsort(stable=True)
        tensors = {"candidates": torch.cat(pool)[order], "delta": delta[order], "template": torch.from_numpy(members)}
        facts = {"layer": place.layer, "head": place.head, "neurons": neurons, "images": found}
        return FittedState(tensors, facts | {"template": len(members), "wanted": self.candidates})

    def place(self, passing: Passing) -> ObservedLayer:
        return ObservedLayer(passing.state.facts["layer"], passing.state.facts["head"])

    def chosen(self, inner: Classifier, x: Tensor, passing: Passing) -> Tensor:
        """Places in the pool of the candidates to look at, (B, view.nearest), nearest first; no gradient."""
        tensors = passing.state.tensors
        influence, _ = predicted_influence(inner, self.place(passing), x)
        rest = split_parts(influence, self.front, self.tail).remaining
        delta = similarity(rest, tensors["template"], influence.shape[1], self.similarity)
        return nearest_candidates(delta, tensors["delta"], min(passing.view.nearest, len(tensors["delta"])))

    def logits(self, inner: Classifier, x: Tensor, passing: Passing) -> Tensor:
        pool, against = passing.state.tensors["candidates"], passing.view.against
        answers = [
            self.answer(inner, x, passing, pool[place].to(x)) for place in self.chosen(inner, x, passing).unbind(1)
        ]
        return averaged(answers) if against is None else surest(answers, against)


class PerturbationPool(CandidateDefense):
    """Candidates that are added to the image (eq. 8): x + mean(x) rho / (max rho - min rho)."""

    literal_sign: bool = Field(
        False, description="Add the gradient of eq. 5 as printed, which lowers front and raises tail neurons."
    )

    def candidate(self, classifier: Classifier, place: ObservedLayer, x: Tensor, parts: Parts, neurons: int) -> Tensor:
        return normalized(inverse_perturbations(classifier, place, x, parts, self.literal_sign)).float()

    def answer(self, inner: Classifier, x: Tensor, passing: Passing, candidate: Tensor) -> Tensor:
        return inner(self.added(x, passing, candidate))

    def added(self, x: Tensor, passing: Passing, candidate: Tensor) -> Tensor:
        """The defense example of each image; the gradient goes through the mean, too."""
        return boxed(x + x.mean((1, 2, 3), keepdim=True) * candidate, passing.view)

    def changed(self, inner: Classifier, x: Tensor, passing: Passing) -> Tensor:
        place = self.chosen(inner, x, passing)[:, 0]
        return self.added(x, passing, passing.state.tensors["candidates"][place].to(x))
