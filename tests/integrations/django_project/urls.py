"""Views that watch which session of the server each request has."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.core.cache import cache
from django.db import connection, transaction
from django.db.models import F
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path
from django.views.generic import ListView

from tests.integrations.django_project.models import Item

_lock = threading.Lock()
_users: Counter[int] = Counter()
_shared = 0
inherited: list[int] = []  # sessions that were opened before this process was forked


def session() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return int(cursor.fetchone()[0])


@contextmanager
def using(backend: int) -> Iterator[None]:
    """Count the moments at which two requests have the same session, or one has its parent's."""
    global _shared
    with _lock:
        _users[backend] += 1
        _shared += _users[backend] > 1 or backend in inherited
    try:
        yield
    finally:
        with _lock:
            _users[backend] -= 1


def buy(request: HttpRequest) -> HttpResponse:
    with using(session()):
        time.sleep(0.002)
        with transaction.atomic():
            Item.objects.filter(name="tea").update(stock=F("stock") + 1)
    return HttpResponse("bought")


def fail(request: HttpRequest) -> HttpResponse:
    with using(session()), transaction.atomic():
        Item.objects.filter(name="tea").update(stock=F("stock") + 1000)
        raise ValueError("after a write")


def stream(request: HttpRequest) -> StreamingHttpResponse:
    def names() -> Iterator[str]:
        for item in Item.objects.order_by("id").iterator(chunk_size=2):
            with using(session()):
                yield f"{item.name} "

    return StreamingHttpResponse(names())


def count(request: HttpRequest) -> HttpResponse:
    cache.get_or_set("greeting", "hello")
    return HttpResponse(str(cache.get("greeting")))


def stats(request: HttpRequest) -> JsonResponse:
    known: Any = connection.pooling.stats()
    return JsonResponse(
        {"pid": os.getpid(), "shared": _shared, "leased": known.leased, "size": known.size, "opened": known.opened,
         "acquired": known.acquired, "released": known.released, "closed": dict(known.closed)}
    )  # fmt: skip  # one line a few numbers


def answer(request: HttpRequest) -> HttpResponse:
    return HttpResponse(json.dumps("here"))


urlpatterns = [
    path("nothing", answer),
    path("buy", buy),
    path("fail", fail),
    path("stream", stream),
    path("count", count),
    path("stats", stats),
    # A view of Django's own, which finds nothing.
    path("by-django", ListView.as_view(queryset=Item.objects.using("postgresql").filter(name="-"), allow_empty=False)),
]
