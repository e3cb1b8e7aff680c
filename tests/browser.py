"""A headless Chromium, driven by its own driver: Debian's, which CI installs."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

from tests.harness import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

FAINT = (Path(__file__).parent / "data" / "faint_texts.js").read_text()
OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # tests run as root in a container
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
    "--disable-background-networking",
    "--disable-component-update",
)


class Browser:
    """One browser and what it was told and asked for since `begin`."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def begin(self) -> None:
        """Forget what was logged and requested before."""
        for kind in ("browser", "performance"):
            self.driver.get_log(kind)

    def open(self, address: str, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Open a page in a window of a size, light or dark."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.resize(width, height)
        self.driver.get(address)

    def resize(self, width: int, height: int) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def hurry(self, times: int) -> None:
        """Let the timers of every page that is opened from now on run out so many times sooner."""
        faster = (
            f"const later = window.setTimeout; window.setTimeout = (f, ms, ...more) => later(f, ms / {times}, ...more)"
        )
        self.call("Page.addScriptToEvaluateOnNewDocument", source=faster)

    def call(self, command: str, **values: Any) -> Any:
        return self.driver.execute_cdp_cmd(command, values)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def text(self, selector: str) -> str:
        """The text of the first element that fits; "" without one."""
        found = self.run("const e = document.querySelector(arguments[0]); return e ? e.innerText : ''", selector)
        return str(found)

    def click(self, selector: str) -> None:
        self.driver.find_element("css selector", selector).click()

    def keys(self, *keys: str) -> None:
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)

    def wait_for(self, selector: str, words: str) -> None:
        """Wait until an element has a text."""
        wait_until(lambda: words in self.text(selector), f"{words!r} in {selector}", timeout=20)

    def faint(self) -> list[str]:
        """The texts that are hard to read before what is behind them."""
        return list(self.run(FAINT))

    def complaints(self) -> list[str]:
        """What the console said: errors, and whatever the policy has blocked."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def hosts(self) -> set[str]:
        """The hosts that were asked for anything."""
        found = set()
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                address = urlsplit(message["params"]["request"]["url"])
                if address.scheme in ("http", "https"):
                    found.add(address.hostname or "")
        return found

    def picture(self, path: Path, *, width: int, most: int = 2400) -> None:
        """Write a picture of the whole page, as far as it is no longer than so many pixels."""
        height = self.run("return document.documentElement.scrollHeight")
        self.resize(width, min(max(height, 400), most))
        self.driver.save_screenshot(str(path))


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """Run a browser with a profile of its own until the block ends."""
    options = Options()
    for option in (*OPTIONS, f"--user-data-dir={folder}"):
        options.add_argument(option)
    options.binary_location = shutil.which("chromium") or ""
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
