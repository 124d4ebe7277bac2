"""AuditSpec: everything that defines an audit but the model and the data; frozen, and its JSON is the whole of it."""

from __future__ import annotations

from itertools import combinations
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from auditor.analysis import ANALYSES, Analysis
from auditor.attack import ATTACKS, Attack
from auditor.capability import MemberOf
from auditor.criterion import Goal, Untargeted
from auditor.errors import SpecError
from auditor.threat import ThreatModel

Multiple = Annotated[float, Field(gt=0, le=100)]


class AuditSpec(BaseModel):
    """What one audit runs. Same spec, same model, same data, same device: same numbers, whatever the batch size."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    threats: tuple[ThreatModel, ...] = Field(
        (ThreatModel(),),
        min_length=1,
        max_length=8,
        description="Threat models, each with a headline of its own; the first one leads.",
    )
    goal: Goal = Field(Untargeted(), description="What the attacker wants.")
    attacks: tuple[Annotated[Attack, MemberOf(ATTACKS)], ...] = Field(
        default_factory=lambda: (ATTACKS.build("fgsm", {}), ATTACKS.build("pgd", {})),
        min_length=1,
        max_length=32,
        description="Attacks, each run on every correctly classified sample.",
    )
    curve: tuple[Multiple, ...] = Field(
        (0.25, 0.5, 2.0),
        max_length=32,
        description="Further points of the curve of robust accuracy, as multiples of each epsilon.",
    )
    analyses: tuple[Annotated[Analysis, MemberOf(ANALYSES)], ...] = Field(
        default_factory=lambda: tuple(ANALYSES.build(kind, {}) for kind in ANALYSES.members),
        max_length=32,
        description="Neuron-level analyses.",
    )
    analysis_attack: Annotated[Attack, MemberOf(ATTACKS)] = Field(
        default_factory=lambda: ATTACKS.build("pgd", {}),
        description="Attack that makes the perturbed twins for the analyses; it runs all its steps on every sample.",
    )
    analysis_samples: int = Field(500, ge=1, le=10_000_000, description="Samples for the analyses, at most.")
    samples: int | None = Field(
        1000, ge=1, le=10_000_000, description="Samples to audit, drawn by the seed; empty for all."
    )
    gallery: int = Field(12, ge=0, le=48, description="Samples to show as pictures.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of every random choice.")
    batch_size: int | None = Field(None, ge=1, le=65_536, description="Images per pass; empty to choose by image size.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where to compute; auto takes a GPU where there is one."
    )

    @model_validator(mode="after")
    def _attacks_fit(self) -> AuditSpec:
        for threat in self.threats:
            for attack in (*self.attacks, self.analysis_attack):
                if threat.norm not in attack.norms:
                    raise ValueError(f"{attack.display_title()} does not work in {threat.norm.symbol}")
        named = [str(threat) for threat in self.threats]
        named += [member.describe() for member in (*self.attacks, *self.analyses)]
        for one, other in combinations(named, 2):
            if one == other:
                raise ValueError(f"{one} is named twice")
        if self.analyses and self.analysis_attack.runs > 1:
            raise ValueError("the analysis attack makes one twin per sample, so it takes a single run (restarts = 1)")
        return self

    @classmethod
    def load(cls, data: object) -> AuditSpec:
        """From plain data or JSON text. Raises SpecError with the field, what was expected and what came."""
        try:
            return cls.model_validate_json(data) if isinstance(data, str | bytes) else cls.model_validate(data)
        except ValidationError as error:
            raise SpecError.from_validation("audit", error) from None
