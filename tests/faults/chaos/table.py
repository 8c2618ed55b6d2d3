"""The table of all schedules that were ever played: one line for each stretch of seeds."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tests.faults.chaos.run import Outcome

TABLE = Path(__file__).parents[3] / "docs" / "chaos.tsv"
COLUMNS = (
    "first", "last", "day", "schedules", "violated", "tasks", "attempts", "ticks", "terms",
    "samples", "losses", "stale by fence", "stale by session", "lost", "dead", "leader.repaired",
    "ack", "unknown", "resolved", "lost reply leader", "lost reply worker", "lost reply producer",
    "seconds", "faults",
)  # fmt: skip


def append(table: Path, outcomes: Sequence[Outcome]) -> None:
    """Append one line for these schedules."""
    counts: Counter[str] = sum((each.counts for each in outcomes), Counter())
    faults: Counter[str] = sum((each.faults for each in outcomes), Counter())
    values = {
        **counts,
        "first": outcomes[0].seed,
        "last": outcomes[-1].seed,
        "day": datetime.now(UTC).date().isoformat(),
        "schedules": len(outcomes),
        "violated": sum(bool(each.violations) for each in outcomes),
        "seconds": round(sum(each.seconds for each in outcomes)),
        "faults": "; ".join(f"{kind}={faults[kind]}" for kind in sorted(faults)),
    }
    fresh = not table.exists()
    with table.open("a", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        if fresh:
            writer.writerow(COLUMNS)
        writer.writerow([values.get(name, 0) for name in COLUMNS])


def lines(table: Path) -> list[dict[str, str]]:
    """Return the lines of the table."""
    if not table.exists():
        return []
    with table.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def next_seed(table: Path) -> int:
    """Return the first seed that was not played yet."""
    return max((int(line["last"]) for line in lines(table)), default=0) + 1


def totals(table: Path) -> tuple[Counter[str], Counter[str]]:
    """Return the sums of the counts, and of the faults by kind."""
    counts: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    for line in lines(table):
        for name in COLUMNS[3:-1]:
            counts[name] += int(line[name])
        for each in filter(None, line["faults"].split("; ")):
            kind, count = each.split("=")
            faults[kind] += int(count)
    return counts, faults
