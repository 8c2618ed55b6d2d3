"""What the policy knows of an org, of its flows, and of its place in each lane."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from enum import IntEnum

from orchestrator.fairness.costs import TAG_MIN


class Lane(IntEnum):
    """Two domains of virtual time: ordinary slots, and the reserve that only express work uses."""

    MAIN = 0
    EXPRESS = 1


# By names of their own: up to Python 3.11, to ask an enumeration for a member is a call.
MAIN, EXPRESS = Lane


@dataclass(slots=True)
class FlowState:
    """One (org, workload): its tags in the org's own virtual times, and the tasks that wait.

    `backlog` may be too high (a staged task was cancelled) but never too low: work that is
    believed absent would wait for ever, work that is believed present costs one empty look.
    """

    workload: str
    tags: list[int] = field(default_factory=lambda: [TAG_MIN, TAG_MIN])
    backlog: int = 0
    _: KW_ONLY
    # How many of them are critical, as far as is known; they come first in the flow.
    critical: int = 0
    # What a task of this flow is expected to take, in microseconds of worker time; 0 is unknown.
    cost_us: int = 0
    # Whether the reserve is open to it: its workload is express, and its tasks are as short as
    # that workload promises.
    express: bool = False
    # What operators decided of its workload.
    share: int = 1
    rank: int = 0


@dataclass(slots=True, eq=False)
class Seat:
    """The place of one org in one lane."""

    state: OrgState
    lane: Lane
    tag: int = TAG_MIN
    virtual_time: int = 0
    in_flight: int = 0
    # Whether the lane holds it as eligible, and the version of its newest heap entry.
    eligible: bool = False
    stamp: int = 0
    # The admission after which it became eligible: who was before a window began, was all along.
    woken: int = 0


@dataclass(slots=True, eq=False)
class OrgState:
    """One org of a queue: its share, its cap, its seats, and what waits."""

    org: str
    weight: int = 1
    rank: int = 0
    burst_max: int | None = None
    paused: bool = False
    in_flight: int = 0
    # The admission that served this org last; before the first one, its order of appearance,
    # negative, so that ties never depend on a name.
    last_admit: int = 0
    backlog: int = 0
    express_backlog: int = 0
    # How many slots it held when it was set aside for want of headroom.
    held_at: int | None = None
    flows: dict[str, FlowState] = field(default_factory=dict)
    # Its places in the two lanes.
    main: Seat = field(init=False)
    express: Seat = field(init=False)
    seats: tuple[Seat, Seat] = field(init=False)

    def __post_init__(self) -> None:
        self.main, self.express = self.seats = Seat(self, MAIN), Seat(self, EXPRESS)

    @property
    def may_run(self) -> bool:
        """Tell whether a free slot could go to this org now, as far as its own limits go."""
        return (
            self.backlog > 0
            and not self.paused
            and (self.burst_max is None or self.in_flight < self.burst_max)
        )
