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

import re
from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError


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
    def from_validation(cls, subject: str, error: ValidationError, model: type[BaseModel] | None = None) -> SpecError:
        """One sentence per fault of a pydantic validation: field, what was expected, what came.

        ``model``: the model that refused; its fields are the names that an unknown one may have meant.
        """
        faults, hints = [], []
        found = error.errors(include_url=False)
        within = {fault["loc"][:length] for fault in found for length in range(len(fault["loc"]))}
        for fault in found:
            if fault["type"] == "too_short" and fault["loc"] in within:
                continue  # only because an item of it was refused
            place = ".".join(str(part) for part in fault["loc"]) or "value"
            text = fault["msg"].removeprefix("Value error, ").removeprefix("Input should be ").rstrip(".")
            known = fault.get("ctx", {})
            if fault["type"] == UNKNOWN_KIND:
                faults.append(f"{place}: {known['said']}")
                hints.append(known["hint"])
            elif fault["type"] == "extra_forbidden":
                faults.append(f"{place} is not a parameter")
                names = known.get("names", list(model.model_fields) if model and len(fault["loc"]) == 1 else None)
                if names is not None:
                    hints.append(meant_parameter(str(fault["loc"][-1]), names))
            elif fault["type"] == "missing":
                faults.append(f"{place} is required")
            elif fault["type"] == "value_error":
                faults.append(f"{place}: {text}")
            elif fault["type"] in ("enum", "literal_error", "union_tag_invalid"):
                choices, tried = known.get("expected") or known["expected_tags"], known.get("tag", fault["input"])
                faults.append(f"{place}: expected {choices}, got {_shown(tried)}")
                if isinstance(tried, str):
                    hints.append(meant(tried, re.findall(r"'([^']+)'", choices)))
            else:
                faults.append(f"{place}: expected {text}, got {_shown(fault['input'])}")
        return cls(f"{subject}: {'; '.join(faults)}.", " ".join(dict.fromkeys(filter(None, hints))))


class IntakeError(AuditorError):
    """An uploaded file is refused; nothing of it was kept. ``choices``: the parts of it of which one has to be named."""

    def __init__(self, message: str, hint: str = "", choices: tuple[str, ...] = ()) -> None:
        super().__init__(message, hint)
        self.choices = choices


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


UNKNOWN_KIND = "unknown_kind"
"""The type of a validation error for a kind that a catalogue does not have; its context holds the hint."""


def spelled(name: str) -> str:
    """A name with neither case nor the difference of ``-`` and ``_``: ``k_ns`` for ``K-NS``."""
    return name.strip().lower().replace("-", "_")


def nearest(name: str, known: Iterable[str], most: int = 3, cutoff: float = 0.6) -> list[str]:
    """The known names most like this one, best first; if it is one in another spelling, that one alone."""
    names = {spelled(item): item for item in known}
    bare = {item.replace("_", ""): item for item in names}
    if (same := bare.get(re.sub(r"[_ ]", "", spelled(name)))) is not None:
        return [names[same]]
    found = get_close_matches(spelled(name), names, most, cutoff)
    likeness = [SequenceMatcher(None, item, spelled(name)).ratio() for item in found]
    return [names[item] for item, like in zip(found, likeness, strict=True) if like > likeness[0] - 0.15]


def meant(name: str, known: Iterable[str]) -> str:
    """``Did you mean fab or fab-t?``; empty if nothing is near."""
    near = nearest(name, known)
    return f"Did you mean {_either(near)}?" if near else ""


def meant_parameter(name: str, known: Iterable[str]) -> str:
    """``Did you mean steps for stpes?``, or every parameter if nothing is near."""
    names = list(known)
    if near := nearest(name, names, cutoff=0.5):
        return f"Did you mean {_either(near)} for {name[:40]}?"
    return f"Its parameters: {', '.join(names)}." if names else "It has no parameters."


def known_names(name: str, known: Iterable[str], most: int = 30) -> str:
    """A hint for a name that does not exist: the nearest ones, and all that exist."""
    names = [item for item in dict.fromkeys(known) if item]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{meant(name, names)} There are: {', '.join(names[:most])}{more}.".strip() if names else ""


def _either(names: list[str]) -> str:
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
