"""A headless Chromium, driven by its DevTools protocol. Needs the package websockets."""

import json
import os
import subprocess
import tempfile
import time
import urllib.request
from base64 import b64decode

from websockets.sync.client import connect

PATIENCE_SECONDS = 60


class Browser:
    """A browser with one page. Used with `with`: it ends with the block."""

    def __init__(self, program):
        self.folder = tempfile.TemporaryDirectory(prefix="chromium-")
        # Root may not use Chromium's own sandbox; it runs the page of this crate alone.
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
                 "--remote-debugging-port=0", "--no-first-run", "--force-color-profile=srgb", "--disable-extensions",
                 f"--user-data-dir={self.folder.name}", "about:blank"]
        self.process = subprocess.Popen([program, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.errors = []
        self.number = 0

    def __enter__(self):
        path = os.path.join(self.folder.name, "DevToolsActivePort")
        until("the browser", lambda: os.path.exists(path) and open(path).read().count("\n"))
        port = open(path).read().split("\n")[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
            page = next(one for one in json.load(answer) if one["type"] == "page")
        self.socket = connect(page["webSocketDebuggerUrl"], max_size=None)
        for domain in ["Page", "Runtime", "Log", "Accessibility"]:
            self.send(f"{domain}.enable")
        return self

    def __exit__(self, *_):
        self.socket.close()
        self.process.terminate()
        self.process.wait()
        try:
            self.folder.cleanup()
        except OSError:
            pass  # A child of the browser may still write.

    def send(self, method, **parameters):
        """The result of a command; what the page said meanwhile is kept."""
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            message = json.loads(self.socket.recv(timeout=deadline - time.monotonic()))
            if message.get("id") == self.number:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]
            self.hear(message)

    def hear(self, message):
        """Keeps exceptions and errors."""
        parameters = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        if message.get("method") == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning", "assert"):
            self.errors.append(str(parameters["args"]))
        if message.get("method") == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.errors.append(f"{parameters['entry']['text']} {parameters['entry'].get('url', '')}")

    def evaluate(self, expression):
        """The value of a JavaScript expression; a promise is waited for."""
        result = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, f"{expression}: {result['exceptionDetails']}"
        return result["result"].get("value")

    def until(self, expression):
        """Waits until the expression is true, and returns its value."""
        return until(expression, lambda: self.evaluate(expression))

    def open(self, url):
        self.send("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def key(self, key):
        """Presses and releases a key."""
        codes = {"Enter": 13, "Escape": 27, "Tab": 9}
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        down = {"key": key, "text": text, "windowsVirtualKeyCode": codes.get(key, ord(key.upper()) if len(key) == 1 else 0)}
        self.send("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **down)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key)

    def write(self, text):
        """Types a text into what has the focus."""
        self.send("Input.insertText", text=text)

    def size(self, width, height, is_phone=False):
        scale = 2 if is_phone else 1
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=is_phone)

    def colours(self, scheme):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.send("Emulation.setEmulatedMedia", features=features)

    def picture(self, path):
        """Saves what is seen as a PNG file."""
        shot = self.send("Page.captureScreenshot", format="png")
        with open(path, "wb") as file:
            file.write(b64decode(shot["data"]))


def until(what, look):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        found = look()
        # An element comes as an empty object.
        if found or found == {}:
            return found
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)
