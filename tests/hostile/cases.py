"""The table: which value, for which parameter of which verb, and what the refusal must say.

Data alone, for every surface. A complaint is a part of the message of the Python client; other
surfaces may word theirs differently, but refuse they must.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, NamedTuple

from tests.support.hostile import REFUSED_NAMES


class Case(NamedTuple):
    """One call that must be refused."""

    verb: str
    field: str
    name: str  # of the value
    value: Any
    complaint: str

    def __str__(self) -> str:
        return f"{self.verb}-{self.field}-{self.name}"


def deep(levels: int, *, mapping: bool = False) -> Any:
    """Return a payload of so many levels."""
    value: Any = 0
    for _ in range(levels):
        value = {"a": value} if mapping else [value]
    return value


def _shared(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value, value]
    return value


def _circle() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


class _Raises:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


NOT_WHOLE: dict[str, Any] = {
    "zero": 0, "minus_one": -1, "a_billion": 10**9, "thousands_of_digits": 10**5_000,
    "true": True, "word": "high", "digits": "5", "half": 1.5, "nan": math.nan, "infinity": math.inf,
    "decimal": Decimal(5), "list": [5], "bytes": b"5", "raises_on_repr": _Raises(),
}  # fmt: skip
NOT_SECONDS: dict[str, Any] = {
    "negative": -1, "little_negative": -1e-9, "nan": math.nan, "infinity": math.inf,
    "minus_infinity": -math.inf, "century": 3.2e9, "overflow": 10**400, "true": True, "word": "5m",
    "delta": timedelta(seconds=5), "complex": 1j, "raises_on_repr": _Raises(),
}  # fmt: skip
NOT_TEXT: dict[str, Any] = {
    "number": 7, "none_like": False, "bytes": b"acme", "list": ["acme"],
    "raises_on_repr": _Raises(),
}  # fmt: skip
NOT_INSTANT: dict[str, Any] = {
    "naive": datetime(2030, 1, 1), "no_such_hour": datetime(2030, 3, 31, 2, 30),  # noqa: DTZ001
    "year_10000_soon": datetime.max.replace(tzinfo=UTC), "year_1": datetime.min.replace(tzinfo=UTC),
    "past_the_end": datetime.max.replace(tzinfo=timezone(timedelta(hours=-23))), "epoch": 0,
    "infinity": math.inf, "word": "infinity", "day": date(2030, 1, 1),
}  # fmt: skip
PAYLOADS: dict[str, tuple[Any, str]] = {
    "nan": (math.nan, "NaN"),
    "infinity_inside": ({"a": [math.inf]}, "NaN or an infinity"),
    "huge_integer": (10**4_400, "digits"),
    "huge_integer_inside": ({"a": [-(10**4_400)]}, "digits"),
    "deep_list": (deep(5_000), "levels"),
    "deep_object": (deep(5_000, mapping=True), "levels"),
    "just_too_deep": (deep(101), "levels"),
    "circle": (_circle(), "levels"),
    "shared_2_to_the_40": (_shared(40), "values"),
    "nul": ("a\0b", "NUL"),
    "nul_key": ({"a\0": 1}, "NUL"),
    "surrogate": ("\ud800", "surrogate"),
    "surrogate_key": ({"\udfff": 1}, "surrogate"),
    "number_key": ({1: 2}, "key of type int"),
    "null_key": ({None: 2}, "key of type NoneType"),
    "bytes": (b"abc", "bytes"),
    "set": ({1, 2}, "set"),
    "instant": (datetime(2030, 1, 1, tzinfo=UTC), "datetime"),
    "decimal": (Decimal("1.5"), "Decimal"),
    "object": (_Raises(), "_Raises"),
    "over_the_cap": ("x" * 1_048_576, "limits.payload_bytes_max"),
    "wide_over_the_cap": ("\U0001f600" * 262_144, "limits.payload_bytes_max"),
}
HEADERS: dict[str, Any] = {
    "number": {"a": 1}, "nul": {"a": "\0"}, "nul_name": {"\0": "a"}, "surrogate": {"a": "\ud800"},
    "pairs": [("a", "b")], "none": {"a": None}, "empty_name": {"": "a"},
    "huge": {"a": "x" * 100_000},
}  # fmt: skip

# A cap may be as large as one likes, within what the database holds.
_LARGE = {"a_billion"}


def _names(verb: str, *fields: str) -> Iterator[Case]:
    for field in fields:
        for name, (value, complaint) in REFUSED_NAMES.items():
            yield Case(verb, field, name, value, complaint)
        for name, value in NOT_TEXT.items():
            yield Case(verb, field, name, value, field)


def _values(verb: str, field: str, values: dict[str, Any], complaint: str = "") -> Iterator[Case]:
    for name, value in values.items():
        yield Case(verb, field, name, value, complaint or field)


def _all() -> Iterator[Case]:
    yield from _names("enqueue", "name", "org", "queue", "workload", "idempotency_key")
    yield from _values("enqueue", "priority", NOT_WHOLE | {"eleven": 11})
    yield from _values("enqueue", "max_attempts", NOT_WHOLE | {"too_many": 1_001})
    yield from _values("enqueue", "timeout_s", NOT_SECONDS | {"zero": 0})
    yield from _values("enqueue", "delay", NOT_SECONDS)
    yield from _values("enqueue", "run_at", NOT_INSTANT)
    yield from _values("enqueue", "expires_at", NOT_INSTANT)
    yield from _values("enqueue", "headers", HEADERS, "header")
    yield from _values("enqueue", "critical", {"one": 1, "word": "yes", "none": None})
    for name, (value, complaint) in PAYLOADS.items():
        yield Case("enqueue", "payload", name, value, complaint)
    yield Case("enqueue", "queue", "unknown", "no such queue", "no such queue")
    yield Case("enqueue", "workload", "unknown", "no such workload", "no such workload")
    for verb in ("claim", "heartbeat"):
        yield from _names(verb, "queue", "worker")
        yield Case(verb, "queue", "unknown", "no such queue", "no such queue")
        yield from _values(verb, "lease_s", NOT_SECONDS | {"zero": 0, "a_billion": 1e9})
    yield from _values("claim", "limit", NOT_WHOLE)
    yield from _values("claim", "wait_s", NOT_SECONDS)
    spare = {name: value for name, value in NOT_WHOLE.items() if name != "zero"}
    yield from _values("heartbeat", "spare", spare)
    for verb in ("get", "cancel", "retry", "explain"):
        ids = {name: value for name, value in NOT_WHOLE.items() if name != "a_billion"}
        yield from _values(verb, "id", ids | {"past_bigint": 2**63})
        yield Case(verb, "id", "nobodys", 10**9, "no task 1000000000")
    yield from _values("tasks", "limit", NOT_WHOLE)
    yield from _names("tasks", "queue", "org", "name")
    yield from _values("tasks", "place", {"unknown": "nowhere", "number": 1, "nul": "\0"})
    yield from _values("tasks", "status", {"unknown": "fine", "number": 1, "list": ["dead"]})
    for verb in ("set_org", "pause_org", "resume_org"):
        yield from _names(verb, "org")
    yield from _values("set_org", "weight", NOT_WHOLE)
    yield from _values(
        "set_org", "burst_max", {k: v for k, v in NOT_WHOLE.items() if k not in _LARGE}
    )
    yield from _names("set_org", "tier")
    yield Case("set_org", "tier", "unknown", "no such tier", "no such tier")
    yield from _values("pause_org", "reason", {"huge": "x" * 5_000, "number": 1, "bytes": b"x"})


CASES = list(_all())

# JSON as text, for surfaces that take bytes; what Python's own parser would let pass.
BAD_JSON: dict[str, str] = {
    "nan": "NaN",
    "infinity": '{"a": Infinity}',
    "minus_infinity": "[-Infinity]",
    "overflow": "1e400",
    "overflow_inside": '{"a": -1e999}',
    "huge_integer": "1" * 5_000,
    "deep_list": "[" * 100_000 + "]" * 100_000,
    "deep_object": '{"a":' * 20_000 + "0" + "}" * 20_000,
    "unclosed_deep": "[" * 100_000,
    "nul": '"a\\u0000b"',
    "nul_key": '{"a\\u0000": 1}',
    "lone_surrogate": '"\\ud800"',
    "lone_surrogate_key": '{"\\udfff": 1}',
    "empty": "",
    "truncated": '{"a": ',
    "trailing": "{} {}",
    "single_quotes": "{'a': 1}",
    "control_character": '"a\x01b"',
    "byte_order_mark": "\ufeff{}",
    "word": "undefined",
}
GOOD_JSON: dict[str, tuple[str, Any]] = {
    "null": ("null", None),
    "false": ("false", False),
    "nested_to_the_bound": ("[" * 99 + "0" + "]" * 99, deep(99)),
    "surrogate_pair": ('"\\ud83d\\ude00"', "\U0001f600"),
    "integer_past_a_double": (str(2**63 + 1), 2**63 + 1),
    "little": ("5e-324", 5e-324),
    "empty_key": ('{"": 0}', {"": 0}),
    "proto": ('{"__proto__": {"admin": true}}', {"__proto__": {"admin": True}}),
}
