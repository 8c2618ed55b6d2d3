"""Gathering: calls that come at the same time share a statement, and with it a commit.

Those of one queue form a `Line`. Who comes while fewer than `ABREAST_MAX` statements of the line
are under way goes at once and alone, unless a shared one has just returned. Who comes later waits.
When a statement has returned, the first of those who wait is told to lead: it takes all who wait by
then, up to the bounds, into one statement, and hands each its own answer. So the busier it is, the
more share a commit, and a statement under way is all that anybody waits for, however many there
are.

- First come, first served; whoever leads is the first.
- Callers that go on calling come back at once. The first of them would find nobody and go alone, so
  that every other commit was for one task. So it lingers for as many as rode before: a part of the
  time that their statement took, and no longer than `LINGER_MAX_S`. Where they do not come it goes
  without them, and then nobody lingers until others share again.
- While anybody waits, `ABREAST_MAX` lead: each that leaves tells the next. Both are decided under
  one lock, so nobody is forgotten between a look and a leave.
- A statement that failed and surely stored nothing is dissolved: each tries again by itself, so an
  error reaches only the one that it is about.
- Where it is unknown what was stored, because the connection broke or the leader was interrupted,
  each is told so by an error of its own, and nobody tries again: the task might be stored twice.
- Who is interrupted leaves, wherever it stands: in line, told to lead, or amidst its statement.
- A connection that fell silent holds up those whom it carries, and nobody else: where the line has
  not moved for `PATIENCE_S`, whoever finds out has the first who waits lead, as if the silent
  statement had returned. That one keeps those who ride in it, and tells them once it ends.

What is gathered must not wait for locks of other transactions: one of them may belong to a caller
that waits in this line, and the server, which sees half of the circle, would not break it. Hence
idempotency keys, which wait for whoever stages the same key, stay outside.

This is the leader and followers of PostgreSQL's own group commit, and "flat combining" of Hendler,
Incze, Shavit and Tzafrir (2010).
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Any, NamedTuple

from orchestrator.errors import DatabaseUnavailable, OrchestratorError
from orchestrator.store.sql import Operation

# Statements of one line under way at once. With two the calls share less, and one process has not
# the time to keep both busy.
ABREAST_MAX = 1
# After so long without a move of the line, it goes on without the statement that is under way.
PATIENCE_S = 5.0
# Of one statement: enough that what each adds is flat, few enough that it stays a matter of
# milliseconds, which is what the next ones wait.
ITEMS_MAX = 100
CHARS_MAX = 256 * 1024
# How much of the time of a shared statement one lingers for those who rode in it: threads take most
# of it to come back, and it is what they all would wait for a statement that took one along.
LINGER_PART = 0.8
# A statement that stood behind a lock says nothing of that.
LINGER_MAX_S = 0.002

_INTERRUPTED = (
    "the call that sent this task along with its own was interrupted, so what happened is unknown: "
    "enqueue again, and give an idempotency_key, which makes that safe"
)


class Joint(NamedTuple):
    """What a call adds to a statement that it may share."""

    # Only those of one queue share.
    queue: int
    item: Any
    # About how long the item is.
    chars: int
    # Makes one operation of a queue and its items; its value is one answer for each, in order.
    together: Callable[[int, Sequence[Any]], Operation]


class Turn(Enum):
    """What a call is to do."""

    WAIT = auto()
    # Take those who wait along.
    LEAD = auto()
    # Return its answer.
    ANSWERED = auto()
    # Try by itself: nothing was stored.
    ALONE = auto()
    # Raise its error.
    FAILED = auto()


class Seat(ABC):
    """The place of one call in line."""

    turn = Turn.WAIT
    answer: Any = None
    error: Exception | None = None

    def __init__(self, joint: Joint) -> None:
        self.joint = joint
        # How long to wait for company before it leads.
        self.linger_s = 0.0
        # Who rides with this one once it leads, itself included, and has not been told yet.
        self.batch: deque[Seat] = deque()
        # Who leads because of this one, and has not been told yet.
        self.following: Seat | None = None
        # How often the line had moved when this one began to be patient.
        self.moves = 0

    @abstractmethod
    def lead(self) -> None:
        """Have somebody lead from this seat."""

    @abstractmethod
    def ring(self) -> None:
        """Let the call see its turn; more than once does no harm."""

    def answered(self, answers: Sequence[Any]) -> None:
        """Note the answers of all that ride with this one."""
        for seat, answer in zip(self.batch, answers, strict=True):
            seat.answer = answer
            seat.turn = Turn.ANSWERED

    def failed(self, error: Exception) -> None:
        """Note what the failure of the statement means for all that ride with this one."""
        for seat in self.batch:
            if _stored_nothing(error):
                seat.turn = Turn.ALONE
            elif seat is self:
                seat.turn, seat.error = Turn.FAILED, error
            else:
                seat.fail(str(error) if isinstance(error, DatabaseUnavailable) else _INTERRUPTED)

    def fail(self, text: str) -> None:
        """Note that what became of this call is unknown."""
        # An error of its own: raising one writes into it, and each thread raises.
        self.error = error = DatabaseUnavailable(text)
        error.in_doubt = True
        self.turn = Turn.FAILED

    def outcome(self) -> Any:
        """Return the answer, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.answer


class Line:
    """Who of one queue is under way, and who waits; `linger_part` is 0 where nobody lingers."""

    def __init__(self, linger_part: float = 0.0) -> None:
        self._lock = threading.Lock()
        self._leading: set[Seat] = set()
        self._waiting: deque[Seat] = deque()
        self._linger_part = linger_part
        # How often one that led was succeeded.
        self._moves = 0
        # Of the statement before: how many rode, when it was sent, and how long it took.
        self._rode = 0
        self._sent_at = self._took_s = 0.0
        # Who lingers, and for how many.
        self._lingering: Seat | None = None
        self._company = 0

    def enter(self, seat: Seat) -> bool:
        """Tell whether to go at once and alone; else this seat waits from now on, or leads once it
        has lingered.
        """
        complete = None
        with self._lock:
            if len(self._leading) < ABREAST_MAX:
                self._leading.add(seat)
                if self._rode > 1 and self._linger_part and self._lingers(seat):
                    return False
                self._rode = 1
                return True
            seat.moves = self._moves
            self._waiting.append(seat)
            if self._lingering is not None and len(self._waiting) >= self._company:
                complete, self._lingering = self._lingering, None
        if complete is not None:
            complete.ring()
        return False

    def _lingers(self, seat: Seat) -> bool:
        """Have `seat` linger if those who rode before may be about to come back."""
        most_s = min(self._took_s * self._linger_part, LINGER_MAX_S)
        if time.monotonic() - self._sent_at - self._took_s >= most_s:
            return False
        seat.turn, seat.linger_s = Turn.LEAD, most_s
        seat.batch.append(seat)
        self._lingering, self._company = seat, self._rode - 1
        return True

    def gather(self, leader: Seat) -> Operation:
        """Have all who wait, up to the bounds, ride with `leader`; return what to do for them."""
        batch, chars = leader.batch, leader.joint.chars
        with self._lock:
            while self._waiting and len(batch) < ITEMS_MAX:
                chars += self._waiting[0].joint.chars
                if chars > CHARS_MAX:
                    break
                batch.append(self._waiting.popleft())
            self._lingering = None
            self._rode = len(batch)
            self._sent_at = time.monotonic()
        return leader.joint.together(leader.joint.queue, [seat.joint.item for seat in batch])

    def leave(self, seat: Seat) -> None:
        """End what `seat` does here, wherever it stands.

        If it led, the next in line leads, and all that rode with it learn their turn. Where this is
        interrupted, it is to be called again: it goes on with those who were not told yet.
        """
        with self._lock:
            if seat in self._leading:
                self._leading.remove(seat)
                if seat.batch:
                    self._lingering = None
                    self._took_s = time.monotonic() - self._sent_at
                self._succeed(seat)
            else:
                self._remove(seat)
        _tell_following(seat)
        if seat.batch:
            _tell(seat.batch)

    def take_over(self, seat: Seat) -> bool:
        """Have the line go on where it has not moved since `seat` began to be patient; tell whether
        `seat` is to be patient once more: not where it leads or rides by now.
        """
        with self._lock:
            if not self._waits(seat):
                return False
            if seat.moves == self._moves:
                self._leading.clear()
                self._succeed(seat)
            seat.moves = self._moves
            waits = self._waits(seat)
        _tell_following(seat)
        return waits

    def withdraw(self, seat: Seat) -> None:
        """Take `seat` out of the line if it still waits there."""
        with self._lock:
            self._remove(seat)

    def _succeed(self, seat: Seat) -> None:
        """Have the first in line lead, to be told by `seat`."""
        self._moves += 1
        if self._waiting:
            following = self._waiting.popleft()
            following.turn = Turn.LEAD
            following.batch.append(following)
            self._leading.add(following)
            seat.following = following

    def _waits(self, seat: Seat) -> bool:
        return seat.turn is Turn.WAIT and seat in self._waiting

    def _remove(self, seat: Seat) -> None:
        if self._waits(seat):
            self._waiting.remove(seat)


def _tell_following(seat: Seat) -> None:
    if seat.following is not None:
        seat.following.lead()
        seat.following = None


def _tell(batch: deque[Seat]) -> None:
    """Ring all; who has no turn was left behind by an interruption of the leader."""
    for seat in batch:
        if seat.turn in (Turn.WAIT, Turn.LEAD):
            seat.fail(_INTERRUPTED)
    while batch:
        batch[0].ring()
        batch.popleft()


def _stored_nothing(error: Exception) -> bool:
    """Tell whether the failed statement surely left nothing behind."""
    if isinstance(error, DatabaseUnavailable):
        return not error.in_doubt
    # An error of the server, or ours that stands for one: it rolled back.
    return isinstance(error, OrchestratorError) or getattr(error, "sqlstate", None) is not None
