"""What producers may send: accepted as it is, or refused with an error that says what to do."""

import json
import math
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.client.specs import (
    DEPTH_MAX,
    all_ready,
    encode,
    error_text,
    ready,
    seconds,
)
from orchestrator.config import LimitsSettings
from orchestrator.errors import InvalidInput
from orchestrator.model import TaskSpec
from orchestrator.store.orgs import TEXT_MAX_CHARS

LIMITS = LimitsSettings(payload_bytes_max=10_000, headers_bytes_max=200, batch_max=5)
SPEC = TaskSpec(name="resize", org="acme")
NAME_FIELDS = ["name", "org", "queue", "workload", "idempotency_key"]


class Level(IntEnum):
    HIGH = 9


class Kind(StrEnum):
    API = "api"


class Unfriendly(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


def changed(field: str, value: Any) -> TaskSpec:
    given: dict[str, Any] = {field: value}
    return replace(SPEC, **given)


def nested(levels: int) -> Any:
    payload: Any = 0
    for _ in range(levels - 1):
        payload = [payload]
    return payload


def widening(levels: int) -> Any:
    """Two references to the level below in each level: 2 ** levels leaves."""
    payload: Any = 0
    for _ in range(levels):
        payload = [payload, payload]
    return payload


@pytest.mark.parametrize("field", NAME_FIELDS)
@pytest.mark.parametrize(
    "value",
    ["", "x" * 201, "nul\0", "\udc80", 7, True, b"bytes", ["a"], 10**5000],
    ids=["empty", "long", "nul", "surrogate", "int", "bool", "bytes", "list", "huge"],
)
def test_what_is_no_name_is_refused(field: str, value: Any) -> None:
    with pytest.raises(InvalidInput, match=field):
        ready(changed(field, value), LIMITS)


@pytest.mark.parametrize("field", ["name", "org", "queue", "workload"])
def test_a_missing_name_is_refused(field: str) -> None:
    with pytest.raises(InvalidInput, match=field):
        ready(changed(field, None), LIMITS)


@pytest.mark.parametrize("field", NAME_FIELDS)
@pytest.mark.parametrize(
    "value",
    [
        "x" * 200,
        "'; drop table task; --",
        "<script>",
        "{{ 7 * 7 }}",
        "\x1b[31m",
        "\u202eabc",
        "$(id)",
    ],
)
def test_whatever_can_be_stored_is_a_name_and_stays_as_it_is(field: str, value: str) -> None:
    checked = ready(changed(field, value), LIMITS).spec
    assert getattr(checked, field) == value


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("priority", [0, 11, -1, True, "high", "5", 1.5, None, math.nan, 10**9, 10**5000]),
        ("max_attempts", [0, -1, 1001, True, "3", 2.0, None, 10**9]),
        ("delay", [-1, -0.001, math.nan, math.inf, "5m", True, timedelta(seconds=1), 1e12]),
        ("timeout_s", [0, -1, math.nan, math.inf, "1", True, 1e12, 10**400]),
        ("critical", [None, 1, "yes"]),
        ("urgency", ["high", "", 5, 11, True, 100.0, [], b"info"]),
        ("expires_in", [0, -1, math.nan, math.inf, "5m", True, 1e12]),
        ("headers", ["text", [("a", "b")], {"a": 1}, {1: "a"}, {"": "a"}, {"a": "\0"}]),
        ("headers", [{"a": "\udc80"}, {"a": "x" * 200}, {"k\0": "a"}, {"a": None}]),
    ],
)
def test_values_out_of_bounds_are_refused(field: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(InvalidInput, match=field.removesuffix("s")):
            ready(changed(field, value), LIMITS)


@pytest.mark.parametrize("field", ["run_at", "expires_at"])
@pytest.mark.parametrize(
    "value",
    [
        datetime(2030, 1, 1),  # noqa: DTZ001  # naive on purpose
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-5))),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=5))),
        date(2030, 1, 1),
        "2030-01-01T00:00:00Z",
        1893456000,
        math.inf,
    ],
    ids=["naive", "max", "min", "date", "text", "int", "infinity"],
)
def test_what_is_no_moment_is_refused(field: str, value: Any) -> None:
    with pytest.raises(InvalidInput, match=field):
        ready(changed(field, value), LIMITS)


def test_moments_are_kept_to_the_microsecond_in_utc() -> None:
    # One hour of this night happens twice in Berlin; `fold` tells which is meant.
    twice = datetime(2025, 10, 26, 2, 30, 0, 123456, tzinfo=ZoneInfo("Europe/Berlin"), fold=1)
    checked = ready(replace(SPEC, run_at=twice), LIMITS).spec.run_at
    assert checked == datetime(2025, 10, 26, 1, 30, 0, 123456, tzinfo=UTC)


def test_run_at_and_delay_exclude_each_other() -> None:
    with pytest.raises(InvalidInput, match="exclude"):
        ready(replace(SPEC, run_at=datetime.now(UTC), delay=0.0), LIMITS)


def test_plain_values_come_out_whatever_subclass_went_in() -> None:
    spec = replace(SPEC, priority=Level.HIGH, workload=Kind.API, timeout_s=3, delay=1)
    checked = ready(spec, LIMITS).spec
    assert (type(checked.priority), type(checked.workload)) == (int, str)
    assert (type(checked.timeout_s), type(checked.delay)) == (float, float)
    assert (checked.priority, checked.workload) == (9, "api")


@pytest.mark.parametrize(
    ("payload", "complaint"),
    [
        (math.nan, "NaN"),
        ({"a": [math.inf]}, "infinity"),
        ({"a": "\0"}, "NUL"),
        ({"\0": 1}, "NUL"),
        ("\ud800", "surrogate"),
        ({"\udfff": 1}, "surrogate"),
        (uuid.UUID(int=7), "UUID"),
        ({"at": datetime.now(UTC)}, "datetime"),
        ({"sum": Decimal("1.5")}, "Decimal"),
        ({"raw": b"x"}, "bytes"),
        ({"all": {1, 2}}, "set"),
        (object(), "object"),
        (MappingProxyType({}), "mappingproxy"),
        ({1: "a"}, "key of type int"),
        ({None: "a"}, "key of type NoneType"),
        (10**5000, "digits"),
        ([-(10**5000)], "digits"),
        (nested(DEPTH_MAX + 1), "nested"),
        (nested(5000), "nested"),
        ("x" * 10_000, "10002 bytes"),
        (["é"] * 3000, "bytes"),
        ([0] * 10_001, "values"),
        (widening(90), "values"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 30 else "",
)
def test_payloads_that_a_worker_could_not_read_are_refused(payload: Any, complaint: str) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        ready(replace(SPEC, payload=payload), LIMITS)


def test_a_payload_that_contains_itself_is_refused() -> None:
    payload: list[Any] = []
    payload.append(payload)
    with pytest.raises(InvalidInput, match="nested"):
        encode(payload, 1000)


@pytest.mark.parametrize(
    "payload",
    [
        None,
        False,
        0,
        "",
        [],
        {},
        "\\u0000",
        10**4000,
        1e308,
        nested(DEPTH_MAX),
        (1, 2),
        "x" * 9_998,
    ],
)
def test_payloads_at_the_edge_are_accepted(payload: Any) -> None:
    decoded = json.loads(encode(payload, 10_000))
    assert decoded == (list(payload) if isinstance(payload, tuple) else payload)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("abc\n\"'\\", max_size=5), inner),
    max_leaves=30,
)


@given(json_values)
def test_every_json_value_survives_encoding(payload: Any) -> None:
    assert json.loads(encode(payload, 1_000_000)) == payload


def test_items_are_mappings_or_specs() -> None:
    mixed: list[Any] = [SPEC, {"name": "a", "org": "b", "payload": {"x": 1}, "priority": 9}]
    first, second = all_ready(mixed, LIMITS)
    assert first.spec.name == "resize"
    assert (second.spec.priority, second.payload) == (9, '{"x":1}')


@pytest.mark.parametrize(
    ("item", "complaint"),
    [
        ({"name": "a"}, "item 1: org is missing"),
        ({"org": "a"}, "item 1: name is missing"),
        ({"name": "a", "org": "b", "prioritty": 1}, "item 1: .*did you mean priority"),
        ({"name": "a", "org": "b", 7: 1}, "item 1: unknown key 7"),
        ({"name": "a", "org": "b", "priority": 0}, "item 1: priority"),
        ("text", "item 1: a task is a TaskSpec or a mapping"),
        (None, "item 1: a task is"),
    ],
)
def test_errors_of_a_batch_name_the_item(item: Any, complaint: str) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        all_ready([SPEC, item], LIMITS)


def test_a_batch_is_bounded_even_if_it_never_ends() -> None:
    def endless() -> Any:
        while True:
            yield SPEC

    with pytest.raises(InvalidInput, match="more than 5 items"):
        all_ready(endless(), LIMITS)


@pytest.mark.parametrize(
    ("error", "stored"),
    [
        ("plain", "plain"),
        ("nul \0", "nul \N{REPLACEMENT CHARACTER}"),
        ("half \ud83d", "half ?"),
        ("x" * 10_000_000, "x" * TEXT_MAX_CHARS),
        (ValueError("bad"), "ValueError: bad"),
        (KeyError("\0"), r"KeyError: '\x00'"),
        (Unfriendly(), "Unfriendly: (its text cannot be shown)"),
    ],
    ids=["plain", "nul", "surrogate", "huge", "exception", "escaped", "unfriendly"],
)
def test_any_error_can_be_stored(error: str | BaseException, stored: str) -> None:
    assert error_text(error) == stored


def test_what_is_neither_text_nor_exception_is_no_error() -> None:
    with pytest.raises(InvalidInput, match="text or an exception"):
        error_text(42)


@pytest.mark.parametrize("value", [0, 0.5, 30, 3650 * 86400])
def test_seconds_are_numbers(value: float) -> None:
    assert seconds("delay", value) == value


@pytest.mark.parametrize("make", [dict, MappingProxyType])
def test_headers_are_any_mapping_of_strings(make: Callable[[Any], Mapping[str, str]]) -> None:
    checked = ready(replace(SPEC, headers=make({"trace": "7"})), LIMITS).spec
    assert checked.headers == {"trace": "7"}
