"""Chromium, where Debian's ``chromium`` and ``chromium-driver`` are installed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import JavascriptException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

__all__ = ["Browser", "browser", "needs_browser"]

_BROWSER, _DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

needs_browser = pytest.mark.skipif(
    _BROWSER is None or _DRIVER is None, reason="needs Chromium (Debian's chromium and chromium-driver)"
)

_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *(
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--force-prefers-reduced-motion",
    ),
)


class Browser:
    """A window."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def visit(self, url: str, *, width: int = 1280, theme: str = "light") -> None:
        """Load a page; narrow windows are those of a phone."""
        self.resize(width)
        self.look(theme)
        for log in ("browser", "performance"):
            self.driver.get_log(log)  # what came before
        self.driver.get(url)

    def resize(self, width: int) -> None:
        """Change the width of the window."""
        metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def look(self, theme: str, media: str = "screen") -> None:
        """Change what the page is looked at with."""
        feature = {"name": "prefers-color-scheme", "value": theme}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": [feature]})

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns."""
        return self.driver.execute_script(script, *arguments)

    def until(self, script: str, seconds: float = 300) -> None:
        """Wait for an expression to be true; what it reads may still be missing while the page is drawn."""
        wait = WebDriverWait(self.driver, seconds, ignored_exceptions=[JavascriptException])
        wait.until(lambda driver: driver.execute_script(f"return {script}"))

    def find(self, selector: str) -> Any:
        """The first element."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> Any:
        """All elements."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def asked(self) -> list[str]:
        """What was asked of the network since this was called, or a page was visited."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
        # A browser's new tab asks for its own pictures, and may still do so when the page is already open.
        return [e["request"]["url"] for e in sent if not e["documentURL"].startswith("chrome://")]


@contextmanager
def browser(folder: Path) -> Iterator[webdriver.Chrome]:
    """Chromium with a profile of its own."""
    options = webdriver.ChromeOptions()
    options.binary_location = _BROWSER or ""
    for flag in (*_FLAGS, f"--user-data-dir={folder}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(_DRIVER))
    driver.set_page_load_timeout(180)
    try:
        yield driver
    finally:
        driver.quit()
