"""A hardening in a real Chromium: queue it, see the curves move, cancel one, finish one, lineage, compare with the parent."""

from __future__ import annotations

import re
import time

import pytest
from playwright.sync_api import Page, expect

from app.sample import MODELS, TRAINING
from tests.app.browser.pages import Site, choose, settle, shot, type_in, unfold, unseen
from worker.client import Client

pytestmark = [pytest.mark.browser, pytest.mark.thorough]


def queue(page: Page, site: Site, epochs: int, name: str) -> str:
    """Fill the form and queue a training; returns the job's id."""
    page.goto(f"{site.address}/harden")
    unfold(page, "New training")
    choose(page, "Model", MODELS["plain"])
    choose(page, "Training images", TRAINING)
    page.locator("label", has_text="Fast adversarial training").first.click()
    settle(page)
    type_in(page, "Epochs", str(epochs))
    type_in(page, "Name of the child", name)
    expect(page.get_by_text(re.compile("At most .* forward passes for each of 6,000 images"))).to_be_visible()
    shot(page, f"harden-1-{name}-form")
    page.get_by_role("button", name="Queue the training").click()
    page.wait_for_url(re.compile(r"/harden\?job="), timeout=30_000)
    return page.url.split("job=")[1]


def curves(page: Page) -> bytes:
    """The first chart as it is drawn now."""
    return page.get_by_test_id("stVegaLiteChart").first.screenshot()


def test_from_the_form_to_the_comparison(site: Site, sample: Client, page: Page) -> None:
    client = sample
    job = queue(page, site, 2, "whole")
    expect(page.get_by_role("heading", name="Validation accuracy")).to_be_visible(timeout=120_000)
    before, limit = curves(page), time.monotonic() + 60
    while curves(page) == before:
        assert time.monotonic() < limit, "the curves do not move"
        page.wait_for_timeout(500)
    shot(page, "harden-2-live")
    expect(page.get_by_role("heading", name="Compared with its parent")).to_be_visible(timeout=240_000)
    best = client.trainings.result(job).best
    assert best.clean is not None
    assert best.clean.value is not None
    expect(page.get_by_text(f"{100 * best.clean.value:.1f} %", exact=True).first).to_be_visible()
    shot(page, "harden-3-result")

    cancelled = queue(page, site, 500, "cut short")
    limit = time.monotonic() + 180
    while not any(point.clean is not None and point.epoch > 0 for _, point in client.trainings.points(cancelled)):
        assert time.monotonic() < limit
        page.wait_for_timeout(300)
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("Cancelled after")).to_be_visible(timeout=60_000)
    assert client.jobs.get(cancelled).state == "cancelled"
    assert client.trainings.child(cancelled) is not None
    shot(page, "harden-4-cancelled")

    page.goto(f"{site.address}/harden?job={job}")
    expect(page.get_by_role("heading", name="Lineage")).to_be_visible(timeout=60_000)
    for name in (MODELS["plain"], "whole", "cut short"):
        expect(page.get_by_test_id("stMarkdown").get_by_text(name).last).to_be_visible()
    type_in(page, "Samples", "40")
    page.get_by_role("button", name="Audit parent and child").click()
    compare = page.get_by_text("Compare parent and child")
    expect(compare).to_be_visible(timeout=240_000)
    child = client.trainings.child(job)
    assert child is not None
    audits = client.audits.paired(child.id)
    assert audits is not None
    assert {audit.dataset_id for audit in audits} == {unseen(client, child.id).id}
    compare.click()
    expect(page.get_by_role("heading", name="What differs")).to_be_visible(timeout=60_000)
    expect(page.get_by_role("heading", name="Neuron sensitivity by layer")).to_be_visible()
    shot(page, "harden-5-compare")
