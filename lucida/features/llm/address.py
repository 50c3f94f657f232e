"""Where an endpoint is, from what users write, and how it is reached without carrying a key elsewhere."""

import re
import urllib.request
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from lucida.errors import FeatureError


def check_url(url: str) -> None:
    """Raise FeatureError unless `url` is a plain http or https address, with no password in it."""
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        fits = False
    if "@" in url:
        raise FeatureError("the address of an endpoint must hold no user or password; put the key into a variable")
    if not fits or not re.fullmatch(r"[\x21-\x7e]+", url):
        raise FeatureError(f"{clean(url)!r} is no address of an endpoint; try http://localhost:8080/v1")


def chat_url(url: str) -> str:
    """The address of chat completions, from that of a server, of its ``/v1``, or the whole."""
    parts = urlsplit(url)
    path = parts.path.rstrip("/")
    if not path.endswith("/chat/completions"):
        path = (path or "/v1") + "/chat/completions"
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


def shown_url(url: str) -> str:
    """The same without its query, which may hold a secret."""
    parts = urlsplit(chat_url(url))
    return urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))


def opener(url: str) -> urllib.request.OpenerDirector:
    """What opens requests to `url`; it follows no redirects."""
    # A server on this machine is not behind a proxy, whatever the environment says of the rest.
    is_here = urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")
    proxies = urllib.request.ProxyHandler({} if is_here else None)
    return urllib.request.build_opener(_NoRedirect, proxies)


def clean(text: str) -> str:
    """`text` on one line and without control signs, so that a terminal shows it as it is."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host."""

    def redirect_request(self, *_: Any) -> None:
        """Follow none."""
