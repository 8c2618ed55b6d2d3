"""The dashboard in the system's Chromium, over a small real run."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Dialog,
    Page,
    sync_playwright,
)

from tests.browser.town import Town, town
from tests.conftest import Server, _administer

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Run one Chromium for all tests, each in a profile of its own."""
    if not Path(CHROMIUM).exists():
        pytest.skip(f"no Chromium at {CHROMIUM} (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_ARGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def shop(server: Server, template: str) -> Iterator[Town]:
    """Run a town for all tests that only look at it."""
    name = "town"
    _administer(server, "create database {} template {} strategy file_copy", name, template)
    directory = Path(tempfile.mkdtemp(prefix="town"))
    try:
        with town(server.database(name), directory) as found:
            yield found
    finally:
        shutil.rmtree(directory)
        _administer(server, "drop database {} with (force)", name)


@dataclass
class Looked:
    """A page of a fresh profile, and everything that went wrong on it."""

    page: Page
    url: str
    wrong: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def heard(self, message: ConsoleMessage) -> None:
        """Note what the console was told that is no small talk."""
        if message.type in ("error", "warning"):
            self.wrong.append(message.text)

    def asked(self, dialog: Dialog) -> None:
        """Note that a script opened a dialog: none of ours does."""
        self.wrong.append(f"dialog {dialog.message}")
        dialog.dismiss()

    def go(self, path: str) -> Page:
        """Open a path of ours."""
        self.page.goto(self.url + path)
        return self.page

    def log_in(self, token: str) -> Page:
        """Log in by the form."""
        self.go("/login")
        self.page.get_by_label("token").fill(token)
        self.page.get_by_role("button", name="Log in").click()
        self.page.wait_for_url(self.url + "/")
        return self.page


class Eyes:
    """Opens pages, and at the end says what went wrong on any."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._contexts: list[BrowserContext] = []
        self._looked: list[Looked] = []

    def open(self, url: str, **options: Any) -> Looked:
        """Return an empty page in a new profile."""
        context = self._browser.new_context(**options)
        self._contexts.append(context)
        looked = Looked(context.new_page(), url)
        looked.page.on("console", looked.heard)
        looked.page.on("pageerror", lambda error: looked.wrong.append(str(error)))
        looked.page.on("request", lambda request: looked.requests.append(request.url))
        looked.page.on("dialog", looked.asked)
        self._looked.append(looked)
        return looked

    def close(self) -> None:
        """Close everything; fail if anything went wrong or was asked of anybody else."""
        for context in self._contexts:
            context.close()
        for looked in self._looked:
            assert looked.wrong == []
            strangers = [url for url in looked.requests if not url.startswith(looked.url)]
            assert strangers == []


@contextmanager
def opened(browser: Browser) -> Iterator[Eyes]:
    """Yield eyes that are closed, and asked what they saw, at the end."""
    eyes = Eyes(browser)
    yield eyes
    eyes.close()


@pytest.fixture
def eyes(browser: Browser) -> Iterator[Eyes]:
    """Yield eyes for one test."""
    with opened(browser) as found:
        yield found
