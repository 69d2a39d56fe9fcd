"""The Chromium of the system, driven by Playwright, whose own download of browsers is not needed."""

from __future__ import annotations

import os
import shutil
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from playwright.async_api import async_playwright

from support.node import REPOSITORY, install

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page

__all__ = ["Visitor", "chromium", "visitor"]

_PICTURES = "AGENTAPI_TEST_PICTURES"
"""Environment variable that names a directory for pictures of the pages, for people to look at."""
_TIMEOUT_MS = 15_000.0
_LOOPBACK_ALONE = "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"


def _executable() -> str:
    found = shutil.which("chromium")
    assert found is not None, "the tests look at pages with Chromium; `make browser` installs it"
    return found


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Start the system's Chromium without a window."""
    async with async_playwright() as playwright:
        # Its own sandbox needs a user other than root; what is looked at here are pages of these tests.
        # Pages of others may name fonts and scripts elsewhere, which a test does not fetch.
        browser = await playwright.chromium.launch(
            executable_path=_executable(), chromium_sandbox=False, args=[f"--host-resolver-rules={_LOOPBACK_ALONE}"]
        )
        try:
            yield browser
        finally:
            await browser.close()


@dataclass(slots=True)
class Visitor:
    """Somebody with a browser profile of their own, and what the browser complained of meanwhile."""

    context: BrowserContext
    page: Page
    complaints: list[tuple[str, str]] = field(default_factory=list)
    """Where a script or a request failed or a page's own policy was broken, and what the browser said of it."""

    def complaints_of(self, site: str) -> list[str]:
        """Return the complaints about pages and resources of ``site``."""
        return [text for where, text in self.complaints if where.startswith(site)]

    async def picture(self, name: str, *, whole: bool = True) -> None:
        """Keep a picture of the page, or of what is in view, where somebody wants some."""
        directory = os.environ.get(_PICTURES)
        if directory is not None:
            await self.page.screenshot(path=Path(directory) / f"{name}.png", full_page=whole)

    async def press_until(self, key: str, selector: str, *, at_most: int = 20) -> None:
        """Press ``key`` until the focus is on what ``selector`` finds, as somebody without a mouse does."""
        for _ in range(at_most):
            await self.page.keyboard.press(key)
            if await self.page.evaluate("selector => document.activeElement?.matches(selector)", selector):
                return
        message = f"{selector} is not reached by {key}"
        raise AssertionError(message)

    async def barriers(self) -> list[str]:
        """Return what axe-core finds on the page that keeps people out (WCAG 2.2 AA and its best practices)."""
        package = install(REPOSITORY / "tests" / "support" / "axe") / "node_modules" / "axe-core"
        await self.page.evaluate((package / "axe.min.js").read_text(encoding="utf-8"))
        found: dict[str, Any] = await self.page.evaluate("axe.run()")
        return [f"{violation['id']}: {violation['help']}" for violation in found["violations"]]


@asynccontextmanager
async def visitor(browser: Browser, **options: Any) -> AsyncIterator[Visitor]:
    """Open a browser profile that nothing is in; ``options`` are those of a Playwright context."""
    context = await browser.new_context(**options)
    context.set_default_timeout(_TIMEOUT_MS)
    made = Visitor(context, await context.new_page())

    def heard(message: ConsoleMessage) -> None:
        if message.type == "error":
            made.complaints.append((message.location["url"], message.text))

    context.on("console", heard)
    context.on("weberror", lambda failed: made.complaints.append((made.page.url, str(failed.error))))
    try:
        yield made
    finally:
        await context.close()
