"""One dashboard and one worker for all tests in a real Chromium, which look only at what they made themselves."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from app.sample import seed
from tests.app.browser.pages import Site, chromium
from tests.processes import die_with_tests
from worker.client import Client
from worker.settings import load_settings

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="package")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """``auditor up`` on a home of its own."""
    chromium()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = tmp_path_factory.mktemp("browser") / "home"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AUDITOR_")}
    environment["AUDITOR_HOME"] = str(home)
    command = [sys.executable, "-m", "app.cli", "up", "--port", str(port)]
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, preexec_fn=die_with_tests)
    address = f"http://127.0.0.1:{port}"
    limit = time.monotonic() + 240
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
    process.wait(120)  # worker and dashboard end in turn, each when its own processes have


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/_stcore/health", timeout=1):
            return True
    except OSError:
        return False


@pytest.fixture(scope="package")
def sample(site: Site) -> Client:
    """The sample's models and data sets are in the library; nobody here waits for their vetting."""
    client = Client(site.settings)
    seed(client)
    for job in client.jobs.find(kind="vet"):
        client.jobs.cancel(job.id)
    return client


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
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
