"""What the tests in a browser do with a page: choose, type, unfold, wait until it is drawn."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NamedTuple

from playwright.sync_api import Page, expect

from app.sample import TRAINING
from tests.conftest import missing
from worker.client import Client
from worker.models import DatasetRow
from worker.settings import Settings

expect.set_options(timeout=60_000)  # a machine that runs other tests, too, draws a long page slowly


class Site(NamedTuple):
    address: str
    settings: Settings


def chromium() -> str:
    """The program's path; skips the test where there is none."""
    found = shutil.which("chromium")
    if found is None:
        missing("chromium")
    return str(found)


def shot(page: Page, name: str) -> None:
    """A picture for people, where AUDITOR_SCREENSHOTS names a folder."""
    folder = os.environ.get("AUDITOR_SCREENSHOTS")
    if folder:
        page.wait_for_timeout(1500)
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def settle(page: Page) -> None:
    """Until Streamlit has run the script to its end."""
    page.wait_for_timeout(300)
    page.wait_for_function(
        "!document.querySelector('[data-testid=stApp][data-test-script-state=running]')", timeout=60_000
    )


def choose(page: Page, label: str, text: str) -> None:
    """Pick an option of a select box by typing a part of it."""
    box = page.get_by_role("combobox", name=label, exact=True).first
    box.click()
    box.fill(text)
    page.wait_for_timeout(300)
    box.press("Enter")
    settle(page)


def type_in(page: Page, label: str, text: str) -> None:
    """Into the field of this name that is to be seen; folded forms have some of the same names."""
    field = page.get_by_label(label, exact=True).locator("visible=true").first
    field.fill(text)
    field.press("Tab")
    settle(page)


def unfold(page: Page, title: str) -> None:
    """Open an expander that may be open."""
    settle(page)
    summary = page.locator("summary", has_text=title).first
    summary.wait_for(timeout=60_000)
    if summary.locator("xpath=..").get_attribute("open") is None:
        summary.click()
        settle(page)


def unseen(client: Client, model: str) -> DatasetRow:
    """What a form should propose for the model's test: the newest data set that it takes, but for the training images."""
    return next(row for row in client.library.fitting(model) if row.name != TRAINING)
