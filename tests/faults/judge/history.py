"""What a run left behind: the journals of its processes, the tables, and what was seen meanwhile.

Nothing here, or in any module beside it, imports the product: whoever judges must not share its
mistakes. Instants are seconds since the epoch, by the one clock that server and processes have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Ask(NamedTuple):
    """A producer asks for tasks; each is known by a token in its payload, and its org."""

    producer: str
    call: int
    at: float
    tokens: Sequence[tuple[str, str]]
    effect: str | None = None  # what the same transaction writes besides


class Answer(NamedTuple):
    """What a producer was told: ack (with ids), unknown, or refused."""

    producer: str
    call: int
    at: float
    outcome: str
    tokens: Sequence[tuple[str, str]]
    ids: Sequence[tuple[int, bool]] = ()  # (id, created)


class Start(NamedTuple):
    """A handler begins, or ends."""

    at: float
    pid: int
    parent: int
    task: int
    attempt: int
    org: str
    payload_org: str


class Change(NamedTuple):
    """An operator's change of one org's cap (None: no cap); `done_at` is None if nobody knows."""

    org: str
    burst_max: int | None
    asked_at: float
    done_at: float | None


class Retry(NamedTuple):
    """An operator replays an ended task."""

    task: int
    asked_at: float
    outcome: str  # done, unknown, refused


class Task(NamedTuple):
    """A row of `task`."""

    id: int
    org: str
    key: str | None
    token: str
    max_attempts: int
    created_at: float


class Attempt(NamedTuple):
    """A row of `task_attempt`."""

    task: int
    attempt: int
    status: str
    final: bool
    key: int | None
    org: str
    claimed_at: float | None
    ended_at: float
    worker: str | None


class Tick(NamedTuple):
    """A row of `tick_log`; `admitted` by org."""

    seq: int
    epoch: int
    at: float
    took_s: float
    admitted: Mapping[str, int]


class Term(NamedTuple):
    """An election, from `leadership_log`."""

    epoch: int
    term: str
    timeline: int
    at: float


class OrgSeen(NamedTuple):
    """One org in a sample."""

    staged: int
    in_flight: int
    cap: int | None
    paused: bool
    weight: int = 1
    kept: int | None = None  # what the leader's cut says, less what it has yet to read


@dataclass(frozen=True)
class Sample:
    """What one snapshot of the database showed."""

    at: float
    orgs: Mapping[str, OrgSeen] = field(default_factory=dict)
    # Tasks that are in several places, or in none and not ended.
    doubled: Sequence[int] = ()
    nowhere: Sequence[int] = ()
    # Tasks on which two leases are valid; claimed tasks that no lease covers.
    shared: Sequence[int] = ()
    unleased: Sequence[int] = ()
    # Keys that several unfinished tasks hold.
    keys: Sequence[str] = ()
    epoch: int = 0
    term: str = ""
    # Sessions idle in a transaction: (name, seconds).
    idle: Sequence[tuple[str, float]] = ()
    # Sessions that hold the lock of a queue and do not lead it.
    locks: Sequence[int] = ()


class Loss(NamedTuple):
    """Something that ended a leader: when, of which epoch, how."""

    at: float
    epoch: int
    kind: str


class Usage(NamedTuple):
    """What a process held when it was warm, and at the end."""

    name: str
    descriptors: tuple[int, int]
    rss: tuple[int, int]


@dataclass(frozen=True)
class History:
    """Everything that is known of a run."""

    asks: Sequence[Ask] = ()
    answers: Sequence[Answer] = ()
    starts: Sequence[Start] = ()
    changes: Sequence[Change] = ()
    retries: Sequence[Retry] = ()
    tasks: Sequence[Task] = ()
    attempts: Sequence[Attempt] = ()
    places: Mapping[int, Sequence[str]] = field(default_factory=dict)  # of unfinished tasks
    ticks: Sequence[Tick] = ()
    terms: Sequence[Term] = ()
    effects: Sequence[str] = ()
    samples: Sequence[Sample] = ()
    losses: Sequence[Loss] = ()
    usages: Sequence[Usage] = ()
    fair_by_count: bool = False
    # The run waited for this long for everything to end, and whether it did.
    drained: bool = True
    drain_s: float = 0.0
    sessions_left: int = 0
    repairs: Sequence[str] = ()
    idle_bound_s: float = 1.5
    lock_bound_s: float = 3.0
    takeover_bound_s: float = 6.5


Violations = list[str]


def shown(values: Sequence[Any], most: int = 5) -> str:
    """Return the first few of `values` as text."""
    more = f" and {len(values) - most} more" if len(values) > most else ""
    return f"{', '.join(map(str, values[:most]))}{more}"
