"""What the policy knows of an org and of its flows."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class FlowState:
    """One (org, workload): its tag in the org's own virtual time, and the tasks that wait.

    `backlog` may be too high (a staged task was cancelled) but never too low: work that is
    believed absent would wait for ever, work that is believed present costs one empty look.
    """

    workload: str
    tag: int = 0
    backlog: int = 0


@dataclass(slots=True)
class OrgState:
    """One org of a queue: its share, its cap, its tag, and what it has in flight."""

    org: str
    weight: int = 1
    rank: int = 0
    burst_max: int | None = None
    paused: bool = False
    tag: int = 0
    virtual_time: int = 0
    in_flight: int = 0
    # The admission that served this org last; before the first one, its order of appearance,
    # negative, so that ties never depend on a name.
    last_admit: int = 0
    backlog: int = 0
    flows: dict[str, FlowState] = field(default_factory=dict)
    # Whether the scheduler holds it as eligible, and the version of its newest heap entry.
    eligible: bool = False
    stamp: int = 0

    @property
    def may_run(self) -> bool:
        """Tell whether a free slot could go to this org now."""
        return (
            self.backlog > 0
            and not self.paused
            and (self.burst_max is None or self.in_flight < self.burst_max)
        )
