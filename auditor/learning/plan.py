"""Plan: what a training costs, known before anything runs."""

from __future__ import annotations

from auditor.attack import ATTACKS
from auditor.training_spec import TrainingSpec


def training_cost(spec: TrainingSpec, samples: int) -> float:
    """Forward passes over single images (a backward pass counts as two) of a training on so many images, at most.

    Steps and validations to the last epoch; what a method prepares is not in it.
    """
    kept_back = spec.validation_count(samples)
    images = samples - kept_back
    batch = min(spec.batch_size, images)
    per_epoch = images // batch
    steps = spec.steps(per_epoch)
    validations = 1 + -(-steps // per_epoch)
    attack = ATTACKS.build("pgd", {"steps": spec.validation_steps}).cost
    followed = min(spec.sensitivity_samples, kept_back)
    return steps * batch * spec.hardening.cost.cost + validations * (kept_back * (1 + attack) + followed * (2 + attack))
