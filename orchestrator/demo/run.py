"""The course of a demonstration, from an empty server to its summary."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import psycopg
from psycopg.conninfo import conninfo_to_dict

from orchestrator.client import Client
from orchestrator.demo import fifo, figure
from orchestrator.demo.feed import Feed
from orchestrator.demo.processes import REPLICA, WORKER, Processes, started
from orchestrator.demo.scenario import CONCURRENCY, WORKERS, Part, parts
from orchestrator.demo.screen import Screen
from orchestrator.embedded import throwaway
from orchestrator.errors import OrchestratorError
from orchestrator.fairness.shares import fair_shares
from orchestrator.model import Tier
from orchestrator.store import admission, leadership, migrate, orgs, report
from orchestrator.store.leadership import Leadership
from orchestrator.store.report import Lifecycle, Standing, Verdict
from orchestrator.store.sql import run

QUEUE = 1
REPLICAS = 2
_START_TIMEOUT_S = 20.0
_FAILOVER_TIMEOUT_S = 15.0
# After the last arrival the backlog drains; on a slow machine this much longer than it should.
_DRAIN_FACTOR = 3.0
_SAMPLE_S = 0.05
_SHOW_S = 0.5
# What counts as lately in the table.
_RECENT_S = 2.0


@dataclass(frozen=True, slots=True)
class OrgSummary:
    """What one org got; dwell in seconds, shares as parts of one while the flood lasted."""

    tier: str
    tasks: int
    dwell_p50_s: float
    dwell_p95_s: float
    fifo_dwell_p95_s: float
    share: float
    fair_share: float


@dataclass(frozen=True, slots=True)
class Summary:
    """What the database says afterwards."""

    enqueued: int
    lost: int
    duplicated: int
    over_cap: int
    failover_s: float | None
    seconds: float
    orgs: dict[str, OrgSummary]
    figure: str

    @property
    def good(self) -> bool:
        """Tell whether every promise held."""
        return not (self.lost or self.duplicated or self.over_cap) and self.failover_s is not None

    def as_json(self) -> dict[str, Any]:
        """Return the summary as plain values."""
        return asdict(self)


class Demo:
    """One demonstration of about `seconds` seconds."""

    def __init__(self, seconds: float, figure_path: Path, stream: TextIO) -> None:
        self._seconds = seconds
        self._figure_path = figure_path
        self._parts = parts(seconds)
        self._screen = Screen(self._parts, stream)
        self._over_cap = 0
        self._weights: dict[str, float] = {}

    def run(self) -> Summary:
        """Run it and return what the database says; nothing is left behind, however it ends."""
        self._screen.say("starting a private PostgreSQL, 2 replicas and 2 workers …")
        with throwaway() as dsn:
            migrate.upgrade(dsn)
            logs = Path(str(conninfo_to_dict(dsn)["host"])) / "logs"
            logs.mkdir()
            with (
                psycopg.connect(dsn, autocommit=True) as self._connection,
                Client(dsn) as client,
                started(dsn, logs) as processes,
            ):
                self._configure()
                for args in [REPLICA] * REPLICAS + [self._worker()] * WORKERS:
                    processes.start(*args)
                self._await_start(processes)
                return self._play(Feed(client, self._parts, 0.75 * self._seconds), processes)

    @staticmethod
    def _worker() -> Sequence[str]:
        return (*WORKER, "--concurrency", str(CONCURRENCY))

    def _configure(self) -> None:
        tiers: dict[str, Tier] = {tier.name: tier for tier in self._ask(orgs.tiers())}
        with self._connection.transaction():
            for part in self._parts:
                self._ask(
                    orgs.set_org(part.org, tier=part.tier, burst_max=part.burst_max, actor="demo")
                )
                self._weights[part.org] = float(tiers[part.tier].weight)

    def _await_start(self, processes: Processes) -> None:
        wanted = WORKERS * CONCURRENCY
        self._await(
            lambda: (
                self._leader().alive and self._ask(admission.parked_concurrency(QUEUE)) >= wanted
            ),
            _START_TIMEOUT_S,
            "the replicas and workers did not start",
            processes,
        )

    def _play(self, feed: Feed, processes: Processes) -> Summary:
        self._started_at = time.monotonic()
        failover_s: float | None = None
        killed = False
        feed.start()
        try:
            with self._screen.live():
                while not self._drained(feed):
                    self._watch(processes, feed)
                    if not killed and self._elapsed() >= self._seconds / 2:
                        failover_s, killed = self._kill_leader(processes), True
                if not killed:
                    failover_s = self._kill_leader(processes)
        finally:
            feed.stop()
        return self._summary(feed, failover_s)

    def _elapsed(self) -> float:
        return time.monotonic() - self._started_at

    def _drained(self, feed: Feed) -> bool:
        if self._elapsed() > self._seconds * _DRAIN_FACTOR + 10:
            raise OrchestratorError("the backlog did not drain: the machine is too slow for this")
        if not feed.ended.is_set():
            return False
        if feed.error is not None:
            raise feed.error
        # Cheap first: the whole count walks the tables.
        standings: list[Standing] = self._ask(report.standing(QUEUE, _RECENT_S))
        if any(standing.backlog or standing.in_flight for standing in standings):
            return False
        verdict: Verdict = self._ask(report.verdict(QUEUE))
        return verdict.unfinished == 0

    def _watch(self, processes: Processes, feed: Feed) -> None:
        """Sample the caps for half a second, then show where everybody stands."""
        until = time.monotonic() + _SHOW_S
        while time.monotonic() < until:
            self._sample()
            time.sleep(_SAMPLE_S)
        for failure in processes.failed():
            raise OrchestratorError(f"a process of the demonstration ended: {failure}")
        standings: list[Standing] = self._ask(report.standing(QUEUE, _RECENT_S))
        self._screen.show(self._elapsed(), standings, self._due(standings))

    def _sample(self) -> None:
        found: dict[str, int] = self._ask(report.in_flight(QUEUE))
        for part in self._parts:
            self._over_cap = max(self._over_cap, found.get(part.org, 0) - part.burst_max)

    def _due(self, standings: Sequence[Standing]) -> dict[str, float]:
        """Return the fair shares: by weight, what an org with no backlog leaves to the others."""
        capacity = float(sum(standing.started for standing in standings)) or 1.0
        demands = {
            standing.org: float("inf") if standing.backlog > CONCURRENCY else standing.started
            for standing in standings
        }
        due = fair_shares(capacity, demands, self._weights)
        return {org: part / capacity for org, part in due.items()}

    def _kill_leader(self, processes: Processes) -> float:
        """Kill the leading process with SIGKILL; return the seconds until the next admission."""
        leader = self._leader()
        pid = int(leader.holder.split(":")[1])
        self._screen.say(f"killing the leader (process {pid}, epoch {leader.epoch}) with SIGKILL")
        killed_at: float = self._ask(report.clock())
        processes.kill(pid)
        processes.start(*REPLICA)
        took: list[float] = []

        def taken_over() -> bool:
            at = self._ask(report.first_tick_after(QUEUE, leader.epoch))
            took[:] = [at - killed_at] if at is not None else []
            return bool(took)

        self._await(taken_over, _FAILOVER_TIMEOUT_S, "no replica took over", processes)
        self._screen.say(f"the other replica admitted again after {took[0]:.3f} s")
        return took[0]

    def _leader(self) -> Leadership:
        leaders: list[Leadership] = self._ask(leadership.leaders())
        return leaders[0]

    def _summary(self, feed: Feed, failover_s: float | None) -> Summary:
        verdict: Verdict = self._ask(report.verdict(QUEUE))
        fair: list[Lifecycle] = self._ask(report.lifecycles(QUEUE))
        plain = fifo.replay(fair)
        figure.draw(self._figure_path, self._parts, fair, plain)
        return Summary(
            enqueued=verdict.enqueued,
            lost=verdict.lost + abs(feed.enqueued - verdict.enqueued),
            duplicated=verdict.duplicated,
            over_cap=self._over_cap,
            failover_s=None if failover_s is None else round(failover_s, 3),
            seconds=round(self._elapsed(), 1),
            orgs=self._org_summaries(fair, plain),
            figure=str(self._figure_path),
        )

    def _org_summaries(
        self, fair: Sequence[Lifecycle], plain: Sequence[Lifecycle]
    ) -> dict[str, OrgSummary]:
        trickle_ends = max((t.enqueued_at for t in fair), default=0.0)
        jointly = [t for t in fair if t.started_at <= trickle_ends]
        demands = {
            part.org: float("inf") if part.flood else float(_count(jointly, part))
            for part in self._parts
        }
        due = fair_shares(float(len(jointly)), demands, self._weights)
        return {
            part.org: _org_summary(part, fair, plain, jointly, due[part.org])
            for part in self._parts
        }

    def _await(
        self, met: Callable[[], bool], timeout_s: float, failure: str, processes: Processes
    ) -> None:
        deadline = time.monotonic() + timeout_s
        while not met():
            for ended in processes.failed():
                raise OrchestratorError(f"a process of the demonstration ended: {ended}")
            if time.monotonic() > deadline:
                raise OrchestratorError(f"{failure} within {timeout_s:.0f} s")
            self._sample()
            time.sleep(_SAMPLE_S / 5)

    def _ask(self, operation: Any) -> Any:
        return run(self._connection, operation)


def _count(tasks: Sequence[Lifecycle], part: Part) -> int:
    return sum(task.org == part.org for task in tasks)


def _org_summary(
    part: Part,
    fair: Sequence[Lifecycle],
    plain: Sequence[Lifecycle],
    jointly: Sequence[Lifecycle],
    due: float,
) -> OrgSummary:
    dwells = [t.started_at - t.enqueued_at for t in fair if t.org == part.org] or [0.0]
    fifo_dwells = [t.started_at - t.enqueued_at for t in plain if t.org == part.org] or [0.0]
    total = max(1, len(jointly))
    return OrgSummary(
        tier=part.tier,
        tasks=len(dwells),
        dwell_p50_s=round(figure.quantile(dwells, 0.5), 4),
        dwell_p95_s=round(figure.quantile(dwells, 0.95), 4),
        fifo_dwell_p95_s=round(figure.quantile(fifo_dwells, 0.95), 4),
        share=round(_count(jointly, part) / total, 4),
        fair_share=round(due / total, 4),
    )
