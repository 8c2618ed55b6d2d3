"""Asks running tasks to yield where a critical task of the same org waits at `burst_max`.

**Who is looked at.** Flows with critical tasks are known from the feed, and from the tables when a
term begins. While there is none, nothing is asked of the database. Where the org of one is at its
`burst_max`, its running tasks are read, lease by lease and in turn, so that a look costs the same
however much is in flight; once all were seen, `fairness/preemption.py` decides.

**What is done.** The decision is made and written in a transaction under the fence: a leader that
was deposed asks nobody. The word is left in the lease, where workers read it with their heartbeats,
and a notification has them look at once. Nothing is kept in memory that the tables do not tell: a
new leader finds who waits and who was asked already, and goes on.

**What follows.** The worker gives its task back, its slot is free, and the org's next slot goes to
the flow of the critical task, at the head of which that stands: the task that yielded stands behind
it, whatever its place was. Nothing depends on it: a task that does not obey keeps its slot until it
ends, and one that ends by itself leaves a word that means nothing.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from typing import Any
from uuid import UUID

from psycopg import Connection

from orchestrator.fairness import OrgState
from orchestrator.fairness.preemption import Requests, Running, requests
from orchestrator.leader.configuration import Configuration
from orchestrator.leader.cut import Cut
from orchestrator.leader.fence import begin
from orchestrator.leader.shadow import Shadowing
from orchestrator.store import preemption as store
from orchestrator.store.admission import COMMIT, Staged
from orchestrator.store.leadership import Term
from orchestrator.store.preemption import CRITICAL, Wanted
from orchestrator.store.sql import Operation, just, run

# While critical tasks wait: how often to see whether what runs is another by now.
LOOK_INTERVAL_S = 0.1
# Orgs of one look, and critical tasks of one flow in it: they bound its statements.
_ORGS_MAX, _TASKS_MAX = 100, 100
# Looks of one tick: the usual queue is seen by the first, and the second finds nothing more.
_LOOKS_AT_ONCE = 2
_FIRST = UUID(int=0)


class Preemption:
    """The critical tasks that wait, and the requests made for them, during one term."""

    def __init__(
        self,
        connection: Connection[Any],
        term: Term,
        cut: Cut,
        configuration: Configuration,
        shadow: Shadowing,
    ) -> None:
        self._connection = connection
        self._term = term
        self._cut = cut
        self._configuration = configuration
        self._shadow = shadow
        self.interval_s = LOOK_INTERVAL_S
        # Flows that hold critical tasks, as far as is known; those of them that may hold more than
        # are known; and orgs that have been asked.
        self._flows: set[tuple[str, str]] = set()
        self._uncounted: set[tuple[str, str]] = set()
        self._asked: set[str] = set()
        self._news = False
        self._looked_at = float("-inf")
        # The last org of the last look. The look under way: whom it is about, how far it went, what
        # it found.
        self._orgs_after = ""
        self._orgs: list[str] = []
        self._after = _FIRST
        self._found: list[Running] = []

    @property
    def open(self) -> bool:
        """Tell whether anybody is asked to yield."""
        return bool(self._asked)

    def load(self) -> None:
        """Learn from the tables who waits and who is asked; when a term begins, under the fence."""
        told = self._cut.row.staging_snapshot
        for org, workload, count in self._run(store.critical_flows(self._term.queue, told)):
            self._configuration.introduce(org)
            self._expect(org, workload, count)
        self._asked |= self._run(store.asked_orgs(self._term.queue))

    def note(self, work: Staged) -> None:
        """Note the critical tasks that were staged in a flow, if there are any."""
        if work.critical:
            flow = self._cut.scheduler.org(work.org).flows[work.workload]
            self._expect(work.org, work.workload, flow.critical + work.critical)

    def admitted(self, org: str, workload: str, neg_priority: int) -> None:
        """Note the place of the last task that was admitted of a flow: it tells what is left."""
        flow = (org, workload)
        if flow not in self._flows:
            return
        if neg_priority > CRITICAL:
            self._set(org, workload, 0)
            self._flows.discard(flow)
        elif not self._cut.scheduler.orgs[org].flows[workload].critical:
            # Others may wait: more than were counted, or one that was admitted before it was told
            # of took the place of one that was.
            self._uncounted.add(flow)

    def step(self) -> bool:
        """Look if it is time to, and ask or withdraw; return whether the look goes on.

        Raises `LeadershipLost` where this term is over.
        """
        if self._uncounted:
            self._count()
        if not (self._orgs or self._begins()):
            return False
        begin(self._connection, self._term)
        for _ in range(_LOOKS_AT_ONCE):
            last, found = self._run(store.running(self._term.queue, self._orgs, self._after))
            self._found += found
            if last is None:
                self._decide()
                break
            self._after = last
        self._run(just(COMMIT))
        return bool(self._orgs)

    def _count(self) -> None:
        """Count what is left of flows of which all known critical tasks were admitted.

        To guess that there is another would let an ordinary task of such a flow go before critical
        ones of the others.
        """
        flows = sorted(self._uncounted)
        self._uncounted.clear()
        told = self._cut.row.staging_snapshot
        for org, workload, count in self._run(store.count_critical(self._term.queue, flows, told)):
            if count:
                self._set(org, workload, count)
            else:
                self._flows.discard((org, workload))

    def _set(self, org: str, workload: str, count: int) -> None:
        """Take over how many critical tasks a flow holds; the shadow has admitted others of it."""
        state = self._cut.scheduler.org(org)
        flow = state.flows.get(workload)
        known = flow.critical if flow else 0
        self._cut.scheduler.set_critical(org, workload, count)
        if count != known:
            self._shadow.expect_critical(org, workload, count - known)

    def _expect(self, org: str, workload: str, count: int) -> None:
        self._set(org, workload, count)
        self._flows.add((org, workload))
        self._news = True

    def _begins(self) -> bool:
        """Begin a look if one is due and there is anybody to look at."""
        if not self._flows and not self._asked:
            return False
        now = time.monotonic()
        if not self._news and now - self._looked_at < self.interval_s:
            return False
        self._news, self._looked_at = False, now
        orgs = self._cut.scheduler.orgs
        waiting = {org for org, _ in self._flows if _at_cap(orgs[org])}
        everybody = sorted(waiting | self._asked)
        # In turn, where they are many.
        after = bisect_right(everybody, self._orgs_after) if len(everybody) > _ORGS_MAX else 0
        self._orgs = (everybody[after:] + everybody[:after])[:_ORGS_MAX]
        self._after, self._found = _FIRST, []
        return bool(self._orgs)

    def _decide(self) -> None:
        """Compare who waits with who runs, once all who run were seen."""
        orgs, self._orgs = self._orgs, []
        self._orgs_after = orgs[-1]
        waiting = self._waiting(orgs)
        said = Requests([], [])
        for org in orgs:
            state = self._cut.scheduler.org(org)
            mine = [task for task in self._found if task.org == org]
            each = requests(waiting.get(org, []), mine, _free(state))
            said.ask.extend(each.ask)
            said.withdraw.extend(each.withdraw)
            if each.ask or sum(task.asked for task in mine):
                self._asked.add(org)
            else:
                self._asked.discard(org)
        if said.ask or said.withdraw:
            self._run(store.tell(self._term.queue, said))

    def _waiting(self, orgs: list[str]) -> dict[str, list[int]]:
        """Return the priorities of the critical tasks of each org that its next slots go to."""
        scheduler = self._cut.scheduler
        if self._cut.queue.paused:
            return {}
        states = [state for org in orgs if not (state := scheduler.org(org)).paused]
        flows = [
            Wanted(state.org, flow.workload, _TASKS_MAX)
            for state in states
            for flow in scheduler.critical_flows(state)
        ]
        found = self._run(store.waiting(self._term.queue, flows)) if flows else {}
        waiting: dict[str, list[int]] = {}
        for (org, workload), priorities in found.items():
            waiting.setdefault(org, []).extend(priorities)
            known = scheduler.orgs[org].flows[workload].critical
            if len(priorities) < min(known, _TASKS_MAX):
                # Cancelled or expired. What was just staged is there too: the feed adds that.
                self._set(org, workload, len(priorities))
            if not priorities:
                self._flows.discard((org, workload))
        return waiting

    def _run(self, operation: Operation) -> Any:
        return run(self._connection, operation)


def _at_cap(state: OrgState) -> bool:
    return state.burst_max is not None and state.in_flight >= state.burst_max


def _free(state: OrgState) -> int:
    """Return how many more slots the org may hold as far as its own cap goes."""
    return _TASKS_MAX if state.burst_max is None else max(0, state.burst_max - state.in_flight)
