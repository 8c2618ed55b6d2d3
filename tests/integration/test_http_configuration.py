"""Orgs, tiers, workloads and queues over HTTP."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from orchestrator import Client
from tests.integration.conftest import ask
from tests.support.http import Served, problem, serving


@pytest.fixture
def served(dsn: str) -> Iterator[Served]:
    with serving(dsn) as served:
        yield served


@pytest.fixture
def admin(served: Served) -> httpx.Client:
    return served.client("admin", name="ops")


def test_an_org_is_set_shown_paused_and_resumed(
    served: Served, admin: httpx.Client, client: Client
) -> None:
    path = "/v1/orgs/acme%2Feu"
    assert admin.get(path).json()["tier"] == "standard"
    set_to = admin.put(path, json={"tier": "premium", "burst_max": 7, "backlog_max": 900}).json()
    assert (set_to["tier"], set_to["burst_max"], set_to["backlog_max"]) == ("premium", 7, 900)
    kept = admin.put(path, json={"burst_max": None}).json()
    assert (kept["tier"], kept["burst_max"], kept["backlog_max"]) == ("premium", None, 900)
    paused = admin.post(f"{path}/pause", json={"reason": "unpaid invoice"}).json()
    assert paused["paused_at"]
    assert paused["paused_reason"] == "unpaid invoice"
    client.enqueue("t", org="acme/eu")
    shown = admin.get(path).json()
    assert shown["queues"] == [{"queue": "default", "staged": 1, "ready": 0, "claimed": 0}]
    assert admin.post(f"{path}/resume").json()["paused_at"] is None
    actors = "select string_agg(distinct actor || ' ' || object, ',') from orchestrator.audit_log"
    assert ask(served.dsn, f"{actors} where verb like 'org.%%'") == "token ops acme/eu"
    problem(admin.post("/v1/orgs/never/resume"), 404, "unknown-org")
    problem(admin.put(path, json={"tier": "none"}), 422, "unknown-tier")
    problem(admin.put(path, json={"burst_max": 0}), 422, "invalid-input")
    problem(admin.put(path, json={"colour": 1}), 422, "invalid-input")
    problem(admin.put("/v1/orgs/a%00b", json={}), 422, "invalid-input")


def test_orgs_come_in_pages_and_a_bound_reader_sees_its_own(
    served: Served, admin: httpx.Client, client: Client
) -> None:
    for number in range(5):
        client.set_org(f"org {number}", weight=number + 1)
    found: list[str] = []
    path: str | None = "/v1/orgs?limit=2"
    while path is not None:
        page = admin.get(path).json()
        found += [org["org"] for org in page["orgs"]]
        path = page["next"]
    assert found == [f"org {number}" for number in range(5)]
    bound = served.client("reader", org="org 3")
    assert [org["org"] for org in bound.get("/v1/orgs").json()["orgs"]] == ["org 3"]
    assert bound.get("/v1/orgs/org 3").json()["weight"] == 4
    for path in ("/v1/orgs/org 2", "/v1/tiers", "/v1/workloads", "/v1/queues"):
        problem(bound.get(path), 403, "forbidden")
    problem(bound.put("/v1/orgs/org 3", json={"weight": 1000}), 403, "forbidden")


def test_tiers_workloads_and_queues_are_set_and_listed(admin: httpx.Client) -> None:
    tier = {"weight": 5, "rank": 2, "burst_max": 9, "backlog_max": 100}
    assert admin.put("/v1/tiers/gold", json=tier).json() == {"name": "gold"} | tier
    assert admin.put("/v1/tiers/gold", json={"rank": 3}).json()["weight"] == 5
    tiers = admin.get("/v1/tiers").json()["tiers"]
    assert {"name": "gold"} | tier | {"rank": 3} in tiers
    workload = {"share": 3, "rank": 4, "express": True, "express_max_s": 2.0}
    assert admin.put("/v1/workloads/chat", json=workload).json() == {"name": "chat"} | workload
    assert {"name": "chat"} | workload in admin.get("/v1/workloads").json()["workloads"]
    queue = admin.put(
        "/v1/queues/renders", json={"capacity": 8, "headroom": 2.0, "policy": "strict"}
    ).json()
    assert (queue["capacity"], queue["headroom"], queue["policy"]) == (8, 2.0, "strict")
    assert admin.post("/v1/queues/renders/pause").json()["paused"] is True
    assert queue | {"paused": True} in admin.get("/v1/queues").json()["queues"]
    assert admin.post("/v1/queues/renders/resume").json()["paused"] is False
    problem(admin.post("/v1/queues/none/pause"), 404, "unknown-queue")
    problem(admin.put("/v1/queues/other", json={"headroom": 2.0}), 422, "invalid-input")
    problem(admin.put("/v1/queues/other", json={"policy": "random"}), 422, "invalid-input")
    problem(admin.put("/v1/tiers/gold", json={"weight": 0}), 422, "invalid-input")


def test_a_reader_looks_and_changes_nothing(served: Served) -> None:
    reader = served.client("reader")
    for path in ("/v1/orgs", "/v1/orgs/acme", "/v1/tiers", "/v1/workloads", "/v1/queues"):
        assert reader.get(path).status_code == 200
    for path in ("/v1/orgs/acme", "/v1/tiers/x", "/v1/workloads/x", "/v1/queues/x"):
        problem(reader.put(path, json={}), 403, "forbidden")
    problem(reader.post("/v1/orgs/acme/pause"), 403, "forbidden")
    problem(reader.post("/v1/queues/default/pause"), 403, "forbidden")
