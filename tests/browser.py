"""A page in headless Chromium: opened, looked at and clicked through its driver, by the WebDriver protocol (W3C, 2018).

Debian's packages chromium and chromium-driver, or any that are on the path; the tests skip where there are none.
"""
import base64
import contextlib
import json
import shutil
import subprocess
import urllib.error
import urllib.request

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--hide-scrollbars")
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the protocol's name for a reference


class Browser:
    """A session: open(path), run(script), click(selector), texts(selector), screenshot()."""

    def __init__(self, address, options):
        self._address = f"{address}/session"
        self._address += "/" + self._ask("", {"capabilities": {"alwaysMatch": options}})["sessionId"]

    def _ask(self, path, body=None, method=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._address + path, data, {"Content-Type": "application/json"}, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(error.read().decode()[:500]) from None

    def open(self, path):
        self._ask("/url", {"url": path.resolve().as_uri()})

    def run(self, script, *args):
        """What the body of a function of JavaScript returns."""
        return self._ask("/execute/sync", {"script": script, "args": list(args)})

    def click(self, selector, which=0):
        """Click an element where a person would: in its middle, after it has been scrolled into sight."""
        found = self._ask("/elements", {"using": "css selector", "value": selector})[which][ELEMENT]
        self.run("arguments[0].scrollIntoView({block: 'center'})", {ELEMENT: found})
        self._ask(f"/element/{found}/click", {})

    def type(self, selector, text):
        found = self._ask("/element", {"using": "css selector", "value": selector})[ELEMENT]
        self._ask(f"/element/{found}/value", {"text": text})

    def texts(self, selector):
        """What elements that are to be seen say."""
        return self.run("return [...document.querySelectorAll(arguments[0])].filter(e => e.getClientRects().length)"
                        ".map(e => e.innerText ?? e.textContent)", selector)

    def log(self):
        """What the browser complains of: errors of scripts, what a policy refused, what could not be loaded."""
        return [entry["message"] for entry in self._ask("/se/log", {"type": "browser"})]

    def screenshot(self):
        """The window as a PNG file."""
        return base64.b64decode(self._ask("/screenshot"))

    def close(self):
        self._ask("", method="DELETE")


@contextlib.contextmanager
def browser(folder, *, width=1100, height=1400, scripts=True):
    """A Browser with an empty profile in a folder. scripts: whether pages run theirs."""
    log = folder / "driver.log"
    process = subprocess.Popen([DRIVER, "--port=0", f"--log-path={log}"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               text=True)
    try:
        port = next(line.rstrip(".\n").rpartition(" ")[2] for line in process.stdout if "successfully" in line)
        arguments = [*FLAGS, f"--user-data-dir={folder / 'profile'}", f"--window-size={width},{height}"]
        options = {"binary": CHROMIUM, "args": arguments}
        if not scripts:
            options["prefs"] = {"profile.managed_default_content_settings.javascript": 2}
        session = Browser(f"http://127.0.0.1:{port}", {"browserName": "chrome", "goog:chromeOptions": options,
                                                       "goog:loggingPrefs": {"browser": "ALL"}})
        try:
            yield session
        finally:
            session.close()
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()

