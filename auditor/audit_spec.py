"""AuditSpec: everything that defines an audit but the model and the data; frozen, and its JSON is the whole of it."""

from __future__ import annotations

from itertools import combinations
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from auditor.analysis import ANALYSES, Analysis
from auditor.attack import ATTACKS, Attack
from auditor.capability import MemberOf
from auditor.check import CHECKS, Check
from auditor.corruption import CORRUPTIONS, Corruption
from auditor.criterion import Goal, Untargeted
from auditor.drawing import DRAWS
from auditor.errors import SpecError
from auditor.threat import ThreatModel

Multiple = Annotated[float, Field(gt=0, le=100)]


class AuditSpec(BaseModel):
    """What one audit runs. Same spec, same model, same data, same device and threads: same numbers.

    Another batch size changes no random number, since these belong to the sample; but sums end in other last bits, and a sample
    that lies within this rounding of the boundary may get the other verdict. Only a network that draws random numbers itself
    draws them for a batch: its numbers are the same for the same batch size.
    """

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
        description="Attacks, each run on every correctly classified sample under each threat model whose norm it knows.",
    )
    curve: tuple[Multiple, ...] = Field(
        (0.25, 0.5, 2.0),
        max_length=32,
        description="Further points of the curve of robust accuracy, as multiples of each epsilon.",
    )
    curve_to_zero: bool = Field(
        True,
        description="Go on with the curve, doubling epsilon, until nothing is classified correctly (5 times at most).",
    )
    corruptions: tuple[Annotated[Corruption, MemberOf(CORRUPTIONS)], ...] = Field(
        (), max_length=100, description="Common corruptions; the accuracy on every sample is measured under each."
    )
    analyses: tuple[Annotated[Analysis, MemberOf(ANALYSES)], ...] = Field(
        default_factory=lambda: tuple(
            ANALYSES.build(kind, {}) for kind, member in ANALYSES.members.items() if member.standard
        ),
        max_length=32,
        description="Neuron-level analyses.",
    )
    analysis_attack: Annotated[Attack, MemberOf(ATTACKS)] = Field(
        default_factory=lambda: ATTACKS.build("pgd", {}),
        description="Attack that makes the perturbed twins for the analyses; it runs all its steps on every sample.",
    )
    analysis_samples: int = Field(500, ge=1, le=10_000_000, description="Samples for the analyses, at most.")
    checks: tuple[Annotated[Check, MemberOf(CHECKS)], ...] = Field(
        default_factory=lambda: tuple(CHECKS.build(kind, {}) for kind in CHECKS.members),
        max_length=64,
        description="Checks of the evaluation itself; the headline is withheld where one finds a severe fault.",
    )
    check_samples: int = Field(
        100, ge=1, le=10_000, description="Samples that a check looks at or attacks again, at most."
    )
    samples: int | None = Field(
        1000, ge=1, le=10_000_000, description="Samples to audit, drawn by the seed; empty for all."
    )
    examples: int | None = Field(
        100,
        ge=0,
        le=10_000_000,
        description="Of the first so many samples, keep the image that each attack made, to browse and export; 0 for none, "
        "empty for all.",
    )
    gallery: int = Field(12, ge=0, le=48, description="Samples to show as pictures.")
    draws: int = Field(
        DRAWS,
        ge=1,
        le=1000,
        description="For a model that answers at random: attacks average over so many draws of each answer, and each image is "
        "judged by as many fresh ones. Every pass takes so many times as long; other models are not affected.",
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of every random choice.")
    batch_size: int | None = Field(None, ge=1, le=65_536, description="Images per pass; empty to choose by image size.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where to compute; auto takes a GPU where there is one."
    )

    @model_validator(mode="after")
    def _attacks_fit(self) -> AuditSpec:
        for threat in self.threats:
            if not self.attacks_for(threat):
                names = ", ".join(attack.display_title() for attack in self.attacks)
                raise ValueError(f"none of the attacks ({names}) works in {threat.norm.symbol}")
        for attack in self.attacks:
            if not any(threat.norm in attack.norms for threat in self.threats):
                known = ", ".join(sorted(norm.symbol for norm in attack.norms))
                raise ValueError(f"{attack.display_title()} works in {known}, and no threat model is")
        named = [str(threat) for threat in self.threats]
        named += [member.describe() for member in (*self.attacks, *self.analyses, *self.checks)]
        named += [single.describe() for corruption in self.corruptions for single in corruption.each()]
        for one, other in combinations(named, 2):
            if one == other:
                raise ValueError(f"{one} is named twice")
        if self.analyses:
            self._check_twin_maker()
        return self

    def _check_twin_maker(self) -> None:
        attack, lead = self.analysis_attack, self.threats[0]
        if lead.norm not in attack.norms:
            raise ValueError(f"the analysis attack, {attack.display_title()}, does not work in {lead.norm.symbol}")
        if not attack.single:
            raise ValueError(
                "the analysis attack makes one twin per sample, so it takes a single run (restarts = 1) within a fixed budget"
            )

    def attacks_for(self, threat: ThreatModel) -> tuple[Attack, ...]:
        """The attacks that work in this threat model's norm."""
        return tuple(attack for attack in self.attacks if threat.norm in attack.norms)

    @classmethod
    def load(cls, data: object) -> AuditSpec:
        """From plain data or JSON text. Raises SpecError with the field, what was expected and what came."""
        try:
            return cls.model_validate_json(data) if isinstance(data, str | bytes) else cls.model_validate(data)
        except ValidationError as error:
            raise SpecError.from_validation("audit", error) from None
