"""Series: several numbers or names in one parameter, which a user may write with plus signs: ``0.25+0.5+1``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field


def split_series(value: Any) -> Any:
    """``"0.25+1"`` -> ["0.25", "1"], an empty text is an empty list; everything else is left to pydantic."""
    return [item.strip() for item in value.split("+") if item.strip()] if isinstance(value, str) else value


Shares = Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], BeforeValidator(split_series)]
Multiples = Annotated[tuple[Annotated[float, Field(gt=0, le=100)], ...], BeforeValidator(split_series)]
Weights = Annotated[tuple[Annotated[float, Field(ge=0, le=1e6)], ...], BeforeValidator(split_series)]
Names = Annotated[tuple[str, ...], BeforeValidator(split_series)]
