"""The report: one file that asks for no other, with a plot of each figure that its family draws."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest

from benchmarks import contended
from benchmarks.peers import ALL
from benchmarks.plots import COLOURS
from benchmarks.report import Run
from benchmarks.rows import OURS, Row

CURVE = [
    Row("contended, 4 slots, hold 1 ms", peer, "throughput", "1/s", 10.0 * at, 0.5, at)
    for peer in ("no pool at all", "fair floor", OURS)
    for at in (2, 16, 128)
]
BARS = [Row("contended, 4 slots, hold 2 ms", peer, "least/most", "ratio", 0.9, 0.1, 16) for peer in ("<peer>", OURS)]


class Sources(HTMLParser):
    """What a page asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in {"src", "href"}]
        assert tag not in {"script", "link", "iframe"}


def test_the_report_is_one_file_that_asks_for_no_other() -> None:
    pytest.importorskip("matplotlib")
    page = Run({"rounds": 1}, {contended.FAMILY: CURVE + BARS}, {"another": "RuntimeError: no luck"}).page()
    assert "no luck" in page
    assert "url(" not in page
    sources = Sources()
    sources.feed(page)
    assert len(sources.found) == 2
    for source in sources.found:
        kind, _, image = source.partition(",")
        assert kind == "data:image/svg+xml;base64"
        text = base64.b64decode(image).decode()
        root = ET.fromstring(text)
        asked = [value for one in root.iter() for name, value in one.attrib.items() if name.endswith("href")]
        assert all(value.startswith("#") for value in asked)
        assert not re.search(r"url\((?!#)|@import|<script", text)


def test_every_peer_has_a_colour_of_its_own() -> None:
    assert len(set(COLOURS.values())) == len(ALL) == len(COLOURS)
