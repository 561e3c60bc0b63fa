"""A real browser to look at pages with: Debian's chromium without a window, driven over a pipe. No package is needed.

The protocol is Chromium's own (DevTools): JSON messages between two file descriptors, each ended by a zero byte.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import selectors
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WHY_NOT = "no Chromium on this machine (Debian: apt-get install chromium)"
PATIENCE = 120.0  # seconds for one answer: a busy machine is slow

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe",
    "--no-first-run", "--disable-extensions", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--mute-audio", "--hide-scrollbars", "--host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip


@dataclass
class Page:
    """One page in a browser, and what it has said and asked for so far.

    Attributes:
        errors: messages of level error on the console, and exceptions.
        requests: addresses that were asked for, data: ones aside.
    """

    browser: Browser
    session: str
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def show(self, file: Path, *, width: int, height: int = 900, dark: bool = False) -> None:
        """Load a file at a width in CSS pixels, in light or dark mode."""
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", **screen)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self.browser.loaded.discard(self.session)
        self._call("Page.navigate", url=file.resolve().as_uri())
        self.browser.wait(lambda: self.session in self.browser.loaded)
        self.evaluate("Promise.all([...document.images].map(i => i.decode().catch(() => null)))")

    def evaluate(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise AssertionError(found["exceptionDetails"])
        return found["result"].get("value")

    def picture(self, file: Path, *, whole: bool = True) -> Path:
        """A screenshot of the page as PNG."""
        found = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(found["data"]))
        return file

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self.browser.call(method, parameters, self.session)


class Browser:
    """A running Chromium; `opened` makes one."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read = write, read
        self._rest = b""
        self._number = 0
        self._answers: dict[int, dict[str, Any]] = {}
        self.loaded: set[str] = set()
        self._pages: dict[str, Page] = {}

    def new_page(self) -> Page:
        """An empty page, whose console and requests are listened to."""
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        page = self._pages[session] = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable", {}, session)
        return page

    def call(self, method: str, parameters: dict[str, Any], session: str | None = None) -> dict[str, Any]:
        """Send a command and wait for what comes back."""
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": parameters}
        self._send(message if session is None else message | {"sessionId": session})
        self.wait(lambda: number in self._answers)
        answer = self._answers.pop(number)
        if "error" in answer:
            raise AssertionError(f"{method}: {answer['error']}")
        return answer["result"]

    def wait(self, done: Any) -> None:
        """Take messages until that is so."""
        end = time.monotonic() + PATIENCE
        while not done():
            for message in self._receive(end - time.monotonic()):
                self._take(message)

    def _send(self, message: dict[str, Any]) -> None:
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]

    def _receive(self, seconds: float) -> list[dict[str, Any]]:
        with selectors.DefaultSelector() as selector:
            selector.register(self._read, selectors.EVENT_READ)
            if not selector.select(max(0.0, seconds)):
                raise TimeoutError(f"Chromium did not answer in {PATIENCE:.0f} s")
        data = os.read(self._read, 1 << 20)
        if not data:
            raise ConnectionError("Chromium closed its pipe")
        *whole, self._rest = (self._rest + data).split(b"\0")
        return [json.loads(part) for part in whole]

    def _take(self, message: dict[str, Any]) -> None:
        """Keep an answer, or note what a page said or asked for."""
        if "id" in message:
            self._answers[message["id"]] = message
            return
        page, said = self._pages.get(message.get("sessionId", "")), message["params"]
        if page is None:
            return
        match message["method"]:
            case "Page.loadEventFired":
                self.loaded.add(page.session)
            case "Network.requestWillBeSent" if not said["request"]["url"].startswith("data:"):
                page.requests.append(said["request"]["url"])
            case "Log.entryAdded" if said["entry"]["level"] == "error":
                page.errors.append(said["entry"]["text"])
            case "Runtime.consoleAPICalled" if said["type"] == "error":
                page.errors.append(str(said["args"]))
            case "Runtime.exceptionThrown":
                page.errors.append(str(said["exceptionDetails"]))


@contextlib.contextmanager
def opened() -> Iterator[Browser]:
    """A browser with a fresh profile, closed at the end."""
    assert CHROMIUM is not None, WHY_NOT
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()
    with tempfile.TemporaryDirectory(prefix="blob_pyro_chromium_", ignore_cleanup_errors=True) as profile:
        # Chromium reads from descriptor 3 and writes to 4
        script = f'exec "$0" "$@" 3<&{to_read} 4>&{from_write}'
        command = ["bash", "-c", script, CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(
            command, pass_fds=(to_read, from_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_read)
        os.close(from_write)
        try:
            yield Browser(to_write, from_read)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            os.close(to_write)
            os.close(from_read)
