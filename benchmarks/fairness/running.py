"""Running a trace under every rule, and the numbers that all experiments take from a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from benchmarks.estimates import Sample
from orchestrator.fairness.measures import percentile
from orchestrator.fairness.simulation.baselines import Rule
from orchestrator.fairness.simulation.policy import SimPolicy
from orchestrator.fairness.simulation.report import report_of
from orchestrator.fairness.simulation.run import Run
from orchestrator.fairness.simulation.scenarios import Dice
from orchestrator.fairness.simulation.simulate import simulate
from orchestrator.fairness.simulation.trace import Trace

SECOND_US = 1_000_000
LAG = "worst lag / bound"
# How a rule is called in tables and figures.
NAMES = {
    Rule.WEIGHTED: "weighted",
    Rule.COUNT: "count-stride",
    Rule.MAX_MIN: "slot max-min",
    Rule.SQS: "SQS rule",
    Rule.STRICT: "strict tiers",
    Rule.FIFO: "FIFO",
}


def varied(dice: Dice, duration_us: int) -> int:
    """Draw a duration between half and one and a half of `duration_us`."""
    return round(duration_us * (0.5 + dice.random()))


def under_all(
    trace: Trace,
    policy: SimPolicy,
    *,
    until_us: int | None = None,
    tracked: int = 3,
    rules: Iterator[Rule] | None = None,
) -> Iterator[tuple[Rule, Run]]:
    """Yield the run of `trace` under each rule."""
    for rule in rules or iter(NAMES):
        ruled = replace(policy, rule=rule)
        yield rule, simulate(trace, ruled, until_us=until_us, tracked=tracked)


def dwells_s(run: Run, of: Callable[[str], bool]) -> list[float]:
    """Return the dwells of the tasks of the orgs that `of` names, ascending.

    One that never started has waited until the end of the run, which is the least it can be.
    """
    chosen = [of(org) for org in run.trace.orgs]
    columns = zip(run.trace.org, run.trace.at_us, run.start_us, strict=True)
    return sorted(
        ((start_us if start_us >= 0 else run.until_us) - at_us) / SECOND_US
        for org, at_us, start_us in columns
        if chosen[org] and at_us < run.until_us
    )


def p99(run: Run, of: Callable[[str], bool]) -> float:
    """Return the 99th percentile of the dwells of the orgs that `of` names."""
    return percentile(dwells_s(run, of), 0.99)


def served(run: Run) -> dict[str, float]:
    """Return the worker-seconds that each org obtained."""
    return {org: us / SECOND_US for org, us in zip(run.trace.orgs, run.served_us, strict=True)}


def share_of(run: Run, org: str) -> float:
    """Return the part of all worker time that `org` obtained, in percent."""
    obtained = served(run)
    return 100 * obtained[org] / (sum(obtained.values()) or 1.0)


def worst_ratio(run: Run) -> float:
    """Return the worst lag by its bound, of tracked pairs or inside one window; 0 if none."""
    report = report_of(run)
    return max((lag.ratio for lag in (report.lag, report.window_lag) if lag), default=0.0)


def lag_sample(case: str, rule: Rule, run: Run) -> list[Sample]:
    """Return the lag of a run of the rule that promises one."""
    if rule is not Rule.WEIGHTED:
        return []
    return [Sample(case, NAMES[rule], LAG, worst_ratio(run))]
