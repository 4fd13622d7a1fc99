"""MongoDB's scenarios for connection pools, told in this project's words.

MongoDB publishes what its drivers' pools owe as scenario files ("connection monitoring and pooling"). Each one here
bears the name of theirs and does what theirs does, as far as the two pools have the same things; ``verdict`` says how
far that is, and docs/explanation/mongodb-pool-specification.md why. player.py explains the lines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal["holds", "in other words", "differs"]


@dataclass(frozen=True)
class Scenario:
    """What is done, and what the pool's listener and its factory see of it."""

    theirs: str
    verdict: Verdict
    steps: str
    options: Mapping[str, Any] = field(default_factory=dict)
    watch: str = ""
    """The kinds of events that are compared, the others passed over."""
    happens: str = ""
    """Those events, in order."""


SCENARIOS = (
    # -- connections have numbers ---------------------------------------------------------------------
    Scenario(
        "connection-must-have-id",
        "holds",
        "acquire a; acquire b",
        watch="connect acquire",
        happens="connect 1; acquire 1; connect 2; acquire 2",
    ),
    Scenario(
        "connection-must-order-ids",
        "holds",
        "acquire a; acquire b; acquire c",
        watch="acquire",
        happens="acquire 1; acquire 2; acquire 3",
    ),
    # -- coming back ----------------------------------------------------------------------------------
    Scenario(
        "pool-checkin",
        "holds",
        "acquire a; release a",
        watch="release",
        happens="release 1",
    ),
    Scenario(
        "pool-checkin-make-available",
        "holds",
        "acquire a; release a; acquire b; opened 1",
        watch="acquire release",
        happens="acquire 1; release 1; acquire 1",
    ),
    Scenario(
        "pool-checkin-destroy-closed",
        "holds",
        "acquire a; close; open 1; release a; open 0",
        watch="acquire state release close",
        happens="acquire 1; state closed; release 1; close 1 pool",
    ),
    Scenario(
        "pool-checkin-destroy-stale",
        "holds",
        "acquire a; clear; open 1; release a; open 0",
        watch="acquire clear release close",
        happens="acquire 1; clear; release 1; close 1 stale",
    ),
    # -- going out ------------------------------------------------------------------------------------
    Scenario(
        "pool-checkout-connection",
        "holds",
        "acquire a",
        watch="wait connect acquire",
        happens="wait; connect 1; acquire 1",
    ),
    Scenario(
        "pool-checkout-multiple",
        "holds",
        "1: acquire a; 2: acquire b; 3: acquire c; 1 has one; 2 has one; 3 has one",
        watch="acquire",
        happens="acquire 1; acquire 2; acquire 3",
    ),
    Scenario(
        "pool-checkout-no-idle",
        "in other words",
        "acquire a; release a; wait 0.05; open 0; acquire b",
        options={"idle_timeout": 0.01},
        watch="acquire release close",
        happens="acquire 1; release 1; close 1 idle; acquire 2",
    ),
    Scenario(
        "pool-checkout-no-stale",
        "holds",
        "acquire a; release a; clear; acquire b",
        watch="acquire release clear close",
        happens="acquire 1; release 1; clear; close 1 stale; acquire 2",
    ),
    Scenario(
        "pool-checkout-error-closed",
        "holds",
        "acquire a; release a; close; acquire fails PoolClosed",
        watch="acquire release state",
        happens="acquire 1; release 1; state closed",
    ),
    # -- connecting -----------------------------------------------------------------------------------
    Scenario(
        "pool-checkout-custom-maxConnecting-is-enforced",
        "holds",
        """connects take 0.5; 1: acquire a; wait 0.1; 2: acquire b; 3: acquire c; wait 1.5; 1 has one; 2 has one;
        3 has one; never connecting 2""",
        options={"max_connecting": 1, "max_size": 3},
        watch="connecting connected",
        happens="connecting; connected; connecting; connected; connecting; connected",
    ),
    Scenario(
        "pool-checkout-maxConnecting-is-enforced",
        "in other words",
        """connects take 0.8; 1: acquire a; wait 0.4; 2: acquire b; 3: acquire c; wait 1.2; 1 has one; 2 has one;
        3 has one; 4: acquire d; 5: acquire e; 6: acquire f; 7: acquire g; 8: acquire h; 9: acquire i; 10: acquire j;
        wait 4; never connecting 3; 4 has one; 10 has one""",
        options={"max_connecting": 2},
        watch="connecting connected",
        happens="""connecting; connected; connecting; connecting; connected; connected; connecting; connected;
        connecting; connecting; connected; connected; connecting; connecting; connected; connected; connecting;
        connecting; connected; connected""",
    ),
    Scenario(
        "pool-checkout-maxConnecting-timeout",
        "holds",
        """connects take 0.75; 1: acquire a; 2: acquire b; wait 0.05; 3: acquire c within 0.05; wait 0.05;
        3 fails PoolTimeout connect; wait 1.5; 1 has one; 2 has one""",
        options={"max_connecting": 2},
        watch="acquire timeout",
        happens="timeout; acquire 1; acquire 2",
    ),
    Scenario(
        "pool-checkout-minPoolSize-connection-maxConnecting",
        "holds",
        """connects take 0.5; 1: acquire a; wait 0.2; connecting 2; 2: acquire b; connecting 2; wait 0.3; 1 has one;
        2 has one; opened 2""",
        options={"min_size": 2, "max_size": 3, "max_connecting": 2},
        watch="connecting acquire",
        happens="connecting; connecting; acquire 1; acquire 2",
    ),
    Scenario(
        "pool-checkout-returned-connection-maxConnecting",
        "holds",
        """acquire a; connects take 0.75; 1: acquire b; 2: acquire c; 3: acquire d; wait 0.1; release a; 1 has one;
        2 waits; 3 waits; wait 0.1; opened 1; wait 1.5; 2 has one; 3 has one""",
        options={"max_connecting": 2},
        watch="acquire release",
        happens="acquire 1; release 1; acquire 1; acquire 2; acquire 3",
    ),
    # -- clear ----------------------------------------------------------------------------------------
    Scenario(
        "pool-clear-clears-waitqueue",
        "differs",
        """acquire a; 1: acquire b; 2: acquire c; 3: acquire d; clear; wait 1; 1 waits; 2 waits; 3 waits; release a;
        1 has one; release b; 2 has one; release c; 3 has one""",
        options={"max_size": 1},
        watch="acquire clear close timeout",
        happens="acquire 1; clear; close 1 stale; acquire 2; acquire 2; acquire 2",
    ),
    Scenario(
        "pool-clear-interrupting-pending-connections",
        "differs",
        "connects take 2; 1: acquire a; wait 1; clear and interrupt; wait 1; 1 waits; wait 2; 1 has one; open 1",
        watch="connect acquire clear close",
        happens="clear; connect 1; close 1 stale; connect 2; acquire 2",
    ),
    Scenario(
        "pool-clear-min-size",
        "in other words",
        "warm up; suspend; clear; wait 0.2; open 0; opened 1; resume; open 1",
        options={"min_size": 1},
        watch="connect state clear",
        happens="connect 1; state suspended; clear; state running; connect 2",
    ),
    Scenario(
        "pool-clear-paused",
        "differs",
        "suspend; clear; resume; clear; clear",
        watch="state clear",
        happens="state suspended; clear; state running; clear; clear",
    ),
    Scenario(
        "pool-clear-ready",
        "in other words",
        """acquire a; suspend; clear; 1: acquire b within 0.5; wait 0.5; 1 fails PoolTimeout suspended; resume;
        acquire c""",
        watch="acquire clear timeout state",
        happens="acquire 1; state suspended; clear; timeout; state running; acquire 2",
    ),
    Scenario(
        "pool-clear-schedule-run-interruptInUseConnections-false",
        "holds",
        "acquire a; acquire b; release b; clear; open 1; close",
        watch="acquire release clear close state",
        happens="acquire 1; acquire 2; release 2; clear; close 2 stale; state closed",
    ),
    # -- close ----------------------------------------------------------------------------------------
    Scenario(
        "pool-close",
        "holds",
        "close; open 0; opened 0",
        watch="state connect close",
        happens="state closed",
    ),
    Scenario(
        "pool-close-destroy-conns",
        "in other words",
        "acquire a; acquire b; acquire c; release b; close; open 2",
        watch="release close state",
        happens="release 2; state closed; close 2 pool",
    ),
    # -- making one -----------------------------------------------------------------------------------
    Scenario("pool-create", "in other words", "opened 0"),
    Scenario(
        "pool-create-with-options",
        "in other words",
        "option max_size 50; option min_size 5; option idle_timeout 0.1; opened 0",
        options={"max_size": 50, "min_size": 5, "idle_timeout": 0.1},
    ),
    Scenario(
        "pool-create-max-size",
        "holds",
        """acquire a; acquire b; acquire c; release c; acquire d; 1: acquire e; 1 waits; release a; 1 has one; opened 3;
        never open 4""",
        options={"max_size": 3},
        watch="wait connect acquire release",
        happens="""wait; connect 1; acquire 1; wait; connect 2; acquire 2; wait; connect 3; acquire 3; release 3;
        acquire 3; wait; release 1; acquire 1""",
    ),
    Scenario(
        "pool-create-min-size",
        "in other words",
        "wait 0.2; opened 0; warm up; open 3; acquire a; opened 3",
        options={"min_size": 3},
        watch="connect acquire",
        happens="connect 1; connect 2; connect 3; acquire 3",
    ),
    Scenario(
        "pool-create-min-size-error",
        "differs",
        """connects fail; warm up fails ConnectError; attempts 1; wait 1; attempts 3; never connecting 2; open 0;
        connects work; wait 0.2; open 1""",
        options={"min_size": 1, "fail_after": 0.0, "backoff": lambda failures: 0.4},
        watch="error connect state",
        happens="error 1 connect; state down; error 2 connect; error 3 connect; connect 4; state up",
    ),
    # -- ready: a pool here is, from the beginning -----------------------------------------------------------
    Scenario(
        "pool-ready",
        "in other words",
        "suspend; 1: acquire a within 0.5; wait 0.5; 1 fails PoolTimeout suspended; resume; acquire b",
        watch="state timeout acquire",
        happens="state suspended; timeout; state running; acquire 1",
    ),
    Scenario(
        "pool-ready-ready",
        "holds",
        "resume; resume; resume; suspend; resume",
        watch="state",
        happens="state suspended; state running",
    ),
    # -- the queue ------------------------------------------------------------------------------------
    Scenario(
        "wait-queue-fairness",
        "holds",
        """acquire a; 1: acquire b; 2: acquire c; 3: acquire d; 4: acquire e; release a; 1 has one; 2 waits; release b;
        2 has one; 3 waits; release c; 3 has one; 4 waits; release d; 4 has one""",
        options={"max_size": 1, "timeout": 5.0},
        watch="wait acquire release",
        happens="""wait; acquire 1; wait; wait; wait; wait; release 1; acquire 1; release 1; acquire 1; release 1;
        acquire 1; release 1; acquire 1""",
    ),
    Scenario(
        "wait-queue-timeout",
        "holds",
        "acquire a; 1: acquire b; wait 0.04; 1 waits; wait 0.01; 1 fails PoolTimeout queue; release a",
        options={"max_size": 1, "timeout": 0.05},
        watch="wait acquire timeout release",
        happens="wait; acquire 1; wait; timeout; release 1",
    ),
    # -- of the tests that MongoDB tells in prose ----------------------------------------------------------
    Scenario(
        "a checkout that fails because the connection could not be set up",
        "in other words",
        "connects fail; 1: acquire a; wait 1; 1 fails ConnectError",
        options={"fail_after": 0.5},
        watch="acquire timeout",
    ),
)
