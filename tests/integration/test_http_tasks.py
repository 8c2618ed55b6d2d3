"""Tasks over HTTP: each verb, as another program would call it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from orchestrator import Client, Explanation, Place, Reason, ReasonKind
from orchestrator.server.api.tasks import discreet
from orchestrator.store import backlog
from orchestrator.store.sql import Call, Operation
from tests.integration.conftest import ask
from tests.support.http import Served, problem, serving
from tests.support.stage import Stage
from tests.support.waiting import until

TASK = {"name": "resize", "payload": {"image": 7}, "org": "acme"}


@pytest.fixture
def served(dsn: str) -> Iterator[Served]:
    with serving(dsn, batch_max=50) as served:
        yield served


@pytest.fixture
def http(served: Served) -> httpx.Client:
    return served.client("producer")


def test_every_field_of_a_task_arrives(http: httpx.Client, client: Client) -> None:
    full = TASK | {
        "workload": "api",
        "priority": 9,
        "run_at": "2999-05-01T11:30:00+02:00",
        "expires_at": "2999-05-02T00:00:00Z",
        "idempotency_key": "seven",
        "max_attempts": 3,
        "timeout_s": 2.5,
        "headers": {"trace": "abc"},
        "critical": True,
    }
    response = http.post("/v1/tasks", json=full)
    assert response.status_code == 201
    task = http.get(response.headers["location"]).json()
    said = {name: value for name, value in full.items() if name in task}
    assert {name: task[name] for name in said} == said | {
        "run_at": "2999-05-01T09:30:00Z",
        "expires_at": "2999-05-02T00:00:00Z",
    }
    assert task["place"] == "scheduled"
    assert client.get(task["id"]).payload_text == '{"image": 7}'


def test_urgency_stands_for_a_priority_and_a_time_to_live_for_an_end(http: httpx.Client) -> None:
    for urgency, priority in (("critical", 10), (100, 10), ("task", 5), ("info", 1), (10, 1)):
        sent = http.post("/v1/tasks", json=TASK | {"urgency": urgency, "expires_in": 60})
        task = http.get(sent.headers["location"]).json()
        assert task["priority"] == priority
        assert task["expires_at"] > task["created_at"]
    for wrong in (
        {"urgency": "panic"},
        {"urgency": 11},
        {"urgency": "info", "priority": 5},
        {"urgency": "info", "critical": True},
        {"expires_in": 60, "expires_at": "2999-01-01T00:00:00Z"},
        {"expires_in": -1},
    ):
        problem(http.post("/v1/tasks", json=TASK | wrong), 422, "invalid-input")


def test_a_key_that_is_held_returns_its_task_or_a_conflict(http: httpx.Client) -> None:
    keyed = TASK | {"idempotency_key": "k"}
    first = http.post("/v1/tasks", json=keyed)
    assert (first.status_code, first.json()["created"]) == (201, True)
    again = http.post("/v1/tasks", json=keyed)
    assert (again.status_code, again.json()["created"]) == (200, False)
    assert again.json()["id"] == first.json()["id"]
    other = http.post("/v1/tasks", json=keyed | {"payload": 8})
    assert str(first.json()["id"]) in problem(other, 409, "idempotency-conflict")["detail"]
    batch = http.post("/v1/tasks/batch", json={"tasks": [TASK, keyed | {"payload": 8}]})
    problem(batch, 409, "idempotency-conflict")


def test_a_batch_is_stored_as_a_whole_or_not_at_all(served: Served, http: httpx.Client) -> None:
    tasks = [TASK | {"payload": number, "idempotency_key": str(number)} for number in range(3)]
    stored = http.post("/v1/tasks/batch", json={"tasks": tasks})
    assert stored.status_code == 201
    ids = [each["id"] for each in stored.json()["tasks"]]
    assert [http.get(f"/v1/tasks/{each}").json()["payload"] for each in ids] == [0, 1, 2]
    again = http.post("/v1/tasks/batch", json={"tasks": tasks})
    assert (again.status_code, [each["id"] for each in again.json()["tasks"]]) == (200, ids)
    assert http.post("/v1/tasks/batch", json={"tasks": []}).json() == {"tasks": []}
    wrong = http.post("/v1/tasks/batch", json={"tasks": [TASK, TASK | {"priority": 11}]})
    assert problem(wrong, 422, "invalid-input")["errors"][0]["field"] == "tasks.1.priority"
    nul = http.post("/v1/tasks/batch", json={"tasks": [TASK, TASK | {"payload": "\0"}]})
    assert problem(nul, 422, "invalid-input")["detail"].startswith("item 1: payload has a NUL")
    many = http.post("/v1/tasks/batch", json={"tasks": [TASK] * 51})
    problem(many, 413, "batch-too-large")
    assert ask(served.dsn, "select count(*) from orchestrator.task") == 3


def test_at_its_cap_an_org_is_told_its_depth(http: httpx.Client, dsn: str) -> None:
    with Stage(dsn) as stage:
        stage.set_org("acme", burst_max=2)
        leader = stage.leader()
        assert http.post("/v1/tasks", json=TASK).status_code == 201
        assert http.post("/v1/tasks", json=TASK).status_code == 201
        leader.tick()
        third = http.post("/v1/tasks", json=TASK)
        assert (third.status_code, third.json()["depth"]) == (202, 1)
        fourth = http.post("/v1/tasks", json=TASK)
        assert (fourth.status_code, fourth.json()["depth"]) == (202, 2)
        assert http.post("/v1/tasks", json=TASK | {"org": "other"}).status_code == 201


def test_a_task_that_was_stored_is_told_as_that_though_its_depth_cannot_be_counted(
    http: httpx.Client, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaking(queue: str, org: str) -> Operation:
        return (yield Call(b"select pg_terminate_backend(pg_backend_pid())", {}))

    monkeypatch.setattr(backlog, "capped_depth", breaking)
    assert http.post("/v1/tasks", json=TASK).status_code == 201
    assert ask(dsn, "select count(*) from orchestrator.task") == 1


def test_lists_come_in_pages(served: Served, http: httpx.Client) -> None:
    tasks = [TASK | {"org": "acme" if number % 2 else "other"} for number in range(10)]
    ids = [t["id"] for t in http.post("/v1/tasks/batch", json={"tasks": tasks}).json()["tasks"]]
    found: list[int] = []
    path: str | None = "/v1/tasks?org=acme&place=staged&limit=2"
    while path is not None:
        page = http.get(path).json()
        found += [task["id"] for task in page["tasks"]]
        path = page["next"]
    assert found == ids[1::2][::-1]
    bound = served.client("reader", org="other")
    assert {task["org"] for task in bound.get("/v1/tasks").json()["tasks"]} == {"other"}
    problem(bound.get("/v1/tasks?org=acme"), 403, "forbidden")
    for wrong in ("limit=0", "limit=x", "place=nowhere", "before=-1", "colour=red", "queue="):
        problem(http.get(f"/v1/tasks?{wrong}"), 422, "invalid-input")
    problem(http.get("/v1/tasks?queue=none"), 422, "unknown-queue")


def test_cancel_and_retry(served: Served, http: httpx.Client) -> None:
    path = http.post("/v1/tasks", json=TASK).headers["location"]
    problem(http.post(f"{path}/retry"), 409, "task-unfinished")
    bound = served.client("producer", org="other")
    problem(bound.post(f"{path}/cancel"), 404, "task-not-found")
    problem(bound.post(f"{path}/retry"), 404, "task-not-found")
    problem(bound.get(f"{path}/explain"), 404, "task-not-found")
    assert http.get(path).json()["place"] == "staged"
    cancelled = http.post(f"{path}/cancel", json={"reason": "no longer wanted"})
    assert cancelled.json()["outcome"] == "cancelled"
    ended = http.get(path).json()
    assert (ended["status"], ended["history"][0]["error"]) == ("cancelled", "no longer wanted")
    assert http.post(f"{path}/cancel").json()["outcome"] == "ended"
    assert http.post(f"{path}/retry").status_code == 200
    assert http.get(path).json()["place"] == "staged"
    for missing in ("/v1/tasks/999999/cancel", "/v1/tasks/999999/retry"):
        problem(http.post(missing), 404, "task-not-found")
    problem(http.get("/v1/tasks/0"), 422, "invalid-input")
    problem(http.get("/v1/tasks/99999999999999999999"), 422, "invalid-input")


def test_explain_tells_why(http: httpx.Client) -> None:
    path = http.post("/v1/tasks", json=TASK).headers["location"]
    told = http.get(f"{path}/explain").json()
    assert told["place"] == "staged"
    assert told["reasons"][0]["kind"] == "leader_absent"


def test_an_org_learns_how_many_others_go_first_not_who(client: Client) -> None:
    told = client.explain(client.enqueue("t", org="acme").id)
    own = Reason(kind=ReasonKind.BEHIND_OWN_TASKS, text="3 of acme go first.", orgs=("acme",))
    others = Reason(
        kind=ReasonKind.BEHIND_ORGS,
        text="2 other orgs go first: rival, foe.",
        count=2,
        orgs=("rival", "foe"),
    )
    explanation = Explanation(
        id=told.id,
        org="acme",
        queue="default",
        workload="etl",
        place=Place.STAGED,
        at=told.at,
        line_at=None,
        reasons=(own, others),
    )
    shown = discreet(explanation)
    assert shown.reasons[0] == own
    assert "rival" not in str(shown)
    assert (shown.reasons[1].count, shown.reasons[1].orgs) == (2, ())


def test_an_org_over_its_backlog_max_is_told_when_to_come_again(
    served: Served, http: httpx.Client, client: Client
) -> None:
    client.set_org("acme", backlog_max=2)
    # What a process knows of bounds is at most seconds old.
    answers: list[httpx.Response] = []

    def refused_now() -> bool:
        answers.append(http.post("/v1/tasks", json=TASK))
        return answers[-1].is_error

    until(refused_now, "the bound is known to the server")
    refused = answers[-1]
    body = problem(refused, 429, "backlog-full")
    assert "'acme'" in body["detail"]
    assert int(refused.headers["retry-after"]) >= 1
    assert http.post("/v1/tasks", json=TASK | {"org": "other"}).status_code == 201


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("", "body"),
        ("{", "is not JSON"),
        ('{"name": "t", "org": "a", "payload": NaN}', "NaN, which is no JSON number"),
        ('{"name": "t", "org": "a", "payload": -Infinity}', "-Infinity"),
        ('{"name": "t", "org": "a", "payload": 1e400}', "1e400, which is too large"),
        ('{"name": "t", "org": "a", "name": "u"}', "the key 'name' twice"),
        ('{"name": "t", "org": "a", "payload": {"x": {"y": 1, "y": 2}}}', "the key 'y' twice"),
        ('{"name": "t", "org": "a", "payload": "\\ud800"}', "lone surrogate"),
        ('{"name": "t", "org": "a", "payload": "\\u0000"}', "NUL"),
        ('{"name": "t\\u0000", "org": "a"}', "NUL"),
        ('{"name": "t", "org": "a", "payload": ' + "1" * 5000 + "}", "thousands of digits"),
        ('{"name": "t", "org": "a", "payload": ' + "[" * 200 + "]" * 200 + "}", "nested"),
        ('{"name": "t", "org": "a", "payload": ' + "[" * 99999 + "]" * 99999 + "}", "nested"),
        (b'{"name": "t", "org": "\xff"}', "not UTF-8 at byte 22"),
        ("[]", "dictionary"),
        ("null", "body"),
        ('{"org": "a"}', "name: Field required"),
        ('{"name": "", "org": "a"}', "name: "),
        ('{"name": "t", "org": "' + "x" * 201 + '"}', "org: "),
        ('{"name": "t", "org": "a", "colour": 1}', "colour: "),
        ('{"name": "t", "org": "a", "priority": 0}', "priority: "),
        ('{"name": "t", "org": "a", "priority": true}', "priority: "),
        ('{"name": "t", "org": "a", "priority": "5"}', "priority: "),
        ('{"name": "t", "org": "a", "priority": 5.5}', "priority: "),
        ('{"name": "t", "org": "a", "delay": -1}', "delay must be"),
        ('{"name": "t", "org": "a", "delay": 1e300}', "delay must be"),
        ('{"name": "t", "org": "a", "run_at": "2026-05-01T09:30:00"}', "no time zone"),
        ('{"name": "t", "org": "a", "run_at": "tomorrow"}', "run_at: give an instant"),
        ('{"name": "t", "org": "a", "run_at": 17}', "run_at: give an instant"),
        ('{"name": "t", "org": "a", "run_at": "9999-12-31T23:59:59-12:00"}', "run_at must lie"),
        ('{"name": "t", "org": "a", "headers": {"k": 1}}', "headers.k: "),
        ('{"name": "t", "org": "a", "timeout_s": 0}', "timeout_s must be"),
        ('{"name": "t", "org": "a", "critical": "yes"}', "critical: "),
        ('{"name": "t", "org": "a", "queue": "none"}', "no queue 'none'"),
        ('{"name": "t", "org": "a", "workload": "none"}', "no workload 'none'"),
    ],
)
def test_a_body_that_is_wrong_is_refused_and_named(
    hostile: httpx.Client, body: Any, words: str
) -> None:
    response = hostile.post("/v1/tasks", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code in (400, 422), response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert words in response.json()["detail"]
    # The next one is served as if nothing had been.
    assert hostile.post("/v1/tasks", json=TASK).status_code == 201


@pytest.fixture(scope="module")
def hostile(server: Any, template: str) -> Iterator[httpx.Client]:
    """Yield a client of a server that all cases share: none of them may leave a trace."""
    from tests.conftest import _administer

    _administer(server, "create database {} template {} strategy file_copy", "hostile", template)
    with serving(server.database("hostile")) as served:
        yield served.client("producer")
    _administer(server, "drop database {} with (force)", "hostile")
