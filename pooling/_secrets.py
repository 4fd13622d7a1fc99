"""What nobody is to see: passwords, tokens and the like. Found where a factory keeps them, taken out of what is shown.

Two nets. What a factory connects with is known, and hidden wherever it turns up, in each of the forms in which a
driver may write it. And whatever reads like a URL with a password or like ``password=…`` is hidden without being known,
as a factory may be any callable, of which nothing can be asked.
"""

from __future__ import annotations

import inspect
import json
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import is_dataclass
from functools import partial
from types import FunctionType, MethodType
from typing import Any
from urllib.parse import quote, quote_plus, unquote, unquote_plus

STARS = "***"
SHORT = 6  # a secret of fewer letters is hidden as a word of its own only: "a" is in every text
DEPTH = 5  # how deep arguments are looked into
WIDTH = 1000  # how many items of each mapping or sequence: arguments have no more, caches may

_NAMED = re.compile(
    r"pass(?!file|ive|ing)|pwd|secret|token|credential|private_?key|api_?key|authori[sz]ation|\bauth\b|_auth\b|cookie",
    re.IGNORECASE,
)
# The password may hold an "@", so the last one counts; what is all digits up to the path is a port. Everything has a
# longest length: a text may be large, and is not to be looked through once for each place where something could begin.
_URL = re.compile(r"""(://[^\s:/?#@"']{0,200}:)(?!\d{1,5}(?:[/?#\s"']|$))([^\s"'<>]{0,2000})(?=@)""")
_KEY = r"""((?:passw(?:or)?d|passphrase|pwd|secret|token|api_?key)[\w-]{0,40}"""
_QUOTED = r""""(?:\\.|[^"\\]){0,2000}"|'(?:\\.|''|[^'\\]){0,2000}'"""
# What is hidden already stays as it is, in a repr too: there a quote or a backslash follows.
_HIDDEN = r"""(?!\*{3}['"]?(?:[\s,;&)}\]\\]|$))"""
_ASSIGNED = re.compile(rf"""{_KEY}\s{{0,3}}=\s{{0,3}}){_HIDDEN}({_QUOTED}|[^\s,;&)}}\]]+)""", re.IGNORECASE)
_LISTED = re.compile(rf"""{_KEY}["']?\s{{0,3}}[:,]\s{{0,3}}b?)({_QUOTED})""", re.IGNORECASE)
# One of these is in whatever the last two match, and found much sooner: with SQLAlchemy the caller waits for that.
_KEYS = "passwd", "password", "passphrase", "pwd", "secret", "token", "apikey", "api_key"
_CREDENTIALS = re.compile(r"^(?:(?:basic|bearer|token)\s+|[^\s:]*:)(.+)$", re.IGNORECASE)  # or user:password
# What errors of the standard library keep beside their arguments.
_TEXTS = ("strerror", "filename", "filename2", "msg", "object", "reason", "text")


class Concealed(Exception):
    """In the place of an error that would not let go of a secret: its type and its text."""


def found(value: object, name: str = "", depth: int = DEPTH) -> Iterator[str]:
    """The secrets in a value: all of it where ``name`` says so, else what stands in URLs and connection strings, in the
    items of mappings and sequences, in what a function is bound to. A password that is also written openly
    beside it (the user's name, the database) is none: hiding it would hide who could not log in. Nor is the word
    "password": hiding it would hide what an error is about."""
    if isinstance(value, (bytes, bytearray)):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        yield from _in_text(value, name)
    elif depth:
        below = depth - 1
        if hasattr(value, "_asdict"):  # a named tuple, such as urllib3's URL
            value = value._asdict()
        if isinstance(value, Mapping):
            items = list(dict(value).items())[:WIDTH]  # copied at once: others may change it
            plain = {item for key, item in items if isinstance(item, str) and not _NAMED.search(str(key))}
            for key, item in items:
                if not (_NAMED.search(str(key)) and isinstance(item, str) and (item in plain or item == key)):
                    yield from found(item, f"{name} {key}", below)
        elif isinstance(value, (list, tuple, set, frozenset, deque)):
            for item in tuple(value)[:WIDTH]:
                yield from found(item, name, below)
        else:
            for part in _parts(value):
                yield from found(part, name, below)


def attributes(holder: object) -> dict[str, object]:
    """Everything that an object holds, by name."""
    held = dict(getattr(holder, "__dict__", {}))
    for kind in type(holder).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(holder, name):
                held.setdefault(name, getattr(holder, name))
    return held


def hide(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without secrets: neither the given ones nor what reads like one."""
    return _without(text, _written(secrets))


def conceal(error: BaseException, secrets: Iterable[str] = ()) -> BaseException:
    """The same error, and its causes, with the secrets taken out of their texts; a :class:`Concealed` in the place of
    one that shows them all the same."""
    return _Veil(secrets).over(error)


class _Veil:
    """One pass over an error and whatever it is chained to."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = tuple(secrets)
        self._forms = _written(self._secrets)
        self._done: dict[int, BaseException] = {}

    def over(self, error: BaseException) -> BaseException:
        if id(error) in self._done:
            return self._done[id(error)]
        self._done[id(error)] = error
        self._clean(error)
        if self._shows(error):
            stand_in = Concealed(f"{type(error).__name__}: {self._hidden(said(error))}")
            stand_in.__cause__, stand_in.__context__ = error.__cause__, error.__context__
            stand_in.__suppress_context__ = error.__suppress_context__
            self._done[id(error)] = error = stand_in.with_traceback(error.__traceback__)
        suppressed = error.__suppress_context__
        if error.__cause__ is not None:
            error.__cause__ = self.over(error.__cause__)
        if error.__context__ is not None:
            error.__context__ = self.over(error.__context__)
        error.__suppress_context__ = suppressed
        return error

    def _clean(self, error: BaseException) -> None:
        values = {name: _read(error, name) for name in ("args", *_TEXTS)}
        for name, value in (values | dict(getattr(error, "__dict__", {}))).items():
            hidden = self._hidden(value)
            if hidden is not value:
                try:
                    setattr(error, name, hidden)
                except Exception:
                    pass  # it does not let itself be changed: _shows() will tell
        for inner in getattr(error, "exceptions", ()):  # of a group
            if isinstance(inner, BaseException):
                self._clean(inner)

    def _hidden(self, value: Any, depth: int = DEPTH) -> Any:
        """The value itself where nothing of it has to be hidden."""
        if isinstance(value, str):
            hidden = _without(value, self._forms)
            return value if hidden == value else hidden
        if isinstance(value, bytes):
            said = value.decode("latin-1")
            hidden = hide(said, (secret.encode().decode("latin-1") for secret in self._secrets))
            return value if hidden == said else hidden.encode("latin-1")
        if isinstance(value, BaseException):  # urllib3's and PyMySQL's keep others
            return self.over(value)
        if not depth or not isinstance(value, (tuple, list, dict)):
            # What a driver hangs on its errors, psycopg a description of the connection with all its arguments.
            return None if self._tells(_shown(value)) else value
        if isinstance(value, dict):
            pairs = {key: self._hidden(item, depth - 1) for key, item in value.items()}
            return self._same(value, pairs, value.values())
        items = [self._hidden(item, depth - 1) for item in value]
        return self._same(value, items if type(value) is list else tuple(items), value)

    @staticmethod
    def _same(old: Any, new: Any, items: Iterable[object]) -> Any:
        changed = new.values() if isinstance(new, dict) else new
        return old if all(left is right for left, right in zip(items, changed, strict=True)) else new

    def _shows(self, error: BaseException) -> bool:
        return self._tells(said(error)) or self._tells(_shown(error))

    def _tells(self, text: str) -> bool:
        return _without(text, self._forms) != text


def _in_text(text: str, name: str) -> Iterator[str]:
    if _NAMED.search(name):
        yield text
        if credentials := _CREDENTIALS.match(text):
            yield credentials[1]
        return
    for url in _URL.finditer(text):
        if url[2] not in re.split(r"\W+", url[1] + text[url.end() :]):
            yield url[2]
    for pattern in (_ASSIGNED, _LISTED):
        for assigned in pattern.finditer(text):
            yield assigned[2].strip("'\"")


def _parts(value: object) -> Iterator[object]:
    """What a callable or a dataclass holds."""
    if isinstance(value, partial):
        yield _bound(value)
        yield value.keywords
        yield value.func
    elif isinstance(value, MethodType):
        yield attributes(value.__self__)
    elif isinstance(value, FunctionType):
        yield dict(zip(value.__code__.co_freevars, map(_contents, value.__closure__ or ()), strict=True))
        yield tuple(constant for constant in value.__code__.co_consts if isinstance(constant, str))
    elif is_dataclass(value) and not isinstance(value, type):
        yield attributes(value)


def _contents(cell: Any) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _bound(call: partial[Any]) -> object:
    """The positional arguments by their names, where the function tells them."""
    try:
        return inspect.signature(call.func).bind_partial(*call.args).arguments
    except (TypeError, ValueError):
        return call.args


def _without(text: str, forms: Iterable[str]) -> str:
    for form in forms:
        if len(form) < SHORT:
            text = re.sub(rf"(?<!\w){re.escape(form)}(?!\w)", STARS, text)
        else:
            text = text.replace(form, STARS)
    if "://" in text:
        text = _URL.sub(rf"\1{STARS}", text)
    folded = text.casefold()
    if any(key in folded for key in _KEYS):
        for pattern in (_ASSIGNED, _LISTED):
            text = pattern.sub(rf"\1{STARS}", text)
    return text


def _written(secrets: Iterable[str]) -> list[str]:
    """The secrets in all forms, the longest first."""
    forms = {form for secret in secrets if secret for form in _forms(secret)}
    return sorted(forms, key=len, reverse=True)


def _forms(secret: str) -> set[str]:
    """The ways in which a secret may be written: as it is, percent-encoded, decoded, escaped."""
    forms = {secret, unquote(secret), unquote_plus(secret)}
    for plain in tuple(forms):
        encoded = {quote(plain), quote(plain, safe=""), quote_plus(plain)}
        forms |= encoded | {re.sub("%..", lambda match: match[0].lower(), form) for form in encoded}
        forms |= {repr(plain)[1:-1], json.dumps(plain)[1:-1], repr(plain.encode("utf-8", "replace"))[2:-1]}
        forms.add(plain.replace("\\", "\\\\").replace("'", "\\'"))  # as libpq has it
    return forms - {""}


def said(error: BaseException) -> str:
    """An error's text, whatever it does when it is asked for it."""
    try:
        return str(error)
    except Exception:
        return ""


def _read(error: BaseException, name: str) -> Any:
    """An attribute of an error, whatever it does when it is asked for it."""
    try:
        return getattr(error, name, None)
    except Exception:
        return None


def _shown(value: object) -> str:
    try:
        return repr(value)
    except Exception:
        return ""
