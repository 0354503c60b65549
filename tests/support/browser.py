"""A headless Chromium, controlled by Playwright. It connects to loopback only."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from playwright.sync_api import Browser, sync_playwright

from tests.support.requirement import require

_FLAGS: Final = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the installed Chromium with an empty profile. The Python package of Playwright has no browser."""
    program = require("chromium", shutil.which("chromium"))
    with sync_playwright() as playwright:
        # Its sandbox does not work for root, and containers run tests as root.
        browser = playwright.chromium.launch(executable_path=program, args=_FLAGS, chromium_sandbox=False)
        try:
            yield browser
        finally:
            browser.close()
