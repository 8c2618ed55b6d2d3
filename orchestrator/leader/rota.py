"""Whom a tick wakes: as many of the listening workers as there is work for, in turn.

Every session that listens hears every notification; its payload names those who should look. Were
all to look at what a few can do, each would claim a handful of tasks, with as many statements as
for hundreds. The protocol:

1. Once a second or so the leader learns who listens. Each listening worker is taken to work off so
many tasks in a moment (`SOON_S`) as its slots and the measured cost allow. A *call* names the next
ones in turn, as many as work off in a moment what stands ready; never nobody.
2. Everybody is called, as the empty payload says, where that is not known: who listens or what a
task takes, tasks that take longer than a moment (a worker that is busy with some is not free soon),
or too many to be named.
3. Whoever was named may be dead, or full. So after a call that named some, the leader looks again
soon; where work stands and nobody has claimed for `PATIENCE_S`, or where tasks turn out to take
longer, it calls again, twice as many, until everybody was called. How wide it had to call is
remembered, and half of it forgotten each time it learns who listens.
4. A new term does not know what the one before has called: what stands ready at its first look is
called for.

Pure: the time and what was read are passed in.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from orchestrator.store.admission import Parked

# What stands ready should be worked off in about so long; longer than waking a process takes.
SOON_S = 0.01
# A task that does nothing costs a worker so much, whatever its concurrency: one interpreter runs
# them all.
TASK_S = 50e-6
# Work that nobody has claimed for this long was not heard of by anybody who is free. A worker that
# is woken on a busy machine claims within it.
PATIENCE_S = 0.01
# With so many names a payload is far from the 8,000 bytes that a notification may have.
NAMED_MAX = 500
# Who has listened this long ago is not to be relied on.
FRESH_S = 10.0

EVERYBODY: Sequence[Parked] = ()


class Rota:
    """The workers that listen for one queue, whose turn it is, and who was called."""

    def __init__(self) -> None:
        self._parked: Sequence[Parked] = ()
        self._learnt_at = float("-inf")
        # The last one that was named; the next in turn has the next higher pid.
        self._last = 0
        # By how much more to call than should do.
        self._width = 1
        # What stands ready, and who was named for it, if not everybody was called.
        self._ready = 0
        self._named: Sequence[Parked] = ()
        self._some = True
        # When something was last claimed, or nothing stood ready.
        self._stirred_at = float("-inf")
        self._before = self._called

    @property
    def _called(self) -> tuple[int, int, Sequence[Parked], bool, float]:
        """Return what a call changes."""
        return self._last, self._ready, self._named, self._some, self._stirred_at

    @property
    def standing(self) -> bool:
        """Tell whether work stands ready that some have not been told of: look again soon."""
        return self._some

    def learn(self, parked: Sequence[Parked], now: float) -> None:
        """Note who listens now."""
        self._parked = sorted(parked)
        self._learnt_at = now
        self._width = max(1, self._width // 2)

    def observe(self, ready: int, claims: int, now: float) -> None:
        """Note what a look found ready, and how many tasks were claimed since the last one."""
        self._ready = ready
        if claims or not ready:
            self._stirred_at = now
        if not ready:
            self._some = False

    def call(self, tasks: int, cost_us: int, now: float) -> Sequence[int]:
        """Return the pids to name for so many more tasks, which are ready then; none = everybody.

        A task takes about `cost_us` of a slot's time at the most, 0 is unknown.
        """
        self._before = self._called
        if not self._some:
            self._stirred_at = now
        self._ready += tasks
        self._named = self._next(cost_us, now)
        self._some = bool(self._named)
        return [parked.pid for parked in self._named]

    def take_back(self) -> None:
        """Forget the last call: the tick that made it did nothing, and so told nobody."""
        self._last, self._ready, self._named, self._some, self._stirred_at = self._before

    def call_again(self, cost_us: int, now: float) -> Sequence[int] | None:
        """Return the pids to name for what stands ready still; None where enough were called."""
        if not self._some:
            return None
        if now - self._stirred_at >= PATIENCE_S:
            self._width *= 2
            self._stirred_at = now
        elif self._suffices(cost_us):
            return None
        return self.call(0, cost_us, now)

    def _suffices(self, cost_us: int) -> bool:
        """Tell whether who was named still looks like enough."""
        soon = sum(_soon(parked.concurrency, cost_us) for parked in self._named)
        return soon >= self._ready

    def _next(self, cost_us: int, now: float) -> Sequence[Parked]:
        """Return whom to name, and give the turn to those behind them."""
        if not _is_short(cost_us) or now - self._learnt_at > FRESH_S:
            return EVERYBODY
        turn = bisect.bisect(self._parked, self._last, key=lambda parked: parked.pid)
        line = [*self._parked[turn:], *self._parked[:turn]]
        count = self._needed(line, cost_us) * self._width
        if count >= len(line) or count > NAMED_MAX:
            return EVERYBODY
        self._last = line[count - 1].pid
        return line[:count]

    def _needed(self, line: Sequence[Parked], cost_us: int) -> int:
        """Return how many from the front of `line` work off soon what is ready; all, if need be."""
        left = float(self._ready)
        for count, parked in enumerate(line, 1):
            left -= _soon(parked.concurrency, cost_us)
            if left <= 0:
                return count
        return len(line) or 1


def _is_short(cost_us: int) -> bool:
    """Tell whether a task is known to take less than a moment."""
    return 0 < cost_us < SOON_S * 1e6


def _soon(concurrency: int, cost_us: int) -> float:
    """Return how many tasks a worker works off in a moment; none that are not known to be short."""
    if not _is_short(cost_us):
        return 0.0
    return max(1.0, min(concurrency * SOON_S * 1e6 / cost_us, SOON_S / TASK_S))
