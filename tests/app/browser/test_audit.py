"""The whole way in a real Chromium: upload, audit, progress, layer, neuron, compare, report; and what a page must never do."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from auditor.data.samples import ARCHITECTURE
from auditor.report.html import SIZE_LIMIT
from tests.app.browser.pages import Site, choose, settle, shot, type_in, unfold
from tests.narrow import known
from worker.client import Client

pytestmark = pytest.mark.browser

SAMPLE = {
    "weights": "auditor/data/samples/fashion-plain.safetensors",
    "data": "auditor/data/samples/fashion-mnist-test.npz",
    "architecture": "Layer list",
    "normalization": "none",
    "samples": "200",
    "epsilon": "0.1",
}
CIFAR = {
    "weights": "weights/resnet20-12fca82f.th",
    "data": "data/cifar10-test.npz",
    "architecture": "ResNet (CIFAR form)",
    "normalization": "imagenet",
    "samples": "100",
    "epsilon": "8/255",
}


@pytest.mark.parametrize("what", ["sample", pytest.param("cifar", marks=pytest.mark.thorough)])
def test_from_upload_to_report(
    request: pytest.FixtureRequest, site: Site, page: Page, what: str, tmp_path: Path
) -> None:
    files = SAMPLE if what == "sample" else CIFAR
    root = Path(__file__).parents[3] if what == "sample" else request.getfixturevalue("shared")
    client = Client(site.settings)

    page.goto(f"{site.address}/datasets")
    unfold(page, "Add a data set")
    page.locator("input[type=file]").first.set_input_files(root / files["data"])
    settle(page)
    type_in(page, "Name", f"{what} images")
    page.get_by_role("button", name="Add the data set").click()
    expect(page.get_by_role("heading", name=f"{what} images")).to_be_visible(timeout=90_000)
    shot(page, f"{what}-1-dataset")

    page.goto(f"{site.address}/models")
    unfold(page, "Add a model")
    page.locator("input[type=file]").first.set_input_files(root / files["weights"])
    settle(page)
    type_in(page, "Name", f"{what} net")
    by_hand, fitting = (page.get_by_role("combobox", name=name, exact=True) for name in ("Architecture", "What fits"))
    expect(by_hand.or_(fitting)).to_be_visible()  # once it is found out what the dropped file is
    if fitting.count():
        choose(page, "What fits", "another architecture")
    choose(page, "Architecture", files["architecture"])
    if what == "sample":
        page.get_by_label("Channels", exact=True).first.fill("1")
        page.get_by_label("Height", exact=True).first.fill("28")
        page.get_by_label("Width", exact=True).first.fill("28")
        page.get_by_label("Layers", exact=True).first.fill(str(ARCHITECTURE.build()))
        page.get_by_label("Layers", exact=True).first.press("Control+Enter")
        settle(page)
    choose(page, "Normalization", f"{files['normalization']}:")
    choose(page, "Vet on", f"{what} images")
    page.get_by_role("button", name="Add the model").click()
    expect(page.get_by_text("Is the normalization right?")).to_be_visible(timeout=120_000)
    expect(page.get_by_text("No faults found")).to_be_visible()
    shot(page, f"{what}-2-card")

    first = run_audit(site, page, what, files)
    second = run_audit(site, page, what, files)

    page.goto(f"{site.address}/result?audit={first}")
    expect(page.get_by_role("heading", name="Verdict")).to_be_visible(timeout=60_000)
    result = client.audits.result(first)
    robust = result.robust_accuracy(result.spec.threats[0]).value or 0.0
    expect(page.get_by_text(f"{100 * robust:.1f} %", exact=True).first).to_be_visible()
    chart = page.get_by_test_id("stVegaLiteChart").nth(1)
    chart.scroll_into_view_if_needed()
    click_a_mark(page, chart)
    expect(page.get_by_text(re.compile(r"Neurons of .*, most sensitive first"))).to_be_visible(timeout=30_000)
    expect(page).to_have_url(re.compile(r"layer="))
    choose(page, "Open a neuron", "0")
    expect(page.get_by_text("Sensitivity of neuron 0")).to_be_visible()
    shot(page, f"{what}-3-result")
    again = page.context.new_page()
    again.goto(page.url)
    expect(again.get_by_text("Sensitivity of neuron 0")).to_be_visible(timeout=60_000)
    again.close()

    with page.expect_download(timeout=60_000) as download:
        page.get_by_role("button", name="Download the report").click()
    report = tmp_path / "report.html"
    download.value.save_as(report)
    assert download.value.suggested_filename == f"audit-{first[:8]}.html"
    assert report.stat().st_size < SIZE_LIMIT
    page.goto(f"{site.address}/compare?a={first}&b={second}")
    expect(page.get_by_role("heading", name="What differs")).to_be_visible(timeout=60_000)
    shot(page, f"{what}-4-compare")
    read_report(page, report, f"{100 * robust:.1f} %", f"{what}-5-report")


def click_a_mark(page: Page, chart: Locator) -> None:
    """Click the chart where a mark is drawn: found by trying the canvas on a grid until a layer opens."""
    box = chart.bounding_box()
    assert box is not None
    for x in range(60, int(box["width"]) - 140, 6):
        for y in range(10, int(box["height"]) - 60, 12):
            page.mouse.move(box["x"] + x, box["y"] + y)
            if page.locator("#vg-tooltip-element.visible").count():
                page.mouse.click(box["x"] + x, box["y"] + y)
                settle(page)
                return
    pytest.fail("no mark found on the chart")


def run_audit(site: Site, page: Page, what: str, files: dict[str, str]) -> str:
    """Fill the form, queue the audit, and watch it to its end; returns the job's id."""
    client = Client(site.settings)
    model, data = client.library.model(f"{what} net"), client.library.dataset(f"{what} images")
    page.goto(f"{site.address}/new-audit?model={model.id}&dataset={data.id}")
    type_in(page, "Epsilon", files["epsilon"])
    page.locator("summary", has_text="Samples, curve, seed and device").click()
    type_in(page, "Samples", files["samples"])
    page.get_by_role("button", name="Queue the audit").click()
    page.wait_for_url(re.compile(r"/jobs\?job="), timeout=30_000)
    job = page.url.split("job=")[1]
    seen: set[str] = set()
    limit = time.monotonic() + 180
    while (now := client.jobs.get(job)).state != "succeeded":
        assert now.state in ("queued", "running"), now.error
        assert time.monotonic() < limit
        bar = page.locator("[role=progressbar]")
        if bar.count():
            seen.add(str(bar.first.get_attribute("aria-valuenow")))
        page.wait_for_timeout(200)
    assert len(seen) >= 2, f"progress did not move: {seen}"
    expect(page.get_by_text("succeeded").first).to_be_visible(timeout=10_000)
    shot(page, f"{what}-jobs")
    return job


def read_report(page: Page, report: Path, number: str, name: str) -> None:
    """The file opens from disk, offline, and says the same number."""
    context = known(page.context.browser).new_context(viewport={"width": 1100, "height": 1400}, offline=True)
    reader = context.new_page()
    asked: list[str] = []
    reader.on("request", lambda request: asked.append(request.url))
    reader.goto(report.as_uri())
    expect(reader.get_by_text(number, exact=True).first).to_be_visible()
    broken = reader.evaluate("[...document.images].filter(image => !image.naturalWidth).length")
    assert broken == 0
    assert all(url.startswith(("file:", "data:")) for url in asked)
    shot(reader, name)
    context.close()


def test_an_unknown_address_and_a_bug_show_no_traceback(site: Site, page: Page) -> None:
    for path in (
        "/result?audit=nobody",
        "/models?model=nobody",
        "/compare?a=..%2F..&b=%00",
        "/jobs?job=%3Cscript%3E",
        "/nowhere",
    ):
        page.goto(f"{site.address}{path}")
        settle(page)
        page.wait_for_timeout(500)
        text = page.inner_text("body")
        assert "Traceback" not in text
        assert "site-packages" not in text
