"""Login: whoever brings the token gets a signed session that ends; wrong tokens are slowed down."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import html
import ipaddress
import logging
import math
import secrets
import time
from collections import OrderedDict
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, parse_qsl, quote, unquote, urlencode, urlsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from worker.private import private_file

log = logging.getLogger("dashboard")

LARGEST_FORM = 8192
KNOWN_SECONDS = 365 * 86_400
POLICY_VIOLATION = 1008  # RFC 6455, 7.4.1


class Session(NamedTuple):
    """One login: until when it holds, in seconds since 1970, and the random name that a logout strikes off."""

    expires: int
    name: str


class Sessions:
    """Signed sessions. The key comes from the token, so a new token ends them all; nothing is kept but who logged out."""

    def __init__(self, token: str, seconds: float, ended: Path) -> None:
        """``ended``: the file in which logged-out sessions are kept until they would have ended by themselves."""
        # Slow on purpose: a stolen cookie is no quick way to guess a short token.
        self._key = hashlib.scrypt(token.encode(), salt=b"neuron-auditor session", n=1 << 14, r=8, p=1, dklen=32)
        self._seconds, self._file = seconds, ended
        self._ended = self._read_ended()
        self._sockets: dict[str, set[asyncio.Event]] = {}

    @property
    def cookie(self) -> str:
        """The cookie's name. Cookies are shared by all ports of a host: each token has a name of its own."""
        return f"auditor_session_{self._sign('name')[:8]}"

    @property
    def known_cookie(self) -> str:
        return f"auditor_known_{self._sign('name')[:8]}"

    def new(self) -> tuple[str, int]:
        """A session as a cookie, and how many seconds it holds."""
        session = Session(int(time.time() + self._seconds), secrets.token_hex(16))
        content = f"{session.expires}.{session.name}"
        return f"{content}.{self._sign(f'session {content}')}", max(1, int(self._seconds))

    def read(self, cookie: str) -> Session | None:
        """The session of a cookie, where we signed it and it has not ended."""
        content, _, signature = cookie.rpartition(".")
        if not _same(signature, self._sign(f"session {content}")):
            return None
        expires, _, name = content.partition(".")
        session = Session(int(expires), name)
        return None if name in self._ended or session.expires <= time.time() else session

    def end(self, session: Session) -> None:
        """Log out: the cookie is worth nothing from now on, and open pages are closed."""
        self._ended[session.name] = session.expires
        now = time.time()
        self._ended = {name: expires for name, expires in self._ended.items() if expires > now}
        for over in self._sockets.get(session.name, ()):
            over.set()
        temporary = self._file.with_suffix(".tmp")
        try:
            private_file(temporary).write_text("".join(f"{end} {name}\n" for name, end in self._ended.items()))
            temporary.replace(self._file)
        except OSError:  # it holds until the dashboard is started again
            log.exception("a logout could not be kept")

    def known(self) -> str:
        """A cookie that says: somebody logged in from this browser before."""
        name = secrets.token_hex(16)
        return f"{name}.{self._sign(f'known {name}')}"

    def read_known(self, cookie: str) -> str:
        """The name in such a cookie, empty where we did not sign it."""
        name, _, signature = cookie.rpartition(".")
        return name if _same(signature, self._sign(f"known {name}")) else ""

    async def until_it_ends(self, session: Session, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a websocket, and close it when its session ends or is logged out."""
        over = asyncio.Event()
        self._sockets.setdefault(session.name, set()).add(over)
        coming: asyncio.Future[Message] | None = None
        closed = False

        async def receive_in_time() -> Message:
            nonlocal coming, closed
            coming = coming or asyncio.ensure_future(receive())
            ending = asyncio.ensure_future(over.wait())
            try:
                left = max(0.0, session.expires - time.time())
                both: set[asyncio.Future[Any]] = {coming, ending}
                await asyncio.wait(both, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            finally:
                ending.cancel()
            if coming.done() and not over.is_set() and session.expires > time.time():
                message, coming = coming.result(), None
                return message
            if not closed:
                closed = True
                await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": "The session has ended."})
            return {"type": "websocket.disconnect", "code": POLICY_VIOLATION}

        async def send_in_time(message: Message) -> None:
            if not closed:
                await send(message)

        try:
            await app(scope, receive_in_time, send_in_time)
        finally:
            if coming is not None:
                coming.cancel()
            self._sockets[session.name].discard(over)
            if not self._sockets[session.name]:
                del self._sockets[session.name]

    def _sign(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()

    def _read_ended(self) -> dict[str, int]:
        try:
            lines = [line.split() for line in self._file.read_text().splitlines()]
        except OSError:
            return {}
        return {line[1]: int(line[0]) for line in lines if len(line) == 2 and line[0].isdecimal()}


class Bucket:
    """So many attempts at once, then one in so many seconds."""

    def __init__(self, size: int, seconds: float) -> None:
        self._size, self._seconds = size, seconds
        self._free, self._at = float(size), time.monotonic()

    def wait(self) -> float:
        """Seconds until the next attempt is free; 0 where one is now."""
        now = time.monotonic()
        self._free, self._at = min(self._size, self._free + (now - self._at) / self._seconds), now
        return 0.0 if self._free >= 1 else (1 - self._free) * self._seconds

    def take(self) -> None:
        self._free -= 1


class Throttle:
    """Slows down whoever tries tokens: each client, and all together. Only wrong tokens count, and nobody is shut out for good.

    Many wrong tokens from elsewhere hold back strangers only: a session goes on, and a browser that logged in before has a count
    of its own.
    """

    CLIENT = (10, 6.0)
    ALL = (60, 1.0)
    MOST = 10_000

    def __init__(self) -> None:
        self._all = Bucket(*self.ALL)
        self._clients: OrderedDict[str, Bucket] = OrderedDict()

    def wait(self, client: str, *, known: bool) -> float:
        """Seconds that this client has to wait before a token of its is looked at."""
        bucket = self._clients.get(client)
        return max(bucket.wait() if bucket is not None else 0.0, 0.0 if known else self._all.wait())

    def wrong(self, client: str, *, known: bool) -> None:
        """It brought a wrong one."""
        bucket = self._clients.setdefault(client, Bucket(*self.CLIENT))
        self._clients.move_to_end(client)
        while len(self._clients) > self.MOST:
            self._clients.popitem(last=False)
        bucket.take()
        if not known:
            self._all.take()


class Login:
    """Lets through who has a session; the token, in the address or the form, gives one. HTTP and websockets alike."""

    def __init__(self, app: ASGIApp, token: str, sessions: Sessions) -> None:
        self.app, self._token, self._sessions, self._throttle = app, token.strip(), sessions, Throttle()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        session = self._sessions.read(_cookie(scope, self._sessions.cookie))
        if scope["type"] == "websocket":
            if session is None:
                await send({"type": "websocket.close", "code": POLICY_VIOLATION})
            else:
                await self._sessions.until_it_ends(session, self.app, scope, receive, send)
            return
        answer = await self._answer(Request(scope, receive), session)
        if answer is None:
            await self.app(scope, receive, send)
        else:
            answer.headers["cache-control"] = "no-store"
            await answer(scope, receive, send)

    async def _answer(self, request: Request, session: Session | None) -> Response | None:
        """What the login itself says; None where the page is served."""
        path, query = request.scope["path"], request.scope["query_string"].decode("latin-1")
        posted = request.method == "POST"
        if path == "/logout":
            return self._logout(session, posted=posted)
        if path == "/login":
            form = parse_qs(await _body(request)) if posted else {}
            target = local_target(form.get("next", parse_qs(query).get("next", ["/"]))[0])
            if posted:
                return self._checked(request, form.get("token", [""])[0], target)
            return RedirectResponse(target, 303) if session is not None else _form(target)
        target = local(path, query)
        token = parse_qs(query, keep_blank_values=True).get("token")
        if token is not None and request.method in ("GET", "HEAD"):
            # Out of the address bar and the history, also where the visitor is in already.
            return RedirectResponse(target, 303) if session is not None else self._checked(request, token[0], target)
        return None if session is not None else _form(target)

    def _checked(self, request: Request, token: str, target: str) -> Response:
        """A session for the right token; else the form again, later and later."""
        known = self._sessions.read_known(_cookie(request.scope, self._sessions.known_cookie))
        client = known or _network(request)
        wait = self._throttle.wait(client, known=bool(known))
        if wait > 0:
            seconds = math.ceil(wait)
            answer = _form(target, f"Too many wrong tokens. Try again in {seconds} s.", status=429)
            answer.headers["retry-after"] = str(seconds)
            return answer
        if not _same(token.strip(), self._token):
            self._throttle.wrong(client, known=bool(known))
            return _form(target, "The token is wrong.")
        welcome = RedirectResponse(target, 303)
        cookie, seconds = self._sessions.new()
        secure = request.url.scheme == "https"
        # Lax, not strict: a strict cookie is left out where a link in a mail leads here, and the visitor would have to log in
        # again. Neither goes along with another site's forms, frames and websockets.
        welcome.set_cookie(self._sessions.cookie, cookie, seconds, httponly=True, samesite="lax", secure=secure)
        mark = self._sessions.known()
        welcome.set_cookie(
            self._sessions.known_cookie, mark, KNOWN_SECONDS, httponly=True, samesite="lax", secure=secure
        )
        return welcome

    def _logout(self, session: Session | None, *, posted: bool) -> Response:
        if session is None:
            return RedirectResponse("/login", 303)
        if not posted:  # a link on another site must not log anybody out
            return _page(
                "Log out",
                '<form method="post" action="/logout"><button>Log out</button></form>'
                '<p><a href="/">Back to the dashboard</a></p>',
            )
        self._sessions.end(session)
        gone = RedirectResponse("/login", 303)
        gone.delete_cookie(self._sessions.cookie, httponly=True, samesite="lax")
        return gone


def local(path: str, query: str = "") -> str:
    """A path of this site with its query, less the token: never another host, whatever slashes or backslashes it begins with.

    ``path`` is the decoded one, ``query`` as it was sent.
    """
    kept = [(name, value) for name, value in parse_qsl(query, keep_blank_values=True) if name != "token"]
    cleaned = "/" + quote(path.lstrip("/\\"), safe="/:@!$&'()*+,;=~")
    return f"{cleaned}?{urlencode(kept)}" if kept else cleaned


def local_target(target: str) -> str:
    """The same of a path and query in one, as a form brings them."""
    parts = urlsplit("/" + target.lstrip("/\\"))
    return local(unquote(parts.path), parts.query)


def _same(given: str, right: str) -> bool:
    """Takes as long whatever the first difference, and whatever the length."""
    digests = [hashlib.sha256(text.encode("utf-8", "replace")).digest() for text in (given, right)]
    return hmac.compare_digest(*digests)


def _cookie(scope: Scope, cookie: str) -> str:
    for name, value in scope["headers"]:
        if name == b"cookie":
            try:
                found = SimpleCookie(value.decode("latin-1")).get(cookie)
            except CookieError:
                continue
            if found is not None:
                return found.value
    return ""


def _network(request: Request) -> str:
    """Who asks: an IPv4 address, or the network of an IPv6 one, since its owner has all of its addresses."""
    host = request.client.host if request.client is not None else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return str(ipaddress.ip_network(f"{address}/64", strict=False)) if address.version == 6 else str(address)


async def _body(request: Request) -> str:
    content = b""
    async for piece in request.stream():
        content += piece
        if len(content) > LARGEST_FORM:
            return ""
    return content.decode("latin-1")


def _form(target: str, said: str = "", *, status: int = 401) -> HTMLResponse:
    message = f'<p role="alert">{html.escape(said)}</p>' if said else ""
    return _page(
        "Log in",
        f'{message}<form method="post" action="/login"><input type="hidden" name="next" value="{html.escape(target)}">'
        '<label>Token <input type="password" name="token" autocomplete="current-password" required autofocus></label> '
        "<button>Log in</button></form><p>The token is the value of AUDITOR_TOKEN, set by the operator of this dashboard.</p>",
        status=status,
    )


def _page(title: str, body: str, *, status: int = 200) -> HTMLResponse:
    return HTMLResponse(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}: Neuron Auditor</title>'
        '<meta name="viewport" content="width=device-width"><style>body{font:16px/1.5 system-ui,sans-serif;max-width:32rem;'
        "margin:15vh auto;padding:0 1rem;color:#222}input,button{font:inherit;padding:.3rem .6rem}"
        "[role=alert]{color:#a40000}</style></head>"
        f"<body><h1>Neuron Auditor</h1>{body}</body></html>",
        status,
    )
