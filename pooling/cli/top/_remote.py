"""The page of another process, asked for what it knows."""

from __future__ import annotations

import base64
import http.client
import ipaddress
import json
import re
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from pooling._secrets import hide
from pooling._words import printable
from pooling.cli._command import Mistake
from pooling.integrations.page._document import SCHEMA, VERSION

PATIENCE = 5.0  # seconds for one answer
LARGEST = 64 << 20  # bytes of one answer
_DOCUMENT = "pools.json"


class Unanswered(Exception):
    """The page has not answered, or something else has. The message is one line, without secrets, and without what a
    terminal would take for an order: some of it is what has answered."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class _Redirects(urllib.request.HTTPRedirectHandler):
    """urllib's own would take user and password along to wherever it is sent."""

    def redirect_request(self, req: urllib.request.Request, *answer: Any) -> urllib.request.Request | None:
        request = super().redirect_request(req, *answer)
        if request is not None and (request.host != req.host or (req.type == "https" and request.type != "https")):
            request.remove_header("Authorization")
        return request


class Remote:
    """One page. ``url`` is its address as a browser has it; user and password in it go into a header.

    Raises Mistake for what is no address of a page.
    """

    def __init__(self, url: str) -> None:
        parts = _parts(url)
        host = parts.netloc.rpartition("@")[2]
        path = parts.path.removesuffix(_DOCUMENT).rstrip("/")
        self.name = urlunsplit((parts.scheme, host, path + "/", "", ""))
        """The address, for people to read: without user and password."""
        self._hint = f"give the address of the page, such as {parts.scheme}://{host}/pools/"
        self._request = urllib.request.Request(self.name + _DOCUMENT, headers={"Accept": "application/json"})
        if parts.username is not None:
            credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            self._request.add_header("Authorization", f"Basic {base64.b64encode(credentials).decode()}")
        # A proxy that is set for the world is not asked for this machine.
        handlers = [urllib.request.ProxyHandler({})] if _is_here(parts.hostname or "") else []
        self._opener = urllib.request.build_opener(_Redirects, *handlers)

    def look(self) -> dict[str, Any]:
        """The document of this moment. Raises Unanswered."""
        try:
            with self._opener.open(self._request, timeout=PATIENCE) as answer:
                told = json.loads(answer.read(LARGEST))
        except urllib.error.HTTPError as error:
            error.close()
            hint = f": {self._hint}" if error.code == 404 else ""
            raise Unanswered(f"{self.name} answers {error.code} {error.reason}{hint}") from error
        except OSError as error:  # a URLError is one as well
            why = getattr(error, "reason", None) or error
            raise Unanswered(f"{self.name} does not answer: {hide(' '.join(str(why).split()))}") from error
        except (ValueError, RecursionError, http.client.HTTPException) as error:
            raise Unanswered(f"what answers at {self.name} is no page of pools: {self._hint}") from error
        known = isinstance(told, dict) and told.get("schema") == SCHEMA
        if known and told.get("version") != VERSION:
            raise Unanswered(f"{self.name} is of another version of pooling ({told.get('pooling')})")
        if not known or not isinstance(told.get("pools"), list):
            raise Unanswered(f"what answers at {self.name} is no page of pools: {self._hint}")
        return told  # type: ignore[no-any-return]


def _parts(url: str) -> SplitResult:
    wrong = Mistake("the URL has to be that of a page: http://127.0.0.1:8080/")
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port
    except ValueError:
        raise wrong from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or re.search(r"\s", url):
        raise wrong
    return parts


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
