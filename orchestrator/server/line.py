"""Those who wait for one queue, woken one after the other.

A notification wakes the first in the line and nobody else. Who was woken holds the *baton*: it
looks, and if it found something it wakes the next; if not, it goes back to its place and the line
sleeps on. So a thousand waiters cost one look more than there are tasks for them. The baton is
passed on as well by whoever leaves with it: its time is up, its client hung up, or its look failed.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

# Looks at one queue at the same time: who polls in a crowd waits for those before, which usually
# answer for all.
LOOKS_MAX = 4


class Waiter:
    """One call that waits, for some queues at once."""

    def __init__(self) -> None:
        self._woken = asyncio.Event()
        self._batons: list[Line] = []

    def rouse(self) -> None:
        """End its sleep without a baton."""
        self._woken.set()

    def wake(self, line: Line) -> None:
        """Hand the baton of a line over."""
        self._batons.append(line)
        self._woken.set()

    def take(self) -> list[Line]:
        """Return the lines whose batons came since the last time."""
        self._woken.clear()
        taken, self._batons = self._batons, []
        return taken

    async def sleep(self, seconds: float) -> bool:
        """Return True once it was woken, False when the time is up."""
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._woken.wait()
        except TimeoutError:
            return self._woken.is_set()
        return True


class Line:
    """Who waits for a queue, first come first served, and what was heard of it."""

    def __init__(self, queue: int, name: str) -> None:
        self.queue = queue
        self.name = name
        self.places = asyncio.Semaphore(LOOKS_MAX)
        self._asleep: OrderedDict[Waiter, None] = OrderedDict()
        self._awake: Waiter | None = None
        # Notifications heard, and how many of them preceded the last look that found nothing.
        self._notified = 0
        self._looked_past = -1

    @property
    def waits(self) -> bool:
        """Tell whether anybody sleeps here."""
        return bool(self._asleep)

    @property
    def news(self) -> bool:
        """Tell whether a notification came that no look has answered yet.

        Then no verdict counts: the notification may have overtaken the bump that voids it.
        """
        return self._notified != self._looked_past

    def mark(self) -> int:
        """Return what to give to `found_nothing`, to be asked before the look."""
        return self._notified

    def found_nothing(self, mark: int) -> None:
        """Note that a look which began at this mark found nothing to claim."""
        self._looked_past = max(self._looked_past, mark)

    def notify(self) -> None:
        """Note that work was notified, and wake the first."""
        self._notified += 1
        self.wake()

    def wake(self) -> None:
        """Wake the first sleeper, unless one is awake, who wakes the next."""
        if self._awake is None and self._asleep:
            self._awake, _ = self._asleep.popitem(last=False)
            self._awake.wake(self)

    def rouse(self) -> None:
        """Wake everybody, without a baton: the process ends."""
        for waiter in self._asleep:
            waiter.rouse()

    def join(self, waiter: Waiter) -> None:
        """Stand in the line, before the first look: what comes during it must not be missed."""
        self._asleep[waiter] = None

    def put_back(self, waiter: Waiter) -> None:
        """Take the baton of one that found nothing; it keeps its place."""
        if self._awake is waiter:
            self._awake = None
            self._asleep[waiter] = None
            self._asleep.move_to_end(waiter, last=False)
            if self.news:
                self.wake()

    def leave(self, waiter: Waiter, *, found: bool) -> None:
        """Leave the line; the next is woken if there may be more, or if this one was to look."""
        self._asleep.pop(waiter, None)
        held = self._awake is waiter
        if held:
            self._awake = None
        if held or found:
            self.wake()
