"""The pictures of the documentation: ``python -m tests.integrations.page_pictures`` takes them anew, in a minute."""

from __future__ import annotations

import time
from typing import Any

from tests.docs.pages import ROOT
from tests.integrations.browser import Browser
from tests.integrations.shop import starving

FOLDER = ROOT / "docs" / "images"
DRAWN = "document.querySelectorAll('svg polygon.use').length >= 1"
PICTURES: dict[str, Any] = {
    "live-page": {"width": 1100},
    "live-page-dark": {"width": 1100, "dark": True},
    "live-page-phone": {"width": 390, "height": 844},
}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with Browser() as browser, starving() as url:
        for name, options in PICTURES.items():
            browser.open(url, **options)
            browser.until(DRAWN)
            time.sleep(1.5)
            picture = FOLDER / f"{name}.png"
            browser.screenshot(picture)
            print(picture)


if __name__ == "__main__":
    main()
