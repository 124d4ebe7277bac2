"""Flag: a doubt about an evaluation, as data, with its evidence. Opinion and CheckResult: what a check saw, and how it ended."""

from __future__ import annotations

from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, JsonValue


class Flag(BaseModel):
    """A doubt. ``severity``: "info" (worth knowing), "warning" (read before you quote a number), "severe" (the number is
    probably wrong). ``evidence`` holds what was seen, ``remedy`` what to do about it. ``about``, ``within``: the one attack and
    threat model that it is about, in their text form; empty where it is about the model, the data or the whole evaluation.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    severity: Literal["info", "warning", "severe"]
    message: str
    evidence: str = ""
    remedy: str = ""
    about: str = ""
    within: str = ""

    @property
    def text(self) -> str:
        """What is doubted, what was seen and what to do, in sentences."""
        seen = f"Evidence: {self.evidence.removesuffix('.')}." if self.evidence else ""
        return " ".join(filter(None, (self.message, seen, self.remedy)))


class Opinion(NamedTuple):
    """What a check saw, and its doubts. ``applies`` is false where there was nothing that it could look at."""

    evidence: str
    flags: tuple[Flag, ...] = ()
    applies: bool = True


Status = Literal["passed", "doubt", "severe", "not applicable"]


class CheckResult(BaseModel):
    """The outcome of one check, also if it found nothing. ``asks``: what it looked for; its doubts are flags of the result."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    title: str
    asks: str
    settings: dict[str, JsonValue]
    status: Status
    evidence: str
    seconds: float
