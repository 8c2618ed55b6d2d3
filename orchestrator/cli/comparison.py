"""Simulated policies side by side: a table for people, a document for machines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from orchestrator.cli import output
from orchestrator.fairness.measures import Lag, Spread
from orchestrator.fairness.simulation.compare import (
    Column,
    TierFigures,
    critical_dwell,
    starved,
    tier_names,
    tiers_of,
    top_orgs,
    worst_lag,
)
from orchestrator.fairness.simulation.report import CriticalOutcome, OrgOutcome
from orchestrator.fairness.simulation.trace import Trace

_UNKNOWN = "-"


class Source(NamedTuple):
    """A trace and where it is from; `waited` and `estimated` as of a history."""

    trace: Trace
    told: str
    waited: int = 0
    estimated: int = 0


# For people -------------------------------------------------------------------------------------


def show(source: Source, columns: Sequence[Column], top: int) -> None:
    """Print the comparison as tables."""
    trace = source.trace
    span = output.age(trace.at_us[-1] / 1e6)
    output.say(
        f"{len(trace):,} tasks of {len(trace.orgs):,} orgs over {span}, from {source.told};"
        f" {trace.slots:,} slots"
    )
    if source.waited:
        output.say(f"{source.waited:,} of them waited already when it began")
    if critical := sum(trace.critical):
        output.say(f"{critical:,} of them critical")
    if source.estimated:
        output.say(f"{source.estimated:,} have not ended: they take what their flow takes")
    output.say("")
    names = [column.name for column in columns]
    output.table(("", *names), _rows(columns))
    if top:
        output.say("")
        _show_orgs(columns, top)


def _rows(columns: Sequence[Column]) -> Iterator[tuple[str, ...]]:
    reports = [column.report for column in columns]
    yield ("rule", *(str(column.policy.rule) for column in columns))
    if len({column.policy.slots for column in columns}) > 1:
        yield ("slots", *(f"{column.policy.slots:,}" for column in columns))
    yield ("dwell p50 / p95 / p99", *(_dwell(report.dwell) for report in reports))
    tiers = [{each.tier: each for each in tiers_of(report)} for report in reports]
    names = tier_names(columns)
    for name in names:
        yield (f"  {name}", *(_dwell(f[name].dwell) if name in f else _UNKNOWN for f in tiers))
    if any(report.critical for report in reports):
        yield ("dwell of critical tasks", *(_dwell(critical_dwell(each)) for each in reports))
    yield ("share of worker time (due)", *("" for _ in columns))
    for name in names:
        yield (f"  {name}", *(_share(found.get(name)) for found in tiers))
    yield ("Jain index", *(_index(report.jain) for report in reports))
    for name in names:
        yield (f"  {name}", *(_index(f[name].jain) if name in f else _UNKNOWN for f in tiers))
    yield ("worst lag / bound", *(_ratio(worst_lag(report)) for report in reports))
    yield ("utilisation", *(f"{report.utilisation:.1%}" for report in reports))
    yield ("all done after", *(_time(report.until_s) for report in reports))
    yield ("orgs starved", *(f"{len(starved(column)):,}" for column in columns))
    if any(report.yields for report in reports):
        yield ("running tasks that yielded", *(f"{report.yields:,}" for report in reports))
    if any(report.started < report.tasks for report in reports):
        yield ("tasks never started", *(f"{r.tasks - r.started:,}" for r in reports))


def _show_orgs(columns: Sequence[Column], top: int) -> None:
    rows = top_orgs(columns, top)
    by = "by change of dwell" if len(columns) > 1 else "by dwell"
    output.say(f"orgs {by}: p50 / p95 / p99")
    output.table(
        ("org", "tier", "tasks", *(column.name for column in columns)),
        [line for row in rows for line in _org_lines(row)],
    )


def _org_lines(row: Sequence[OrgOutcome]) -> Iterator[tuple[object, ...]]:
    """Yield the line of an org, and below it the one of its critical tasks if it has any."""
    first = row[0]
    yield (first.org, first.tier, first.arrived, *(_dwell(each.dwell) for each in row))
    if first.critical:
        dwells = (_dwell(critical_dwell(each)) for each in row)
        yield ("  critical", "", first.critical.tasks, *dwells)


def _dwell(dwell: Spread) -> str:
    if not dwell.of:
        return _UNKNOWN
    return " / ".join(_time(seconds) for seconds in (dwell.p50, dwell.p95, dwell.p99))


def _share(tier: TierFigures | None) -> str:
    return _UNKNOWN if tier is None else f"{tier.share:.1%} ({tier.due:.1%})"


def _index(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:.3f}"


def _ratio(lag: Lag | None) -> str:
    return _UNKNOWN if lag is None else f"{lag.ratio:.2f}"


def _time(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 120 else output.age(seconds)


# For machines -----------------------------------------------------------------------------------


def document(source: Source, columns: Sequence[Column], top: int) -> dict[str, Any]:
    """Return the comparison as what `--json` prints."""
    trace = source.trace
    return {
        "trace": {
            "from": source.told,
            "tasks": len(trace),
            "critical": sum(trace.critical),
            "orgs": len(trace.orgs),
            "slots": trace.slots,
            "span_s": trace.at_us[-1] / 1e6,
            "waited": source.waited,
            "estimated": source.estimated,
        },
        "policies": [_policy_document(column, top) for column in columns],
        "orgs": [
            {
                "org": row[0].org,
                "tasks": row[0].arrived,
                "policies": [
                    {"name": column.name, **_org_document(outcome)}
                    for column, outcome in zip(columns, row, strict=True)
                ],
            }
            for row in top_orgs(columns, top)
        ],
    }


def _policy_document(column: Column, top: int) -> dict[str, Any]:
    report, lag = column.report, worst_lag(column.report)
    without = starved(column)
    return {
        "name": column.name,
        "rule": column.policy.rule,
        "slots": column.policy.slots,
        "started": report.started,
        "until_s": report.until_s,
        "utilisation": report.utilisation,
        "idle_slot_s": report.idle_while_eligible_s,
        "dwell": _seconds(report.dwell),
        "critical": _critical(report.critical),
        "yields": report.yields,
        "slowdown": _plain(report.slowdown),
        "jain": report.jain,
        "jain_orgs": report.jain_orgs,
        "lag": None if lag is None else {**lag._asdict(), "ratio": lag.ratio},
        "starved": len(without),
        "starved_orgs": without[:top],
        "tiers": [
            {
                "tier": tier.tier,
                "orgs": tier.orgs,
                "dwell": _seconds(tier.dwell),
                "share": tier.share,
                "due": tier.due,
                "jain": tier.jain,
            }
            for tier in tiers_of(report)
        ],
    }


def _org_document(org: OrgOutcome) -> dict[str, Any]:
    return {
        "tier": org.tier,
        "weight": org.weight,
        "dwell": _seconds(org.dwell),
        "critical": _critical(org.critical),
        "worker_s": org.worker_s,
        "share": org.share,
        "due": org.fair_share,
        "in_flight_peak": org.in_flight_peak,
    }


def _critical(outcome: CriticalOutcome | None) -> dict[str, Any] | None:
    if outcome is None:
        return None
    return {
        "tasks": outcome.tasks,
        "started": outcome.dwell.of,
        "dwell": _seconds(outcome.dwell),
    }


def _seconds(spread: Spread) -> dict[str, float]:
    return {f"{name}_s": value for name, value in _plain(spread).items()}


def _plain(spread: Spread) -> dict[str, float]:
    return {"p50": spread.p50, "p95": spread.p95, "p99": spread.p99, "worst": spread.worst}
