"""Who may talk to the server: a token, the right Host and Origin, bounded bodies; and what its pages may do.

A page of a stranger, open in the same browser, can send requests to this machine. It knows no token; its Origin and
Sec-Fetch-Site give it away; a name that it made point here (DNS rebinding) is not among the Hosts.
"""

import hmac
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from typing import Any
from urllib.parse import parse_qs

from lucida.server.messages import Problem

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; font-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
HEADERS = {
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
CHANGING = ("POST", "PUT", "PATCH", "DELETE")
SAFE = ("GET", "HEAD")
JSON_LIMIT = 2 * 2**20
UPLOAD_LIMIT = 256 * 2**20
DRAINED = 2**30
"""Bytes of a refused body that are read and thrown away: a browser that still sends does not read the answer."""
UPLOADS = "/api/graphs"
NOTES = "/notes"
NOTES_LIMIT = 16 * 2**20
"""Notes hold the results of up to 200 experiments, 30 KB each."""


@dataclass(frozen=True)
class Rules:
    """Who is let in. `hosts` are the allowed values of Host, with port; the cookie is named by the port."""

    token: str
    hosts: tuple[str, ...]
    port: int
    upload_limit: int = UPLOAD_LIMIT
    once: str = ""
    """A second token, good for one use: that of the address a browser is started with, since whoever else works on
    this machine can read what a program was started with.
    """

    @property
    def cookie(self) -> str:
        """The name of the cookie that carries the token: cookies know no ports, so each port has its own."""
        return f"lucida-{self.port}"


class _TooLarge(Exception):
    """The body is longer than what is taken."""


class Guard:
    """ASGI middleware that refuses what `Rules` do not allow, before anything else sees it."""

    def __init__(self, app: Application, rules: Rules) -> None:
        self._app, self._rules, self._once = app, rules, rules.once

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no web sockets
        headers = _by_name(scope["headers"])
        names = [name for name, _ in scope["headers"]]
        is_double = names.count(b"host") > 1 or names.count(b"origin") > 1
        refusal = (400, "a request has one Host and one Origin") if is_double else self._refusal(scope, headers)
        answer = _with_headers(send)
        if refusal is not None:
            await _refuse(scope, answer, *refusal)
        elif token := self._token_in_address(scope):
            if not self._is_right(token):
                self._once = ""
            await self._take_in(headers, answer)
        elif not self._is_known(headers):
            await _refuse(scope, answer, 401, NO_TOKEN)
        else:
            await self._bounded(scope, headers, receive, answer)

    # --- the rules --------------------------------------------------------------------------------

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        """Status and sentence for a request from the wrong place, whatever token it has."""
        if headers.get("host", "").lower() not in self._rules.hosts:
            return 403, "this server answers to its own address only; open the address that lucida serve printed"
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in {f"http://{host}" for host in self._rules.hosts}:
            return 403, "a page of another origin asked for this"
        site = headers.get("sec-fetch-site", "none")
        is_page = not scope["path"].startswith("/api") and scope["method"] in SAFE
        if site == "cross-site" and not self._token_in_address(scope):
            return 403, "a page of another site asked for this; open the address that lucida serve printed"
        if site == "same-site" and not is_page:
            return 403, "a page of another port asked for this"
        if scope["method"] in CHANGING and origin is None and not self._is_bearer(headers):
            return 403, "a request that changes something needs an Origin, or its token in Authorization: Bearer"
        return None

    def _is_right(self, token: str) -> bool:
        return _is_same(token, self._rules.token)

    def _is_bearer(self, headers: dict[str, str]) -> bool:
        kind, _, token = headers.get("authorization", "").partition(" ")
        return kind.lower() == "bearer" and self._is_right(token.strip())

    def _is_known(self, headers: dict[str, str]) -> bool:
        if self._is_bearer(headers):
            return True
        # Other programs of this machine put cookies here too, some of a form that http.cookies gives up on.
        pairs = [pair.partition("=") for pair in headers.get("cookie", "").split(";")]
        return any(name.strip() == self._rules.cookie and self._is_right(value.strip()) for name, _, value in pairs)

    def _token_in_address(self, scope: Scope) -> str:
        """The token that the address of the start page lets in with, or ""."""
        if scope["path"] != "/" or scope["method"] not in SAFE:
            return ""
        try:
            given = parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=10).get("token", [])
        except ValueError:
            return ""
        if len(given) != 1:
            return ""
        is_right = self._is_right(given[0]) or (self._once != "" and _is_same(given[0], self._once))
        return given[0] if is_right else ""

    # --- answers ----------------------------------------------------------------------------------

    async def _take_in(self, headers: dict[str, str], send: Send) -> None:
        """Put the token into a cookie and take it out of the address."""
        cookie = f"{self._rules.cookie}={self._rules.token}; HttpOnly; SameSite=Strict; Path=/"
        if headers.get("sec-fetch-site") == "cross-site":
            # Followed from another site's page: the browser would hold a strict cookie back on a redirect.
            page = _page("Camera Lucida", 'The page opens. <a href="/">Open it</a>', head=REFRESH)
            await _answer(send, 200, "text/html; charset=utf-8", page, {"set-cookie": cookie})
            return
        await _answer(send, 303, "text/plain", b"", {"set-cookie": cookie, "location": "/"})

    async def _bounded(self, scope: Scope, headers: dict[str, str], receive: Receive, send: Send) -> None:
        """Pass the request on with a body of at most the limit; answer 413 to a longer one."""
        is_upload = scope["path"] == UPLOADS and scope["method"] == "POST"
        is_notes = scope["method"] == "PUT" and scope["path"].endswith(NOTES)
        limit = self._rules.upload_limit if is_upload else NOTES_LIMIT if is_notes else JSON_LIMIT
        declared = headers.get("content-length", "0")
        taken, has_begun, is_over, has_more = 0, False, False, True

        async def counted() -> MutableMapping[str, Any]:
            nonlocal taken, has_more
            message = await receive()
            taken += len(message.get("body", b""))
            has_more = bool(message.get("more_body"))
            if taken > limit:
                raise _TooLarge
            return message

        async def watched(message: MutableMapping[str, Any]) -> None:
            nonlocal has_begun, has_more
            if taken > limit and not has_begun:
                return  # what the application makes of the broken body is not the answer
            if not has_begun and has_more and scope["method"] in CHANGING:
                has_more = False
                await _drain(receive)
            has_begun = True
            await send(message)

        if not declared.isdecimal() or int(declared) > limit:
            is_over = True
        else:
            with suppress(_TooLarge):
                await self._app(scope, counted, watched)
            is_over = taken > limit and not has_begun
        if is_over:
            if has_more:
                await _drain(receive)
            await _refuse(scope, send, 413, f"that is more than this server takes ({limit // 2**20} MiB)")


def _is_same(token: str, secret: str) -> bool:
    # Bytes: compare_digest refuses texts that are not ASCII.
    return hmac.compare_digest(token.encode("utf-8", "replace"), secret.encode())


def _by_name(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The headers as text, the last of a name; cookies may come in several, which are one list."""
    texts = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
    return {**dict(texts), "cookie": "; ".join(value for name, value in texts if name == "cookie")}


NO_TOKEN = (
    "open the address that lucida serve printed in its terminal: it ends in ?token=... and lets this browser in "
    "until the server stops"
)
REFRESH = '<meta http-equiv="refresh" content="0; url=/">'
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:40rem;margin:15vh auto;padding:0 1rem;color:#1b1b1f;"
    "background:#fff}code{background:#8882;padding:0 .2em}a{color:inherit}"
    "@media(prefers-color-scheme:dark){body{color:#e6e6ea;background:#17171b}}"
)


def _page(title: str, body: str, *, head: str = "") -> bytes:
    """A page that stands alone; `body` is HTML of ours."""
    text = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width">{head}<style>{STYLE}</style></head>'
        f"<body><main><h1>{escape(title)}</h1><p>{body}</p></main></body></html>"
    )
    return text.encode()


def plain_page(title: str, sentence: str) -> bytes:
    """A small readable page: a heading and a sentence, both text."""
    return _page(title, escape(sentence))


async def _refuse(scope: Scope, send: Send, status: int, sentence: str) -> None:
    if scope["path"].startswith("/api"):
        await _answer(send, status, "application/json", Problem(error=sentence).model_dump_json().encode())
        return
    title = "Not let in" if status in (401, 403) else "Refused"
    await _answer(
        send, status, "text/html; charset=utf-8", plain_page(title, sentence[:1].upper() + sentence[1:] + ".")
    )


async def _answer(send: Send, status: int, kind: str, body: bytes, headers: dict[str, str] | None = None) -> None:
    fields = {"content-type": kind, "content-length": str(len(body)), **(headers or {})}
    start = [(name.encode(), value.encode()) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})


async def _drain(receive: Receive) -> None:
    read = 0
    while read < DRAINED:
        message = await receive()
        read += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body"):
            return


def _with_headers(send: Send) -> Send:
    """Send with the headers that every answer carries."""

    async def sent(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            given = list(message.get("headers", []))
            names = {name.lower() for name, _ in given}
            added = {**HEADERS, "cache-control": "no-store"}
            message = {
                **message,
                "headers": given + [(n.encode(), v.encode()) for n, v in added.items() if n.encode() not in names],
            }
        await send(message)

    return sent
