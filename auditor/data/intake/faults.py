"""What cannot be used of an upload: every file or image with its reason, to be listed, or left out by choice."""

from __future__ import annotations

from collections.abc import Mapping

from auditor.data.intake.reading import LEAVE_OUT
from auditor.kit.errors import IntakeError
from auditor.kit.wording import counted, shown

_LISTED = 5
"""Reasons in one error; each may be a sentence of 200 characters."""

ALL = "Save the images as PNG or JPEG, under plain names, and make the archive again."
"""What to do where nothing would remain: leaving out is no remedy."""

_NAMED = 20
"""Names in a note."""


class Unusable(IntakeError):
    """Some files or images cannot be used, and the rest could be. ``faults``: the reason for each, by its name or number."""

    def __init__(self, faults: Mapping[str | int, IntakeError], of: int, noun: str) -> None:
        self.faults = dict(faults)
        first = next(iter(faults.values()))
        if len(faults) == 1:
            if of == 1:
                super().__init__(first.message, ALL)
                return
            hint = f"{first.hint} Or {LEAVE_OUT}." if first.hint else f"{LEAVE_OUT[0].upper()}{LEAVE_OUT[1:]}."
            super().__init__(first.message, hint)
            return
        listed = " ".join(fault.message for fault in list(faults.values())[:_LISTED])
        more = f" And {len(faults) - _LISTED:,} more." if len(faults) > _LISTED else ""
        hint = f"Replace them, or {LEAVE_OUT}." if len(faults) < of else ALL
        super().__init__(f"{len(faults):,} of {counted(of, noun)} cannot be used. {listed}{more}", hint)


def left_out(names: list[str | int], of: int, noun: str) -> str:
    """The note that says what was left out."""
    named = ", ".join(f"#{name}" if isinstance(name, int) else shown(name) for name in names[:_NAMED])
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    why = "was left out, since it cannot be used" if len(names) == 1 else "were left out, since they cannot be used"
    return f"{len(names):,} of {counted(of, noun)} {why}: {named}{more}."
