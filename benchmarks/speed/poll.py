"""`poll`: what polling an empty queue over HTTP costs, and how soon who waits hears of new work.

The server process has a database role of its own, by which pg_stat_statements tells its statements
from the leader's.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from psycopg.conninfo import make_conninfo

from benchmarks.counters import STATEMENTS_SETTINGS, enable_statements, forget_statements
from benchmarks.estimates import Bar, Estimate, exact, median
from benchmarks.load import settle
from benchmarks.speed.compare import percentile
from benchmarks.speed.result import OURS, Key, Result
from benchmarks.speed.wire import Wire
from benchmarks.stage import Stage, stage, wait_for
from orchestrator.config import Settings
from orchestrator.server.process import ServerProcess
from orchestrator.store import tokens
from orchestrator.store.sql import run

POLLS, POLLERS = 1_000, 20
ROUNDS, QUICK_ROUNDS = 5, 2
TASKS, QUICK_TASKS = 500, 100
FEW, CROWD = 8, 1_000
GAP_S = 0.02
P50_BAR_MS, P99_BAR_MS = 20.0, 50.0
IN_PROCESS, REDIS = "in process", "in process and Redis"
_ROLE = "api"
_PATIENCE_S = 60.0
_SETTLE_S = 3.0
# The look-up of a token, once in three seconds for each, is no part of a claim.
_CALLS = """
select coalesce(sum(calls) filter (where query not like '%%api_token%%'), 0),
       coalesce(sum(calls) filter (where query like '%%api_token%%'), 0)
  from pg_stat_statements where userid = 'api'::regrole
"""


class Api(NamedTuple):
    """A server process, and a token for everything."""

    url: str
    token: str

    def wire(self) -> Wire:
        """Return a connection to it."""
        return Wire(self.url, self.token)


class Polled(NamedTuple):
    """What 1,000 polls cost: statements, look-ups of tokens, seconds."""

    statements: float
    tokens: float
    seconds: float


def measure(quick: bool) -> Result:
    """Return the statements of polls and the latencies of long polls, with each store."""
    rounds, tasks = (QUICK_ROUNDS, QUICK_TASKS) if quick else (ROUNDS, TASKS)
    measures: dict[Key, Estimate] = {}
    bars: list[Bar] = []
    notes: list[str] = []
    stores = [IN_PROCESS]
    if shutil.which("redis-server"):
        stores.append(REDIS)
    else:
        notes.append("Redis was not measured: there is no redis-server (Debian: redis-server).")
    for store in stores:
        with _serving(store) as (on, api):
            if not enable_statements(on.connection):
                raise RuntimeError("this server has no pg_stat_statements")
            polled = asyncio.run(_polls(on, api, rounds))
            few = [asyncio.run(_latency(api, FEW, tasks)) for _ in range(rounds)]
            crowd = [asyncio.run(_latency(api, CROWD, tasks))]
        case = f"{POLLS:,} polls of an empty queue, {store}"
        statements = exact(sum(each.statements for each in polled) / len(polled))
        measures |= {
            Key(case, OURS, "statements"): statements,
            Key(case, OURS, "look-ups of a token"): median([each.tokens for each in polled]),
            Key(case, OURS, "polls/s"): median([POLLS / each.seconds for each in polled]),
        }
        bars.append(Bar(f"statements of {POLLS:,} polls, {store}", statements, 0.0))
        for waiters, found in ((FEW, few), (CROWD, crowd)):
            case = f"from enqueue to the answer of a long poll, {waiters:,} wait, {store}"
            p50, p99 = (median([percentile(each, part) for each in found]) for part in (0.5, 0.99))
            measures |= {
                Key(case, OURS, "p50 ms"): p50,
                Key(case, OURS, "p99 ms"): p99,
                Key(case, OURS, "max ms"): exact(max(map(max, found))),
            }
            if waiters == FEW:
                bars.append(Bar(f"p50 of a long poll, {store}, ms", p50, P50_BAR_MS))
                bars.append(Bar(f"p99 of a long poll, {store}, ms", p99, P99_BAR_MS))
    title = "Polling an empty queue over HTTP"
    return Result("poll", title, _setting(tasks, rounds), measures, bars, notes)


@contextmanager
def _serving(store: str) -> Iterator[tuple[Stage, Api]]:
    """Run a replica and a server process over a fresh database."""
    with stage(STATEMENTS_SETTINGS) as on, _redis(store == REDIS) as url:
        on.connection.execute("create role api superuser login")
        config = Path(tempfile.mkdtemp(dir="/tmp")) / "o.toml"
        config.write_text("" if url is None else f'[redis]\nurl = "{url}"\n')
        on.processes.start("run", "--config", str(config))
        settings = Settings.model_validate(
            {"log": {"level": "warning"}, "redis": {"url": url}, "server": {"rate_per_s": 100_000}}
        )
        secret = tokens.new_secret()
        with on.connection.transaction():
            run(on.connection, tokens.create("bench", secret, ["admin"], actor="bench"))
        server = ServerProcess("127.0.0.1:0", make_conninfo(on.dsn, user=_ROLE), settings)
        server.start()
        try:
            api = Api(server.url, secret)
            wait_for(lambda: _answers(api), "the API")
            settle(on.connection)
            yield on, api
        finally:
            server.stop()
            shutil.rmtree(config.parent)


@contextmanager
def _redis(wanted: bool) -> Iterator[str | None]:
    if not wanted:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="orch-redis-") as directory:
        path = f"{directory}/s"
        command = ["redis-server", "--port", "0", "--unixsocket", path, "--save", ""]
        with subprocess.Popen([*command, "--dir", directory], stdout=subprocess.DEVNULL) as process:
            try:
                wait_for(Path(path).exists, "Redis")
                yield f"unix://{path}"
            finally:
                process.terminate()


def _answers(api: Api) -> bool:
    async def ask() -> None:
        async with api.wire() as wire:
            await asyncio.wait_for(wire.post("/v1/claim", {"limit": 0}), 1.0)

    try:
        asyncio.run(ask())
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return False
    return True


async def _polls(on: Stage, api: Api, rounds: int) -> list[Polled]:
    """Poll an empty queue with a few clients at once; return the cost of each round."""
    found = []
    async with AsyncExitStack() as opened:
        wires = [await opened.enter_async_context(api.wire()) for _ in range(POLLERS)]

        async def poll(wire: Wire) -> None:
            for _ in range(POLLS // POLLERS):
                await wire.post("/v1/claim", {"wait_s": 0})

        # One look, and the session that listens.
        await wires[0].post("/v1/claim", {"wait_s": 1})
        await wires[0].post("/v1/claim", {"wait_s": 0})
        for _ in range(rounds):
            forget_statements(on.connection)
            began = time.monotonic()
            await asyncio.gather(*map(poll, wires))
            seconds = time.monotonic() - began
            row = on.connection.execute(_CALLS.encode(), []).fetchone()
            assert row is not None
            found.append(Polled(float(row[0]), float(row[1]), seconds))
    return found


async def _latency(api: Api, waiters: int, tasks: int) -> list[float]:
    """Let so many wait in long polls; return how long each task took to reach one of them."""
    sent: dict[int, float] = {}
    heard: dict[int, float] = {}
    whole = asyncio.Event()

    async def work(wire: Wire) -> None:
        while True:
            claims = (await wire.post("/v1/claim", {"wait_s": 30}))["claims"]
            heard.update((claim["id"], time.monotonic()) for claim in claims)
            if len(heard) == tasks:
                whole.set()
            if claims:
                await wire.post("/v1/ack", {"claims": claims})

    async with AsyncExitStack() as opened:
        wires = [await opened.enter_async_context(api.wire()) for _ in range(waiters + 1)]
        working = [asyncio.create_task(work(wire)) for wire in wires[1:]]
        try:
            await asyncio.sleep(_SETTLE_S)  # until all of them wait
            for number in range(tasks):
                began = time.monotonic()
                body = {"name": "t", "org": f"org{number % 10}"}
                sent[(await wires[0].post("/v1/tasks", body))["id"]] = began
                await asyncio.sleep(GAP_S)
            await asyncio.wait_for(whole.wait(), _PATIENCE_S)
        finally:
            for each in working:
                each.cancel()
            await asyncio.gather(*working, return_exceptions=True)
    return [(heard[task] - began) * 1e3 for task, began in sent.items()]


def _setting(tasks: int, rounds: int) -> str:
    return (
        f"A replica and a server process with their default settings. {POLLS:,} polls without a"
        f" wait, {POLLERS} at a time, of a queue that was polled before; statements of the server"
        f" process by pg_stat_statements. Then {FEW}, later {CROWD:,} clients wait in long polls of"
        f" 30 s while one enqueues {tasks} tasks one by one over HTTP, {GAP_S * 1e3:.0f} ms apart,"
        f" {rounds} times with the few: the medians of the percentiles of each time; from the"
        " beginning of that call to the arrival of the answer, which the waiting client then acks"
        " before it waits again. All clients are one Python process"
    )
