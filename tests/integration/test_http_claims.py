"""The worker's side of the HTTP API: claim, wait, extend, end, report."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from orchestrator import Client
from orchestrator.leader.replica import Replica
from orchestrator.model import AttemptStatus, Place
from orchestrator.store import orgs
from orchestrator.store.sql import run
from tests.support.http import Served, problem, serving
from tests.support.ready import put_ready
from tests.support.stage import Stage
from tests.support.waiting import until


@pytest.fixture
def served(stage: Stage) -> Iterator[Served]:
    with serving(stage.dsn) as served:
        yield served


@pytest.fixture
def worker(served: Served) -> httpx.Client:
    return served.client("worker", name="w")


def claim(worker: httpx.Client, **body: Any) -> list[dict[str, Any]]:
    response = worker.post("/v1/claim", json=body)
    assert response.status_code == 200, response.text
    claims: list[dict[str, Any]] = response.json()["claims"]
    return claims


def ended(stage: Stage, task: int) -> list[tuple[Any, ...]]:
    """Return how the attempts of a task ended, and who made them."""
    return stage.rows(
        "select status, worker from orchestrator.task_attempt where task_id = %s order by ended_at",
        task,
    )


def test_a_claim_tells_all_that_a_worker_needs(stage: Stage, worker: httpx.Client) -> None:
    (task,) = put_ready(stage, name="resize", payload={"image": "ü", "n": 2**70}, timeout_s=9)
    (claimed,) = claim(worker, limit=5, lease_s=60)
    assert claimed["id"] == task
    assert claimed["name"] == "resize"
    assert claimed["payload"] == {"image": "ü", "n": 2**70}
    assert claimed["org"] == "a"
    assert claimed["queue"] == "default"
    assert claimed["attempt"] == 1
    assert claimed["timeout_s"] == 9
    assert int(claimed["dispatch_key"])  # as text: JSON's numbers are not that long everywhere
    assert stage.rows("select worker, claim_id::text from orchestrator.lease") == [
        ("w", claimed["claim_id"])
    ]


def test_a_payload_that_python_cannot_decode_harms_nobody(
    stage: Stage, worker: httpx.Client
) -> None:
    put_ready(stage, 2)
    deep = "[" * 5000 + "]" * 5000
    stage.do("update orchestrator.task set payload = %s::jsonb where id = 1", deep)
    response = worker.post("/v1/claim", json={"limit": 2})
    assert response.status_code == 200
    assert deep.encode() in response.content.replace(b" ", b"")


def test_it_is_acked_as_it_came_and_its_lease_goes_with_it(
    stage: Stage, worker: httpx.Client
) -> None:
    tasks = put_ready(stage, 3)
    claims = claim(worker, limit=3)
    response = worker.post("/v1/ack", json={"claims": claims[:2]})
    assert response.json() == {"ended": [{"id": each, "status": "succeeded"} for each in tasks[:2]]}
    assert stage.one("select count(*) from orchestrator.lease") == 1
    last = {key: claims[2][key] for key in ("id", "claim_id", "dispatch_key")}
    response = worker.post("/v1/ack", json={"claims": [last], "worker": "other"})
    assert response.status_code == 200
    assert stage.one("select count(*) from orchestrator.lease") == 0
    assert ended(stage, tasks[0]) == [("succeeded", "w")]
    assert ended(stage, tasks[2]) == [("succeeded", "other")]


def test_any_process_of_the_api_may_be_asked_to_end_a_claim(
    stage: Stage, worker: httpx.Client
) -> None:
    (task,) = put_ready(stage)
    claims = claim(worker)
    with serving(stage.dsn) as other:
        assert other.client("worker").post("/v1/ack", json={"claims": claims}).status_code == 200
    assert len(ended(stage, task)) == 1


def test_a_stale_claim_ends_nothing_and_is_named_by_its_place(
    stage: Stage, worker: httpx.Client
) -> None:
    tasks = put_ready(stage, 3)
    claims = claim(worker, limit=3)
    stale = [dict(claims[0]), dict(claims[1], claim_id="0" * 8 + claims[1]["claim_id"][8:])]
    assert worker.post("/v1/ack", json={"claims": claims[:1]}).status_code == 200
    for verb, more in (("ack", {}), ("nack", {"error": "no"}), ("release", {}), ("extend", {})):
        response = worker.post(f"/v1/{verb}", json={"claims": [stale[1]]} | more)
        told = problem(response, 409, "lease-lost")
        assert told["errors"] == [
            {"field": "claims.0", "detail": f"no valid claim on task {tasks[1]}"}
        ]
    told = problem(worker.post("/v1/ack", json={"claims": [*stale, claims[2]]}), 409, "lease-lost")
    assert [each["field"] for each in told["errors"]] == ["claims.0", "claims.1"]
    # The one that stands was ended, the others were not touched.
    assert ended(stage, tasks[2]) == [("succeeded", "w")]
    assert ended(stage, tasks[1]) == []


def test_a_failed_attempt_is_tried_again_or_not(stage: Stage, worker: httpx.Client) -> None:
    tasks = put_ready(stage, 3)
    claims = claim(worker, limit=3)
    nack = {"claims": claims[:1], "error": "disk\0 full", "delay_s": 0}
    assert worker.post("/v1/nack", json=nack).json()["ended"][0]["status"] == "failed"
    assert stage.one("select attempt from orchestrator.staging_queue") == 1
    later = {"claims": claims[1:2], "error": "busy"}
    assert worker.post("/v1/nack", json=later).json()["ended"][0]["status"] == "failed"
    assert stage.one("select task_id from orchestrator.scheduled_queue") == tasks[1]
    final = {"claims": claims[2:], "error": "bad input", "final": True}
    assert worker.post("/v1/nack", json=final).json()["ended"][0]["status"] == "discarded"


def test_a_released_task_keeps_its_attempts(stage: Stage, worker: httpx.Client) -> None:
    put_ready(stage, 2)
    claims = claim(worker, limit=2)
    assert worker.post("/v1/release", json={"claims": claims[:1]}).status_code == 200
    snooze = {"claims": claims[1:], "delay_s": 60}
    assert worker.post("/v1/release", json=snooze).json()["ended"][0]["status"] == "snoozed"
    assert stage.one("select attempt from orchestrator.staging_queue") == 0
    assert stage.one("select attempt from orchestrator.scheduled_queue") == 0


# Heartbeats


def test_a_heartbeat_extends_tells_and_claims(stage: Stage, worker: httpx.Client) -> None:
    tasks = put_ready(stage, 5)
    claims = claim(worker, limit=2, lease_s=5) + claim(worker, limit=1, lease_s=5)
    stage.expire_leases([claims[2]["claim_id"]])
    with Client(stage.dsn) as client:
        client.cancel(tasks[0])
    stage.do(
        "update orchestrator.lease set yielding = array[%s::bigint] where claim_id = %s",
        int(claims[1]["dispatch_key"]),
        claims[1]["claim_id"],
    )
    body = {"claims": claims, "spare": 1, "lease_s": 600, "worker": "w7"}
    told = worker.post("/v1/heartbeat", json=body).json()
    assert told["cancelled"] == [tasks[0]]
    assert told["yielding"] == [tasks[1]]
    assert told["lost"] == [tasks[2]]
    assert [each["id"] for each in told["claims"]] == [tasks[3]]
    assert [each["claim_id"] for each in told["extended"]] == [claims[0]["claim_id"]]
    left = "select expires_at > now() + interval '9 minutes' from orchestrator.lease"
    assert stage.rows(f"{left} where worker = 'w' and claim_id = %s", claims[0]["claim_id"]) == [
        (True,)
    ]


def test_a_heartbeat_without_room_takes_nothing(stage: Stage, worker: httpx.Client) -> None:
    put_ready(stage)
    told = worker.post("/v1/heartbeat", json={}).json()
    assert told == {"extended": [], "lost": [], "cancelled": [], "yielding": [], "claims": []}
    assert claim(worker, limit=0) == []
    assert stage.one("select count(*) from orchestrator.lease") == 0


REFUSED: list[tuple[str, Any, int]] = [
    ("claim", {"limit": -1}, 400),
    ("heartbeat", {"spare": -1}, 400),
    ("claim", {"limit": 1001}, 422),
    ("claim", {"limit": True}, 422),
    ("claim", {"limit": "3"}, 422),
    ("claim", {"limit": 1.5}, 422),
    ("claim", {"queues": []}, 422),
    ("claim", {"queues": "default"}, 422),
    ("claim", {"queues": ["default"] * 101}, 422),
    ("claim", {"queues": ["nowhere"]}, 422),
    ("claim", {"queues": ["default", "a\0b"]}, 422),
    ("claim", {"wait_s": 30.5}, 422),
    ("claim", {"wait_s": -1}, 422),
    ("claim", {"lease_s": 0}, 422),
    ("claim", {"lease_s": 1e9}, 422),
    ("claim", {"worker": ""}, 422),
    ("claim", {"worker": "a\0b"}, 422),
    ("claim", {"worker": "w" * 201}, 422),
    ("claim", {"orgs": ["a"]}, 422),
    ("ack", {}, 422),
    ("ack", {"claims": []}, 422),
    ("ack", {"claims": [{"id": 1}]}, 422),
    ("ack", {"claims": [{"id": 1, "claim_id": "x", "dispatch_key": "1"}]}, 422),
    ("ack", {"claims": [{"id": 1, "claim_id": "0" * 32, "dispatch_key": "9" * 19}]}, 422),
    ("ack", {"claims": [{"id": 1, "claim_id": "0" * 32, "dispatch_key": 1}]}, 422),
    ("ack", {"claims": [{"id": 1, "claim_id": "0" * 32, "dispatch_key": "1"}] * 1001}, 422),
    ("nack", {"claims": [{"id": 1, "claim_id": "0" * 32, "dispatch_key": "1"}]}, 422),
]


def test_what_makes_no_sense_is_refused_and_takes_nothing(
    stage: Stage, worker: httpx.Client
) -> None:
    put_ready(stage)
    for path, body, status in REFUSED:
        response = worker.post(f"/v1/{path}", json=body)
        assert response.status_code == status, (path, body, response.text)
        assert response.headers["content-type"] == "application/problem+json"
    assert stage.one("select count(*) from orchestrator.lease") == 0
    assert len(claim(worker)) == 1


def test_only_workers_may_claim(stage: Stage, served: Served) -> None:
    put_ready(stage)
    for scopes in (["producer"], ["reader"], ["producer", "reader"]):
        for path in ("claim", "heartbeat", "extend", "ack", "nack", "release"):
            problem(served.client(*scopes).post(f"/v1/{path}", json={}), 403, "forbidden")
    assert len(claim(served.client("admin"))) == 1


def test_a_token_that_was_bound_to_an_org_by_hand_is_given_no_task(
    stage: Stage, served: Served
) -> None:
    put_ready(stage)
    secret = served.token("worker", name="bound")
    stage.do("alter table orchestrator.api_token disable trigger all")
    for (name,) in stage.rows(
        "select conname from pg_constraint where contype = 'c'"
        " and conrelid = 'orchestrator.api_token'::regclass"
    ):
        stage.do(f"alter table orchestrator.api_token drop constraint {name}")
    stage.do("update orchestrator.api_token set org_id = 'a' where name = 'bound'")
    headers = {"Authorization": f"Bearer {secret}"}
    problem(served.client().post("/v1/claim", json={}, headers=headers), 403, "forbidden")


# Several queues


def test_one_call_takes_from_several_queues_up_to_its_limit(
    stage: Stage, worker: httpx.Client
) -> None:
    with stage.db.transaction():
        run(stage.db, orgs.set_queue("other", actor="test"))
    tasks = put_ready(stage, 3)
    found = claim(worker, queues=["other", "default", "other"], limit=2)
    assert [each["id"] for each in found] == tasks[:2]


# Waiting


def test_a_long_poll_is_answered_when_work_comes(
    stage: Stage, served: Served, replica: Replica
) -> None:
    worker, producer = served.client("worker"), served.client("producer")
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(claim, worker, wait_s=20)
        task = producer.post("/v1/tasks", json={"name": "t", "org": "a"}).json()["id"]
        assert [each["id"] for each in waiting.result(20)] == [task]


def test_a_long_poll_that_finds_nothing_ends_in_time(worker: httpx.Client) -> None:
    began = time.monotonic()
    assert claim(worker, wait_s=0.4) == []
    assert 0.39 <= time.monotonic() - began < 10


def test_a_server_that_ends_lets_those_who_wait_go(stage: Stage) -> None:
    with ThreadPoolExecutor(1) as threads:
        with serving(stage.dsn) as served:
            worker = served.client("worker")
            waiting = threads.submit(claim, worker, wait_s=30)
            lines = served.hub._lines
            until(lambda: lines and lines["default"].waits, "it waits")
            began = time.monotonic()
            served.server.should_exit = True
            assert waiting.result(25) == []
        assert time.monotonic() - began < 25  # and not the thirty seconds that it asked for


def test_a_poll_that_finds_nothing_is_logged_for_debugging_only(
    stage: Stage, worker: httpx.Client
) -> None:
    with capture_logs() as lines:
        assert claim(worker) == []
        put_ready(stage)
        stage.do("notify orchestrator_ready_1")
        until(lambda: claim(worker), "it is found")

        def levels() -> list[str]:
            return [each["log_level"] for each in lines if each["event"] == "http.request"]

        # A line is written after the answer was sent.
        until(lambda: levels()[-1:] == ["info"], "the last one is logged")
    assert set(levels()[:-1]) == {"debug"}


def hang_up(served: Served, body: dict[str, Any], before: threading.Event) -> None:
    """Send a claim, wait for the event, and hang up without reading the answer."""
    secret = served.token("worker")
    host, port = served.url.removeprefix("http://").split(":")
    sent = json.dumps(body).encode()
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"POST /v1/claim HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            + f"Authorization: Bearer {secret}\r\nContent-Length: {len(sent)}\r\n\r\n".encode()
            + sent
        )
        assert before.wait(20)


def test_a_client_that_hangs_up_while_it_waits_is_given_nothing(
    stage: Stage, served: Served, worker: httpx.Client
) -> None:
    before = threading.Event()
    with ThreadPoolExecutor(2) as threads:
        hanging = threads.submit(hang_up, served, {"wait_s": 30}, before)
        lines = served.hub._lines
        # During a look it would be given what the look finds, and that be released.
        until(
            lambda: lines and lines["default"].waits and not lines["default"].news,
            "it has looked and waits",
        )
        before.set()
        hanging.result(20)
        until(lambda: not lines["default"].waits, "it left the line")
        (task,) = put_ready(stage)
        stage.do("notify orchestrator_ready_1")
        assert [each["id"] for each in claim(worker, wait_s=5)] == [task]
    assert stage.one("select count(*) from orchestrator.lease") == 1


def test_what_was_claimed_for_a_client_that_hung_up_is_released_at_once(
    stage: Stage, served: Served
) -> None:
    (task,) = put_ready(stage)
    before = threading.Event()
    blocker = stage.connect()
    with ThreadPoolExecutor(1) as threads:
        with blocker.transaction():
            blocker.execute("lock table orchestrator.lease in exclusive mode")
            hanging = threads.submit(hang_up, served, {"lease_s": 3600}, before)
            waits = "select count(*) from pg_locks where not granted"
            until(lambda: stage.one(waits), "the claim waits for its lease")
            before.set()
            hanging.result(20)
            until(lambda: not served.hub._lines["default"]._asleep, "the call was given up")
        released = "select status from orchestrator.task_attempt where task_id = %s"
        assert until(lambda: stage.rows(released, task), "released") == [(AttemptStatus.RELEASED,)]


def test_an_answer_that_was_lost_comes_again_when_its_lease_is_over(
    stage: Stage, served: Served, replica: Replica
) -> None:
    worker = served.client("worker")
    with Client(stage.dsn) as client:
        task = client.enqueue("t", None, org="a").id
        (lost,) = claim(worker, wait_s=20, lease_s=1)  # suppose that this never arrived
        (again,) = claim(worker, wait_s=20)
        assert again["id"] == task
        assert again["attempt"] == 2
        # A late handler of the first one cannot end the second one's.
        problem(worker.post("/v1/ack", json={"claims": [lost]}), 409, "lease-lost")
        assert client.get(task).place is Place.CLAIMED
        assert worker.post("/v1/ack", json={"claims": [again]}).status_code == 200
