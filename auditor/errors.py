"""The errors that a user may see: what was expected, what came, and what to do.

AuditorError
├── SpecError          a parameter, or a combination of parameters, that cannot be run
├── IntakeError        an uploaded file is refused
├── MismatchError      a model and a data set (or two audits) that do not fit together
├── EvaluationError    the network misbehaved while it was measured (NaN logits, ...)
├── TrainingError      a training that cannot go on (the loss is NaN, ...)
├── NotFoundError      no such model, data set or audit
└── ServiceError       the queue, the database or a worker is not there
    └── OutageError        ... for now: the same is likely to work later
        └── DiskFullError      no space is left on a disk
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError


class AuditorError(Exception):
    """A refusal in one clear sentence, with a hint on what to do about it.

    ``message`` says what was expected and what came; ``hint`` says what to do (it may be empty).
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class SpecError(AuditorError):
    """A parameter, or a combination of parameters, that cannot be run."""

    @classmethod
    def from_validation(cls, subject: str, error: ValidationError) -> SpecError:
        """One sentence per fault of a pydantic validation: field, what was expected, what came."""
        faults = []
        for fault in error.errors(include_url=False):
            place = ".".join(str(part) for part in fault["loc"]) or "value"
            text = fault["msg"].removeprefix("Value error, ").removeprefix("Input should be ").rstrip(".")
            if fault["type"] == "extra_forbidden":
                faults.append(f"{place} is not a parameter")
            elif fault["type"] == "missing":
                faults.append(f"{place} is required")
            elif fault["type"] == "value_error":
                faults.append(f"{place}: {text}")
            else:
                faults.append(f"{place}: expected {text}, got {_shown(fault['input'])}")
        return cls(f"{subject}: {'; '.join(faults)}.")


class IntakeError(AuditorError):
    """An uploaded file is refused; nothing of it was kept."""


class MismatchError(AuditorError):
    """A model and a data set, or two audits, that do not fit together."""


class EvaluationError(AuditorError):
    """The network misbehaved while it was measured."""


class TrainingError(AuditorError):
    """A training that cannot go on. ``result``: the TrainingResult up to there, where there is one."""

    result: Any = None


class NotFoundError(AuditorError):
    """No such model, data set, job or audit."""


class ServiceError(AuditorError):
    """The queue, the database or a worker is not there."""


class OutageError(ServiceError):
    """Something is not there for now. The same is likely to work later, so a job that meets it is run again."""


class DiskFullError(OutageError):
    """No space is left on a disk."""


def known_names(name: str, known: Iterable[str], most: int = 30) -> str:
    """A hint for a name that there is none of: the nearest one, and all that there are."""
    names = [item for item in dict.fromkeys(known) if item]
    nearest = get_close_matches(name, names, 1)
    meant = f"Did you mean {nearest[0]}? " if nearest else ""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{meant}There are: {', '.join(names[:most])}{more}." if names else ""


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
