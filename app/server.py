"""The web server: Streamlit as an ASGI application, behind checks of host and token, with headers that keep it in."""

from __future__ import annotations

import ipaddress
import logging
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import streamlit as st
import streamlit.config
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.login import Login, Sessions
from app.widgets import error_box
from auditor.kit.disk import outage
from auditor.kit.errors import AuditorError, SpecError
from worker.client import Client
from worker.settings import Settings

log = logging.getLogger("dashboard")

HEADERS = {
    # Streamlit's own page needs inline styles and scripts, and Vega compiles its charts with eval; nothing comes from, or
    # goes to, another origin.
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
    "worker-src 'self' blob:; frame-src 'none'; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
}


MAGIC_OFF = {"runner.magicEnabled": False}
"""Magic prints whatever text stands by itself in a page's source."""


def serve(settings: Settings) -> None:
    """Serve until told to stop. Raises SpecError for an address that would be open to the network without a token."""
    check_exposure(settings)
    make_app(settings).run(config=streamlit_config(settings))


def check_exposure(settings: Settings) -> None:
    """The dashboard has no users: whoever reaches it may do everything. So beyond this machine it asks for a token."""
    if is_loopback(settings.host):
        return
    if not settings.token.get_secret_value().strip() or not settings.allowed_hosts:
        raise SpecError(
            f"The dashboard is set to listen on {settings.host}, where others can reach it.",
            "Set AUDITOR_TOKEN (a long secret that visitors must enter) and AUDITOR_ALLOWED_HOSTS (the dashboard's host "
            "names), or listen on 127.0.0.1.",
        )


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def streamlit_config(settings: Settings) -> dict[str, Any]:
    """What Streamlit is told; its defaults are made for a developer's own machine."""
    return {
        "server.address": settings.host,
        "server.port": settings.port,
        "server.headless": True,
        **MAGIC_OFF,
        "server.fileWatcherType": "none",
        "server.maxUploadSize": max(1, settings.browser_upload_limit >> 20),
        "client.showErrorDetails": "none",
        "client.toolbarMode": "minimal",
        "client.disableDataExport": True,
        "browser.gatherUsageStats": False,
        "theme.base": "light",
        "theme.primaryColor": "#2f5d9b",
    }


def make_app(settings: Settings) -> st.App:
    """The ASGI application: pages, checks and the housekeeping thread."""
    for option, value in MAGIC_OFF.items():  # also for a server that is not ours
        streamlit.config.set_option(option, value)
    hosts = [
        *filter(None, (name.strip() for name in settings.allowed_hosts.split(","))),
        "localhost",
        "127.0.0.1",
        "[::1]",
    ]
    middleware = [
        Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False),
        Middleware(_SecurityHeaders),
    ]
    token = settings.token.get_secret_value().strip()
    if token:
        sessions = Sessions(token, settings.session_hours * 3600, settings.home / "sessions-ended")
        middleware.append(Middleware(Login, token=token, sessions=sessions))

    @asynccontextmanager
    async def lifespan(_app: st.App) -> AsyncIterator[dict[str, Any]]:
        stopping = threading.Event()
        client = Client(settings)
        client.prepare()
        client.keeper().start(stopping)
        yield {}
        stopping.set()

    return st.App(
        Path(__file__).parent / "main.py", middleware=middleware, lifespan=lifespan, on_script_error=show_error
    )


def show_error(error: Exception) -> bool:
    """What the page says instead of a traceback."""
    known = error if isinstance(error, AuditorError) else outage(error)
    if known is not None:
        error_box(known.message, known.hint)
    else:
        log.error("a page failed", exc_info=error)
        st.error("Something went wrong on this page. See the dashboard's log for details. No data was lost.")
    return True


def address(settings: Settings) -> str:
    """Where a browser on this machine finds the dashboard."""
    host = "127.0.0.1" if settings.host in ("", "0.0.0.0", "::") else settings.host  # noqa: S104 (compared, not bound)
    return f"http://{host}:{settings.port}"


def is_up(settings: Settings) -> bool:
    """Does something answer there?"""
    try:
        with urllib.request.urlopen(f"{address(settings)}/_stcore/health", timeout=2):  # noqa: S310 (our own address)
            return True
    except urllib.error.HTTPError:
        return True  # it asks for the token: it is up
    except OSError:
        return False


class _SecurityHeaders:
    """Adds the headers to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name.encode(): value.encode() for name, value in HEADERS.items()}
                kept = [(name, value) for name, value in message["headers"] if name.lower() not in own]
                message["headers"] = [*kept, *own.items()]
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)
