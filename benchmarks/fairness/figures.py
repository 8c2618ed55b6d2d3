"""Which figures there are, and what each of them shows."""

from __future__ import annotations

from pathlib import Path

from benchmarks import charts
from benchmarks.estimates import Key, Measures, Series
from benchmarks.fairness import ablations, backlog, express, failover, flood, gaming, shares
from benchmarks.fairness.running import NAMES
from orchestrator.fairness.simulation.baselines import Rule

_OURS = NAMES[Rule.WEIGHTED]


def draw(folder: Path, measures: Measures, *, quick: bool) -> list[str]:
    """Write all figures into `folder`; return their names."""
    folder.mkdir(parents=True, exist_ok=True)
    _flood(folder / "flood.svg", quick)
    _backlog(folder / "newcomer.svg", measures, quick)
    _shares(folder / "shares.svg", measures)
    _express(folder / "express.svg", measures)
    _gaming(folder / "gaming.svg", measures)
    _failover(folder / "failover.svg", measures)
    _ablations(folder / "ablations.svg", measures)
    return sorted(path.name for path in folder.glob("*.svg"))


def _flood(path: Path, quick: bool) -> None:
    charts.waiting(
        path,
        "What quiet orgs wait while another one floods a hundredfold (from 5 s to 15 s)",
        "seconds (arrival)",
        _ours_on_top(flood.series(1, quick)),
        labels={},
    )


def _backlog(path: Path, measures: Measures, quick: bool) -> None:
    backlogs = backlog.backlogs(quick)
    series = [
        Series(
            name,
            [
                (place, measures[Key(backlog.case_of(count), name, backlog.METRIC)].mean)
                for place, count in enumerate(backlogs)
                if Key(backlog.case_of(count), name, backlog.METRIC) in measures
            ],
            rule is not Rule.WEIGHTED,
        )
        for rule, name in NAMES.items()
    ]
    labels = {float(place): f"{count:,}" for place, count in enumerate(backlogs)}
    title = "What a newcomer waits (p99) beside another org's backlog"
    charts.waiting(
        path, title, "tasks that the other org has staged", _ours_on_top(series), labels=labels
    )


def _ours_on_top(series: list[Series]) -> list[Series]:
    """Return the lines in the order of drawing: what comes last is seen."""
    return sorted(series, key=lambda line: not line.dashed)


def _shares(path: Path, measures: Measures) -> None:
    names = list(NAMES.values())
    parts = {
        f"tasks of {length}": [
            measures[Key(shares.MIXED, name, f"share of {org}, %")].mean for name in names
        ]
        for org, length in (("short", "10 ms"), ("middle", "1 s"), ("long", "10 s"))
    }
    title = "Worker time of three orgs with equal weights and tasks of different length"
    charts.stacks(path, title, "part of all worker time, %", names, parts)


def _express(path: Path, measures: Measures) -> None:
    series = [
        (reserve, measures[Key(express.case_of(reserve), _OURS, express.API)].mean)
        for reserve in express.RESERVES
    ]
    charts.waiting(
        path,
        "What api tasks wait (p99) while tasks of ten minutes fill every other slot",
        f"slots of {express.SLOTS} that are kept for express work",
        [Series(_OURS, series)],
        labels={float(reserve): str(reserve) for reserve in express.RESERVES},
    )


def _gaming(path: Path, measures: Measures) -> None:
    names = list(NAMES.values())
    urgent = [measures[Key(gaming.case_of(100), name, gaming.SHARE)].mean for name in names]
    parts = {
        "the org that marks everything urgent": urgent,
        "the org that marks nothing urgent": [100 - share for share in urgent],
    }
    title = "What marking everything urgent buys (equal weights, kappa 100)"
    charts.stacks(path, title, "part of their worker time, %", names, parts)


def _failover(path: Path, measures: Measures) -> None:
    groups = {
        case: [
            measures[Key(case, failover.RULE, f"share of {org}, %")].mean
            for org in failover.WEIGHTS
        ]
        for case in (failover.UNDISTURBED, failover.KILLED)
    }
    names = [f"weight {weight}" for weight in failover.WEIGHTS.values()]
    title = "Shares when every leader is killed 200 ms after its first admission"
    charts.bars(path, title, "part of worker time, %", names, groups)


def _ablations(path: Path, measures: Measures) -> None:
    cases = ("clip", "refund", "refresh", "forgiving")
    groups = {
        "as it is": [measures[Key(case, ablations.WHOLE, ablations.SHARE)].mean for case in cases],
        "without": [measures[Key(case, f"without {case}", ablations.SHARE)].mean for case in cases],
    }
    title = "Share of an org where 50% is due, with and without a part of the algorithm"
    charts.bars(path, title, "share, %", cases, groups)
