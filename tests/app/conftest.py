"""Fixtures of the tests of the page and the command line."""

from __future__ import annotations

import pytest

from app import recognition


@pytest.fixture(autouse=True)
def recognized_at_the_button(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file is read as it is dropped: most tests are not about it, and each reading is a process of its own."""
    monkeypatch.setattr(recognition, "LARGEST", -1)
