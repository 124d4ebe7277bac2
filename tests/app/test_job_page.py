"""A job that failed leads on: its log with the traceback, and running it again, on the page and the command line."""

from __future__ import annotations

import ast
import json
import threading
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest
from streamlit.testing.v1.element_tree import Element

from app.cli import app as commands
from tests.app.test_cli import Auditor, auditor  # noqa: F401
from tests.app.test_harden_page import link
from tests.app.test_pages import finished_audit, opened, texts
from tests.narrow import typed
from tests.worker.rows import new_job
from tests.worker.world import World, make_world, quick_spec
from worker.logs import read_job_log
from worker.settings import Settings, load_settings
from worker.supervisor import supervise

VIEWS = Path(__file__).parents[2] / "app" / "views"


@pytest.fixture
def world(settings: Settings, odd_jobs: None, monkeypatch: pytest.MonkeyPatch) -> World:
    st.cache_resource.clear()
    st.cache_data.clear()
    return make_world(settings)


def run(world: World, job: str) -> str:
    """As a worker does: in a process of its own, with a log."""
    supervise(job, "test", world.client.settings, world.client.ledger, threading.Event())
    return world.client.jobs.get(job).state


def failing(world: World) -> str:
    """An audit whose weights are damaged."""
    job = world.client.audits.queue("tiny", "random", quick_spec())
    world.client.blobs.path(world.client.library.model("tiny").weights).write_bytes(b"damaged")
    assert run(world, job) == "failed"
    return job


def shown(page: AppTest) -> str:
    return "\n".join(item.value for item in page.code)


def test_a_failed_job_shows_its_log_with_the_traceback_and_no_password(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = new_job(world.client.ledger, kind="odd", spec={"kind": "odd", "how": "bug"})
    assert run(world, job) == "failed"
    monkeypatch.setenv("AUDITOR_TOKEN", "a-long-secret")
    world.client.settings.logs.joinpath(f"job-{job}.log").open("a").write("native code says a-long-secret\n")
    page = opened("jobs")
    assert "Traceback" not in shown(page), "the board leads there"
    assert link(page, "Why it failed") == {"job": job}
    page = opened("jobs", job=job)
    assert f"auditor jobs log {job[:8]}" in texts(page)
    log = shown(page)
    assert job in log.splitlines(), "the whole id, to be copied"
    assert "Traceback (most recent call last):\n  File " in log
    assert "RuntimeError: postgresql://user:***@host/db failed" in log
    assert "hunter2" not in log
    assert [typed(button, Element).label for button in page.get("download_button")] == ["Download the log"]
    assert "native code says ***" in str(read_job_log(load_settings(), job))


def test_a_failed_audit_runs_again_with_the_same_request(world: World) -> None:
    job = failing(world)
    page = opened("jobs", job=job)
    assert "is damaged" in texts(page)
    assert "refused" in shown(page)
    page.button(key=f"again-{job}").click().run()
    assert not page.exception
    newest, old = world.client.jobs.find(kind="audit")
    assert old.id == job
    assert (newest.state, newest.title) == ("queued", old.title)
    assert world.client.jobs.request(newest.id) == world.client.jobs.request(old.id)
    assert page.query_params["job"] in (newest.id, [newest.id])
    assert "No worker has started it yet" in texts(page)
    assert not any(button.key == f"again-{newest.id}" for button in page.button), "it has not ended"


def test_a_log_that_is_elsewhere_is_said_to_be(world: World) -> None:
    job = failing(world)
    (world.client.settings.logs / f"job-{job}.log").unlink()
    assert f"On its worker's machine it is logs/job-{job}.log" in texts(opened("jobs", job=job))


def test_the_command_line_lists_shows_and_runs_jobs_again(world: World, auditor: Auditor) -> None:  # noqa: F811
    job = failing(world)
    listed = auditor("jobs", "list")
    assert job[:8] in listed
    assert "is damaged" in listed
    assert job[:8] in auditor("jobs", "list", "--state", "failed", "--text", "tiny")
    assert job[:8] not in auditor("jobs", "list", "--state", "queued")
    assert f"auditor jobs again {job[:8]}" in auditor("jobs", "show", job[:8])
    described = json.loads(auditor("jobs", "show", job, "--json"))
    assert described["request"]["audit"] == quick_spec().model_dump(mode="json")
    assert "refused" in auditor("jobs", "log", job[:8])
    assert "is queued: the same as" in auditor("jobs", "again", job[:8], "--detach")
    newest = world.client.jobs.find(kind="audit")[0]
    assert world.client.jobs.request(newest.id) == world.client.jobs.request(job)
    assert f"Job {newest.id[:8]} is queued. Cancel it first" in auditor("jobs", "again", newest.id, expect=1)
    assert "No worker has started it yet" in auditor("jobs", "log", newest.id, expect=1)
    assert "It is stopping" in auditor("jobs", "cancel", newest.id[:8])
    assert "auditor jobs list" in auditor("jobs", "show", "nobody", expect=1)
    assert {"jobs"} <= {group.name for group in commands.registered_groups}


def bare(file: Path) -> list[str]:
    """The strings that stand by themselves in a page's source, which Streamlit's magic would print."""
    return [
        node.value.value
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]


def test_no_page_prints_its_own_source(world: World) -> None:
    audit = finished_audit(world)
    sources = sorted(path for path in VIEWS.glob("*.py") if path.stem != "__init__")
    assert len(sources) >= 10
    for source in sources:
        strings = bare(source)
        assert strings, "at least the page's own docstring"
        written = texts(opened(source.stem, audit=audit, model=world.model_id, dataset=world.dataset_id))
        for text in strings:
            assert text.strip().splitlines()[0] not in written, source.stem


def test_magic_is_off_in_all_that_serves_the_pages(settings: Settings) -> None:
    """With it on, the sentence below would be printed on a page."""
    from streamlit import config

    from app.server import make_app, streamlit_config

    page = '"""About the page."""\nX = 1\n"""What X is."""\nimport streamlit as st\nst.title("T")\n'
    before = config.get_option("runner.magicEnabled")
    try:
        config.set_option("runner.magicEnabled", True)
        assert [item.value for item in AppTest.from_string(page).run().markdown] == ["What X is."]
        make_app(settings)
        assert AppTest.from_string(page).run().markdown.len == 0
        assert streamlit_config(settings)["runner.magicEnabled"] is False
    finally:
        config.set_option("runner.magicEnabled", before)
