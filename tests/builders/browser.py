"""Debian's Chromium without a screen, driven by Playwright."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.builders import peers

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
"""WebGL by software; nothing that a browser does by itself on the network."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run Chromium with an empty profile. Skips, or fails where peers are required, where it is not installed."""
    from playwright.sync_api import sync_playwright

    program = peers.require("chromium", "chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, headless=True, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


def watch_errors(page: Page) -> list[str]:
    """Return a list to which the errors of the page are added: uncaught exceptions and unhandled rejections."""
    errors: list[str] = []
    page.add_init_script(
        "addEventListener('unhandledrejection', e => console.error('UNHANDLED ' + (e.reason?.message || e.reason)))"
    )
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: errors.append(line.text) if line.text.startswith("UNHANDLED") else None)
    return errors
