"""Traces as lines of JSON: one arrival each, the first line may say with how many slots.

    {"slots": 16}
    {"at": 0.25, "org": "acme", "workload": "etl", "priority": 5, "duration_s": 1.5}

`at` is in seconds since the start, `at_us` the same in microseconds; exactly one of them. Workload,
priority and `critical` have the defaults of an enqueue: so a critical task has priority 10 unless
another is given. An empty line is passed over.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from typing import Any

from orchestrator.errors import InvalidInput
from orchestrator.fairness.simulation.trace import Arrival, Trace, collect, complaint
from orchestrator.model import DEFAULT_WORKLOAD, PRIORITY_DEFAULT, PRIORITY_MAX

_FIELDS = frozenset({"at", "at_us", "org", "workload", "priority", "duration_s", "critical"})
_EXAMPLE = '{"at": 0.25, "org": "acme", "workload": "etl", "priority": 5, "duration_s": 1.5}'
# Beyond this a microsecond is no longer exact in a float; three hundred years.
_SECONDS_MAX = 10**10


def parse_trace(lines: Iterable[str]) -> Trace:
    """Return the trace written in `lines`; raise `InvalidInput` naming the line and the remedy."""
    numbered = ((n, line) for n, line in enumerate(lines, 1) if line.strip())
    first = next(numbered, None)
    if first is None:
        raise InvalidInput(f"the trace is empty: it needs one line like {_EXAMPLE} per task")
    slots = _parse_header(*first)
    rest = numbered if slots is not None else _chain(first, numbered)
    return collect(_in_order(rest), slots=slots)


def format_trace(trace: Trace) -> Iterator[str]:
    """Yield the lines of `trace`, without line ends; `parse_trace` reads them back exactly."""
    if trace.slots is not None:
        yield json.dumps({"slots": trace.slots})
    for arrival in trace:
        yield format_arrival(arrival)


def format_arrival(arrival: Arrival) -> str:
    """Return one arrival as a line."""
    fields = {
        "at_us": arrival.at_us,
        "org": arrival.org,
        "workload": arrival.workload,
        "priority": arrival.priority,
        "duration_s": arrival.duration_us / 1e6,
    }
    if arrival.critical:
        fields["critical"] = True
    return json.dumps(fields, ensure_ascii=False)


def parse_arrival(line: str, number: int = 1) -> Arrival:
    """Return the arrival that `line` holds; raise `InvalidInput` naming the line by `number`."""
    return next(_in_order(iter([(number, line)])))


def _arrival(line: str, number: int) -> Arrival:
    fields = _parse_object(line, number)
    if not fields.keys() <= _FIELDS:
        unknown = min(fields.keys() - _FIELDS)
        raise _wrong(number, f"unknown field {unknown!r}: use only {', '.join(sorted(_FIELDS))}")
    critical = _flag(fields, "critical", number) if "critical" in fields else False
    usual = PRIORITY_MAX if critical else PRIORITY_DEFAULT
    return Arrival(
        _at_us(fields, number),
        _text(fields, "org", number),
        _text(fields, "workload", number) if "workload" in fields else DEFAULT_WORKLOAD,
        _whole(fields, "priority", number) if "priority" in fields else usual,
        _seconds(fields, "duration_s", number),
        critical,
    )


def _chain(first: tuple[int, str], rest: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    yield first
    yield from rest


def _in_order(numbered: Iterator[tuple[int, str]]) -> Iterator[Arrival]:
    earliest_us = 0
    for number, line in numbered:
        arrival = _arrival(line, number)
        if wrong := complaint(arrival, earliest_us):
            raise _wrong(number, wrong)
        earliest_us = arrival.at_us
        yield arrival


def _parse_header(number: int, line: str) -> int | None:
    fields = _parse_object(line, number)
    if "slots" not in fields:
        return None
    if fields.keys() != {"slots"}:
        raise _wrong(number, "a header has the field slots alone: put the arrival on its own line")
    slots = _whole(fields, "slots", number)
    if slots < 1:
        raise _wrong(number, f"slots must be at least 1, not {slots}")
    return slots


def _parse_object(line: str, number: int) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _wrong(number, f"is no JSON ({error}): write one object like {_EXAMPLE}") from error
    if not isinstance(fields, dict):
        raise _wrong(number, f"is no object: write one like {_EXAMPLE}")
    return fields


def _at_us(fields: dict[str, Any], number: int) -> int:
    if ("at" in fields) == ("at_us" in fields):
        raise _wrong(number, "give either at (seconds) or at_us (microseconds)")
    return _seconds(fields, "at", number) if "at" in fields else _whole(fields, "at_us", number)


def _text(fields: dict[str, Any], name: str, number: int) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise _wrong(number, f"{name} must be a text, not {json.dumps(value)}")
    return value


def _flag(fields: dict[str, Any], name: str, number: int) -> bool:
    value = fields[name]
    if not isinstance(value, bool):
        raise _wrong(number, f"{name} must be true or false, not {json.dumps(value)}")
    return value


def _whole(fields: dict[str, Any], name: str, number: int) -> int:
    value = fields.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > _SECONDS_MAX * 10**6:
        raise _wrong(number, f"{name} must be a whole number, not {json.dumps(value)}")
    return value


def _seconds(fields: dict[str, Any], name: str, number: int) -> int:
    value = fields.get(name)
    wrong = not isinstance(value, int | float) or isinstance(value, bool)
    if wrong or not math.isfinite(value) or abs(value) > _SECONDS_MAX:  # type: ignore[arg-type]
        raise _wrong(number, f"{name} must be a number of seconds, not {json.dumps(value)}")
    return round(value * 1e6)  # type: ignore[operator]


def _wrong(number: int, what: str) -> InvalidInput:
    return InvalidInput(f"line {number}: {what}")
