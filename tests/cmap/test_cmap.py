"""The pool in the scenarios of MongoDB's pool specification; and what the documentation says of each."""

from __future__ import annotations

import pytest

from pooling.testing import ManualClock
from tests.cmap.scenarios import SCENARIOS, Scenario
from tests.docs.pages import ROOT, bare, table

pytest.register_assert_rewrite("tests.cmap.player")

from tests.cmap.player import Player  # noqa: E402  # after the line above

PAGE = ROOT / "docs" / "explanation" / "mongodb-pool-specification.md"


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.theirs)
def test_scenario(scenario: Scenario) -> None:
    with ManualClock() as clock:
        player = Player(scenario, clock)
        player.play()
        player.end()


def test_the_page_says_of_each_scenario_whether_it_holds() -> None:
    said = {bare(name): verdict for name, verdict, _ in table(PAGE, "their scenario")}
    assert said == {scenario.theirs: scenario.verdict for scenario in SCENARIOS}
