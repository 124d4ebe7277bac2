"""Text for Streamlit, which reads markdown nearly everywhere."""

from __future__ import annotations

import re

ADDRESS = re.compile(r"(?<=http)(?=s?://)|(?<=www)(?=\.)|(?<=mailto)(?=:)|(?<=@)(?=\S)", re.IGNORECASE)
"""Inside of what Streamlit makes a link of, even where every sign of it is escaped: web and mail addresses."""
JOINER = "\N{WORD JOINER}"
"""Has no width, and no line may break at it."""


def plain(text: str) -> str:
    """Text that Streamlit's markdown shows as it is: what a user typed never becomes a link, a picture or a formula."""
    text = ADDRESS.sub(JOINER, text)
    escaped = "".join(f"\\{sign}" if sign in "\\`*_{}[]()<>#+-.!|$~:&" else sign for sign in text)
    return escaped.replace("\n", " ")
