"""A defense in a real Chromium: fit NIP on the sample, evaluate it, read the table, use the playground, take it home."""

from __future__ import annotations

import re
import zipfile

import pytest
from playwright.sync_api import Page, expect

from app.sample import DATASET, MODELS, TRAINING, seed
from tests.app.test_browser import Site, browser, choose, page, settle, shot, site
from worker.client import Client

pytestmark = pytest.mark.browser

__all__ = ["browser", "page", "site"]  # fixtures


def unfold(page: Page, title: str) -> None:
    """Open an expander that may be open."""
    summary = page.locator("summary", has_text=title).first
    summary.wait_for(timeout=60_000)
    if summary.locator("xpath=..").get_attribute("open") is None:
        summary.click()
        settle(page)


def fill(page: Page, label: str, text: str) -> None:
    """Into the field of this name that is to be seen; folded forms have some of the same names."""
    field = page.get_by_label(label, exact=True).locator("visible=true").first
    field.fill(text)
    field.press("Tab")
    settle(page)


def test_from_the_form_to_the_playground(site: Site, page: Page) -> None:
    client = Client(site.settings)
    seed(client)
    for job in client.jobs(kind="vet"):
        client.cancel(job.id)  # they would stand before the defense in the queue
    page.goto(f"{site.address}/defend")
    settle(page)
    unfold(page, "Prepare a defense")
    choose(page, "Model", MODELS["plain"])
    choose(page, "Training images", TRAINING)
    unfold(page, "NIP: settings")
    fill(page, "Inputs", "100")
    fill(page, "Name", "inverse")
    shot(page, "defend-1-form")
    page.get_by_role("button", name="Prepare the defense").click()
    expect(page.get_by_role("heading", name="Stored defenses")).to_be_visible(timeout=60_000)
    (view,) = client.defenses()
    assert (view.row.name, view.model, view.dataset) == ("inverse", MODELS["plain"], TRAINING)
    page.wait_for_url(re.compile(f"/defend\\?.*defense={view.row.id}"), timeout=30_000)

    unfold(page, "New evaluation")
    page.get_by_text("Controls beside it", exact=True).click()
    settle(page)
    fill(page, "Epsilon", "0.1")
    unfold(page, "All settings")
    for label, value in (
        ("Samples", "6"),
        ("Steps", "4"),
        ("Queries", "10"),
        ("Decision steps", "20"),
        ("Nearest", "2"),
    ):
        fill(page, label, value)
    shot(page, "defend-2-evaluation-form")
    page.get_by_role("button", name="Evaluate", exact=True).click()
    expect(page.get_by_role("heading", name="What the defense is worth")).to_be_visible(timeout=120_000)
    (evaluation,) = client.defense_evaluations(view.row.id)
    assert evaluation.dataset == DATASET
    lowest = client.defense_evaluation(evaluation.job.id).headline
    row = page.get_by_role("row").filter(has_text="headline")
    expect(row).to_contain_text(lowest.name)
    expect(row).to_contain_text(str(lowest.accuracy))
    expect(page.get_by_role("heading", name="Static against adaptive attacks")).to_be_visible()
    shot(page, "defend-3-result")

    page.get_by_role("radio", name="Playground").or_(page.get_by_role("button", name="Playground")).first.click()
    settle(page)
    page.get_by_role("button", name="3", exact=True).click()
    settle(page)
    fill(page, "Epsilon", "0.1")
    page.get_by_role("button", name="Play with image 3").click()
    expect(page.get_by_text("What was changed, × 10")).to_be_visible(timeout=60_000)
    expect(page.get_by_role("heading", name="Influence of front and tail neurons")).to_be_visible()
    shot(page, "defend-4-playground")
    (job,) = client.jobs(kind="play")
    played = client.played(job.id)
    expect(page.get_by_role("cell", name="attacked through the defense", exact=True)).to_be_visible()
    assert played.stages[1].distance <= 0.1 + 1e-6

    with page.expect_download() as download:
        page.get_by_role("button", name="Download (.zip)").click()
    names = zipfile.ZipFile(download.value.path()).namelist()
    assert {"model.safetensors", "model.json", "requirements.txt"} <= set(names)
