"""`RESULTS.md`: what was measured, for readers, composed from the result files that there are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.speed import figures
from benchmarks.speed.record import Record, read
from benchmarks.speed.suite import BENCHMARKS
from benchmarks.speed.tables import Table, tables
from benchmarks.text import interval, label, missed_lines, number, verdict

HOME = Path(__file__).parents[1]


def results(home: Path) -> list[Record]:
    """Return the records below `home`, in the order of the benchmarks."""
    paths = [home / "results" / f"{name}.json" for name in BENCHMARKS]
    return [read(path) for path in paths if path.is_file()]


def compose(home: Path) -> Path:
    """Write the document and its figures from the records below `home`; return its path."""
    records = results(home)
    drawn = figures.draw(home / "figures", records)
    path = home / "RESULTS.md"
    path.write_text(markdown(records, drawn))
    return path


def markdown(records: Sequence[Record], drawn: Mapping[str, Sequence[figures.Figure]]) -> str:
    """Return the document about `records`; `drawn` has the figures of each benchmark by name."""
    text = [_INTRODUCTION, *_surroundings(records), "", "## Bars", "", *_bars(records), ""]
    for record in records:
        text += _section(record, drawn.get(record.result.name, ()))
    return "\n".join(text).rstrip() + "\n"


def _bars(records: Sequence[Record]) -> list[str]:
    bars = [(record.result.name, bar) for record in records for bar in record.result.bars]
    missed = sum(not bar.passed for _, bar in bars)
    if not bars:
        return ["No benchmark has been run."]
    rows = [
        f"| [{name}](#{name}) | {_cell(label(name, bar))} | {bar.wanted} |"
        f" {number(bar.measured.mean)} | {interval(bar.measured)} | {verdict(bar)} |"
        for name, bar in bars
    ]
    return [
        f"Bars: {len(bars) - missed} met, {missed} missed.",
        "",
        "| benchmark | bar | wanted | measured | interval | |",
        "|---|---|---|---:|---:|---|",
        *rows,
        *missed_lines([bar for _, bar in bars]),
    ]


def _section(record: Record, drawn: Sequence[figures.Figure]) -> list[str]:
    result = record.result
    lines = [
        f"## {result.name}",
        "",
        f"**{result.title}.** {_prose(result.setting.rstrip('.'))}.",
        "",
    ]
    for figure in drawn:
        lines += [f"![{figure.title}](figures/{figure.file})", ""]
    for table in tables(result):
        lines += [*_table(table), ""]
    if result.notes:
        lines += [*(f"- {_prose(note)}" for note in result.notes), ""]
    return lines


def _table(table: Table) -> list[str]:
    rules = ["---" if place < table.names else "---:" for place in range(len(table.columns))]
    rows = [table.columns, *table.rows]
    texts = [f"| {' | '.join(map(_cell, row))} |" for row in rows]
    return [texts[0], f"|{'|'.join(rules)}|", *texts[1:]]


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _prose(text: str) -> str:
    """Return a text in which nothing but code is marked up: a note may quote SQL or an error."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(
        part if place % 2 else re.sub(r"([*<|])", r"\\\1", part) for place, part in enumerate(parts)
    )


def _surroundings(records: Sequence[Record]) -> list[str]:
    """Return what all were measured with; what differs between them is given with all values."""
    if not records:
        return []
    versions = _joined([record.surroundings.versions for record in records])
    server = _joined([record.surroundings.server for record in records])
    machine = [record.surroundings.machine for record in records]
    days = sorted({record.at[:10] for record in records})
    quick = any(record.quick for record in records)
    minutes = sum(record.seconds for record in records) / 60
    when = days[0] if len(days) == 1 else f"between {days[0]} and {days[-1]}"
    return [
        *(["- **Some are quick runs, too small to judge anything.**"] if quick else []),
        f"- Measured {when}; all of them together took {minutes:.0f} minutes.",
        f"- Machine: {_span(machine, 'cores')} cores, {_span(machine, 'memory_gb')} GB of memory,"
        f" fdatasync of one page {_span(machine, 'fdatasync_ms')} ms;"
        f" load before the benchmarks {_span(machine, 'load_before')}.",
        f"- Server: {', '.join(f'`{name}` {value}' for name, value in server)}.",
        f"- Versions: {', '.join(f'{name} {value}' for name, value in versions)}.",
    ]


def _joined(each: Sequence[Mapping[str, str]]) -> list[tuple[str, str]]:
    """Return the values of each name, those that differ joined."""
    found: dict[str, dict[str, None]] = {}
    for mapping in each:
        for name, value in mapping.items():
            found.setdefault(name, {})[value] = None
    return [(name, " or ".join(different)) for name, different in found.items()]


def _span(each: Sequence[Mapping[str, float]], name: str) -> str:
    low, high = min(m[name] for m in each), max(m[name] for m in each)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


_INTRODUCTION = """# Speed, measured

Written by `python -m benchmarks all`; the numbers behind each section are in
`benchmarks/results/NAME.json`. [Benchmarks](../docs/benchmarks.md) tells how to run them and what
keeps them honest.

Every measurement has a fresh server with durability on. Whoever is compared runs in the same
sitting, one right after the other, several times; a comparison is the median of the ratios of such
pairs. Cells are `median (low to high)`: the interval is 95%, percentile bootstrap of the median
over the repetitions. A cell without an interval is a count, a maximum, or was the same each time. A
bar is missed only where the whole interval misses it. Ratios hold between machines; rates,
latencies and other absolute numbers are those of one machine on one day.

*ours* is this product. *raw* is a queue written by hand: one table, leases of a batch, a delete as
ack, and no admission; what it reaches is what PostgreSQL allows. *staged* is raw behind a staging
table: it keeps the record of each task, moves what is staged to where workers lease it, in another
process, and logs each attempt, but decides nothing; what lies between it and ours is what fairness,
fences and bounds cost. *seed-shape* is the table that many start with: one index and the visibility
time as a filter on rows. The other systems are used through their own public API: *fast* means the
batching and concurrency that they recommend, *default* means as they come.
"""
