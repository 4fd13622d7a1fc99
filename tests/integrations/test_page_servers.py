"""The page below a path of an application, under real servers, with workers that were forked from one that knew it."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integrations.serving import FORKING, Serving

PLACE = "/in%20side/pools"
SERVERS = ("gunicorn-gthread", "gunicorn-gevent", "gunicorn-preload", "uwsgi-unthreaded", "waitress")


@pytest.fixture(params=SERVERS)
def serving(request: pytest.FixtureRequest) -> Iterator[Serving]:
    with Serving(request.param, "tests.integrations.page_application:application") as serving:
        yield serving


def look(serving: Serving) -> Any:
    status, body = serving.get(f"{PLACE}/pools.json")
    assert status == 200, serving.log
    return json.loads(body)


def test_mounted_in_a_server_each_worker_tells_of_its_own_pools(serving: Serving) -> None:
    connection = http.client.HTTPConnection(serving.host, serving.port, timeout=30)
    connection.request("GET", PLACE, headers={"Connection": "close"})
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("Location")) == (308, f"{PLACE}/")
    connection.close()
    for file in ("", "page.js", "page.css"):
        assert serving.get(f"{PLACE}/{file}")[0] == 200

    workers = 2 if serving._name in FORKING else 1
    seen: dict[int, Any] = {}
    end = time.monotonic() + 90
    while len(seen) < workers or not all(len(each["pools"][0]["history"]["rows"]) >= 2 for each in seen.values()):
        assert time.monotonic() < end, (seen, serving.log)
        serving.get("/use")
        told = look(serving)
        assert told["pools"][0]["name"] == "main"
        assert told["run"] == seen.get(told["pid"], told)["run"], "one worker, one past"
        seen[told["pid"]] = told
        time.sleep(0.1)
    assert len({told["run"] for told in seen.values()}) == workers
    assert sum(told["pools"][0]["totals"]["acquired"] for told in seen.values()) > 0
