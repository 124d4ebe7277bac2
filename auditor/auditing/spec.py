"""AuditSpec: everything that defines an audit except the model and the data; frozen and complete as JSON."""

from __future__ import annotations

from itertools import combinations
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from auditor.attacking.attack import ATTACKS, Attack
from auditor.attacking.criterion import Goal, Untargeted
from auditor.attacking.threat import ThreatModel
from auditor.auditing.check import CHECKS, Check
from auditor.auditing.corruption import CORRUPTIONS, Corruption
from auditor.kit.capability import MemberOf
from auditor.kit.document import Spec
from auditor.models.drawing import DRAWS
from auditor.models.hand_match import ByHand
from auditor.neural.analysis import ANALYSES, AUDIT_SAMPLES, Analysis

Multiple = Annotated[float, Field(gt=0, le=100)]


class AuditSpec(Spec):
    """What one audit runs. Same spec, same model, same data, same device and threads: same numbers.

    Random numbers belong to the sample, so the batch size does not change them. But sums round differently in other
    batches, so a sample within this rounding of the boundary may get another verdict. A network that draws random
    numbers itself draws them for a whole batch: its numbers are the same only for the same batch size.
    """

    subject: ClassVar[str] = "audit"

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
        description="Attacks; each runs on every correctly classified sample, under each threat model whose norm it "
        "supports.",
    )
    curve: tuple[Multiple, ...] = Field(
        (0.25, 0.5, 2.0),
        max_length=32,
        description="Further points of the curve of robust accuracy, as multiples of each epsilon.",
    )
    curve_to_zero: bool = Field(
        True,
        description="Continue the curve, doubling epsilon up to 5 times, until nothing is classified correctly.",
    )
    corruptions: tuple[Annotated[Corruption, MemberOf(CORRUPTIONS)], ...] = Field(
        (), max_length=100, description="Common corruptions; the accuracy on every sample is measured under each."
    )
    analyses: tuple[Annotated[Analysis[Any], MemberOf(ANALYSES)], ...] = Field(
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
    analysis_samples: int = Field(AUDIT_SAMPLES, ge=1, le=10_000_000, description="Maximum samples for the analyses.")
    checks: tuple[Annotated[Check, MemberOf(CHECKS)], ...] = Field(
        default_factory=lambda: tuple(CHECKS.build(kind, {}) for kind in CHECKS.members),
        max_length=64,
        description="Checks of the evaluation itself; the headline is withheld if one finds a severe fault.",
    )
    check_samples: int = Field(
        100, ge=1, le=10_000, description="Maximum samples that a check looks at or attacks again."
    )
    match: ByHand = Field({})
    samples: int | None = Field(
        1000, ge=1, le=10_000_000, description="Samples to audit, drawn by the seed; empty for all."
    )
    examples: int | None = Field(
        100,
        ge=0,
        le=10_000_000,
        description="Number of samples, from the first, whose attacked images are kept to browse and export; 0 for "
        "none, empty for all.",
    )
    gallery: int = Field(12, ge=0, le=48, description="Samples to show as pictures.")
    draws: int = Field(
        DRAWS,
        ge=1,
        le=1000,
        description="For a model with random outputs: attacks average each answer over this many draws, and as many "
        "fresh draws judge each image. Every pass takes this many times as long. Other models are not affected.",
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of every random choice.")
    batch_size: int | None = Field(None, ge=1, le=65_536, description="Images per pass; empty to choose by image size.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where to compute; auto uses a GPU if there is one."
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
                "the analysis attack makes one twin per sample, so it needs a single run (restarts = 1) within a fixed "
                "budget"
            )

    def attacks_for(self, threat: ThreatModel) -> tuple[Attack, ...]:
        """The attacks that work in this threat model's norm."""
        return tuple(attack for attack in self.attacks if threat.norm in attack.norms)
