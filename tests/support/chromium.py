"""Headless Chromium over its debugging pipe: pages are opened, looked at and clicked on. Standard library only.

The pipe carries JSON messages that end with a zero byte: https://chromedevtools.github.io/devtools-protocol/.
"""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

from workflow import REPOSITORY

NAMES = ("chromium", "chromium-browser", "google-chrome", "chromium-headless-shell")
FETCHED = REPOSITORY / ".cache/chromium"  # where `make chromium` puts it
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe")
FLAGS += ("--no-first-run", "--disable-extensions", "--disable-background-networking", "--disable-dev-shm-usage")
SHELL = 'exec "$0" "$@" 3<&{} 4>&{}'  # Chromium reads its messages from descriptor 3 and answers on descriptor 4
PATIENCE = 120  # seconds for an answer: the machine may be busy


def find():
    """Return the path of a Chromium, or None."""
    found = next((path for path in map(shutil.which, NAMES) if path), None)
    return found or next(map(str, FETCHED.glob("usr/lib/chromium/*-headless-shell")), None)


def _environment():
    """Return the environment of a Chromium: its libraries and fonts, where they were fetched."""
    if not find().startswith(str(FETCHED)):
        return dict(os.environ)
    folders = [path.parent for path in FETCHED.glob("usr/lib/*/libnss3.so")] + [FETCHED / "usr/lib/chromium"]
    fonts = {"FONTCONFIG_PATH": str(FETCHED / "etc/fonts"), "XDG_DATA_HOME": str(FETCHED / "usr/share")}
    return {**os.environ, **fonts, "LD_LIBRARY_PATH": ":".join(map(str, folders))}


class Tab:
    """A page in Chromium; `requests`, `problems`: the URLs it asked for, and what it wrote to its console or threw."""

    def __init__(self, write, read):
        self.write, self.read, self.left, self.number = write, read, b"", 0
        self.requests, self.problems, self.session = [], [], None
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            self.ask(f"{domain}.enable")

    def ask(self, method, **params):
        """Call a method of the protocol; return its result."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        message.update({"sessionId": self.session} if self.session else {})
        os.write(self.write, json.dumps(message).encode() + b"\0")
        return self._wait(lambda said: said.get("id") == self.number, method)

    def _wait(self, wanted, what):
        end = time.monotonic() + PATIENCE
        while True:
            said = self._next(end, what)
            self._note(said)
            if wanted(said):
                assert "error" not in said, f"{what}: {said['error']}"
                return said.get("result", said)

    def _next(self, end, what):
        while b"\0" not in self.left:
            ready, _, _ = select.select([self.read], [], [], max(0, end - time.monotonic()))
            assert ready, f"{what}: no answer from Chromium"
            chunk = os.read(self.read, 1 << 20)
            assert chunk, f"{what}: Chromium has ended"
            self.left += chunk
        message, self.left = self.left.split(b"\0", 1)
        return json.loads(message)

    def _note(self, said):
        method, params = said.get("method"), said.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        if method == "Runtime.exceptionThrown":
            self.problems.append(params["exceptionDetails"].get("exception", {}).get("description", "exception"))
        if method == "Runtime.consoleAPICalled":
            self.problems.append(str([one.get("value") for one in params["args"]]))
        if method == "Log.entryAdded":
            self.problems.append(params["entry"]["text"])

    def open(self, url, width=1280, height=900, dark=False):
        """Open a page in a window of a size, light or dark, and wait until it is loaded."""
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.requests.clear()
        self.problems.clear()
        self.ask("Page.navigate", url=url)
        self._wait(lambda said: said.get("method") == "Page.loadEventFired", "load")
        return self

    def run(self, script):
        """Return the JSON value of an expression, or of the promise that it is."""
        done = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def press(self, key, code, modifiers=0):
        """Press a key."""
        for kind in ("keyDown", "keyUp"):
            self.ask(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
                modifiers=modifiers,
                **({"text": "\r"} if key == "Enter" and kind == "keyDown" else {}),
            )

    def picture(self, path, whole=False):
        """Write what is seen, or the whole page, as PNG."""
        shot = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        Path(path).write_bytes(base64.b64decode(shot["data"]))

    def pdf(self, path):
        """Print the page on A4."""
        printed = self.ask("Page.printToPDF", paperWidth=8.27, paperHeight=11.69, preferCSSPageSize=True)
        Path(path).write_bytes(base64.b64decode(printed["data"]))


@contextlib.contextmanager
def tab(profile):
    """Yield a Tab of a Chromium with a fresh profile in a folder."""
    own_read, its_write = os.pipe()
    its_read, own_write = os.pipe()
    command = [
        "bash",
        "-c",
        SHELL.format(its_read, its_write),
        find(),
        *FLAGS,
        f"--user-data-dir={profile}",
        "about:blank",
    ]
    process = subprocess.Popen(
        command,
        pass_fds=(its_read, its_write),
        env=_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(its_read)
    os.close(its_write)
    try:
        yield Tab(own_write, own_read)
    finally:
        process.terminate()
        process.wait()
        os.close(own_read)
        os.close(own_write)
