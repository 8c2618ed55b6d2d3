"""Who may use the HTTP API, and for which org."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from orchestrator.server.auth import TRUST_S
from orchestrator.store import tokens
from orchestrator.store.sql import run
from tests.integration.conftest import ask
from tests.support.http import Served, problem, serving

TASK = {"name": "resize", "payload": {"image": 7}}


@pytest.fixture
def served(dsn: str) -> Iterator[Served]:
    with serving(dsn) as served:
        yield served


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Basic dXNlcjpwYXNz"},
        {"Authorization": "Bearer orch_" + "A" * 43},
        {"Authorization": "Bearer " + "A" * 5000},
        {"Authorization": b"Bearer \xff\xfe"},
    ],
)
def test_without_a_valid_token_nothing_is_served(served: Served, headers: Any) -> None:
    response = served.client().post("/v1/tasks", json=TASK | {"org": "a"}, headers=headers)
    problem(response, 401, "unauthorized")
    assert response.headers["www-authenticate"] == "Bearer"
    assert ask(served.dsn, "select count(*) from orchestrator.task") == 0


def test_a_path_that_is_not_served_tells_strangers_nothing(served: Served) -> None:
    problem(served.client().get("/v1/nothing"), 401, "unauthorized")
    problem(served.client("reader").get("/v1/nothing"), 404, "not-found")
    problem(served.client("reader").put("/v1/tasks/1"), 405, "method-not-allowed")


def test_a_scope_opens_its_own_verbs_and_an_admin_all(served: Served) -> None:
    task = TASK | {"org": "a"}
    problem(served.client("reader").post("/v1/tasks", json=task), 403, "forbidden")
    problem(served.client("worker").post("/v1/tasks", json=task), 403, "forbidden")
    enqueued = served.client("producer").post("/v1/tasks", json=task)
    assert enqueued.status_code == 201
    path = enqueued.headers["location"]
    problem(served.client("worker").get(path), 403, "forbidden")
    for scopes in (["reader"], ["producer"], ["admin"], ["worker", "reader"]):
        assert served.client(*scopes).get(path).json()["payload"] == {"image": 7}
    assert served.client("admin").post("/v1/tasks", json=task).status_code == 201


def test_the_org_comes_from_a_bound_token(served: Served) -> None:
    acme = served.client("producer", org="acme")
    enqueued = acme.post("/v1/tasks", json=TASK)
    assert acme.get(enqueued.headers["location"]).json()["org"] == "acme"
    assert acme.post("/v1/tasks", json=TASK | {"org": "acme"}).status_code == 201
    problem(acme.post("/v1/tasks", json=TASK | {"org": "other"}), 403, "forbidden")
    problem(served.client("producer").post("/v1/tasks", json=TASK), 422, "invalid-input")


def test_another_orgs_task_is_one_that_does_not_exist(served: Served) -> None:
    theirs = served.client("producer").post("/v1/tasks", json=TASK | {"org": "other"}).json()["id"]
    acme = served.client("producer", "reader", org="acme")
    found = problem(acme.get(f"/v1/tasks/{theirs}"), 404, "task-not-found")
    missing = problem(acme.get(f"/v1/tasks/{theirs + 1000}"), 404, "task-not-found")
    assert found == missing | {"detail": f"no task {theirs}"}


def test_a_revoked_token_opens_nothing_within_five_seconds(served: Served) -> None:
    client = served.client("producer", name="shop")
    assert client.post("/v1/tasks", json=TASK | {"org": "a"}).status_code == 201
    with psycopg.connect(served.dsn) as connection:
        run(connection, tokens.revoke("shop", actor="test"))
    revoked = time.monotonic()
    assert TRUST_S < 5
    # By when it was sent: a slow machine may take its time to answer.
    sent = revoked
    while client.post("/v1/tasks", json=TASK | {"org": "a"}).status_code == 201:
        assert sent - revoked < TRUST_S + 1
        sent = time.monotonic()


def test_a_token_that_expired_opens_nothing(served: Served) -> None:
    client = served.client("producer", name="brief")
    with psycopg.connect(served.dsn) as connection:
        connection.execute(
            "update orchestrator.api_token set expires_at = clock_timestamp() where name = 'brief'"
        )
    problem(client.post("/v1/tasks", json=TASK | {"org": "a"}), 401, "unauthorized")


def test_only_a_digest_of_a_token_is_stored(served: Served) -> None:
    secret = served.token("reader")
    stored = ask(served.dsn, "select t::text from orchestrator.api_token t")
    assert secret not in stored
    assert tokens.digest(secret).hex() in stored
