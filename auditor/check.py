"""Flag: a doubt about an evaluation, as data, with its evidence."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Flag(BaseModel):
    """A doubt. ``severity``: "info" (worth knowing), "warning" (read before you quote a number), "severe" (the number is
    probably wrong). ``evidence`` holds what was seen, ``remedy`` what to do about it.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    severity: Literal["info", "warning", "severe"]
    message: str
    evidence: str = ""
    remedy: str = ""
