"""Pages of the desk in Chromium: no script of theirs may raise, nothing may break the Content Security Policy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.builders.browser import watch_errors

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

LAPTOP = (1366, 768)
"""A screen of 13 inches."""
WAIT_MILLISECONDS = 15_000
AXE = Path(__file__).parents[1] / "web" / "vendor" / "axe-4.14.1.min.js"
SERIOUS = {"serious", "critical"}


@contextmanager
def opened_page(browser: Browser, *, size: tuple[int, int] = LAPTOP) -> Iterator[Page]:
    """Give a page without cookies. AssertionError where a script of the page raised, or the policy refused something."""
    with browser.new_context(viewport={"width": size[0], "height": size[1]}) as context:
        context.set_default_timeout(WAIT_MILLISECONDS)
        page = context.new_page()
        errors = watch_errors(page)
        page.on("console", lambda message: errors.append(message.text) if "Content Security Policy" in message.text else None)
        yield page
        assert errors == []


def log_in(page: Page, name: str, password: str, arrives_at: str = "**/label") -> None:
    """Fill in and send the form of the page."""
    page.fill("#name", name)
    page.fill("#password", password)
    page.click("button[type=submit]")
    page.wait_for_url(arrives_at)


def find_axe_faults(page: Page) -> list[str]:
    """Return the serious and critical faults that axe finds on the page."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    return [
        f"{fault['id']}: {node['target']}" for fault in found["violations"] if fault["impact"] in SERIOUS for node in fault["nodes"]
    ]
