"""Jury: several answers of a model with random outputs, each with fresh random numbers, and what they say together."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from auditor.attacking.criterion import Criterion
from auditor.attacking.harness.query import finite_or_zero
from auditor.models.classifier import NO_CLASS, Classifier, predicted

Purpose = Literal["choose", "judge"]
"""Draws by which one image of several is chosen, and fresh ones, on which the chosen image is judged: judged by the draws that
chose it, an image would look worse for the model than it is."""


class Hearing(NamedTuple):
    """What D draws say of B images. ``answers``: the class of each draw, int64, (D, B); NO_CLASS where its logits are not finite.
    ``mean``: mean probabilities, (B, K), over the other draws."""

    answers: Tensor
    mean: Tensor

    @property
    def votes(self) -> Tensor:
        """Draws that gave each class, (B, K)."""
        classes = torch.arange(self.mean.shape[1], device=self.answers.device)
        return (self.answers[:, :, None] == classes).sum(0).double()

    @property
    def ballot(self) -> Tensor:
        """Votes, in which the mean probability breaks ties, (B, K): its largest entry is the majority's class; NaN where more
        draws gave no class at all."""
        votes = self.votes
        none = (self.answers == NO_CLASS).sum(0) > votes.amax(1)
        return (votes + self.mean / 2).masked_fill(none[:, None], torch.nan)

    @property
    def prediction(self) -> Tensor:
        """The class with most votes, (B,)."""
        return predicted(self.ballot)

    @property
    def answered(self) -> Tensor:
        """For which images every draw gave finite logits, bool (B,)."""
        return (self.answers != NO_CLASS).all(0)

    @property
    def confidence(self) -> Tensor:
        """Mean probability of the class with most votes, (B,); 0 if there is none."""
        chosen = self.prediction
        found = self.mean.gather(1, chosen.clamp_min(0)[:, None]).squeeze(1)
        return found.masked_fill(chosen == NO_CLASS, 0.0)

    def share(self, classes: Tensor) -> Tensor:
        """Share of the draws that gave each image this class, (B,)."""
        return (self.answers == classes).double().mean(0)


class Jury:
    """A model that judges. ``draws``: answers per image; a model without randomness gives one."""

    def __init__(self, model: Classifier, draws: int, batch_size: int) -> None:
        self.draws, self.batch_size = draws if model.random else 1, batch_size
        purposes: tuple[Purpose, ...] = ("choose", "judge")
        self._models = {
            purpose: [model.redrawn(purpose, draw) for draw in range(self.draws)] for purpose in purposes
        }  # fmt: skip

    def hear(self, x: Tensor, purpose: Purpose) -> Hearing:
        """What all draws of this purpose say of images (B, C, H, W)."""
        models = self._models[purpose]
        with torch.no_grad():
            parts = [torch.stack([model(part) for model in models]) for part in x.split(self.batch_size)]
        logits = torch.cat(parts, 1) if parts else x.new_empty(len(models), 0, models[0].num_classes)
        answers = torch.stack([predicted(draw) for draw in logits])
        counted = (answers != NO_CLASS)[:, :, None]
        shares = torch.where(counted, finite_or_zero(logits).double().softmax(2), 0.0)
        return Hearing(answers, shares.sum(0) / counted.sum(0).clamp_min(1))

    def share(self, x: Tensor, criterion: Criterion, purpose: Purpose = "choose") -> Tensor:
        """Share of the draws in which the attacker has what they want, float64, (B,)."""
        return wanted_share(self.hear(x, purpose), criterion)


def wanted_share(hearing: Hearing, criterion: Criterion) -> Tensor:
    """Share of the draws in which the attacker has what they want, float64, (B,)."""
    classes = torch.arange(hearing.mean.shape[1], device=hearing.answers.device)
    each = []
    for answer in hearing.answers:
        logits = (answer[:, None] == classes).double().masked_fill((answer == NO_CLASS)[:, None], torch.nan)
        each.append(criterion.is_adversarial(logits))
    return torch.stack(each).double().mean(0)
