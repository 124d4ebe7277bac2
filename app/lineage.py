"""The tree of models that were trained from each other, with the newest audit of each."""

from __future__ import annotations

import streamlit as st

from app.commands.show import rate, robustness
from app.text import plain
from worker.lineage import Relative


def tree(relatives: list[Relative], current: str) -> None:
    """One row per model, children under their parents; ``current`` is the id of the one that is looked at."""
    widths = [5, 4, 3, 3, 2]
    for column, title in zip(
        st.columns(widths), ("Model", "Made by", "Clean [95 %]", "Robust accuracy [95 %]", ""), strict=True
    ):
        column.caption(title)
    for one in relatives:
        name, made, clean, robust, link = st.columns(widths, vertical_alignment="center")
        indent = "\u2003" * (2 * one.depth - 2) + "└─ " if one.depth else ""
        shown = f"**{plain(one.model.name)}**" if one.model.id == current else plain(one.model.name)
        name.markdown(f"{indent}{shown}")
        made.markdown(plain(one.method or "added"))
        clean.markdown(plain(rate(one.audit.get("clean"))))
        robust.markdown(plain(robustness(one.audit)))
        if one.audit_id:
            link.page_link("views/result.py", label="Audit", query_params={"audit": one.audit_id})
    st.caption(
        "The numbers are from each model's newest finished audit and may be of different samples. Compare uses the same samples."
    )
