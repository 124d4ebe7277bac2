"""The web server's walls: host, token, headers, and no listening to the world without them."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient
from streamlit.runtime import Runtime

from app.server import HEADERS, check_exposure, make_app, show_error, streamlit_config
from app.text import JOINER, plain
from auditor.kit.errors import SpecError
from worker.settings import Settings


@pytest.fixture(autouse=True)
def another_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streamlit allows one runtime per process; a test brings its own."""
    monkeypatch.setattr(Runtime, "_instance", None)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.org"])
def test_an_open_address_needs_a_token_and_names(settings: Settings, host: str) -> None:
    with pytest.raises(SpecError, match="AUDITOR_TOKEN"):
        check_exposure(settings.model_copy(update={"host": host}))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_loopback_is_open_to_this_machine(settings: Settings, host: str) -> None:
    check_exposure(settings.model_copy(update={"host": host}))


def test_streamlits_own_defaults_are_changed(settings: Settings) -> None:
    config = streamlit_config(settings)
    assert (config["server.address"], config["client.showErrorDetails"]) == ("127.0.0.1", "none")
    assert config["client.disableDataExport"] is True
    assert config["runner.magicEnabled"] is False


def test_every_answer_carries_the_headers_and_a_strange_host_gets_none(settings: Settings) -> None:
    with TestClient(make_app(settings), base_url="http://localhost:8501") as web:
        for path in ("/", "/_stcore/health", "/nothing", "/../../etc/passwd"):
            answer = web.get(path)
            for name, value in HEADERS.items():
                assert answer.headers[name] == value, path
            assert "root:" not in answer.text
        assert web.get("/", headers={"host": "evil.example"}).status_code == 400


def test_errors_become_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    import streamlit as st

    said: list[str] = []
    monkeypatch.setattr(st, "error", said.append)
    assert show_error(SpecError("Wrong *number*.", "Change it."))
    assert show_error(RuntimeError("postgresql://user:hunter2@host"))
    assert said[0] == "Wrong \\*number\\*\\. Change it\\."
    assert "hunter2" not in said[1]


def test_typed_text_is_never_markdown() -> None:
    hostile = "![x](http://evil.example/a.png) [l](javascript:1) $x^2$ :smile: <b>b</b> `c` | # *a*"
    shown = plain(hostile)
    assert "](" not in shown
    assert shown.replace("\\", "").replace(JOINER, "") == hostile
