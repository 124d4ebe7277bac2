"""The widgets of a normalization."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import streamlit as st

from auditor.kit.errors import SpecError
from auditor.models.classifier import NORMALIZATIONS, ChannelOrder, Normalization, ValueRange

CUSTOM = "own values"
OWN = "the file's own"
AS_IT_IS = "as it is"


def normalization_form(key: str, before: Normalization | None = None) -> Callable[[], Normalization | None]:
    """The widgets, whose keys begin with ``key``; what is returned makes the normalization, or raises SpecError. It makes None
    where nothing was said: for a new model (``before`` is None) the file's own, else as it was before.
    """
    own, start = (OWN, Normalization()) if before is None else (AS_IT_IS, before)
    columns = st.columns(3)
    shown = {own: own} | {name: f"{name}: {value}" for name, value in NORMALIZATIONS.items()} | {CUSTOM: CUSTOM}
    told = "What the network applies to pixels in [0, 1]. A wrong one makes every robustness number wrong."
    if before is None:
        told += " The file's own is the one that it holds or was published with, else none."
    chosen = columns[0].selectbox(
        "Normalization", list(shown), format_func=shown.__getitem__, key=f"{key}-normalization", help=told
    )
    orders, reaches = list(get_args(ChannelOrder)), list(get_args(ValueRange))
    order = columns[1].selectbox("Channel order", orders, orders.index(start.channel_order), key=f"{key}-order")
    reach = columns[2].selectbox(
        "Pixel range before mean and std", reaches, reaches.index(start.value_range), key=f"{key}-range"
    )
    mean = std = ""
    if chosen == CUSTOM:
        first = (Normalization(mean=(0.5,) * 3, std=(0.5,) * 3) if before is None else before).model_dump()
        mean, std = (
            column.text_input(name.capitalize(), ", ".join(f"{value:g}" for value in first[name]), key=f"{key}-{name}")
            for column, name in zip(columns, ("mean", "std"), strict=False)
        )

    def make() -> Normalization | None:
        if chosen == own and (order, reach) == (start.channel_order, start.value_range):
            return None
        base: dict[str, Any] = (start if chosen in (CUSTOM, own) else NORMALIZATIONS[chosen]).model_dump()
        if chosen == CUSTOM:
            base |= {"mean": _numbers("mean", mean), "std": _numbers("std", std)}
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
