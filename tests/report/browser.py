"""A real browser for the tests of pages: Chromium without a window, spoken to by its own protocol over a pipe.

Found as ``ONNXMORPH_BROWSER``, or under one of its usual names on the path; where there is none, the tests of pages are
skipped. Nothing is fetched.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["Browser", "Page", "program"]

_NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "chrome-headless-shell",
    "headless_shell",
)
_SECONDS = 60.0


def program() -> str | None:
    """The browser to start, or ``None``; its pipe needs a POSIX system."""
    asked = os.environ.get("ONNXMORPH_BROWSER")
    if asked:
        return shutil.which(asked)
    if os.name != "posix":
        return None
    return next((found for name in _NAMES if (found := shutil.which(name)) is not None), None)


class Browser:
    """One running browser; leave it by ``with``, which ends it and all that it started."""

    def __init__(self, path: str) -> None:
        import fcntl  # POSIX

        self._profile = tempfile.TemporaryDirectory(prefix="onnxmorph-browser-", ignore_cleanup_errors=True)
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        # The browser reads commands from descriptor 3 and answers on 4; the pipes are put there in its own process.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_read, to_write)]
        place = f"import os, sys; os.dup2({ends[0]}, 3); os.dup2({ends[1]}, 4); os.execv(sys.argv[1], sys.argv[1:])"
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                place,
                path,
                "--headless",
                "--remote-debugging-pipe",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--hide-scrollbars",
                "--no-first-run",
                "--disable-background-networking",
                f"--user-data-dir={self._profile.name}",
                "about:blank",
            ],
            pass_fds=ends,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for end in (to_read, to_write, *ends):
            os.close(end)
        self._number = 0
        self._rest = b""

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._write)
        os.close(self._read)
        self._profile.cleanup()

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """One command and its answer; events on the way are passed over."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        timer = threading.Timer(_SECONDS, lambda: os.killpg(self._process.pid, signal.SIGKILL))
        timer.start()
        try:
            os.write(self._write, json.dumps(message).encode() + b"\0")
            for answer in self._answers():
                if answer.get("id") == self._number:
                    if "error" in answer:
                        raise RuntimeError(f"{method}: {answer['error']}")
                    found: dict[str, Any] = answer["result"]
                    return found
        finally:
            timer.cancel()
        raise RuntimeError(f"{method}: the browser ended or did not answer")

    def _answers(self) -> Iterator[dict[str, Any]]:
        while True:
            while b"\0" not in self._rest:
                piece = os.read(self._read, 1 << 16)
                if not piece:
                    return
                self._rest += piece
            one, self._rest = self._rest.split(b"\0", 1)
            yield json.loads(one)

    def open(self, file: Path, *, width: int, height: int = 900, dark: bool = False, media: str = "screen") -> Page:
        """A page in a window of this size, in CSS pixels."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        page.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.call("Emulation.setEmulatedMedia", media=media, features=[scheme])
        page.call("Page.enable")
        page.call("Page.navigate", url=file.resolve().as_uri())
        deadline = time.monotonic() + _SECONDS
        while page.evaluate("document.readyState + location.protocol") != "completefile:":
            if time.monotonic() > deadline:
                raise RuntimeError(f"{file} did not load")
            time.sleep(0.02)
        return page


class Page:
    """One page in the browser."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command to this page."""
        return self._browser.call(method, self._session, **parameters)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, as JSON."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def screenshot(self) -> bytes:
        """The whole page, as PNG."""
        size = self.evaluate(
            "({width: document.documentElement.clientWidth, height: document.documentElement.scrollHeight})"
        )
        clip = {"x": 0, "y": 0, "scale": 1, **size}
        answer = self.call("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        return base64.b64decode(answer["data"])

    def pdf(self) -> bytes:
        """As it prints on A4."""
        answer = self.call("Page.printToPDF", paperWidth=8.27, paperHeight=11.69, printBackground=True)
        return base64.b64decode(answer["data"])

    def picture(self) -> Any:
        """The screenshot as a ``(height, width, 3)`` uint8 array; needs Pillow."""
        import numpy as np
        from PIL import Image

        return np.asarray(Image.open(io.BytesIO(self.screenshot())).convert("RGB"))
