"""Check: looks for doubts about an evaluation, before or after the attacks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from auditor.capability import Capability, Catalog
from auditor.flag import Opinion, Status, Verdict
from auditor.inquiry import Inquiry
from auditor.threat import ThreatModel


class Check(Capability):
    """Looks for one way in which the numbers of an audit may be wrong. One subclass per file in ``auditor.checks``.

    Those with ``preflight`` look at the model and the data before anything is attacked; the others at what the attacks did,
    and may attack again themselves, within the budget of the inquiry.
    """

    preflight: ClassVar[bool] = False

    @abstractmethod
    def run(self, inquiry: Inquiry) -> Opinion:
        """Look, and say what was seen."""

    def verdict(self, opinion: Opinion, seconds: float) -> Verdict:
        """The opinion as it is kept with the result."""
        severities = {flag.severity for flag in opinion.flags}
        status: Status = "severe" if "severe" in severities else "doubt" if "warning" in severities else "passed"
        return Verdict(
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


CHECKS: Catalog[Check] = Catalog("auditor.checks", Check)
