"""A defense in a real Chromium: fit NIP on the sample, evaluate it, read the table, use the playground, take it home."""

from __future__ import annotations

import re
import zipfile

import pytest
from playwright.sync_api import Page, expect

from app.sample import MODELS, TRAINING
from tests.app.browser.pages import Site, choose, settle, shot, type_in, unfold, unseen
from worker.client import Client

pytestmark = [pytest.mark.browser, pytest.mark.thorough]


def test_from_the_form_to_the_playground(site: Site, sample: Client, page: Page) -> None:
    client = sample
    page.goto(f"{site.address}/defend")
    unfold(page, "Fit a defense")
    choose(page, "Model", MODELS["plain"])
    choose(page, "Training images", TRAINING)
    unfold(page, "NIP: settings")
    type_in(page, "Inputs", "100")
    type_in(page, "Name", "inverse")
    shot(page, "defend-1-form")
    page.get_by_role("button", name="Fit the defense").click()
    expect(page.get_by_role("heading", name="Stored defenses")).to_be_visible(timeout=60_000)
    (view,) = (one for one in client.defenses.find() if one.row.name == "inverse")
    assert (view.row.name, view.model, view.dataset) == ("inverse", MODELS["plain"], TRAINING)
    page.wait_for_url(re.compile(f"/defend\\?.*defense={view.row.id}"), timeout=30_000)

    unfold(page, "New evaluation")
    page.get_by_text("Evaluate controls", exact=True).click()
    settle(page)
    type_in(page, "Epsilon", "0.1")
    unfold(page, "All settings")
    for label, value in (
        ("Samples", "6"),
        ("Steps", "4"),
        ("Queries", "10"),
        ("Decision steps", "20"),
        ("Nearest", "2"),
    ):
        type_in(page, label, value)
    shot(page, "defend-2-evaluation-form")
    page.get_by_role("button", name="Evaluate", exact=True).click()
    expect(page.get_by_role("heading", name="What the defense is worth")).to_be_visible(timeout=120_000)
    (evaluation,) = client.defenses.evaluations(view.row.id)
    assert evaluation.dataset == unseen(client, view.row.model_id).name
    lowest = client.defenses.table(evaluation.job.id).headline
    row = page.get_by_role("row").filter(has_text="headline")
    expect(row).to_contain_text(lowest.name)
    expect(row).to_contain_text(str(lowest.accuracy))
    expect(page.get_by_role("heading", name="Static against adaptive attacks")).to_be_visible()
    shot(page, "defend-3-result")

    page.get_by_role("radio", name="Playground").or_(page.get_by_role("button", name="Playground")).first.click()
    settle(page)
    page.get_by_role("button", name="3", exact=True).click()
    settle(page)
    type_in(page, "Epsilon", "0.1")
    page.get_by_role("button", name="Play with image 3").click()
    expect(page.get_by_text("What was changed, × 10")).to_be_visible(timeout=60_000)
    expect(page.get_by_role("heading", name="Influence of front and tail neurons")).to_be_visible()
    shot(page, "defend-4-playground")
    (job,) = client.defenses.plays(view.row.id)
    played = client.defenses.played(job.id)
    expect(page.get_by_role("cell", name="attacked through the defense", exact=True)).to_be_visible()
    assert played.stages[1].distance <= 0.1 + 1e-6

    with page.expect_download() as download:
        page.get_by_role("button", name="Download (.zip)").click()
    names = zipfile.ZipFile(download.value.path()).namelist()
    assert {"model.safetensors", "model.json", "requirements.txt"} <= set(names)
