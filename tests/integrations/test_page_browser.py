"""The page in a real browser, about a pool under load: what it shows, in light and dark, on a desk and on a phone.

``python -m tests.integrations.page_pictures`` takes the pictures of the documentation anew.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pooling import Pool, PoolTimeout
from pooling.integrations.page import PageServer, serve
from pooling.testing import FakeFactory
from tests.integrations.browser import Browser

TOKEN = "a token of this test"
NASTY = "<b id=nasty>orders</b>"
DRAWN = "Number((document.body ?? {dataset: {}}).dataset.tick) > 0"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


class Load:
    """Four connections, held for good by report-0 to report-3, and six more callers who wait in vain."""

    def __init__(self) -> None:
        self.pool = Pool(FakeFactory(), name=NASTY, max_size=4, timeout=600.0, leak_after=0.5)
        self.idle = Pool(FakeFactory(), name="cache", max_size=8)
        self.server: PageServer = serve([self.pool, self.idle], port=0, token=TOKEN)
        self._end = threading.Event()
        for _ in range(30):
            with self.pool.acquire(), self.idle.acquire():
                time.sleep(0.002)
        self._threads = [threading.Thread(target=self.report, name=f"report-{number}") for number in range(4)]
        self._threads += [threading.Thread(target=self.request, name=f"request-{number}") for number in range(6)]
        for thread in self._threads[:4]:
            thread.start()
        while self.pool.stats().leased < 4:
            time.sleep(0.01)
        for thread in self._threads[4:]:
            thread.start()
        with pytest.raises(PoolTimeout):
            self.pool.acquire(timeout=0.5)

    def report(self) -> None:
        with self.pool.acquire():
            self._end.wait(600)

    def request(self) -> None:
        with self.pool.acquire():
            pass

    def end(self) -> None:
        self._end.set()
        self.pool.resume()
        for thread in self._threads:
            thread.join(30)
        self.server.close()
        self.pool.close()
        self.idle.close()
        assert not any(thread.is_alive() for thread in self._threads)


@pytest.fixture(scope="module")
def load() -> Iterator[Load]:
    load = Load()
    try:
        yield load
    finally:
        load.end()


@pytest.fixture
def page(browser: Browser, load: Load) -> Browser:
    browser.console.clear()
    browser.open(load.server.url)
    browser.until(DRAWN)
    return browser


def text(selector: str) -> str:
    return f"(document.querySelector({selector!r}) ?? {{}}).textContent"


def texts(selector: str) -> str:
    return f"[...document.querySelectorAll({selector!r})].map(each => each.textContent)"


def test_the_numbers_of_a_pool_under_load_can_be_read(page: Browser) -> None:
    page.until(text("[data-number=waiting]"), lambda shown: shown == "6")
    assert page.ask(text("[data-number=leased]")) == "4 / 4"
    assert page.ask(text("[data-number=idle]")) == "0"
    page.until(text("[data-number=timeouts]"), lambda shown: shown == "1")  # once a second it is looked for
    verdict = page.ask(text(".verdict p"))
    assert verdict.startswith("exhausted for ")
    assert ": 4/4 in use, 6 waiting, oldest " in verdict
    assert page.ask("document.title").startswith("exhausted")
    assert page.ask(text("#process")).startswith(f"process {os.getpid()} on ")
    assert page.ask(text("#live")) == "live"


def test_who_holds_and_who_waits_is_listed_with_the_place(page: Browser) -> None:
    people = "article:first-of-type table.people"
    rows = page.until(texts(f"{people} td.thread"), lambda shown: len(shown) == 10)
    assert sorted(rows[:4]) == [f"report-{number}" for number in range(4)]
    assert sorted(rows[4:]) == [f"request-{number}" for number in range(6)]
    places = page.ask(f"[...document.querySelectorAll({people + ' td.where'!r})].map(each => each.title)")
    assert all(place.startswith(f"{__file__}:") for place in places)
    assert page.ask(texts("tr.slow .why")) == ["longer than leak_after (500 ms)"] * 4
    assert any("leaks so far" in finding for finding in page.ask(texts(".verdict li")))


def test_charts_settings_and_events_are_drawn(page: Browser) -> None:
    page.until("document.querySelectorAll('svg polygon.use').length >= 1")
    assert page.ask("document.querySelectorAll('svg .bar').length") > 0
    assert page.ask("document.querySelectorAll('svg .timeout').length") > 0
    assert "timeout" in " ".join(page.ask(texts(".events li")))
    settings = dict(zip(page.ask(texts(".settings dt")), page.ask(texts(".settings dd")), strict=True))
    assert (settings["max_size"], settings["leak_after"]) == ("8", "None")  # the second pool's come last
    width = page.ask("document.querySelector('svg').clientWidth")
    page.ask(
        "document.querySelector('svg').dispatchEvent(new PointerEvent('pointermove', "
        f"{{clientX: document.querySelector('svg').getBoundingClientRect().left + {width} - 12}}))"
    )
    page.until(text(".reading"), lambda shown: "4 in use" in shown)


def test_names_are_shown_and_never_become_markup(page: Browser) -> None:
    assert page.ask(text("h2")) == NASTY
    assert page.ask("document.getElementById('nasty')") is None


def test_every_name_in_the_overview_leads_to_its_pool(browser: Browser) -> None:
    names = ["заказы", "склад", "a b", "a-b", "100 %", NASTY]
    pools = [Pool(FakeFactory(), name=name) for name in names]
    with serve(pools, port=0) as server:
        browser.open(server.url)
        browser.until(DRAWN)
        for number, name in enumerate(names):
            browser.ask(f"document.querySelectorAll('#overview a')[{number}].click()")
            browser.until("(document.querySelector(':target') ?? {dataset: {}}).dataset.pool", lambda led: led == name)  # noqa: B023  # called at once
    for pool in pools:
        pool.close()


def test_a_moment_that_is_told_twice_is_drawn_once(page: Browser) -> None:
    page.until("document.querySelector('svg polygon.use').getAttribute('points').split(' ').length > 8")
    tick = page.ask("document.body.dataset.tick")
    # As when a page that was hidden is seen again: it looks at once, and may have been about to.
    wait = "const end = Date.now() + 3000; while (Date.now() < end);"
    look = "for (let i = 0; i < 4; i++) document.dispatchEvent(new Event('visibilitychange'))"
    page.ask(f"(() => {{ {wait} {look} }})()")
    page.until("document.body.dataset.tick", lambda shown: shown != tick)
    time.sleep(0.5)
    drawn = page.ask("document.querySelector('svg polygon.use').getAttribute('points')").split()
    places = [float(point.split(",")[0]) for point in drawn]
    turn = places.index(max(places))
    assert places[: turn + 1] == sorted(places[: turn + 1])


def test_the_browser_finds_nothing_to_object_to(page: Browser) -> None:
    """No violation of the page's own policy, no script error, nothing that was not found."""
    first = page.ask("document.body.dataset.tick")
    page.until("document.body.dataset.tick", lambda tick: tick != first)
    assert page.console == []


def test_the_policy_keeps_strange_scripts_out(page: Browser) -> None:
    page.ask("import('data:text/javascript,window.strange=1').catch(() => 0)")
    page.until("true", lambda _: any("Content Security Policy" in line for line in page.console))
    assert page.ask("window.strange") is None


def test_text_cannot_be_made_markup_by_any_script_on_the_page(page: Browser) -> None:
    refused = page.ask("(() => { try { document.body.innerHTML = '<b>'; } catch (error) { return error.name; } })()")
    assert refused == "TypeError"


def test_an_order_is_given_from_the_page(page: Browser, load: Load) -> None:
    press = "[...document.querySelectorAll('form button')].find(each => each.textContent === {!r}).click()"
    page.until("document.querySelectorAll('form button').length >= 3")
    page.ask(press.format("Suspend"))
    page.until(text("form output"), lambda shown: shown == "Refused: the token is wrong.")
    page.ask(f"document.querySelector('form input').value = {TOKEN!r}")
    page.ask(press.format("Suspend"))
    page.until(text("form output"), lambda shown: shown == "Done: suspended.")
    assert load.pool.stats().state == "suspended"
    page.until(text(".verdict p"), lambda shown: shown.startswith("suspended for "))
    page.until(text("form button:nth-of-type(2)"), lambda shown: shown == "Resume")
    page.ask(press.format("Resume"))
    page.until(text("form output"), lambda shown: shown == "Done: resumed.")
    assert load.pool.stats().state == "up"


@pytest.mark.parametrize(("width", "dark"), [(320, True), (390, False), (768, True), (1200, False)])
def test_it_fits_every_width_in_light_and_in_dark(
    width: int, dark: bool, browser: Browser, load: Load, tmp_path: Path
) -> None:
    browser.open(load.server.url, width=width, height=844, dark=dark)
    browser.until(DRAWN)
    browser.until("document.querySelectorAll('svg polygon.use').length >= 1")
    assert browser.ask("document.documentElement.scrollWidth") <= width, "it has to be moved sideways"
    ground = browser.ask("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) < 384) is dark
    assert browser.ask("getComputedStyle(document.body).fontFamily").startswith("system-ui")
    browser.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_it_says_so_when_nobody_answers_any_more(browser: Browser) -> None:
    with Pool(FakeFactory(), name="short") as pool:
        with serve(pool, port=0) as server:
            browser.open(server.url)
            browser.until(text("#live"), lambda shown: shown == "live")
        browser.until(text("#live"), lambda shown: shown is not None and shown.startswith("no answer for "))
