"""Texts of users on the page: nothing that they write becomes a link."""

from __future__ import annotations

import re

import pytest

from app.text import JOINER, plain

# What remark-gfm, which Streamlit reads markdown with, looks for in texts after their escapes are gone
# (mdast-util-gfm-autolink-literal, lib/index.js).
ADDRESSES = (
    re.compile(r"(https?://|www(?=\.))([-.\w]+)([^ \t\r\n]*)", re.IGNORECASE),
    re.compile(r"[-.\w+]+@[-\w]+(?:\.[-\w]+)+"),
)


@pytest.mark.parametrize(
    "text",
    [
        "https://evil.example/x", "HTTP://evil.example", "see www.evil.example now", "WWW.evil.example", "a@evil.example",
        "mailto:a@evil.example", "a.b+c@d.evil.example", "model (http://evil.example)", "http://http://www.a.example",
    ],
)  # fmt: skip
def test_an_address_in_a_name_is_no_link(text: str) -> None:
    shown = re.sub(r"\\(.)", r"\1", plain(text))
    assert shown.replace(JOINER, "") == text
    assert any(pattern.search(text) for pattern in ADDRESSES)
    assert not any(pattern.search(shown) for pattern in ADDRESSES)


def test_other_texts_are_only_escaped() -> None:
    assert plain("ResNet-20 (a_b) 50 % at 8/255") == r"ResNet\-20 \(a\_b\) 50 % at 8/255"
    assert JOINER not in plain("httpd, www, me @ home")
