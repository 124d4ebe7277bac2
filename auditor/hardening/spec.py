"""TrainingSpec: everything that defines a training except the model and the data; frozen and complete as JSON."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from auditor.attacking.threat import Epsilon, Norm, ThreatModel
from auditor.hardening.hardening import HARDENINGS, Hardening
from auditor.hardening.learning.augmentation import Augmentation
from auditor.hardening.learning.averaging import Averaging
from auditor.hardening.learning.schedule import Schedule
from auditor.hardening.learning.trainee import BatchNormMode, Precision
from auditor.kit.capability import MemberOf
from auditor.kit.document import Spec
from auditor.kit.series import Shares
from auditor.models.hand_match import ByHand

FALLBACK_EPSILON = 8 / 255
"""What validation attacks with where neither the spec nor the method names an epsilon."""


class TrainingSpec(Spec):
    """What one training runs. Same spec, same model, same data, same devices: same weights, interrupted or not."""

    subject: ClassVar[str] = "training"

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
        description="Instead of epochs: total forward passes per training image (a backward pass counts as two). "
        "Methods with the same budget cost the same.",
    )
    batch_size: int = Field(128, ge=2, le=65_536, description="Images per step.")
    learning_rate: float = Field(0.01, gt=0, le=100, description="Largest learning rate of SGD.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of SGD.")
    nesterov: bool = Field(False, description="Nesterov's form of the momentum.")
    weight_decay: float = Field(5e-4, ge=0, le=1, description="Weight decay of SGD.")
    schedule: Schedule = Field("step", description="How the learning rate changes over the steps.")
    milestones: Shares = Field((2 / 3,), description="Schedule step: shares of the steps at which the rate drops.")
    drop: float = Field(0.1, gt=0, le=1, description="Schedule step: factor on the rate at each milestone.")
    augmentation: Augmentation = Field(
        "crop_flip", description="Random crops, and flips from left to right (not for digits, letters or signs)."
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Share of each label that is spread evenly over all classes."
    )
    averaging: Averaging = Field(
        "none",
        description="Weights to validate and keep: the last ones, their exponential mean over the steps (ema), or "
        "their mean over the ends of the last epochs (swa). Running statistics are averaged like the weights.",
    )
    ema_decay: float = Field(0.999, ge=0, lt=1, description="Averaging ema: share of the mean that stays at each step.")
    swa_start: float = Field(0.75, ge=0, lt=1, description="Averaging swa: share of the steps after which it begins.")
    batch_norm: BatchNormMode = Field(
        "learn",
        description="Batch normalization in training: use the batch and update the running statistics (learn), or use "
        "the initial running statistics (fixed).",
    )
    match: ByHand = Field({})
    validation_share: float = Field(0.1, gt=0, lt=1, description="Share of the images held out to choose the weights.")
    validation_samples: int = Field(2000, ge=1, le=1_000_000, description="Maximum number of these images.")
    validation_norm: Literal["linf", "l2"] = Field("linf", description="Norm of the validation's attack.")
    validation_epsilon: Epsilon | None = Field(
        None, description="Radius of the validation's attack (PGD); empty for that of the method."
    )
    validation_steps: int = Field(10, ge=1, le=10_000, description="Steps of the validation's attack.")
    select: Literal["robust", "clean", "last"] = Field(
        "robust", description="Which epoch's weights to keep: by robust or by clean validation accuracy, or the last."
    )
    patience: int | None = Field(
        None, ge=1, le=10_000, description="Stop after this many epochs without a better validation; empty for never."
    )
    sensitivity_samples: int = Field(
        128,
        ge=0,
        le=10_000,
        description="Validation images used to track the sensitivity of layers; 0 for none.",
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of every random choice.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where to compute; auto uses a GPU if there is one."
    )
    processes: int | None = Field(
        None,
        ge=1,
        le=64,
        description="Processes that train together, each on its own GPU (or all on the CPU) with its share of every "
        "batch; empty for one on each GPU.",
    )
    precision: Precision = Field("float32", description="bf16: convolutions and products in bfloat16 (autocast).")

    @model_validator(mode="after")
    def _options_fit(self) -> TrainingSpec:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov: expected a momentum greater than 0, got 0")
        if self.processes is not None and (self.batch_size % self.processes or self.batch_size < 2 * self.processes):
            raise ValueError(
                f"processes: expected a number that divides batches of {self.batch_size} evenly, at least two images "
                f"each, got {self.processes}"
            )
        if self.patience is not None and self.select == "last":
            raise ValueError("patience: expected select = robust or clean, got last, for which no epoch is better")
        if self.from_scratch and self.batch_norm == "fixed":
            raise ValueError("batch_norm: expected learn, got fixed: new weights have no statistics yet")
        if self.from_scratch and self.hardening.freezes:
            raise ValueError(
                "from_scratch: the method freezes layers, which would keep random weights; train all layers"
            )
        return self

    @property
    def threat(self) -> ThreatModel:
        """What validation attacks with."""
        epsilon = self.validation_epsilon or self.hardening.attacked_at or FALLBACK_EPSILON
        return ThreatModel(norm=Norm(self.validation_norm), epsilon=epsilon)

    def check(self, shape: tuple[int, int, int]) -> None:
        """Raises SpecError if an attack's epsilon is more than images of this shape, (C, H, W), can differ."""
        self.threat.check(shape)
        if self.hardening.attacks_within is not None:
            self.hardening.attacks_within.check(shape)

    def validation_count(self, samples: int) -> int:
        """How many images are held out, given the total number."""
        return max(1, min(self.validation_samples, round(self.validation_share * samples)))

    def steps(self, per_epoch: int) -> int:
        """Steps of the whole training, given those of one epoch."""
        if self.budget is None:
            return self.epochs * per_epoch
        return max(1, int(self.budget / self.hardening.cost.cost * per_epoch))
