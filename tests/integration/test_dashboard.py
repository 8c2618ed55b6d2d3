"""The dashboard's pages as a browser without JavaScript gets them: what they say, who may what."""

from __future__ import annotations

import html
import re
import time
from collections.abc import Iterator
from urllib.parse import urlencode

import httpx
import pytest

from orchestrator import Client
from orchestrator.model import Place
from orchestrator.store import leadership, orgs, tasks, tokens
from orchestrator.store.sql import run
from tests.support.hostile import INJECTION, TERMINAL, XSS
from tests.support.http import Served, serving
from tests.support.stage import Stage
from tests.support.waiting import until

# Markup, and what would forge lines of a stream, a header or a form.
HOSTILE = (
    *XSS.values(),
    "x\n\nevent: screen\ndata: <b>forged</b>",
    INJECTION["header"],
    TERMINAL["right_to_left"],
    TERMINAL["leading_space"],
)
SCREENS = ("/", "/orgs", "/queues", "/leader", "/simulate")


@pytest.fixture
def served(dsn: str) -> Iterator[Served]:
    with serving(dsn) as found:
        yield found


def form(page: httpx.Response, action: str) -> dict[str, str]:
    """Return the hidden fields of the form with this action."""
    found = re.search(
        rf'<form[^>]* action="{re.escape(action)}[?"].*?</form>', page.text, re.DOTALL
    )
    assert found, page.text
    fields = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', found[0])
    return dict(fields)


def enter(browser: httpx.Client, token: str, **headers: str) -> httpx.Response:
    fields = form(browser.get("/login"), "/login")
    return browser.post("/login", data={**fields, "token": token}, headers=headers)


def door(served: Served, *scopes: str, name: str | None = None) -> httpx.Client:
    """Return a browser that has logged in with a token of these scopes."""
    browser = served.client()
    answer = enter(browser, served.token(*scopes, name=name))
    assert answer.status_code == 303, answer.text
    return browser


def test_nothing_is_shown_without_a_session(served: Served) -> None:
    stranger = served.client()

    for path in (*SCREENS, "/org?name=a", "/task/1", "/find", "/simulate/x"):
        for cookie in ("", "orchestrator_session=" + "A" * 120, "orchestrator_session=\u00e9"):
            answer = stranger.get(path, headers={b"Cookie": cookie.encode()})
            assert answer.status_code == 303
            assert answer.headers["location"].startswith("/login?")
    answer = stranger.get("/live?screen=now")
    assert (answer.status_code, answer.text) == (401, "")


def test_a_token_opens_a_session_that_only_the_browser_keeps(served: Served) -> None:
    browser = served.client()

    answer = enter(browser, served.token("reader"))

    cookie = answer.headers["set-cookie"].lower()
    assert answer.status_code == 303
    assert all(part in cookie for part in ("httponly", "samesite=strict", "path=/", "max-age="))
    assert "secure" not in cookie
    for path in SCREENS:
        assert browser.get(path).status_code == 200
    page = browser.get("/")
    left = browser.post("/logout", data=form(page, "/logout"))
    assert left.status_code == 303
    assert browser.get("/").status_code == 303


def test_behind_tls_the_cookie_is_for_tls_alone(served: Served) -> None:
    browser = served.client()

    answer = enter(browser, served.token("reader"), **{"X-Forwarded-Proto": "https"})

    cookies = answer.headers.get_list("set-cookie")
    (session,) = [each for each in cookies if each.startswith("__Host-orchestrator_session=")]
    assert "secure" in session.lower()


def test_a_token_that_may_not_see_everything_is_told_so(served: Served) -> None:
    browser = served.client()

    for scope, org, why in (
        ("worker", None, "this token may not look"),
        ("producer", None, "this token may not look"),
        ("reader", "acme", "bound to org"),
    ):
        answer = enter(browser, served.token(scope, org=org))
        assert answer.status_code == 403
        assert why in answer.text
        assert browser.get("/").status_code == 303


def test_a_wrong_token_opens_nothing(served: Served) -> None:
    browser = served.client()

    for token in ("", "wrong", "x" * 5_000, "orch_\u00e4\u202e", "\0"):
        answer = enter(browser, token)
        assert answer.status_code == 403
        assert "unknown, expired or revoked" in answer.text
        assert browser.get("/").status_code == 303


def test_a_revoked_token_closes_its_sessions(served: Served, stage: Stage) -> None:
    browser = door(served, "admin", name="gone")
    with stage.db.transaction():
        run(stage.db, tokens.revoke("gone", actor="test"))

    until(lambda: browser.get("/").status_code == 303, "the session is over")


def test_the_login_leads_to_pages_of_ours_alone(served: Served) -> None:
    token = served.token("reader")

    for then in ("//evil.example", "https://evil.example", "/\\evil.example", "x", "/\u00e9"):
        browser = served.client()
        fields = form(browser.get("/login", params={"then": then}), "/login")
        answer = browser.post("/login", data={**fields, "then": then, "token": token})
        assert answer.headers["location"] == "/"


def test_the_login_leads_back_to_where_one_wanted_to_go(served: Served) -> None:
    browser = served.client()
    asked = browser.get("/orgs?order=oldest")
    fields = form(browser.get(asked.headers["location"]), "/login")

    answer = browser.post("/login", data={**fields, "token": served.token("reader")})

    assert answer.headers["location"] == "/orgs?order=oldest"


def test_every_answer_is_strict(served: Served) -> None:
    browser = door(served, "reader")

    for path in (*SCREENS, "/task/999", "/static/live.js", "/static/nothing", "/login"):
        headers = browser.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
    page = browser.get("/").text
    assert not re.search(r"<script(?![^>]* src=)|<style| style=| on\w+=", page)
    assert not re.search(r'(?:src|href|action)="(?:https?:)?//', page)


CHANGES: tuple[tuple[str, dict[str, str]], ...] = (
    ("/org/pause?name=acme", {"reason": "unpaid"}),
    ("/org/resume?name=acme", {}),
    ("/org/set?name=acme", {"tier": "premium", "weight": "7", "burst_max": "3"}),
    ("/queue/pause?name=default", {}),
    ("/queue/resume?name=default", {}),
    ("/task/1/cancel", {"reason": "no more"}),
    ("/task/1/retry", {}),
)


def prepare(stage: Stage, path: str) -> None:
    """Let there be something to change."""
    stage.enqueue(1, "acme")
    with stage.db.transaction():
        if path.startswith("/org/resume"):
            run(stage.db, orgs.pause_org("acme", None, actor="test"))
        if path.startswith("/queue/resume"):
            run(stage.db, orgs.pause_queue("default", paused=True, actor="test"))
        if path == "/task/1/retry":
            run(stage.db, tasks.cancel(1, reason="test"))


@pytest.mark.parametrize(("path", "fields"), CHANGES)
def test_a_form_changes_something_only_for_an_admin_on_a_page_of_ours(
    served: Served, stage: Stage, path: str, fields: dict[str, str]
) -> None:
    prepare(stage, path)
    admin = door(served, "admin", name="mona")
    csrf = form(admin.get("/"), "/logout")["csrf"]
    reader = door(served, "reader")
    readers = form(reader.get("/"), "/logout")["csrf"]
    audited = "select count(*) from orchestrator.audit_log where verb not like 'token.%%'"
    before = stage.one(audited)

    refused = [
        admin.post(path, data=fields),
        admin.post(path, data={**fields, "csrf": "x"}),
        admin.post(path, data={**fields, "csrf": readers}),
        admin.post(path, data={**fields, "csrf": csrf}, headers={"Origin": "https://evil.example"}),
        admin.post(path, data={**fields, "csrf": csrf}, headers={"Sec-Fetch-Site": "cross-site"}),
        admin.post(path, data={**fields, "csrf": csrf}, headers={"Sec-Fetch-Site": "same-site"}),
        reader.post(path, data={**fields, "csrf": readers}),
    ]

    assert [each.status_code for each in refused] == [403] * len(refused)
    assert served.client().post(path, data={**fields, "csrf": csrf}).status_code == 303  # to login
    question = admin.get(path + ("&" if "?" in path else "?") + "quoted=name%3Dacme&tier=premium")
    assert question.status_code == 200
    assert stage.one(audited) == before

    obeyed = admin.post(
        path,
        data={**fields, "csrf": csrf},
        headers={"Origin": served.url, "Sec-Fetch-Site": "same-origin"},
    )

    assert obeyed.status_code == 303, obeyed.text
    assert stage.one(audited) == before + 1
    assert stage.one("select actor from orchestrator.audit_log order by id desc limit 1") == (
        "token mona"
    )
    assert admin.get(obeyed.headers["location"]).status_code == 200


def test_an_org_is_paused_after_a_question_and_resumed(served: Served, stage: Stage) -> None:
    stage.enqueue(3, "acme")
    admin = door(served, "admin")
    question = admin.get("/org/pause", params={"name": "acme"})
    fields = form(question, "/org/pause")

    admin.post("/org/pause?name=acme", data={**fields, "reason": "unpaid"})

    config = run(stage.db, orgs.get_org("acme"))
    assert config.paused_at is not None
    assert config.paused_reason == "unpaid"
    assert "paused" in admin.get("/orgs").text
    assert "unpaid" in admin.get("/org", params={"name": "acme"}).text
    fields = form(admin.get("/org/resume", params={"name": "acme"}), "/org/resume")
    admin.post("/org/resume?name=acme", data=fields)
    assert run(stage.db, orgs.get_org("acme")).paused_at is None


def test_a_new_weight_and_cap_are_shown_before_they_are_set(served: Served, stage: Stage) -> None:
    admin = door(served, "admin")
    asked = {"quoted": "name=acme", "tier": "premium", "weight": "", "burst_max": "12"}
    question = admin.get("/org/set", params=asked)

    assert "premium" in question.text
    assert "12" in question.text
    admin.post("/org/set?name=acme", data=form(question, "/org/set"))

    config = run(stage.db, orgs.get_org("acme"))
    assert (config.tier, config.weight, config.burst_max) == ("premium", None, 12)


MISTAKES: tuple[tuple[str, dict[str, str], int, str], ...] = (
    ("/org/set", {"quoted": "name=a", "tier": "premium", "burst_max": "0"}, 422, "pause the org"),
    ("/org/set", {"quoted": "name=a", "tier": "premium", "weight": "1e3"}, 422, "whole number"),
    ("/org/set", {"quoted": "name=a", "tier": "no such"}, 422, "no tier"),
    ("/org", {"name": "a\0b"}, 422, "NUL"),
    ("/org", {"name": "x" * 201}, 422, "name"),
    ("/task/999", {}, 404, "no task 999"),
    ("/task/99999999999999999999", {}, 422, "task_id"),
    ("/", {"queue": "no such"}, 422, "no queue"),
    ("/orgs", {"order": "size"}, 422, "order"),
    ("/simulate/none", {}, 404, "no such simulation"),
)


def test_a_mistake_is_told_on_a_page(served: Served) -> None:
    admin = door(served, "admin")

    for path, params, status, says in MISTAKES:
        answer = admin.get(path, params=params)
        assert answer.status_code == status, path
        assert answer.headers["content-type"].startswith("text/html")
        assert says in answer.text


def test_a_number_finds_a_task_and_a_name_an_org(served: Served, stage: Stage) -> None:
    browser = door(served, "reader")

    assert browser.get("/find?q=%2341").headers["location"] == "/task/41"
    assert browser.get("/find?q=acme%26co").headers["location"] == "/org?name=acme%26co"


def test_the_screens_tell_what_status_tells(served: Served, stage: Stage) -> None:
    stage.set_org("flood", burst_max=4)
    ids = stage.enqueue(130, "flood", workload="api")
    stage.enqueue(2, "quiet")
    stage.leader().drain_ticks()
    browser = door(served, "reader")

    now = browser.get("/").text
    listed = browser.get("/orgs").text
    org = browser.get("/org?name=flood").text
    task = browser.get(f"/task/{ids[-1]}").text
    leader = browser.get("/leader").text

    assert "in flight" in now.lower()
    assert ">6<" in now  # ready, and in flight
    assert "noisy" in listed
    assert "quiet" in listed
    assert "pause" not in listed  # a reader is offered no change
    assert f'href="/task/{ids[-1]}"' in org
    assert "burst max" in task  # why it waits
    assert "staged" in task
    assert "Decision log" in leader
    assert "elected" in leader
    assert "flood" in leader


def test_scripts_are_shown_as_text_wherever_they_come_from(served: Served, stage: Stage) -> None:
    with Client(stage.dsn) as client:
        ids = [
            client.enqueue(text, {text: [text]}, org=text, headers={"x": text}).id
            for text in HOSTILE
        ]
    with stage.db.transaction():
        for text in HOSTILE:
            run(stage.db, orgs.pause_org(text, text, actor=text))
            run(stage.db, orgs.set_tier(text, weight=2, actor="test"))
        for text in HOSTILE[:3]:
            run(stage.db, orgs.set_queue(text, actor="test"))
    stage.do(
        "insert into orchestrator.task_attempt"
        " (queue, task_id, attempt, status, final, org_id, workload, worker, error)"
        " select queue, id, 1, 'failed', false, org_id, 'etl', name, name from orchestrator.task"
    )
    admin = door(served, "admin", name=XSS["script"])

    pages = [admin.get(path) for path in SCREENS]
    pages += [admin.get("/", params={"queue": text}) for text in HOSTILE[:3]]
    for text, task in zip(HOSTILE, ids, strict=True):
        wish = {"quoted": urlencode({"name": text}), "tier": text, "weight": "3"}
        pages += [
            admin.get("/org", params={"name": text}),
            admin.get("/org/set", params=wish),
            admin.get(f"/task/{task}"),
        ]

    markup = [text for text in HOSTILE if "<" in text]
    for page in pages:
        assert page.status_code == 200, page.text
        assert [text for text in markup if text in page.text] == []
        assert not re.search(r'(?:href|src|action)="(?:javascript|data):', page.text)
        # What a form sends back must be what is stored, to the letter.
        assert TERMINAL["right_to_left"] not in re.sub(r' value="[^"]*"', "", page.text)


def test_the_org_that_a_form_changes_is_the_one_that_is_shown(served: Served, stage: Stage) -> None:
    admin = door(served, "admin")

    for text in ("a\nb", " acme", "a&b=c", "a\r\nb"):
        page = admin.get("/org", params={"name": text}).text
        quoted = html.unescape(re.findall(r'name="quoted" value="([^"]*)"', page)[0])
        question = admin.get("/org/set", params={"quoted": quoted, "tier": "free"})
        action = html.unescape(re.findall(r'<form action="(/org/set[^"]*)"', question.text)[0])
        admin.post(action, data=form(question, "/org/set"))
        assert run(stage.db, orgs.get_org(text)).tier == "free"


def test_a_stored_line_break_forges_no_event(served: Served, stage: Stage) -> None:
    forged = "x\n\nevent: forged\ndata: y"
    with Client(stage.dsn) as client:
        client.enqueue("note", org=forged)
    browser = door(served, "reader")

    with browser.stream("GET", "/live?screen=orgs") as stream:
        text = ""
        for line in stream.iter_lines():
            text += line + "\n"
            if text.endswith("\n\n") and "forged" in text:
                break

    assert "\nevent: forged" not in text


def test_a_task_is_cancelled_and_retried(served: Served, stage: Stage) -> None:
    (task,) = stage.enqueue(1, "acme")
    admin = door(served, "admin")

    fields = form(admin.get(f"/task/{task}/cancel"), f"/task/{task}/cancel")
    admin.post(f"/task/{task}/cancel", data={**fields, "reason": "a mistake"})
    with Client(stage.dsn) as client:
        assert client.get(task).place is Place.ENDED
        page = admin.get(f"/task/{task}").text
        assert "cancelled" in page
        assert "a mistake" in page
        fields = form(admin.get(f"/task/{task}/retry"), f"/task/{task}/retry")
        admin.post(f"/task/{task}/retry", data=fields)
        assert client.get(task).place is Place.STAGED


def test_a_queue_is_paused_and_resumed(served: Served, stage: Stage) -> None:
    admin = door(served, "admin")

    for verb, paused in (("pause", True), ("resume", False)):
        fields = form(admin.get(f"/queue/{verb}?name=default"), f"/queue/{verb}")
        admin.post(f"/queue/{verb}?name=default", data=fields)
        (queue,) = run(stage.db, leadership.queues(["default"]))
        assert queue.paused is paused


def test_a_stream_does_not_keep_the_server(dsn: str) -> None:
    began = 0.0
    with serving(dsn) as served:
        browser = door(served, "reader")
        with browser.stream("GET", "/live?screen=now") as stream:
            lines = stream.iter_lines()
            while not next(lines).startswith("event:"):
                pass
            began = time.monotonic()
            served.server.should_exit = True
            for _ in lines:
                pass
    assert time.monotonic() - began < 9  # and not the ten seconds that requests are given
