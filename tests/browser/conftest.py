"""A real Chromium without a window; tests that need it are skipped with the reason where it is missing."""

import pytest

from browser.browsing import Browser, missing


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """One browser for a file of tests, its profile in a folder of its own."""
    reason = missing()
    if reason:
        pytest.skip(reason)
    opened = Browser(tmp_path_factory.mktemp("browser"))
    yield opened
    opened.close()
