"""Laws that compare two histories: the same demand told differently, on queues side by side.

The scheduler obeys them in memory (`tests/unit`); here they hold from enqueue to task queue.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import Connection

from orchestrator.config import LeaderSettings
from orchestrator.model import CostMode, TaskSpec
from orchestrator.store import orgs
from orchestrator.store.sql import run
from tests.stateful.drawn import ORGS, SHARES, WEIGHTS
from tests.stateful.profiles import LAW, TIMEOUT_S
from tests.stateful.wire import Leader
from tests.support.stepping import ack, claim, connect, enqueue

pytestmark = pytest.mark.timeout(TIMEOUT_S)

# Enough that a rule which looks at the length of a backlog would show it.
MORE = 500
# What is played of a history that never ends.
MOST = 60
_names = itertools.count(1)


class Demand(NamedTuple):
    """Some equal tasks of one flow."""

    org: str
    workload: str
    priority: int
    copies: int

    @property
    def flow(self) -> tuple[str, str]:
        return self.org, self.workload


class Setting(NamedTuple):
    """What operators decided; the capacity keeps the orgs waiting for one another."""

    weights: Mapping[str, int]
    shares: Mapping[str, int]
    caps: Mapping[str, int | None]
    batch_max: int
    capacity: int


_weights = st.sampled_from(WEIGHTS)
demands = st.lists(
    st.builds(
        Demand,
        org=st.sampled_from(ORGS),
        workload=st.sampled_from(tuple(SHARES)),
        priority=st.sampled_from((1, 5, 10)),
        copies=st.integers(1, 6),
    ),
    min_size=3,
    max_size=8,
)
settings = st.builds(
    Setting,
    weights=st.fixed_dictionaries(dict.fromkeys(ORGS, _weights)),
    shares=st.fixed_dictionaries(dict.fromkeys(SHARES, _weights)),
    caps=st.fixed_dictionaries(dict.fromkeys(ORGS, st.none() | st.integers(1, 4))),
    batch_max=st.integers(2, 8),
    capacity=st.just(6),
)


class Play:
    """Plays demands on one database, each on a queue of its own."""

    def __init__(self, dsn: str, connection: Connection[Any]) -> None:
        self._dsn = dsn
        self._connection = connection

    def __call__(
        self, setting: Setting, demand: Sequence[Demand], *, ending: int = 2
    ) -> list[tuple[str, str]]:
        """Return the flows in the order of admission; after a tick the oldest `ending` end."""
        queue = self._configure(setting)
        specs = [
            TaskSpec(name="t", org=part.org, workload=part.workload, priority=part.priority)
            for part in demand
            for _ in range(part.copies)
        ]
        enqueue(self._connection, specs, queue_id=queue)
        admitted: dict[int, tuple[str, str]] = {}
        with self._leading(queue, setting) as leader:
            while len(admitted) < MOST and leader.tick().admitted:
                admitted.update(self._admitted(queue))
                if ending:
                    oldest = claim(self._connection, ending, queue_id=queue)
                    ack(self._connection, oldest, queue_id=queue)
        return [admitted[key] for key in sorted(admitted)]

    def _configure(self, setting: Setting) -> int:
        with self._connection.transaction():
            # Without kappa, priority does not decide whose task ends first; where every task costs
            # the same, no clock decides anything.
            changes = orgs.set_queue(
                f"law {next(_names)}",
                cost_mode=CostMode.COUNT,
                capacity=setting.capacity,
                kappa=0,
                actor="o",
            )
            queue: int = run(self._connection, changes).id
            for workload, share in setting.shares.items():
                run(self._connection, orgs.set_workload(workload, share=share, actor="o"))
            for org, weight in setting.weights.items():
                cap = setting.caps[org]
                changes = orgs.set_org(org, weight=weight, burst_max=cap, actor="o")
                run(self._connection, changes)
        return queue

    @contextmanager
    def _leading(self, queue: int, setting: Setting) -> Iterator[Leader]:
        leader = Leader(self._dsn, queue, LeaderSettings(batch_max=setting.batch_max))
        try:
            leader.open()
            yield leader
        finally:
            leader.close()

    def _admitted(self, queue: int) -> dict[int, tuple[str, str]]:
        rows = self._connection.execute(
            "select dispatch_key >> 4, org_id, workload from orchestrator.task_queue "
            "where queue = %s",
            [queue],
        )
        return {key: (org, workload) for key, org, workload in rows}


@pytest.fixture
def play(dsn: str) -> Iterator[Play]:
    """Yield a stage that serves every example of a test: a queue keeps the others out."""
    with connect(dsn) as connection:
        yield Play(dsn, connection)


@LAW
@given(settings, demands)
def test_one_tick_admits_what_many_small_ones_do(
    play: Play, setting: Setting, demand: list[Demand]
) -> None:
    at_once = setting._replace(batch_max=20, capacity=20)
    one_by_one = at_once._replace(batch_max=1)
    assert play(one_by_one, demand, ending=0) == play(at_once, demand, ending=0)


@LAW
@given(settings, demands, st.sampled_from((2, 5, 100)))
def test_scaling_all_weights_changes_no_order(
    play: Play, setting: Setting, demand: list[Demand], factor: int
) -> None:
    scaled = setting._replace(
        weights={org: weight * factor for org, weight in setting.weights.items()},
        shares={workload: share * factor for workload, share in setting.shares.items()},
    )
    assert play(scaled, demand) == play(setting, demand)


@LAW
@given(settings, demands, st.permutations(ORGS))
def test_renaming_orgs_renames_the_order(
    play: Play, setting: Setting, demand: list[Demand], names: list[str]
) -> None:
    name = dict(zip(ORGS, names, strict=True))
    renamed = setting._replace(
        weights={name[org]: weight for org, weight in setting.weights.items()},
        caps={name[org]: cap for org, cap in setting.caps.items()},
    )
    order = play(renamed, [part._replace(org=name[part.org]) for part in demand])
    assert order == [(name[org], workload) for org, workload in play(setting, demand)]


@LAW
@given(settings, demands, st.data())
def test_a_longer_backlog_changes_nothing_before_the_shorter_one_would_have_run_out(
    play: Play, setting: Setting, demand: list[Demand], data: st.DataObject
) -> None:
    flow = data.draw(st.sampled_from(sorted({part.flow for part in demand})))
    longer = [*demand, Demand(*flow, priority=1, copies=MORE)]
    before = play(setting, demand)
    last = len(before) - before[::-1].index(flow)
    assert play(setting, longer)[:last] == before[:last]


@LAW
@given(settings, demands, st.permutations((1, 5, 10)))
def test_priorities_inside_an_org_never_change_the_order_of_orgs(
    play: Play, setting: Setting, demand: list[Demand], priorities: list[int]
) -> None:
    other = dict(zip((1, 5, 10), priorities, strict=True))
    shuffled = [part._replace(priority=other[part.priority]) for part in demand]
    assert play(setting, shuffled) == play(setting, demand)
