"""A result with where and when it was measured, as one JSON document, there and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.estimates import Bar, Estimate
from benchmarks.speed.result import Key, Result
from benchmarks.text import bar_values, estimate_values

_DIGITS = 6
_INTERVAL = "95%, percentile bootstrap of the median; of one value, the value"


class Surroundings(NamedTuple):
    """What a benchmark ran on: versions by name, settings of the server, and the machine."""

    versions: Mapping[str, str]
    server: Mapping[str, str]
    machine: Mapping[str, float]


class Record(NamedTuple):
    """What a benchmark found; `at` is the date and time of its start in ISO 8601, in UTC."""

    result: Result
    surroundings: Surroundings
    at: str
    seconds: float
    quick: bool


def values(record: Record) -> dict[str, object]:
    """Return `record` as the values of a JSON document."""
    result = record.result
    return {
        "name": result.name,
        "title": result.title,
        "at": record.at,
        "seconds": round(record.seconds, 1),
        "quick": record.quick,
        "setting": result.setting,
        "interval": _INTERVAL,
        "bars": [
            bar_values(bar) | {"limit": bar.limit, "at_least": bar.at_least, "why": bar.why}
            for bar in result.bars
        ],
        "measures": [
            key._asdict() | estimate_values(found, _DIGITS)
            for key, found in result.measures.items()
        ],
        "notes": list(result.notes),
        "versions": dict(record.surroundings.versions),
        "server": dict(record.surroundings.server),
        "machine": dict(record.surroundings.machine),
    }


def from_values(given: Mapping[str, Any]) -> Record:
    """Return the record that `values` made `given` of."""
    measures = {
        Key(row["case"], row["system"], row["metric"]): _estimate(row) for row in given["measures"]
    }
    bars = [
        Bar(row["name"], _estimate(row), row["limit"], row["at_least"], row["why"])
        for row in given["bars"]
    ]
    result = Result(given["name"], given["title"], given["setting"], measures, bars, given["notes"])
    surroundings = Surroundings(given["versions"], given["server"], given["machine"])
    return Record(result, surroundings, given["at"], given["seconds"], given["quick"])


def write(path: Path, record: Record) -> None:
    """Write `record` into `path`; a reader finds the old document or the new one, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(values(record), indent=1) + "\n")
    part.replace(path)


def read(path: Path) -> Record:
    """Return the record in `path`."""
    return from_values(json.loads(path.read_text()))


def _estimate(row: Mapping[str, Any]) -> Estimate:
    mean, low, high, worst = (float(row[name]) for name in ("mean", "low", "high", "worst"))
    return Estimate(int(row["of"]), mean, low, high, worst)
