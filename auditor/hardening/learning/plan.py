"""Plan: what a training costs, known before anything runs, and with it how much of one is done."""

from __future__ import annotations

from dataclasses import dataclass

from auditor.attacking.attack import ATTACKS
from auditor.hardening.spec import TrainingSpec


@dataclass(frozen=True)
class TrainingPlan:
    """Steps of a training and of an epoch, images of a step; what a step, a validation and the following of sensitivities cost.

    Costs in forward passes over single images; a backward pass counts as two. What a method prepares is not in it.
    """

    steps: int
    per_epoch: int
    batch: int
    step: float
    validation: float
    sensitivity: float

    @classmethod
    def of(cls, spec: TrainingSpec, images: int, kept_back: int, processes: int = 1) -> TrainingPlan:
        """For so many images to train on, and to validate on; at least two for each process that shares the batches."""
        batch = min(spec.batch_size, images)
        batch -= batch % processes
        per_epoch = images // batch
        attack = ATTACKS.build("pgd", {"steps": spec.validation_steps}).cost
        followed = min(spec.sensitivity_samples, kept_back)
        return cls(
            steps=spec.steps(per_epoch),
            per_epoch=per_epoch,
            batch=batch,
            step=batch * spec.hardening.cost.cost,
            validation=kept_back * (1 + attack),
            sensitivity=followed * (2 + attack),
        )

    @property
    def epochs(self) -> int:
        """Epochs, the last of which may be a part of one."""
        return -(-self.steps // self.per_epoch)

    @property
    def cost(self) -> float:
        """Of the whole: steps and validations, the one before the first step among them, to the last epoch."""
        return self.steps * self.step + (1 + self.epochs) * self._pause

    @property
    def validated(self) -> float:
        """Share of a pause between epochs after which its validation is done, and sensitivities are followed."""
        return self.validation / self._pause

    def share(self, steps: int, pause: float = 0.0) -> float:
        """Of the whole cost, what is done after so many steps and a share of the pause that comes at that step, if one does."""
        pauses = 1 + (steps - 1) // self.per_epoch if steps else 0
        return (steps * self.step + (pauses + pause) * self._pause) / self.cost

    @property
    def _pause(self) -> float:
        return self.validation + self.sensitivity


def training_cost(spec: TrainingSpec, samples: int) -> float:
    """Forward passes over single images (a backward pass counts as two) of a training on so many images, at most.

    Steps and validations to the last epoch; what a method prepares is not in it.
    """
    kept_back = spec.validation_count(samples)
    return TrainingPlan.of(spec, samples - kept_back, kept_back, spec.processes or 1).cost
