"""Chromium as the tests drive it: what it fetched, what it complained of, the size and colours of its window."""

import json
import shutil
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service


def programs() -> tuple[str | None, str | None]:
    """Paths of Chromium and of its driver, None for each that is not installed."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = next((path for name in names if (path := shutil.which(name))), None)
    return found, shutil.which("chromedriver")


def missing() -> str:
    """Why no browser can be driven here; empty where one can."""
    chromium, driver = programs()
    absent = [name for name, path in (("chromium", chromium), ("chromedriver", driver)) if path is None]
    return f"needs {' and '.join(absent)} (Debian: apt install chromium chromium-driver)" if absent else ""


class Browser:
    """A headless Chromium.

    Attributes:
        driver: Selenium's, for everything that is not here.
    """

    def __init__(self, profile: Path) -> None:
        chromium, driver = programs()
        options = Options()
        options.binary_location = str(chromium)
        words = "--headless=new --no-sandbox --disable-dev-shm-usage --disable-gpu --hide-scrollbars --no-first-run"
        for word in (*words.split(), f"--user-data-dir={profile}", "--disable-background-networking"):
            options.add_argument(word)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(str(driver)))
        self.window()

    def close(self) -> None:
        self.driver.quit()

    def window(self, width: int = 1280, height: int = 900, dark: bool = False, script: bool = True) -> None:
        """Size of the window in CSS pixels (a phone's below 500), light or dark, scripts on or off."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        colours = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": colours})
        self.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not script})

    def open(self, address: str) -> None:
        """Load a page from nothing, forgetting what was fetched and said before."""
        self.driver.get("about:blank")
        for kind in ("browser", "performance"):
            self.driver.get_log(kind)
        self.driver.get(address)

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script in the page returns."""
        return self.driver.execute_script(script, *arguments)

    def complaints(self) -> list[str]:
        """Errors and warnings of the console since the page was opened."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]

    def fetched(self) -> set[str]:
        """Addresses that the page asked for since it was opened, those inside it (data:, blob:) left out."""
        found = set()
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] in ("Network.requestWillBeSent", "Network.webSocketCreated"):
                asked = message["params"]
                found.add(asked.get("url") or asked["request"]["url"])
        return {address for address in found if not address.startswith(("data:", "blob:", "about:", "chrome:"))}

    def shoot(self, path: Path) -> None:
        """A picture of the window."""
        self.driver.save_screenshot(str(path))
