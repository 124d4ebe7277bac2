"""Login: the token gives a session that ends, leads nowhere else, and cannot be guessed at speed; with harmless inputs only."""

from __future__ import annotations

import hmac
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect
from streamlit.runtime import Runtime

from app import login
from app.login import Login, Sessions, Throttle, local_target
from app.server import make_app
from worker.settings import Settings, load_settings

TOKEN = "a-long-secret"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves both clocks that the login reads."""
    ahead = [0.0]
    real, steady = time.time, time.monotonic

    class Clock:
        time = staticmethod(lambda: real() + ahead[0])
        monotonic = staticmethod(lambda: steady() + ahead[0])

    monkeypatch.setattr(login, "time", Clock)

    def forward(seconds: float) -> None:
        ahead[0] += seconds

    return forward


async def _page(request: Any) -> PlainTextResponse:
    return PlainTextResponse(f"the page {request.url.path}")


async def _echo(socket: WebSocket) -> None:
    await socket.accept()
    try:
        while True:
            await socket.send_text(await socket.receive_text())
    except WebSocketDisconnect:
        pass


def site(home: Path, token: str = TOKEN, seconds: float = 3600, scheme: str = "http") -> TestClient:
    """A small application behind the login."""
    sessions = Sessions(token, seconds, home / "sessions-ended")
    app = Starlette(
        routes=[WebSocketRoute("/stream", _echo), Route("/{path:path}", _page, methods=["GET", "POST"])],
        middleware=[Middleware(Login, token=token, sessions=sessions)],
    )
    return TestClient(app, base_url=f"{scheme}://localhost:8501", follow_redirects=False)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[TestClient]:
    with site(tmp_path) as client:
        yield client


def enter(web: TestClient) -> str:
    """Log in; returns the session's cookie."""
    assert web.get(f"/?token={TOKEN}").status_code == 303
    return next(value for name, value in web.cookies.items() if name.startswith("auditor_session_"))


def test_the_dashboard_asks_for_the_token_once(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Runtime, "_instance", None)
    monkeypatch.setenv("AUDITOR_TOKEN", TOKEN)
    with TestClient(make_app(load_settings()), base_url="http://localhost:8501", follow_redirects=False) as web:
        for path in ("/", "/_stcore/health", "/?token=wrong", "/logout"):
            answer = web.get(path)
            assert answer.status_code in (401, 303), path
            assert TOKEN not in answer.text
            assert answer.headers["x-frame-options"] == "DENY"
        with pytest.raises(WebSocketDisconnect), web.websocket_connect("/_stcore/stream"):
            pass
        enter(web)
        assert web.get("/").status_code == 200
        assert web.get("/_stcore/health").text == "ok"
        hostile = {"origin": "http://other.example"}
        with pytest.raises(WebSocketDisconnect), web.websocket_connect("/_stcore/stream", headers=hostile):
            pass


def test_the_address_is_kept_without_the_token(web: TestClient) -> None:
    welcome = web.get(f"/result?audit=1f&token={TOKEN}&analyses=a%2Cb&empty=")
    assert (welcome.status_code, welcome.headers["location"]) == (303, "/result?audit=1f&analyses=a%2Cb&empty=")
    assert welcome.headers["cache-control"] == "no-store"
    again = web.get(f"/result?audit=1f&token={TOKEN}")
    assert (again.status_code, again.headers["location"]) == (303, "/result?audit=1f"), "also for those who are in"


def test_the_form_leads_back_to_the_page_that_was_asked_for(web: TestClient) -> None:
    asked = web.get("/jobs?job=12&x=%22%3E%3Cscript%3E")
    assert asked.status_code == 401
    assert '<input type="hidden" name="next" value="/jobs?job=12&amp;x=%22%3E%3Cscript%3E">' in asked.text
    wrong = web.post("/login", data={"token": "wrong", "next": "/jobs?job=12"})
    assert wrong.status_code == 401
    assert "The token is wrong." in wrong.text
    assert 'value="/jobs?job=12"' in wrong.text
    welcome = web.post("/login", data={"token": f" {TOKEN}\n", "next": "/jobs?job=12"})
    assert (welcome.status_code, welcome.headers["location"]) == (303, "/jobs?job=12")
    assert web.get("/jobs?job=12").text == "the page /jobs"
    assert web.post("/login", content=b"token=" + b"x" * 100_000).status_code == 401


ELSEWHERE = (
    "//other.example/x", "///other.example", "/\\other.example", "\\\\other.example", "/%5Cother.example",
    "/%2F%2Fother.example", "https://other.example", "/\t/other.example", "javascript:alert(1)", "//[", "/%0d%0aa: b",
)  # fmt: skip


@pytest.mark.parametrize("target", ELSEWHERE)
def test_a_login_leads_to_no_other_site(tmp_path: Path, target: str) -> None:
    with site(tmp_path) as web:
        welcome = web.post("/login", data={"token": TOKEN, "next": target})
        assert stays(welcome.headers["location"])
    with site(tmp_path) as web:
        path = target if target.startswith("/") else f"/{target}"
        welcome = web.request("GET", "http://localhost:8501" + path.replace("\t", "%09"), params={"token": TOKEN})
        assert stays(welcome.headers["location"])
    assert stays(local_target(target))


def stays(location: str) -> bool:
    """Where a browser would go; to it a backslash is a slash, and tabs and line ends are nothing."""
    read = location.replace("\\", "/")
    assert not set(location) & set("\t\r\n")
    return urlsplit(urljoin("http://localhost:8501/here", read)).netloc == "localhost:8501" and read.startswith("/")


def test_the_cookie_is_a_signed_session_that_ends(tmp_path: Path, clock: Callable[[float], None]) -> None:
    with site(tmp_path, seconds=3600) as web:
        welcome = web.get(f"/?token={TOKEN}")
        for cookie in welcome.headers.get_list("set-cookie"):
            assert TOKEN not in cookie
            assert "httponly" in cookie.lower()
            assert "samesite=lax" in cookie.lower()
            assert "max-age=" in cookie.lower()
            assert "secure" not in cookie.lower(), "a browser would keep it back on http"
        name, value = next(item for item in web.cookies.items() if item[0].startswith("auditor_session_"))
        assert web.get("/").status_code == 200
        expires, nonce, signature = value.split(".")
        forged = (
            f"{int(expires) + 86_400}.{nonce}.{signature}", f"{expires}.{nonce}.{'0' * 64}", f"{expires}.{nonce}",
            TOKEN, "", f"{expires}.{nonce[::-1]}.{signature}", "é.è.à",
        )  # fmt: skip
        web.cookies.clear()
        for other in forged:
            assert web.get("/", headers={b"cookie": f"{name}={other}".encode()}).status_code == 401, other
        kept = {"cookie": f"{name}={value}"}
        assert web.get("/", headers=kept).status_code == 200
        clock(3601)
        assert web.get("/", headers=kept).status_code == 401


def test_a_new_token_ends_every_session(tmp_path: Path) -> None:
    with site(tmp_path) as web:
        cookie = enter(web)
    for token, status in ((TOKEN, 200), ("another-secret", 401)):
        with site(tmp_path, token) as web:
            name = Sessions(token, 3600, tmp_path / "none").cookie
            assert web.get("/", headers={"cookie": f"{name}={cookie}"}).status_code == status


def test_behind_https_the_cookie_is_for_https_alone(tmp_path: Path) -> None:
    with site(tmp_path, scheme="https") as web:
        welcome = web.get(f"/?token={TOKEN}")
        assert all("secure" in cookie.lower() for cookie in welcome.headers.get_list("set-cookie"))


def test_wrong_tokens_are_slowed_down_and_the_right_one_comes_in_after_a_while(
    tmp_path: Path, clock: Callable[[float], None]
) -> None:
    with site(tmp_path) as web:
        answers = [web.get(f"/?token=guess-{number}").status_code for number in range(300)]
        tried, _ = Throttle.CLIENT
        assert answers.count(401) in (tried, tried + 1), "one more may have become free meanwhile"
        assert answers.count(429) == 300 - answers.count(401)
        late = web.post("/login", data={"token": TOKEN, "next": "/"})
        assert late.status_code == 429, "a guess that is not looked at tells nothing"
        assert "Try again in" in late.text
        clock(float(late.headers["retry-after"]))
        assert web.post("/login", data={"token": TOKEN, "next": "/"}).status_code == 303


def test_many_clients_together_are_slowed_down_but_not_those_who_were_in(clock: Callable[[float], None]) -> None:
    throttle = Throttle()
    looked_at = 0
    for number in range(300):
        if throttle.wait(f"10.0.{number // 5}.1", known=False) == 0:
            throttle.wrong(f"10.0.{number // 5}.1", known=False)
            looked_at += 1
    size, seconds = Throttle.ALL
    assert looked_at in (size, size + 1)
    assert 0 < throttle.wait("10.9.9.9", known=False) <= seconds
    assert throttle.wait("a browser that was in before", known=True) == 0
    for _ in range(Throttle.CLIENT[0]):
        throttle.wrong("a browser that was in before", known=True)
    assert throttle.wait("a browser that was in before", known=True) > 0, "it has a limit of its own"
    clock(seconds)
    assert throttle.wait("10.9.9.9", known=False) == 0
    for number in range(Throttle.MOST + 50):
        throttle.wrong(f"client {number}", known=True)
    assert len(throttle._clients) == Throttle.MOST, "memory has an end"


def test_a_browser_that_was_in_before_is_not_locked_out_by_others(tmp_path: Path) -> None:
    with site(tmp_path) as web:
        enter(web)
        for name in list(web.cookies):
            if name.startswith("auditor_session_"):
                web.cookies.delete(name)
        mine = dict(web.cookies)
        web.cookies.clear()
        for number in range(100):
            web.get(f"/?token=guess-{number}")
        assert web.get(f"/?token={TOKEN}").status_code == 429
        for name, value in mine.items():
            web.cookies.set(name, value)
        assert web.get(f"/?token={TOKEN}").status_code == 303


def test_addresses_of_one_ipv6_network_are_one_client(tmp_path: Path) -> None:
    with site(tmp_path) as web:
        answers = []
        for number in range(40):
            with TestClient(
                web.app, base_url="http://localhost:8501", client=(f"2001:db8::{number:x}", 1), follow_redirects=False
            ) as other:
                answers.append(other.get("/?token=wrong").status_code)
        assert 429 in answers
        with TestClient(web.app, base_url="http://localhost:8501", client=("2001:db8:1::1", 1)) as other:
            assert other.get("/?token=wrong").status_code == 401


def test_a_logout_ends_the_session_for_good_and_closes_its_pages(tmp_path: Path) -> None:
    with site(tmp_path) as web:
        cookie = enter(web)
        name = Sessions(TOKEN, 3600, tmp_path / "none").cookie
        asked = web.get("/logout")
        assert 'method="post"' in asked.text
        assert web.get("/").status_code == 200, "a link alone logs nobody out"
        kept = {"cookie": f"{name}={cookie}"}
        with web.websocket_connect("/stream", headers=kept) as socket:
            socket.send_text("hello")
            assert socket.receive_text() == "hello"
            gone = web.post("/logout")
            assert gone.headers["location"] == "/login"
            with pytest.raises(WebSocketDisconnect):
                socket.receive_text()
        web.cookies.clear()
        assert web.get("/", headers=kept).status_code == 401
        assert (tmp_path / "sessions-ended").stat().st_mode & 0o077 == 0
    with site(tmp_path) as web:
        assert web.get("/", headers=kept).status_code == 401, "also after a restart"
        assert web.get("/logout").headers["location"] == "/login"
        assert web.get("/login").status_code == 401


def test_a_websocket_needs_a_session_and_ends_with_it(tmp_path: Path) -> None:
    with site(tmp_path, seconds=2.5) as web:
        with pytest.raises(WebSocketDisconnect) as refused, web.websocket_connect("/stream"):
            pass
        assert refused.value.code == 1008
        with (
            pytest.raises(WebSocketDisconnect),
            web.websocket_connect("/stream", headers={"cookie": f"auditor_session_x={TOKEN}"}),
        ):
            pass
        kept = {"cookie": f"{Sessions(TOKEN, 1, tmp_path / 'none').cookie}={enter(web)}"}
        began = time.monotonic()
        with web.websocket_connect("/stream", headers=kept) as socket:
            socket.send_text("hello")
            assert socket.receive_text() == "hello"
            with pytest.raises(WebSocketDisconnect) as ended:
                socket.receive_text()
            assert ended.value.code == 1008
        assert time.monotonic() - began < 4


def test_the_token_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compared: list[tuple[int, int]] = []
    real = hmac.compare_digest

    def recorded(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return real(one, other)

    with site(tmp_path) as web:
        monkeypatch.setattr(hmac, "compare_digest", recorded)
        for guess in ("", "a", TOKEN[:-1], "x" * 5000):
            web.get("/", params={"token": guess})
    assert len(compared) >= 4
    assert set(compared) == {(32, 32)}, "digests of one length, whatever was typed"


def test_logins_side_by_side_do_not_pass_the_limit(tmp_path: Path) -> None:
    with site(tmp_path) as web:
        answers: list[int] = []
        threads = [
            threading.Thread(target=lambda: answers.extend(web.get("/?token=wrong").status_code for _ in range(10)))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers.count(401) <= Throttle.CLIENT[0] + 1
