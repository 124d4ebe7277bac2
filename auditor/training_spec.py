"""TrainingSpec: everything that defines a training but the model and the data; frozen, and its JSON is the whole of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from auditor.capability import MemberOf
from auditor.errors import SpecError
from auditor.hardening import HARDENINGS, Hardening
from auditor.learning.augmentation import Augmentation
from auditor.learning.averaging import Averaging
from auditor.learning.schedule import Schedule
from auditor.learning.trainee import BatchNorm, Precision
from auditor.series import Shares
from auditor.threat import Epsilon, Norm, ThreatModel

FALLBACK_EPSILON = 8 / 255
"""What validation attacks with where neither the spec nor the method names an epsilon."""


class TrainingSpec(BaseModel):
    """What one training runs. Same spec, same model, same data, same devices: same weights, interrupted or not."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    hardening: Annotated[Hardening, MemberOf(HARDENINGS)] = Field(
        default_factory=lambda: HARDENINGS.build("pat", {}), description="How to train."
    )
    from_scratch: bool = Field(
        False, description="Draw new weights first, instead of training on from the model's own."
    )
    epochs: int = Field(30, ge=1, le=10_000, description="Passes over the training images.")
    budget: float | None = Field(
        None,
        gt=0,
        le=1e7,
        description="Instead of epochs: forward passes that each training image may take in all, a backward pass counting as "
        "two; methods with the same budget cost the same.",
    )
    batch_size: int = Field(128, ge=2, le=65_536, description="Images per step.")
    learning_rate: float = Field(0.01, gt=0, le=100, description="Largest learning rate of SGD.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of SGD.")
    nesterov: bool = Field(False, description="Nesterov's form of the momentum.")
    weight_decay: float = Field(5e-4, ge=0, le=1, description="Weight decay of SGD.")
    schedule: Schedule = Field("step", description="How the learning rate goes over the steps.")
    milestones: Shares = Field((2 / 3,), description="Schedule step: shares of the steps at which the rate drops.")
    drop: float = Field(0.1, gt=0, le=1, description="Schedule step: what the rate is multiplied by at a milestone.")
    augmentation: Augmentation = Field(
        "crop_flip", description="Random crops, and flips from left to right (not for digits, letters or signs)."
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of each label that goes to all classes alike.")
    averaging: Averaging = Field(
        "none",
        description="Weights that are validated and kept: the last ones, their exponential mean over the steps (ema), or their "
        "mean over the ends of the last epochs (swa). Running statistics are averaged like the weights.",
    )
    ema_decay: float = Field(0.999, ge=0, lt=1, description="Averaging ema: share of the mean that stays at each step.")
    swa_start: float = Field(0.75, ge=0, lt=1, description="Averaging swa: share of the steps after which it begins.")
    batch_norm: BatchNorm = Field(
        "learn",
        description="Batch normalisation in training: by the batch, updating the running statistics (learn), or by the running "
        "statistics of the start (fixed).",
    )
    validation_share: float = Field(0.1, gt=0, lt=1, description="Share of the images kept back to choose the weights.")
    validation_samples: int = Field(2000, ge=1, le=1_000_000, description="The same in images, at most.")
    validation_norm: Literal["linf", "l2"] = Field("linf", description="Norm of the validation's attack.")
    validation_epsilon: Epsilon | None = Field(
        None, description="Radius of the validation's attack (PGD); empty for that of the method."
    )
    validation_steps: int = Field(10, ge=1, le=10_000, description="Steps of the validation's attack.")
    select: Literal["robust", "clean", "last"] = Field(
        "robust", description="Which epoch's weights to keep: by robust or by clean validation accuracy, or the last."
    )
    patience: int | None = Field(
        None, ge=1, le=10_000, description="Stop after so many epochs without a better validation; empty for never."
    )
    sensitivity_samples: int = Field(
        128,
        ge=0,
        le=10_000,
        description="Validation images on which the sensitivity of layers is followed; 0 for none.",
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of every random choice.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where to compute; auto takes a GPU where there is one."
    )
    processes: int | None = Field(
        None,
        ge=1,
        le=64,
        description="Processes that train together, each on a GPU of its own (or all on the CPU) with its share of every batch; "
        "empty for one on every GPU that there is.",
    )
    precision: Precision = Field("float32", description="bf16: convolutions and products in bfloat16 (autocast).")

    @model_validator(mode="after")
    def _options_fit(self) -> TrainingSpec:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov: expected a momentum greater than 0, got 0")
        if self.processes is not None and (self.batch_size % self.processes or self.batch_size < 2 * self.processes):
            raise ValueError(
                f"processes: expected a number that shares batches of {self.batch_size} evenly, at least two images each, "
                f"got {self.processes}"
            )
        if self.patience is not None and self.select == "last":
            raise ValueError("patience: expected select = robust or clean, got last, for which no epoch is better")
        if self.from_scratch and self.batch_norm == "fixed":
            raise ValueError("batch_norm: expected learn, got fixed: new weights have no statistics to go by")
        if self.from_scratch and self.hardening.freezes:
            raise ValueError(
                "from_scratch: the method freezes layers, which would keep random weights; let it train all"
            )
        return self

    @property
    def threat(self) -> ThreatModel:
        """What validation attacks with."""
        epsilon = self.validation_epsilon or self.hardening.attacked_at or FALLBACK_EPSILON
        return ThreatModel(norm=Norm(self.validation_norm), epsilon=epsilon)

    def check(self, shape: tuple[int, int, int]) -> None:
        """Raises SpecError where an attack's epsilon is more than images of this shape, (C, H, W), can differ."""
        self.threat.check(shape)
        if self.hardening.attacks_within is not None:
            self.hardening.attacks_within.check(shape)

    def validation_count(self, samples: int) -> int:
        """How many of so many images are kept back."""
        return max(1, min(self.validation_samples, round(self.validation_share * samples)))

    def steps(self, per_epoch: int) -> int:
        """Steps of the whole training, given those of one epoch."""
        if self.budget is None:
            return self.epochs * per_epoch
        return max(1, int(self.budget / self.hardening.cost.cost * per_epoch))

    @classmethod
    def load(cls, data: object) -> TrainingSpec:
        """From plain data or JSON text. Raises SpecError with the field, what was expected and what came."""
        try:
            return cls.model_validate_json(data) if isinstance(data, str | bytes) else cls.model_validate(data)
        except ValidationError as error:
            raise SpecError.from_validation("training", error) from None
