"""Headroom: the more a queue holds, the less of it one org may hold.

An org must hold fewer than `alpha` times the slots that the capacity leaves free. Orgs that hold
too many are set aside; what ends may let them run again, the one that holds least first.

Source: dynamic thresholds of shared buffers (Choudhury, Hahne 1998).
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush

from orchestrator.fairness.state import OrgState


class Headroom:
    """What one queue asks for, and who is set aside for want of it."""

    def __init__(self, alpha: float | None = None, capacity: int | None = None) -> None:
        self._alpha = alpha
        self._capacity = capacity
        self._held: list[tuple[int, int, OrgState]] = []

    def left(self, in_flight: int) -> float:
        """Return how many slots an org must stay below while `in_flight` are held in all."""
        if self._alpha is None or self._capacity is None:
            return float("inf")
        return self._alpha * (self._capacity - in_flight)

    def has(self, state: OrgState, in_flight: int) -> bool:
        """Tell whether `state` may take one more slot."""
        return self._alpha is None or state.in_flight < self.left(in_flight)

    def set_aside(self, state: OrgState) -> None:
        """Remember `state` until it has headroom."""
        if state.held_at is None or state.in_flight < state.held_at:
            state.held_at = state.in_flight
            heappush(self._held, (state.in_flight, id(state), state))

    def released(self, in_flight: int) -> Iterator[OrgState]:
        """Yield those that were set aside and have headroom now."""
        while self._held and self._held[0][0] < self.left(in_flight):
            _, _, state = heappop(self._held)
            state.held_at = None
            yield state
