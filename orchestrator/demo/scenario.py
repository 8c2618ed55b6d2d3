"""Who takes part: one org that floods and three that trickle, in tiers of different weight."""

from __future__ import annotations

from dataclasses import dataclass

# A flood of this size keeps the slots below busy for about three quarters of the default duration.
FLOOD_TASKS = 20_000
SECONDS = 30.0
WORKERS = 2
CONCURRENCY = 10
TASK_MS = 20


@dataclass(frozen=True, slots=True)
class Part:
    """One org of the demonstration."""

    org: str
    tier: str
    burst_max: int
    flood: int = 0
    per_s: float = 0.0


def parts(seconds: float) -> list[Part]:
    """Return the orgs of a demonstration of this length; the flood shrinks and grows with it."""
    return [
        Part("acme", "enterprise", burst_max=16, per_s=40.0),
        Part("globex", "premium", burst_max=12, per_s=20.0),
        Part("initech", "standard", burst_max=8, per_s=10.0),
        Part("umbrella", "free", burst_max=100, flood=round(FLOOD_TASKS * seconds / SECONDS)),
    ]
