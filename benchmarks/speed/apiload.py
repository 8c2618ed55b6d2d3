"""`apiload`: how much requests at full speed slow down the leader beside which they are served.

The leader works off the same steady trickle before and during the load. The load reads, for the
most part: what is enqueued makes ticks longer whoever enqueues it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from benchmarks.estimates import Bar, exact
from benchmarks.speed.api import Api, Caller, serving
from benchmarks.speed.compare import percentile
from benchmarks.speed.result import OURS, Key, Result
from benchmarks.stage import Stage, stage

SPAN_S, QUICK_SPAN_S = 60.0, 10.0
CONNECTIONS = 16
TRICKLE_PER_S = 200
TICK_BAR = 2.0
# One request in so many enqueues, one looks at a page, the others at one task.
_EVERY = 10

_SCRIPT = """
local n = 0
request = function()
  n = n + 1
  if n % {every} == 0 then
    return wrk.format("POST", "/v1/tasks", nil,
      '{{"name": "noop", "org": "load ' .. n % 7 .. '", "payload": {{"number": ' .. n .. '}}}}')
  elseif n % {every} == 1 then
    return wrk.format("GET", "/v1/tasks?limit=20")
  end
  return wrk.format("GET", "/v1/tasks/{task}")
end
"""


class Load(NamedTuple):
    """What a load was: requests a second, and requests that were not answered well."""

    per_s: float
    errors: int


def measure(quick: bool) -> Result:
    """Return tick times without and with load, the rate of the load, and its errors."""
    span_s = QUICK_SPAN_S if quick else SPAN_S
    with stage() as on, serving(on) as api:
        on.start_replica()
        on.start_worker()
        task = on.client.enqueue("noop", org="trickle").id
        with _trickle(on):
            time.sleep(2.0)
            idle = _ticks_us(on, span_s)
            loads: list[Load] = []
            load = threading.Thread(target=lambda: loads.append(_load(api, task, span_s)))
            load.start()
            busy = _ticks_us(on, span_s)
            load.join()
    ((per_s, errors),) = loads
    slower = percentile(busy, 0.99) / percentile(idle, 0.99)
    values = {
        ("no requests", "tick p50 us"): percentile(idle, 0.5),
        ("no requests", "tick p99 us"): percentile(idle, 0.99),
        ("requests at full speed", "tick p50 us"): percentile(busy, 0.5),
        ("requests at full speed", "tick p99 us"): percentile(busy, 0.99),
        ("requests at full speed", "requests/s"): per_s,
    }
    measures = {Key(case, OURS, metric): exact(value) for (case, metric), value in values.items()}
    bars = [
        Bar("tick p99 under load, of that without", exact(slower), TICK_BAR),
        Bar("requests that failed", exact(errors), 0.0),
    ]
    with_what = "wrk" if shutil.which("wrk") else "threads of our own (there is no wrk here)"
    setting = (
        f"{CONNECTIONS} connections send as fast as they are answered, for {span_s:.0f} s, by "
        f"{with_what}: of {_EVERY} requests one enqueues, one reads a page of 20 tasks, the others "
        f"read one task; a leader, a worker and {TRICKLE_PER_S} tasks a second before and "
        "meanwhile, on the same machine; ticks that did something, from tick_log"
    )
    notes = [f"{len(idle):,} ticks without load, {len(busy):,} with it."]
    return Result("apiload", "The leader beside a loaded API", setting, measures, bars, notes)


def _ticks_us(on: Stage, span_s: float) -> list[float]:
    """Wait so long, and return how long each tick meanwhile took."""
    (began,) = on.connection.execute("select clock_timestamp()").fetchone() or (None,)
    time.sleep(span_s)
    rows = on.connection.execute(
        "select tick_us from orchestrator.tick_log where queue = 1 and at >= %s", [began]
    ).fetchall()
    return [float(us) for (us,) in rows]


@contextmanager
def _trickle(on: Stage) -> Iterator[None]:
    """Enqueue a steady few tasks meanwhile."""
    stop = threading.Event()

    def enqueue() -> None:
        due = time.monotonic()
        while not stop.wait(max(0.0, due - time.monotonic())):
            on.client.enqueue("noop", org="trickle")
            due += 1 / TRICKLE_PER_S

    thread = threading.Thread(target=enqueue)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _load(api: Api, task: int, span_s: float) -> Load:
    return (_wrk if shutil.which("wrk") else _threads)(api, task, span_s)


def _wrk(api: Api, task: int, span_s: float) -> Load:
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_SCRIPT.format(every=_EVERY, task=task))
        script.flush()
        done = subprocess.run(
            [
                *("wrk", "-t", "1", "-c", str(CONNECTIONS), "-d", f"{span_s:.0f}s"),
                *("-H", f"Authorization: Bearer {api.secret}"),
                *("-H", "Content-Type: application/json", "-s", script.name, api.url),
            ],
            capture_output=True,
            text=True,
            check=True,
            timeout=span_s + 60,
        )
    rate = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", done.stdout)
    broken = re.search(
        r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", done.stdout
    )
    if rate is None:
        raise RuntimeError(f"wrk said {done.stdout!r}")
    errors = sum(map(int, broken.groups())) if broken else 0
    return Load(float(rate[1]), errors + (int(refused[1]) if refused else 0))


def _threads(api: Api, task: int, span_s: float) -> Load:
    counts, errors = [0] * CONNECTIONS, [0] * CONNECTIONS
    deadline = time.monotonic() + span_s

    def send(place: int) -> None:
        call = Caller(api)
        while time.monotonic() < deadline:
            counts[place] += 1
            try:
                if counts[place] % _EVERY == 0:
                    call("POST", "/v1/tasks", {"name": "noop", "org": f"load {place}"})
                elif counts[place] % _EVERY == 1:
                    call("GET", "/v1/tasks?limit=20")
                else:
                    call("GET", f"/v1/tasks/{task}")
            except (OSError, RuntimeError):
                errors[place] += 1
        call.close()

    threads = [threading.Thread(target=send, args=(place,)) for place in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Load(sum(counts) / span_s, sum(errors))
