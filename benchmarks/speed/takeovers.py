"""Leaders killed or paused while others stand by, and when the next term admits.

Every instant is read from the database's clock: that of the signal right before it, that of the
election and of the first admission from the rows which these wrote.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.estimates import Estimate
from benchmarks.fairness.replicas import Replicas
from benchmarks.stage import QUEUE, Stage, wait_for
from orchestrator.fairness.measures import percentile
from orchestrator.store import leadership, report
from orchestrator.store.leadership import Leadership
from orchestrator.store.sql import run

# Far beyond what a takeover may take; then it is given up.
PATIENCE_S = 60.0
# A leader is struck this long after its first admission, at random: at any point of its ticks.
_REIGN_S = (0.1, 0.4)
_RESAMPLES = 2_000
_TAIL = 0.025


class Takeover(NamedTuple):
    """Seconds from the signal to the election of the next leader, from there to the beginning of
    its first tick (it loads the cut), and what that tick took until it had admitted.
    """

    election_s: float
    loading_s: float
    tick_s: float

    @property
    def seconds(self) -> float:
        """Return the seconds from the signal to the first admission."""
        return self.election_s + self.loading_s + self.tick_s


def strike_leaders(
    on: Stage,
    standing: Replicas,
    replicas: int,
    times: int,
    by: signal.Signals = signal.SIGKILL,
) -> list[Takeover]:
    """Strike so many leaders, each after its first admission and while all others stand by.

    With SIGSTOP a leader keeps its session and says nothing more. `standing` are so many
    `replicas`; after each takeover the one that was struck is killed, and one more is started.
    """
    dice = random.Random(times)
    await_admission(on, epoch=0, since=0.0)
    found: list[Takeover] = []
    for _ in range(times):
        time.sleep(dice.uniform(*_REIGN_S))
        # A leader that was just killed has a session for as long as the server does not notice.
        wait_for(lambda: _standing(on) == replicas, "the replicas to stand by", PATIENCE_S)
        leader: Leadership = run(on.connection, leadership.leaders())[0]
        pid = int(leader.holder.split(":")[1])
        struck_at: float = run(on.connection, report.clock())
        os.kill(pid, by)
        found.append(await_admission(on, epoch=leader.epoch, since=struck_at))
        # Only now: a new process asks for the lock at once, and would take over for the others.
        standing.replace(pid)
    return found


def await_admission(on: Stage, *, epoch: int, since: float) -> Takeover:
    """Wait for the first admission of a term after `epoch`; `since` is an instant before it."""
    rows: list[tuple[float, float, float]] = []

    def admitted() -> bool:
        params = {"queue": QUEUE, "epoch": epoch, "since": since}
        rows[:] = on.connection.execute(_FIRST_ADMISSION, params).fetchall()
        return bool(rows)

    wait_for(admitted, "an admission", PATIENCE_S)
    elected_at, admitted_at, tick_s = rows[0]
    return Takeover(elected_at - since, admitted_at - tick_s - elected_at, tick_s)


def _standing(on: Stage) -> int:
    """Return how many replicas have a session; who leads may have two."""
    row = on.connection.execute(_STANDING).fetchone()
    assert row is not None
    return int(row[0])


def quantile(values: Sequence[float], part: float) -> Estimate:
    """Return the value at this part of the ranking with a percentile bootstrap interval."""
    dice = random.Random(len(values))
    drawn = sorted(
        percentile(sorted(dice.choices(values, k=len(values))), part) for _ in range(_RESAMPLES)
    )
    tail = round(_TAIL * _RESAMPLES)
    middle = statistics.median(values) if part == 0.5 else percentile(sorted(values), part)
    return Estimate(len(values), middle, drawn[tail], drawn[-1 - tail], max(values))


# By the index on (queue, at): the log of a long run is not read again at each look.
_FIRST_ADMISSION = """
select extract(epoch from l.at)::float8, extract(epoch from t.at)::float8, t.tick_us::float8 / 1e6
  from orchestrator.tick_log t
  join orchestrator.leadership_log l
    on l.queue = t.queue and l.epoch = t.epoch and l.event = 'elected'
 where t.queue = %(queue)s and t.at > to_timestamp(%(since)s) and t.epoch > %(epoch)s
   and t.admitted > 0
 order by t.at limit 1
"""
_STANDING = """
select count(distinct application_name) from pg_stat_activity
 where application_name like 'orchestrator leader %'
"""
