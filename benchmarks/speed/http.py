"""`http`: enqueue, claim and ack over HTTP beside the Python client, in batches of 100."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks.estimates import Bar, median, ratio
from benchmarks.speed.api import Caller, serving
from benchmarks.speed.result import OURS, Key, Result
from benchmarks.stage import Stage, stage

TASKS, QUICK_TASKS = 10_000, 2_000
PAIRS, QUICK_PAIRS = 10, 2
BATCH = 100
RATIO_BAR = 0.5
_PATIENCE_S = 60.0
_OVER_HTTP, _IN_PYTHON = "over HTTP", "Python client"

Round = Callable[[int], None]


def measure(quick: bool) -> Result:
    """Return the rates of both, measured in turns, and their ratio."""
    tasks, pairs = (QUICK_TASKS, QUICK_PAIRS) if quick else (TASKS, PAIRS)
    rates: dict[str, list[float]] = {_OVER_HTTP: [], _IN_PYTHON: []}
    with stage() as on:
        on.start_replica()
        with _both(on) as rounds:
            for work in rounds.values():
                work(BATCH)  # connections, plans, caches
            for _ in range(pairs):
                for name, work in rounds.items():
                    began = time.monotonic()
                    work(tasks)
                    rates[name].append(tasks / (time.monotonic() - began))
    found = ratio(rates[_OVER_HTTP], rates[_IN_PYTHON])
    measures = {
        Key(f"enqueue, claim and ack in batches of {BATCH}, {name}", OURS, "tasks/s"): median(each)
        for name, each in rates.items()
    }
    bar = Bar("rate over HTTP, of the Python client's", found, RATIO_BAR, at_least=True)
    setting = (
        f"{tasks:,} tasks with a payload of 20 bytes enqueued, then claimed and acknowledged, "
        f"{BATCH} in each call, by one caller that waits for each answer; a replica admits "
        f"meanwhile; one server process with default settings; {pairs} pairs, one right after the "
        "other; over HTTP by Python's http.client on one kept connection, payloads decoded"
    )
    return Result("http", "The HTTP API beside the Python client", setting, measures, [bar])


@contextmanager
def _both(on: Stage) -> Iterator[dict[str, Round]]:
    with serving(on) as api:
        caller = Caller(api)
        try:
            yield {
                _OVER_HTTP: lambda tasks: _over_http(caller, tasks),
                _IN_PYTHON: lambda tasks: _in_python(on, tasks),
            }
        finally:
            caller.close()


def _over_http(call: Caller, tasks: int) -> None:
    for start in range(0, tasks, BATCH):
        call("POST", "/v1/tasks/batch", {"tasks": _batch(start)})
    left, deadline = tasks, time.monotonic() + _PATIENCE_S
    while left:
        claims = call("POST", "/v1/claim", {"limit": BATCH, "wait_s": 5})["claims"]
        if claims:
            kept = [{name: claim[name] for name in _KEPT} for claim in claims]
            call("POST", "/v1/ack", {"claims": kept})
            left -= len(claims)
        _check(deadline)


def _in_python(on: Stage, tasks: int) -> None:
    for start in range(0, tasks, BATCH):
        on.client.enqueue_many(_batch(start))
    left, deadline = tasks, time.monotonic() + _PATIENCE_S
    while left:
        claims = on.client.claim(limit=BATCH, wait_s=5)
        if claims:
            for claim in claims:
                assert claim.payload is not None
            on.client.ack(claims)
            left -= len(claims)
        _check(deadline)


_KEPT = ("id", "queue", "claim_id", "dispatch_key", "attempt")


def _batch(start: int) -> list[dict[str, object]]:
    return [
        {"name": "t", "org": f"org {n % 20}", "payload": {"number": n, "of": "x"}}
        for n in range(start, start + BATCH)
    ]


def _check(deadline: float) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError(f"the tasks were not done within {_PATIENCE_S:.0f} s")
