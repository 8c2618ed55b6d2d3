"""Who stands in line, and where: eligibility and places in both lanes, after any change of an org.

Who joins the line starts at the virtual time, or beside the first in it where refunds have left all
below that; whoever was idle banks nothing. Who becomes eligible by what ended is looked at in
`wake`, after all of it was settled, and after the virtual time forgave.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from orchestrator.fairness.headroom import Headroom
from orchestrator.fairness.line import Key, Line
from orchestrator.fairness.roster import Roster
from orchestrator.fairness.state import OrgState, Seat


class Standing(Roster, ABC):
    """The orgs of one queue, each in line where it may run."""

    def __init__(self, virtual_time: int, express_virtual_time: int, admit_seq: int) -> None:
        super().__init__(virtual_time, express_virtual_time)
        self.admit_seq = admit_seq
        self._limits: tuple[int | None, float | None] = (None, None)
        self._headroom = Headroom()

    @abstractmethod
    def _key(self, seat: Seat) -> Key:
        """Return where `seat` stands in line; the smallest goes first; unique among orgs."""

    def set_limits(self, *, capacity: int | None, headroom: float | None) -> None:
        """Set how many tasks the queue may hold, and what part of the rest one org may."""
        if (capacity, headroom) == self._limits:
            return
        self._limits = capacity, headroom
        self._headroom = Headroom(headroom, capacity)
        for org in self.orgs.values():
            org.held_at = None
        self._touched.update(self.orgs)

    def load(self, state: OrgState) -> None:
        """Take over an org as it was persisted, or from another policy.

        A seat that was eligible then goes on with its tag. One that was not is woken later, if it
        may run once it is configured: what was decided while nobody looked (a cap raised, an org
        resumed) gives no credit for the time before.
        """
        name, main, express = state.org, state.main, state.express
        backlog = state.express_backlog = 0
        for flow in state.flows.values():
            flow.express = False
            self._classify(state, flow)
            backlog += flow.backlog
        state.backlog = backlog
        state.in_flight = in_flight = main.in_flight + express.in_flight
        state.held_at = None
        self.orgs[name] = state
        self.backlog += backlog
        if in_flight:
            self.in_flight += in_flight
            self.main.in_flight += main.in_flight
            self.express.in_flight += express.in_flight
            self._running[name] = state
        if state.last_admit < 0:
            self._appeared = max(self._appeared, state.last_admit + 2**62)
        if main.eligible:
            self._resume(self.main, main, backlog)
        if express.eligible:
            self._resume(self.express, express, state.express_backlog)
        if not main.eligible and state.may_run:
            self._touched[name] = state

    def _resume(self, line: Line, seat: Seat, waits: int) -> None:
        """Put a seat back where it stood. It is what was persisted: a new leader does not write
        all of them down again.
        """
        seat.eligible = False
        if waits > 0:
            line.set_eligible(seat, True)
            seat.woken = self.admit_seq
            line.push(self._key(seat), seat)

    def wake(self) -> None:
        """Forgive, then let those run whom the settlements of this round allow to."""
        for line in self.lines:
            # Who became eligible since the last round stands at the old virtual time already.
            if line.in_flight and not line.contended and not line.eligible:
                self._forgive(line)
        if self._touched:
            touched, self._touched = self._touched, {}
            # Those in line first: where they stand now is where the others may start.
            for state in sorted(touched.values(), key=_stands_out):
                self._update(state)
        for state in self._headroom.released(self.in_flight):
            if not state.main.eligible:
                self._update(state)

    def _forgive(self, line: Line) -> None:
        lane, highest = line.lane, line.virtual_time
        for state in self._running.values():
            seat = state.seats[lane]
            if seat.in_flight and seat.tag > highest:
                highest = seat.tag
        line.virtual_time = highest

    def close_round(self) -> None:
        """Note whether anybody eligible was left waiting; after every round, planned or not."""
        for line in self.lines:
            line.contended = line.eligible > 0

    def _update(self, state: OrgState) -> None:
        """Bring eligibility and the places in line up to date after any change of `state`."""
        main, express = state.seats
        may_run = state.may_run
        # Who stands in line without headroom is set aside when it comes to be its turn, not before:
        # so a new leader, which does not know what was looked at when, decides alike.
        has_headroom = main.eligible or self._headroom.has(state, self.in_flight)
        if may_run and not has_headroom:
            self._headroom.set_aside(state)
        self._stand(self.main, main, may_run and has_headroom)
        if state.express_backlog or express.eligible:
            self._stand(self.express, express, may_run and state.express_backlog > 0)

    def _stand(self, line: Line, seat: Seat, eligible: bool, *, clip: bool = True) -> None:
        if eligible and not seat.eligible and clip:
            seat.tag = max(seat.tag, self._start(line))
        if eligible != seat.eligible:
            self.dirty.add(seat.state.org)
            line.set_eligible(seat, eligible)
            seat.woken = self.admit_seq
        line.push(self._key(seat) if eligible else (), seat)

    def _start(self, line: Line) -> int:
        """Return the tag at which who joins the line stands, unless its own is higher."""
        first = line.first()
        if first is None or first.tag > line.virtual_time:
            return line.virtual_time
        return first.tag


def _stands_out(state: OrgState) -> bool:
    return not (state.main.eligible or state.express.eligible)
