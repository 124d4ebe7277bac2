"""Text for Streamlit, which reads markdown nearly everywhere."""

from __future__ import annotations


def plain(text: str) -> str:
    """Text that Streamlit's markdown shows as it is: what a user typed never becomes a link, a picture or a formula."""
    escaped = "".join(f"\\{sign}" if sign in "\\`*_{}[]()<>#+-.!|$~:&" else sign for sign in text)
    return escaped.replace("\n", " ")
