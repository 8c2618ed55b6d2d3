"""A lane's line: who is eligible in it, in the order of their keys, and its virtual time."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Any

from orchestrator.fairness.state import Lane, Seat

# Stale heap entries are dropped when they outnumber the live ones by this factor.
_HEAP_SLACK = 4
_HEAP_MIN = 1024

Key = tuple[int, ...]


class Line:
    """The seats of one lane. Entries are never removed, only outdated: a stamp tells."""

    def __init__(self, lane: Lane, virtual_time: int = 0) -> None:
        self.lane = lane
        self.virtual_time = virtual_time
        self.in_flight = 0
        self.eligible = 0
        # Whether the last round left an eligible org waiting.
        self.contended = False
        # A key, a stamp and a seat, in one tuple each: a tuple within it would be compared twice.
        self._heap: list[tuple[Any, ...]] = []
        self._pushed = 0

    def set_eligible(self, seat: Seat, eligible: bool) -> None:
        """Note whether a slot of this lane could go to `seat` now."""
        self.eligible += eligible - seat.eligible
        seat.eligible = eligible

    def push(self, key: Key, seat: Seat) -> None:
        """Give `seat` its place; any older entry of it is void."""
        # One count for all seats: entries of two orgs may agree in everything else after an undo.
        self._pushed += 1
        seat.stamp = self._pushed
        if seat.eligible:
            heappush(self._heap, (*key, self._pushed, seat))
            if len(self._heap) > _HEAP_MIN + _HEAP_SLACK * self.eligible:
                self._heap = [entry for entry in self._heap if entry[-2] == entry[-1].stamp]
                heapify(self._heap)

    def first(self) -> Seat | None:
        """Return the first eligible seat in the line, None if there is none."""
        heap = self._heap
        while heap:
            entry = heap[0]
            seat: Seat = entry[-1]
            if entry[-2] == seat.stamp and seat.eligible:
                return seat
            heappop(heap)
        return None

    def pop(self) -> Seat | None:
        """Take the first eligible seat out of the line, None if there is none."""
        heap = self._heap
        while heap:
            entry = heappop(heap)
            seat: Seat = entry[-1]
            if entry[-2] == seat.stamp and seat.eligible:
                return seat
        return None
