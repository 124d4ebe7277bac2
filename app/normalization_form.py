"""The widgets of a normalization."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import streamlit as st

from auditor.kit.errors import SpecError
from auditor.models.classifier import NORMALIZATIONS, Normalization

CUSTOM = "own values"
OWN = "the file's own"


def normalization_form(
    key: str, own: str = OWN, given: Normalization | None = None
) -> Callable[[], Normalization | None]:
    """The widgets, whose keys begin with ``key``; what is returned makes the normalization, or raises SpecError. None for
    ``own``: what was not changed. ``given``: where own values begin."""
    names = [own, *NORMALIZATIONS, CUSTOM]
    columns = st.columns(3)
    shown = {own: own} | {key: f"{key}: {value}" for key, value in NORMALIZATIONS.items()} | {CUSTOM: CUSTOM}
    chosen = columns[0].selectbox(
        "Normalization", names, format_func=shown.__getitem__, key=f"{key}-normalization",
        help="What the network applies to pixels in [0, 1]. A wrong one makes every robustness number wrong. The file's own is "
        "the one that it holds or was published with, else none.",
    )  # fmt: skip
    order = columns[1].selectbox("Channel order", ["RGB", "BGR"], key=f"{key}-order")
    reach = columns[2].selectbox("Pixel range before mean and std", ["0-1", "0-255"], key=f"{key}-range")
    mean = std = ""
    if chosen == CUSTOM:
        mean = columns[0].text_input("Mean", "0.5, 0.5, 0.5", key=f"{key}-mean")
        std = columns[1].text_input("Std", "0.5, 0.5, 0.5", key=f"{key}-std")

    def make() -> Normalization | None:
        if chosen == own and (order, reach) == ("RGB", "0-1"):
            return None
        base: dict[str, Any] = {} if chosen in (CUSTOM, own) else NORMALIZATIONS[chosen].model_dump()
        if chosen == CUSTOM:
            base = {"mean": _numbers("mean", mean), "std": _numbers("std", std)}
        try:
            return Normalization(**base | {"channel_order": order, "value_range": reach})
        except ValueError as error:
            raise SpecError.from_validation("normalization", error) from None  # type: ignore[arg-type]

    return make


def _numbers(what: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(item) for item in text.replace(",", " ").split())
    except ValueError:
        raise SpecError(f"{what}: expected numbers separated by commas, got {text!r}.") from None
