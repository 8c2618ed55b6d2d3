"""Two API processes share a Redis that is killed, paused, flushed and filled with nonsense."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.cli import Shell
from tests.acceptance.test_cli_processes import Staying, staying
from tests.support.invariants import check
from tests.support.redis import RedisServer, needs_redis, redis_server
from tests.support.stage import Stage
from tests.support.waiting import until

pytestmark = [pytest.mark.faults, needs_redis]
SEED = int(os.environ.get("SEED", "7"))
WORKERS, FAULTS_OF_A_KIND, BURST_MAX = 6, 2, 8
# Every seventh task is given back at first.
GIVEN_BACK = 7
VERDICT_TTL_S = 1
# What no reader may take for a version, and the last one that can be counted.
NONSENSE = [b"", b"nonsense", b"-1", b"\xff", b"1" * 40, str(2**63 - 1).encode()]


class Storm:
    """Does something to Redis again and again, drawn from a seed."""

    def __init__(self, redis: RedisServer, seed: int) -> None:
        self._redis = redis
        self._random = random.Random(seed)
        self.over = threading.Event()
        self.met: Counter[str] = Counter()

    def rage(self) -> None:
        """Do each fault as often as the others, in an order of the seed's."""
        faults: list[Callable[[], None]] = [
            self.killed, self.paused, self.flushed, self.filled, self.lied_to,
        ]  # fmt: skip
        faults *= FAULTS_OF_A_KIND
        self._random.shuffle(faults)
        try:
            for fault in faults:
                # After a failure it is left alone for a while.
                until(lambda: self._redis.client.keys("*:version:*"), "Redis is used again")
                self._pass()
                fault()
                self.met[fault.__name__] += 1
        finally:
            self.over.set()

    def killed(self) -> None:
        self._redis.kill()
        self._pass()
        self._redis.start()

    def paused(self) -> None:
        self._redis.signal(signal.SIGSTOP)
        self._pass()
        self._redis.signal(signal.SIGCONT)

    def flushed(self) -> None:
        self._redis.client.flushall()

    def filled(self) -> None:
        """Put nonsense where something was."""
        for key in self._redis.client.keys("*"):
            self._redis.client.delete(key)
            if self._random.random() < 0.3:
                self._redis.client.rpush(key, "a list")
            else:
                self._redis.client.set(key, self._random.choice(NONSENSE))

    def lied_to(self) -> None:
        """Say of every queue that it is empty, for as long as a verdict lives."""
        until(self._forged, "there is a version to lie about")

    def _forged(self) -> bool:
        forged = False
        for key in self._redis.client.keys("*:version:*"):
            # What filled it may be no text, or be gone by now.
            if self._redis.client.type(key) != b"string":
                continue
            version = self._redis.client.get(key)
            if version is None:
                continue
            verdict = key.replace(b":version:", b":empty:")
            self._redis.client.set(verdict, version, px=1000 * VERDICT_TTL_S)
            forged = True
        return forged

    def _pass(self) -> None:
        """Let some time pass, drawn as well."""
        self.over.wait(self._random.uniform(0.02, 0.4))


class Town:
    """Producers and workers of both processes."""

    def __init__(self, urls: list[str], token: str) -> None:
        headers = {"Authorization": f"Bearer {token}"}
        self.clients = [httpx.Client(base_url=url, headers=headers, timeout=60) for url in urls]
        self.enqueued: list[int] = []
        self.started: Counter[int] = Counter()
        self.ended: set[int] = set()
        self.closed = threading.Event()

    def close(self) -> None:
        """Hang up."""
        for client in self.clients:
            client.close()

    def post(self, number: int, path: str, body: dict[str, Any]) -> Any:
        """Ask one of the processes, which must do it."""
        answer = self.clients[number % len(self.clients)].post(path, json=body)
        assert answer.status_code in (200, 201), f"{path}: {answer.status_code} {answer.text}"
        return answer.json()

    def work(self, number: int) -> None:
        """Claim from one process and end at the other, until the town is closed."""
        while not self.closed.is_set():
            order = {"limit": 2, "wait_s": 3, "worker": f"w{number}"}
            for claim in self.post(number, "/v1/claim", order)["claims"]:
                self.started[claim["id"]] += 1
                if claim["id"] % GIVEN_BACK == 0 and claim["attempt"] == 1:
                    body = {"claims": [claim], "error": "not yet", "delay_s": 0}
                    self.post(number + 1, "/v1/nack", body)
                else:
                    self.post(number + 1, "/v1/ack", {"claims": [claim]})
                    self.ended.add(claim["id"])

    def produce(self, seed: int, over: threading.Event) -> None:
        """Enqueue a few, and more when they have ended: in between there is nothing to do."""
        drawn = random.Random(seed)
        while not over.is_set():
            org = f"org{drawn.randrange(3)}"
            burst = [
                self.post(drawn.randrange(2), "/v1/tasks", {"name": "t", "org": org})["id"]
                for _ in range(drawn.randint(1, BURST_MAX))
            ]
            self.enqueued += burst
            until(partial(self.ended.issuperset, burst), "all of a burst have ended")
            over.wait(drawn.uniform(0, 0.3))


def address(replica: Staying) -> str:
    """Return where a replica serves."""
    until(lambda: replica.said("HTTP API on"), "it serves", patience_s=60)
    (url,) = re.findall(r"HTTP API on (http://[\d.:]+)", "\n".join(replica.lines))
    return str(url)


def test_no_task_is_lost_doubled_or_stuck_while_a_shared_redis_fails_in_every_way(
    stage: Stage, tmp_path: Path
) -> None:
    shell = Shell(stage.dsn, tmp_path)
    shell.environment |= {
        "ORCHESTRATOR_REDIS_VERDICT_TTL_S": f"{VERDICT_TTL_S}s",
        "ORCHESTRATOR_SERVER_RATE_PER_S": "10000",
        "ORCHESTRATOR_LOG_FORMAT": "json",
    }
    made = shell("token", "create", "town", "--scope", "producer", "--scope", "worker")
    with redis_server() as redis:
        shell.environment["ORCHESTRATOR_REDIS_URL"] = redis.url
        served = ("run", "--http", "127.0.0.1:0")
        with (
            staying(shell, *served) as one,
            staying(shell, *served) as two,
            closing(Town([address(one), address(two)], made.out.strip())) as town,
        ):
            storm = Storm(redis, SEED)
            workers = [stage.start(town.work, number) for number in range(WORKERS)]
            raging = stage.start(storm.rage)
            producers = [stage.start(town.produce, seed, storm.over) for seed in (SEED, SEED + 1)]
            try:
                until(storm.over.is_set, "the storm is over", patience_s=90)
            finally:
                storm.over.set()
                # A producer waits for its last tasks to end, or says which did not.
                made_all = [each.exception() for each in producers]
                town.closed.set()
                for each in (*workers, raging):
                    each.result()
            assert made_all == [None, None]
            told = [json.loads(line) for line in [*one.lines, *two.lines] if line.startswith("{")]
    # Every fault was met, and was one.
    assert min(storm.met.values()) >= FAULTS_OF_A_KIND
    assert "redis.failed" in {line["event"] for line in told}
    assert len(town.enqueued) > 20
    # Nothing is lost, and nothing was done more often than it was to be.
    expected = {task: 2 if task % GIVEN_BACK == 0 else 1 for task in town.enqueued}
    assert dict(town.started) == expected
    final = "select task_id from orchestrator.task_attempt where final and status = 'succeeded'"
    assert sorted(task for (task,) in stage.rows(final)) == sorted(town.enqueued)
    check(stage.db)
