"""Pictures of every screen, for the documentation: `make screens` writes them to docs/screens."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import psycopg
import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Eyes, Looked
from tests.browser.pictures import packed
from tests.browser.town import FLOOD, Town
from tests.support.waiting import until

FOLDER = os.environ.get("SCREENS")
BYTES_MAX = 150_000
DESKTOP, PHONE = {"width": 1120, "height": 800}, {"width": 390, "height": 844}

pytestmark = pytest.mark.skipif(FOLDER is None, reason="SCREENS names no folder: `make screens`")


def task(shop: Town, query: str) -> int:
    def found() -> int:
        with psycopg.connect(shop.dsn) as connection:
            row = connection.execute(query.encode()).fetchone()
        return int(row[0]) if row else 0

    return until(found, "there is such a task")


def shoot(looked: Looked, name: str) -> None:
    assert FOLDER is not None
    path = Path(FOLDER) / f"{name}.png"
    picture = looked.page.screenshot(full_page=True, animations="disabled")
    path.write_bytes(packed(picture))
    assert path.stat().st_size < BYTES_MAX


@pytest.mark.timeout(300)
def test_every_screen(shop: Town, eyes: Eyes) -> None:
    dead = task(shop, "select task_id from orchestrator.task_attempt where status = 'dead'")
    waits = task(
        shop,
        f"select max(task_id) from orchestrator.staging_queue where org_id = '{FLOOD[0]}'",
    )
    looked = eyes.open(shop.url, viewport=DESKTOP)
    looked.go("/login")
    shoot(looked, "login")
    page = looked.log_in(shop.admin)
    # Ten minutes of curves begin somewhere: a minute of them is enough to look at.
    page.wait_for_timeout(float(os.environ.get("SCREENS_AFTER_S", "60")) * 1000)
    for name, path in {
        "now": "/",
        "orgs": "/orgs",
        "org": f"/org?name={FLOOD[0]}",
        "confirm": f"/org/set?quoted=name%3D{FLOOD[0]}&tier=premium&weight=&burst_max=40",
        "task": f"/task/{dead}",
        "explain": f"/task/{waits}",
        "queues": "/queues",
        "leader": "/leader",
    }.items():
        looked.go(path)
        if page.locator("#live").count():
            expect(page.locator("#pulse")).to_have_text("live")
        shoot(looked, name)
    looked.go("/simulate")
    page.get_by_label("named").fill(FLOOD[0])
    page.get_by_label("of", exact=True).fill("20")
    page.get_by_role("button", name="Simulate").click()
    expect(page.get_by_role("row", name="all tasks")).to_be_visible(timeout=60_000)
    shoot(looked, "simulate")
    others: dict[str, dict[str, Any]] = {
        "now-dark": {"viewport": DESKTOP, "color_scheme": "dark"},
        "now-phone": {"viewport": PHONE},
        "orgs-phone-dark": {"viewport": PHONE, "color_scheme": "dark"},
    }
    for name, options in others.items():
        other = eyes.open(shop.url, **options)
        other.log_in(shop.admin)
        other.go("/orgs" if name.startswith("orgs") else "/")
        expect(other.page.locator("#pulse")).to_have_text("live")
        shoot(other, name)
