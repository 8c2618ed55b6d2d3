"""A small real run to look at: a server, several orgs with work, a replica and workers."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from orchestrator import Client, TaskSpec
from orchestrator.store import orgs, tokens
from orchestrator.store.sql import run
from tests.acceptance.cli import Shell
from tests.acceptance.test_cli_processes import Staying, staying
from tests.support.waiting import until

SHOP = "tests.browser.shop:app"
# (org, tier, task, workload, seconds, how many a second)
TRICKLES = (
    ("acme", "premium", "render-preview", "api", 0.25, 4.0),
    ("globex", "standard", "sync-crm", "etl", 0.6, 2.5),
    ("initech", "free", "send-invoice", "api", 0.1, 3.0),
    ("hooli", "enterprise", "transcribe", "etl", 1.2, 2.5),
    ("soylent", "standard", "embed-documents", "etl", 0.5, 1.5),
)
# (org, tier, burst_max, tasks at once): these compete, one of them below its cap.
FLOODS = (
    ("umbrella", "free", 4, 3_000),
    ("wayne", "standard", None, 2_000),
    ("stark", "premium", None, 3_000),
)
FLOOD = FLOODS[0]
CONCURRENCY = 16


@dataclass(frozen=True, slots=True)
class Town:
    """Where the dashboard is served, and the keys to it."""

    url: str
    dsn: str
    admin: str
    reader: str


@contextmanager
def town(dsn: str, directory: Path) -> Iterator[Town]:
    """Run a replica that serves HTTP, a worker, and producers, over the database `dsn`."""
    shell = Shell(dsn, directory)
    keys = {scope: tokens.new_secret() for scope in ("admin", "reader")}
    with psycopg.connect(dsn) as connection:
        for scope, secret in keys.items():
            name = {"admin": "mona", "reader": "rufus"}[scope]
            run(connection, tokens.create(name, secret, [scope], actor="test"))
        for org, tier, *_ in TRICKLES:
            run(connection, orgs.set_org(org, tier=tier, actor="cli: mona"))
        for org, tier, cap, _ in FLOODS:
            run(connection, orgs.set_org(org, tier=tier, burst_max=cap, actor="cli: mona"))
        run(connection, orgs.set_queue("default", capacity=20, actor="cli: mona"))
    with ExitStack() as stack:
        replica = stack.enter_context(staying(shell, "run", "--http", "127.0.0.1:0"))
        until(lambda: replica.said("HTTP API on"), "where it serves is said")
        stack.enter_context(staying(shell, "worker", SHOP, "--concurrency", str(CONCURRENCY)))
        stack.enter_context(_producers(dsn))
        yield Town(_address(replica), dsn, keys["admin"], keys["reader"])


def _address(replica: Staying) -> str:
    found = re.search(r"http://[\d.:]+", "\n".join(replica.lines))
    assert found
    return found[0]


@contextmanager
def _producers(dsn: str) -> Iterator[None]:
    stop = threading.Event()
    chance = random.Random(7)

    def trickle(client: Client) -> None:
        while not stop.wait(0.2):
            client.enqueue_many(
                [
                    TaskSpec(name=name, org=org, workload=workload,
                             payload={"takes_s": round(takes_s * chance.uniform(0.5, 1.5), 3)})
                    for org, _, name, workload, takes_s, per_s in TRICKLES
                    for _ in range(_count(chance, per_s * 0.2))
                ]
                + [_charge(chance) for _ in range(_count(chance, 0.3))]
            )  # fmt: skip

    with Client(dsn) as client:
        for org, _, _, tasks in FLOODS:
            client.enqueue_many(
                [
                    TaskSpec(
                        name="embed-documents",
                        org=org,
                        payload={"takes_s": round(chance.uniform(0.1, 0.5), 3)},
                    )
                    for _ in range(tasks)
                ]
            )
        thread = threading.Thread(target=trickle, args=(client,), name="producers")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def _count(chance: random.Random, expected: float) -> int:
    whole = int(expected)
    return whole + (chance.random() < expected - whole)


def _charge(chance: random.Random) -> TaskSpec:
    order, declined = chance.randrange(10_000), chance.random() < 0.1
    trace = f"00-{chance.randrange(16**32):032x}-{chance.randrange(16**16):016x}-01"
    return TaskSpec(
        name="charge-card",
        org="globex",
        workload="api",
        priority=8,
        max_attempts=2,
        payload={"takes_s": 0.2, "order": order, "declined": declined},
        headers={"traceparent": trace},
    )
