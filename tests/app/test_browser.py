"""The whole way in a real Chromium: upload, audit, progress, layer, neuron, compare, report; and what a page must never do."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from auditor.report.html import SIZE_LIMIT
from tests.conftest import missing
from tests.processes import die_with_tests
from worker.client import Client
from worker.settings import Settings, load_settings

pytestmark = pytest.mark.browser

expect.set_options(timeout=60_000)  # a machine that runs other tests, too, draws a long page slowly

CHROMIUM = shutil.which("chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class Site(NamedTuple):
    address: str
    settings: Settings


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """``auditor up`` on an empty home."""
    if CHROMIUM is None:
        missing("chromium")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = tmp_path_factory.mktemp("browser") / "home"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AUDITOR_")}
    environment["AUDITOR_HOME"] = str(home)
    command = [sys.executable, "-m", "app.cli", "up", "--port", str(port)]
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, preexec_fn=die_with_tests)
    address = f"http://127.0.0.1:{port}"
    limit = time.monotonic() + 90
    while not _answers(address):
        assert process.poll() is None
        assert time.monotonic() < limit, "the dashboard did not come up"
        time.sleep(0.3)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AUDITOR_")]:
            patch.delenv(name)
        patch.setenv("AUDITOR_HOME", str(home))
        settings = load_settings()
    yield Site(address, settings)
    process.terminate()
    process.wait(30)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/_stcore/health", timeout=1):
            return True
    except OSError:
        return False


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        missing("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, site: Site) -> Iterator[Page]:
    """A page that fails the test when it asks another host for anything, or breaks its own content policy."""
    context = browser.new_context(viewport={"width": 1400, "height": 1100}, accept_downloads=True)
    page = context.new_page()
    faults: list[str] = []
    own = (site.address, site.address.replace("http", "ws"), "data:", "blob:")
    page.on("request", lambda request: faults.append(request.url) if not request.url.startswith(own) else None)
    page.on(
        "console", lambda message: faults.append(message.text) if "Content Security Policy" in message.text else None
    )
    yield page
    context.close()
    assert faults == []


def shot(page: Page, name: str) -> None:
    """A picture for people, where AUDITOR_SCREENSHOTS names a folder."""
    folder = os.environ.get("AUDITOR_SCREENSHOTS")
    if folder:
        page.wait_for_timeout(1500)
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def choose(page: Page, label: str, text: str) -> None:
    """Pick an option of a select box by typing a part of it."""
    box = page.get_by_role("combobox", name=label, exact=True).first
    box.click()
    box.fill(text)
    page.wait_for_timeout(300)
    box.press("Enter")
    settle(page)


def settle(page: Page) -> None:
    """Until Streamlit has run the script to its end."""
    page.wait_for_timeout(300)
    page.wait_for_function(
        "!document.querySelector('[data-testid=stApp][data-test-script-state=running]')", timeout=60_000
    )


def type_in(page: Page, label: str, text: str) -> None:
    field = page.get_by_label(label, exact=True).first
    field.fill(text)
    field.press("Tab")
    settle(page)


SAMPLE = {
    "weights": "auditor/samples/fashion-plain.safetensors",
    "data": "auditor/samples/fashion-mnist-test.npz",
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


@pytest.mark.parametrize("what", ["sample", "cifar"])
def test_from_upload_to_report(
    request: pytest.FixtureRequest, site: Site, page: Page, what: str, tmp_path: Path
) -> None:
    files = SAMPLE if what == "sample" else CIFAR
    root = Path(__file__).parents[2] if what == "sample" else request.getfixturevalue("shared")
    client = Client(site.settings)

    page.goto(f"{site.address}/datasets")
    open_expander(page, "Add a data set")
    page.locator("input[type=file]").first.set_input_files(root / files["data"])
    settle(page)
    type_in(page, "Name", f"{what} images")
    page.get_by_role("button", name="Add the data set").click()
    expect(page.get_by_role("heading", name=f"{what} images")).to_be_visible(timeout=90_000)
    shot(page, f"{what}-1-dataset")

    page.goto(f"{site.address}/models")
    open_expander(page, "Add a model")
    page.locator("input[type=file]").first.set_input_files(root / files["weights"])
    settle(page)
    type_in(page, "Name", f"{what} net")
    choose(page, "Architecture", files["architecture"])
    if what == "sample":
        from auditor.samples import ARCHITECTURE

        page.get_by_label("Channels", exact=True).first.fill("1")
        page.get_by_label("Height", exact=True).first.fill("28")
        page.get_by_label("Width", exact=True).first.fill("28")
        page.get_by_label("Layers", exact=True).first.fill(layers_in_pytorchs_notation(ARCHITECTURE.build()))
        page.get_by_label("Layers", exact=True).first.press("Control+Enter")
        settle(page)
    choose(page, "Normalisation", f"{files['normalization']}:")
    choose(page, "Vet on", f"{what} images") if page.get_by_role(
        "combobox", name="Vet on", exact=True
    ).count() else None
    page.get_by_role("button", name="Add the model").click()
    expect(page.get_by_text("Is the normalisation right?")).to_be_visible(timeout=120_000)
    expect(page.get_by_text("No doubts")).to_be_visible()
    shot(page, f"{what}-2-card")

    first = run_audit(site, page, what, files)
    second = run_audit(site, page, what, files)

    page.goto(f"{site.address}/result?audit={first}")
    expect(page.get_by_role("heading", name="Verdict")).to_be_visible(timeout=60_000)
    result = client.audit_result(first)
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


def layers_in_pytorchs_notation(network: object) -> str:
    return str(network)


def open_expander(page: Page, label: str) -> None:
    settle(page)
    summary = page.locator("summary", has_text=label)
    summary.wait_for(timeout=60_000)
    if summary.locator("xpath=..").get_attribute("open") is None:
        summary.click()
    settle(page)


def click_a_mark(page: Page, chart: object) -> None:
    """Click the chart where a mark is drawn: found by trying the canvas on a grid until a layer opens."""
    box = chart.bounding_box()  # type: ignore[attr-defined]
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
    page.goto(
        f"{site.address}/new-audit?model={client.model(f'{what} net').id}&dataset={client.dataset(f'{what} images').id}"
    )
    type_in(page, "Epsilon", files["epsilon"])
    page.locator("summary", has_text="Samples, curve, seed and device").click()
    type_in(page, "Samples", files["samples"])
    page.get_by_role("button", name="Queue the audit").click()
    page.wait_for_url(re.compile(r"/jobs\?job="), timeout=30_000)
    job = page.url.split("job=")[1]
    seen: set[str] = set()
    limit = time.monotonic() + 180
    while (now := client.job(job)).state != "succeeded":
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
    context = page.context.browser.new_context(viewport={"width": 1100, "height": 1400}, offline=True)  # type: ignore[union-attr]
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
