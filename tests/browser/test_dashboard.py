"""The dashboard as people use it: in Chromium, over a small real run, by mouse, keyboard, phone."""

from __future__ import annotations

import re
from collections.abc import Iterator

import psycopg
import pytest
from playwright.sync_api import Page, expect

from orchestrator import Client, TaskSpec
from orchestrator.store import orgs
from orchestrator.store.sql import run
from tests.browser.conftest import Eyes, Looked
from tests.browser.town import FLOOD, Town
from tests.support.hostile import CANARY, XSS
from tests.support.http import Served, serving

SCREENS = {"/": "Now", "/orgs": "Orgs", "/queues": "Queues", "/leader": "Leader"}
PHONE = {"width": 390, "height": 844}


@pytest.fixture(autouse=True)
def patience() -> None:
    expect.set_options(timeout=20_000)


@pytest.fixture
def served(dsn: str) -> Iterator[Served]:
    """Serve a database of the test's own, where nothing runs."""
    with serving(dsn) as found:
        yield found


def is_too_wide(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth > innerWidth"))


def paths(shop: Town) -> list[str]:
    with psycopg.connect(shop.dsn) as connection:
        row = connection.execute(
            "select min(task_id) from orchestrator.staging_queue where org_id = %s", [FLOOD[0]]
        ).fetchone()
    assert row is not None
    task = row[0] or 1
    return [*SCREENS, "/simulate", f"/org?name={FLOOD[0]}", f"/task/{task}", f"/task/{task}/cancel",
            f"/org/pause?name={FLOOD[0]}", "/queue/pause?name=default"]  # fmt: skip


def test_who_logs_in_sees_every_screen_and_who_logs_out_none(shop: Town, eyes: Eyes) -> None:
    looked = eyes.open(shop.url)
    page = looked.log_in(shop.reader)

    for path, title in SCREENS.items():
        page.get_by_role("navigation", name="Screens").get_by_role("link", name=title).click()
        page.wait_for_url(shop.url + path)
        expect(page.get_by_role("heading", level=1)).to_have_text(title)
        expect(page.locator("#live")).to_have_attribute("data-seen", re.compile(r"\d+"))
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Log in")
    looked.go("/orgs")
    expect(page.get_by_role("heading", level=1)).to_have_text("Log in")


def test_a_wrong_token_is_told_so(shop: Town, eyes: Eyes) -> None:
    looked = eyes.open(shop.url)
    page = looked.go("/login")
    page.get_by_label("token").fill("guess")
    page.get_by_role("button", name="Log in").click()

    expect(page.get_by_role("status")).to_contain_text("unknown, expired or revoked")
    # Chromium tells the console of every answer that says no.
    looked.wrong.remove(
        "Failed to load resource: the server responded with a status of 403 (Forbidden)"
    )


def test_numbers_change_without_a_reload_and_rest_while_nobody_looks(
    shop: Town, eyes: Eyes
) -> None:
    looked = eyes.open(shop.url)
    page = looked.log_in(shop.reader)
    page.evaluate("window.unreloaded = true")
    region = page.locator("#live")
    expect(region).to_have_attribute("data-seen", re.compile(r"\d+"))
    seen = region.get_attribute("data-seen")
    expect(region).not_to_have_attribute("data-seen", seen or "")
    expect(page.locator("#pulse")).to_have_text("live")

    hide = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true});" \
        " document.dispatchEvent(new Event('visibilitychange'))"  # fmt: skip
    page.evaluate(hide % "true")
    expect(page.locator("#pulse")).to_have_text("paused")
    page.evaluate(hide % "false")
    expect(page.locator("#pulse")).to_have_text("live")
    assert page.evaluate("window.unreloaded")


def test_an_org_is_paused_and_resumed(shop: Town, eyes: Eyes) -> None:
    looked = eyes.open(shop.url)
    page = looked.log_in(shop.admin)
    looked.go("/orgs?order=name")
    page.get_by_role("link", name=f"pause {FLOOD[0]}").click()
    page.get_by_label("reason").fill("the import of last night")
    page.get_by_role("button", name="Pause it").click()

    expect(page.get_by_role("status")).to_contain_text("Paused")
    expect(page.get_by_role("row", name=re.compile("org.pause"))).to_contain_text("token mona")
    looked.go("/")
    expect(page.get_by_label("Alarms")).to_contain_text("1 paused org has a backlog")
    looked.go(f"/org?name={FLOOD[0]}")
    page.get_by_role("link", name="Resume…").click()
    page.get_by_role("button", name="Resume it").click()
    expect(page.get_by_role("status")).to_contain_text("Resumed")


def test_a_weight_is_changed_after_a_look_at_before_and_after(shop: Town, eyes: Eyes) -> None:
    looked = eyes.open(shop.url)
    page = looked.log_in(shop.admin)
    looked.go("/org?name=soylent")
    page.get_by_label("weight", exact=True).fill("3")
    page.get_by_role("button", name="Change…").click()
    expect(page.get_by_role("row", name=re.compile("^weight"))).to_have_text(re.compile("2.*3"))
    page.get_by_role("button", name="Change it").click()

    expect(page.get_by_role("status")).to_contain_text("Set")
    with psycopg.connect(shop.dsn) as connection:
        assert run(connection, orgs.get_org("soylent")).weight == 3


def test_a_simulation_shows_how_far_it_is_and_what_would_change(shop: Town, eyes: Eyes) -> None:
    looked = eyes.open(shop.url)
    page = looked.log_in(shop.reader)
    looked.go("/simulate")
    page.get_by_label("named").fill(FLOOD[0])
    page.get_by_label("of", exact=True).fill("50")
    page.get_by_role("button", name="Simulate").click()

    expect(page.get_by_role("row", name=re.compile("all tasks"))).to_be_visible(timeout=60_000)
    expect(page.get_by_role("row", name=re.compile(FLOOD[0]))).to_be_visible()


def test_without_javascript_every_screen_is_complete_and_forms_work(shop: Town, eyes: Eyes) -> None:
    looked = eyes.open(shop.url, java_script_enabled=False)
    page = looked.log_in(shop.admin)
    for path in paths(shop):
        looked.go(path)
        expect(page.get_by_role("heading", level=1)).to_be_visible()
    looked.go("/")
    expect(page.locator("svg.curves polyline").first).to_have_attribute("points", re.compile(","))
    looked.go("/org/pause?name=nobody")
    page.get_by_role("button", name="Pause it").click()
    expect(page.get_by_role("status")).to_contain_text("Paused")
    looked.go("/org/resume?name=nobody")
    page.get_by_role("button", name="Resume it").click()
    expect(page.get_by_role("status")).to_contain_text("Resumed")
    looked.go("/simulate")
    page.get_by_label("named").fill(FLOOD[0])
    page.get_by_label("of", exact=True).fill("50")
    page.get_by_role("button", name="Simulate").click()
    # The page asks for itself again until there is a result.
    expect(page.get_by_role("row", name=re.compile("all tasks"))).to_be_visible(timeout=60_000)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_in_one_direction_only(shop: Town, eyes: Eyes, scheme: str) -> None:
    looked = eyes.open(shop.url, viewport=PHONE, color_scheme=scheme)
    page = looked.go("/login")
    assert not is_too_wide(page)
    looked.log_in(shop.admin)

    for path in paths(shop):
        looked.go(path)
        assert not is_too_wide(page), path


def test_the_keyboard_reaches_everything(shop: Town, eyes: Eyes) -> None:
    looked = eyes.open(shop.url)
    page = looked.log_in(shop.admin)
    looked.go("/orgs?order=name")

    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('main') !== null")
    page.get_by_role("link", name=f"pause {FLOOD[0]}").focus()
    focused = page.evaluate("document.activeElement.id")
    seen = page.locator("#live").get_attribute("data-seen") or ""
    expect(page.locator("#live")).not_to_have_attribute("data-seen", seen)
    # What is replaced under the focus keeps it.
    assert page.evaluate("document.activeElement.id") == focused
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Pause")
    unlabelled = page.evaluate(
        "[...document.querySelectorAll('input:not([type=hidden]), select')]"
        ".filter(e => !e.labels.length).map(e => e.name)"
    )
    assert unlabelled == []


def test_nothing_stored_is_executed(served: Served, eyes: Eyes) -> None:
    with Client(served.dsn) as client:
        for text in XSS.values():
            client.enqueue_many([TaskSpec(name=text, org=text, payload={text: text})])
            client.pause_org(text, text)
    with psycopg.connect(served.dsn) as connection:
        connection.execute(
            "insert into orchestrator.task_attempt"
            " (queue, task_id, attempt, status, final, org_id, workload, worker, error)"
            " select queue, id, 1, 'failed', false, org_id, 'etl', name, name"
            " from orchestrator.task"
        )
        rows = connection.execute("select id, org_id from orchestrator.task order by id").fetchall()
    looked: Looked = eyes.open(served.url)
    page = looked.log_in(served.token("admin", name="<img src=x onerror=alert(0)>"))

    for path in SCREENS:
        looked.go(path)
        expect(page.locator("#live")).to_have_attribute("data-seen", re.compile(r"\d+"))
        assert page.evaluate(f"window.{CANARY}") is None
    for task, _ in rows:
        looked.go(f"/task/{task}")
        page.get_by_role("link", name="Cancel…").click()
        expect(page.get_by_role("heading", level=1)).to_have_text(f"Cancel task {task}?")
        assert page.evaluate(f"window.{CANARY}") is None
        page.get_by_role("link", name="No, back").click()
        page.locator("dd a").first.click()
        expect(page.get_by_role("heading", name="Configuration")).to_be_visible()
        assert page.evaluate(f"window.{CANARY}") is None
    assert page.evaluate("document.querySelectorAll('iframe, main img, main script').length") == 0
