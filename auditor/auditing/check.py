"""Check: looks for doubts about an evaluation, before or after the attacks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from auditor.attacking.attack import Attack
from auditor.attacking.threat import ThreatModel
from auditor.auditing.allowance import Allowance
from auditor.auditing.inquiry import Inquiry
from auditor.kit import plugins
from auditor.kit.capability import Capability, Catalog
from auditor.kit.flag import CheckResult, Opinion, Status


class Check(Capability):
    """Looks for one way in which the numbers of an audit may be wrong. One subclass per file in ``auditor.auditing.checks``.

    Checks with ``preflight`` look at the model and the data before any attack. The others look at what the attacks did,
    and may run attacks themselves within the budget of the inquiry.
    """

    preflight: ClassVar[bool] = False

    @abstractmethod
    def run(self, inquiry: Inquiry) -> Opinion:
        """Look, and say what was seen."""

    def cost(self, allowance: Allowance) -> float:
        """The most that it asks of the model, in forward passes over single images; a backward pass counts as two. By
        default nothing."""
        return 0.0

    def verdict(self, opinion: Opinion, seconds: float) -> CheckResult:
        """The opinion as it is kept with the result."""
        severities = {flag.severity for flag in opinion.flags}
        status: Status = "severe" if "severe" in severities else "doubt" if "warning" in severities else "passed"
        return CheckResult(
            kind=self.kind,
            title=self.display_title(),
            asks=self.summary(),
            settings=self.settings(),
            status=status if opinion.applies else "not applicable",
            evidence=opinion.evidence,
            seconds=seconds,
        )


class ThreatCheck(Check):
    """A check that looks at each threat model by itself."""

    def run(self, inquiry: Inquiry) -> Opinion:
        if not inquiry.correct.any():
            return Opinion("no sample is classified correctly, so none was attacked", applies=False)
        opinions = [(str(threat), self.examine(inquiry, threat)) for threat in inquiry.threats]
        return combined(opinions)

    def cost(self, allowance: Allowance) -> float:
        return sum(self.cost_within(threat, allowance) for threat in allowance.attacks)

    def cost_within(self, threat: ThreatModel, allowance: Allowance) -> float:
        """What it costs within one threat model: by default as much as the costliest of its trials. Further trials, which
        follow where the first fails severely, are not foreseen."""
        trials = [self.trial(attack, threat) for attack in self.candidates(allowance.attacks[threat])]
        return max((self.trial_cost(trial, allowance) for trial in trials if trial is not None), default=0.0)

    def candidates(self, attacks: Sequence[Attack]) -> Sequence[Attack]:
        """Those attacks of the audit of which it tries the strongest."""
        return attacks

    def trial(self, attack: Attack, threat: ThreatModel) -> Attack | None:
        """The extra attack that it runs to try this attack of the audit, if it runs one."""
        return None

    def trial_cost(self, trial: Attack, allowance: Allowance) -> float:
        """What the extra attack costs, with the further questions that the check asks."""
        return allowance.cost(trial)

    @abstractmethod
    def examine(self, inquiry: Inquiry, threat: ThreatModel) -> Opinion:
        """Look at one threat model."""


def combined(opinions: Sequence[tuple[str, Opinion]]) -> Opinion:
    """Several opinions as one, each under its name; those that do not apply are left out where another one does."""
    telling = [item for item in opinions if item[1].applies] or list(opinions)
    evidence = (f"{name}: {opinion.evidence}" if len(opinions) > 1 else opinion.evidence for name, opinion in telling)
    return Opinion(
        "; ".join(evidence),
        tuple(flag for _, opinion in telling for flag in opinion.flags),
        any(opinion.applies for _, opinion in opinions),
    )


CHECKS: Catalog[Check] = Catalog("auditor.auditing.checks", Check, entry_points=plugins.CHECKS)
