"""A headless Chromium, driven over two pipes by the DevTools protocol: no port, no driver program, no library.

Messages are JSON, each ended by a zero byte: the browser reads orders from descriptor 3 and answers on 4.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tests.servers.binaries import CHROMIUM

if TYPE_CHECKING:
    from typing_extensions import Self

PATIENCE = 60.0  # seconds for one answer, on a busy machine
_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-default-apps", "--disable-extensions",
    "--disable-sync", "--mute-audio", "--hide-scrollbars", "--proxy-server=direct://", "--remote-debugging-pipe",
)  # fmt: skip  # a list
# What becomes the browser: only there are the descriptors 3 and 4 free to be put in their places.
_START = "import os, sys; [os.dup2(int(sys.argv[n]), n + 2) for n in (1, 2)]; os.execv(sys.argv[3], sys.argv[3:])"


def _pipe() -> tuple[int, int]:
    """Both ends beyond the descriptors that the browser wants."""
    ends = os.pipe()
    moved = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return moved[0], moved[1]


class Browser:
    """Entered, it runs; left, it is gone with everything it has written."""

    def __init__(self) -> None:
        self._numbers = 0
        self._inbox: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.console: list[str] = []
        """What pages have said on the console, violations of their policy included."""

    def __enter__(self) -> Self:
        program = CHROMIUM.path()
        self._profile = tempfile.TemporaryDirectory(prefix="pooling-browser-", ignore_cleanup_errors=True)
        command = [program, *_OPTIONS, f"--user-data-dir={self._profile.name}", "about:blank"]
        (theirs_in, ours_out), (ours_in, theirs_out) = _pipe(), _pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, str(theirs_in), str(theirs_out), *command],
            pass_fds=(theirs_in, theirs_out), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip  # one argument list
        os.close(theirs_in)
        os.close(theirs_out)
        self._out, self._in = os.fdopen(ours_out, "wb"), os.fdopen(ours_in, "rb")
        self._reader = threading.Thread(target=self._read, name="browser", daemon=True)
        self._reader.start()
        try:
            target = self._call("Target.createTarget", url="about:blank")["targetId"]
            self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.call(f"{domain}.enable")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._out.close()  # which the browser takes as its end
        except OSError:
            pass
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(self._process.pid, 9)  # what it has started, and itself
        except ProcessLookupError:
            pass
        self._process.wait(10)
        self._reader.join(10)
        self._in.close()
        self._profile.cleanup()

    def open(self, url: str, *, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Load a page at a size, in light or in dark."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        self.call("Page.navigate", url=url)

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression on the page."""
        told = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def until(self, expression: str, holds: Callable[[Any], object] = bool, *, seconds: float = PATIENCE) -> Any:
        """The expression's value as soon as it is as wanted."""
        end = time.monotonic() + seconds
        while True:
            value = self.ask(expression)
            if holds(value):
                return value
            assert time.monotonic() < end, f"{expression} is {value!r} after {seconds:g} s; console: {self.console}"
            time.sleep(0.1)

    def screenshot(self, file: Path) -> None:
        """A picture of the whole page, as long as it is."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        told = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        file.write_bytes(base64.b64decode(told["data"]))

    def call(self, method: str, **parameters: Any) -> Any:
        return self._call(method, self._session, **parameters)

    def _call(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        self._numbers += 1
        message = {"id": self._numbers, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        self._out.write(json.dumps(message).encode() + b"\0")
        self._out.flush()
        end = time.monotonic() + PATIENCE
        while True:
            told = self._inbox.get(timeout=max(0.01, end - time.monotonic()))
            assert told is not None, f"the browser has ended at {method}"
            if told.get("id") == self._numbers:
                assert "error" not in told, told["error"]
                return told["result"]

    def _read(self) -> None:
        rest = b""
        while chunk := self._in.read1(65536):
            *messages, rest = (rest + chunk).split(b"\0")
            for message in messages:
                self._note(json.loads(message))
        self._inbox.put(None)

    def _note(self, told: dict[str, Any]) -> None:
        if "id" in told:
            self._inbox.put(told)
        elif told["method"] == "Log.entryAdded":
            self.console.append(told["params"]["entry"]["text"])
        elif told["method"] == "Runtime.exceptionThrown":
            self.console.append(str(told["params"]["exceptionDetails"]))
        elif told["method"] == "Runtime.consoleAPICalled":
            self.console.append(" ".join(str(each.get("value")) for each in told["params"]["args"]))
