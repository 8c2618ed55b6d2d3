"""What is recognised at a glance ends as the complete check would have ended it, word for word."""

import json
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from decimal import Decimal
from enum import IntEnum, StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.client import specs
from orchestrator.client.specs import Ready, all_ready, encode, ready
from orchestrator.config import LimitsSettings
from orchestrator.errors import InvalidInput
from orchestrator.model import TaskSpec

BYTES_MAX = 5_000
LIMITS = LimitsSettings(payload_bytes_max=BYTES_MAX, headers_bytes_max=200, batch_max=5)
SPEC = TaskSpec(name="resize", org="acme")


class Level(IntEnum):
    HIGH = 9


class Kind(StrEnum):
    API = "api"


class Text(str):
    """A text that says something else of itself."""

    __slots__ = ()

    def __str__(self) -> str:
        return "another"


class Liar(str):
    """A text that passes for another one wherever it is looked up."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return other == "acme"

    def __hash__(self) -> int:
        return hash("acme")


class Whole(int):
    """An integer that prints as something else."""

    def __repr__(self) -> str:
        return "NaN"


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnSpec(TaskSpec):
    """A spec of somebody's own."""


def outcome(act: Callable[[], Any]) -> Any:
    """Return what `act` returns, or what it says when it refuses."""
    try:
        return act()
    except InvalidInput as error:
        return f"{type(error).__name__}: {error}"


def same_outcome(payload: Any, bytes_max: int = BYTES_MAX) -> Any:
    """Return the outcome of encoding `payload`; it is that of the complete check."""
    expected = outcome(lambda: specs._encode_checked(payload, bytes_max))
    assert outcome(lambda: encode(payload, bytes_max)) == expected
    return expected


def same_ready(spec: TaskSpec) -> Any:
    """Return the outcome of checking `spec`; it is that of the complete check."""

    def checked() -> Ready:
        whole = specs._checked(spec, LIMITS)
        return Ready(whole, specs._encode_checked(spec.payload, BYTES_MAX))

    def plain(act: Callable[[], Ready]) -> Any:
        done = outcome(act)
        if not isinstance(done, Ready):
            return done
        # Types count. The payload does not: the complete check leaves it behind.
        names = [field.name for field in fields(TaskSpec) if field.name != "payload"]
        columns = [getattr(done.spec, name) for name in names]
        return [(type(column), column) for column in columns], type(done.spec), done.payload

    expected = plain(checked)
    assert plain(lambda: ready(spec, LIMITS)) == expected
    return expected


BAD_VALUES: dict[str, tuple[Any, str]] = {
    "nul": ("a\0b", "NUL"),
    "surrogate": ("\ud800", "surrogate"),
    "nan": (math.nan, "NaN"),
    "infinity": (-math.inf, "infinity"),
    "huge": (10**4999, "digits"),
    "huge_but_printable": (2**14_000, "digits"),
    "negative_huge": (-(2**14_000), "digits"),
    "huge_subclass": (Whole(2**14_000), "digits"),
    "bytes": (b"x", "bytes"),
    "decimal": (Decimal(1), "Decimal"),
    "moment": (datetime(2030, 1, 1, tzinfo=UTC), "datetime"),
    "set": ({1}, "set"),
    "object": (object(), "object"),
    "long": ("x" * BYTES_MAX, "bytes as JSON"),
    "wide": ("é" * (BYTES_MAX // 2), "bytes as JSON"),
}


@pytest.mark.parametrize("name", BAD_VALUES)
@pytest.mark.parametrize(
    "wrapped",
    [
        lambda value: value,
        lambda value: {"n": 1, "a": value},
        lambda value: [1, value],
        lambda value: (value,),
        lambda value: OrderedDict(a=value),
        lambda value: {"a": {"b": [value]}},
    ],
    ids=["bare", "in_object", "in_list", "in_tuple", "in_subclass", "nested"],
)
def test_what_is_refused_is_refused_wherever_it_stands(
    name: str, wrapped: Callable[[Any], Any]
) -> None:
    value, complaint = BAD_VALUES[name]
    assert complaint in same_outcome(wrapped(value))


@pytest.mark.parametrize(
    ("key", "complaint"),
    [
        (1, "key of type int"),
        (True, "key of type bool"),
        (None, "key of type NoneType"),
        (1.5, "key of type float"),
        ((1,), "key of type tuple"),
        ("a\0", "NUL"),
        ("\udfff", "surrogate"),
    ],
)
@pytest.mark.parametrize(
    "wrapped", [lambda each: each, lambda each: [each]], ids=["flat", "nested"]
)
def test_what_is_no_key_is_refused(key: Any, complaint: str, wrapped: Callable[[Any], Any]) -> None:
    assert complaint in same_outcome(wrapped({"n": 1, key: 2}))


@pytest.mark.parametrize(
    ("payload", "complaint"),
    [
        ({str(n): 0 for n in range(BYTES_MAX + 1)}, "values"),
        ([0] * (BYTES_MAX + 1), "values"),
        ({str(n): 0 for n in range(1_000)}, "bytes as JSON"),
        ({"n": 0, "x": "y" * BYTES_MAX, "z": "\0"}, "NUL"),  # the first complaint stays the first
        ({"n": math.nan, "z": "\0"}, "NUL"),
        ({"n": math.nan, "z": "\ud800"}, "NaN"),
    ],
    ids=["keys", "items", "bytes", "nul_first", "nul_before_nan", "nan_before_surrogate"],
)
def test_what_is_too_much_is_refused(payload: Any, complaint: str) -> None:
    assert complaint in same_outcome(payload)


@pytest.mark.parametrize(
    ("payload", "encoded"),
    [
        (None, "null"),
        (True, "true"),
        ({}, "{}"),
        ([], "[]"),
        ({"a": True, "b": None, "c": 1.0, "d": 1e300}, '{"a":true,"b":null,"c":1.0,"d":1e+300}'),
        ({"a": Level.HIGH, "b": Kind.API}, '{"a":9,"b":"api"}'),
        ({"a": Whole(7)}, '{"a":7}'),
        ({Text("k"): Text("v")}, '{"k":"v"}'),
        ({"a": "\\u0000"}, '{"a":"\\\\u0000"}'),  # six characters about NUL, and not NUL
        ({"a": "é\u2028\x1f"}, '{"a":"é\u2028\\u001f"}'),
        (("a", 1), '["a",1]'),
    ],
)
def test_what_is_accepted_is_written_alike(payload: Any, encoded: str) -> None:
    assert same_outcome(payload) == encoded


@pytest.mark.parametrize("digits", [3_990, 4_000, 4_214, 4_215, 4_216, 4_299, 4_300, 4_301])
def test_integers_are_refused_from_the_same_length_on(digits: int) -> None:
    for value in (10 ** (digits - 1), -(10**digits - 1), 2**14_000 - 1, 2**14_000):
        same_outcome(value)
        same_outcome({"n": value})


@pytest.mark.parametrize("size", [3_998, 3_999, 4_000, 4_001, BYTES_MAX, BYTES_MAX + 1])
def test_sizes_are_refused_from_the_same_byte_on(size: int) -> None:
    for text in ("x" * (size - 2), "é" * ((size - 2) // 2)):
        for bytes_max in (100, 3_999, BYTES_MAX):
            same_outcome(text, bytes_max)
            same_outcome({"n": text[8:]}, bytes_max)


def test_a_small_limit_counts_bytes() -> None:
    assert same_outcome("x" * 98, 100) == '"' + "x" * 98 + '"'
    assert "101 bytes" in same_outcome("x" * 99, 100)
    assert "102 bytes" in same_outcome("é" * 50, 100)


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["\0", "\\u0000", "\ud800", Level.HIGH, Kind.API, Text("t"), 2**14_000, b"x"])
)
keys = st.text(max_size=4) | st.sampled_from([1, None, True, "\0", "\ud800", Kind.API])
payloads = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(keys, inner, max_size=5),
    max_leaves=8,
)


@given(payloads)
def test_every_payload_ends_alike(payload: Any) -> None:
    encoded = same_outcome(payload)
    if not encoded.startswith(InvalidInput.__name__):
        json.loads(encoded)


NAMES = ["acme", "x" * 200, "x" * 201, "", "é", "a\0", "\ud800", Kind.API, Text("t"), Liar("\0")]
STRANGERS = [7, None, True, b"acme", ["acme"]]
MOMENT = datetime(2030, 1, 1, tzinfo=UTC)
names = st.sampled_from(NAMES + STRANGERS)
wholes = st.sampled_from([1, 5, 10, 11, 0, -1, 1_000, 1_001, True, Level.HIGH, 5.0, "5", None])
drawn_specs = st.builds(
    TaskSpec,
    name=st.just("resize") | names,
    org=st.just("acme") | names,
    queue=st.just("default") | names,
    workload=st.just("etl") | names,
    payload=st.just({"n": 1}) | payloads,
    priority=st.just(5) | wholes,
    max_attempts=st.just(5) | wholes,
    run_at=st.none() | st.sampled_from([MOMENT, MOMENT.replace(tzinfo=None), "soon"]),
    delay=st.none() | st.sampled_from([0, 0.0, 1, -1, True, math.nan]),
    expires_at=st.none() | st.sampled_from([MOMENT, 7]),
    idempotency_key=st.none() | names,
    timeout_s=st.none() | st.sampled_from([1, 0, 0.5, 1e-4, 1e12, math.nan, "1"]),
    headers=st.none() | st.sampled_from([{}, {"a": "b"}, {"a": 1}, [("a", "b")]]),
    critical=st.just(False) | st.sampled_from([True, 0, 1, None]),
    urgency=st.none() | st.sampled_from(["critical", "info", 50, "loud"]),
    expires_in=st.none() | st.sampled_from([5, 0.5, 0, -1, math.nan]),
)


WHOLES: list[Any] = [0, 1, 11, 1_001, True, Level.HIGH, Whole(3), 5.0, "5", None]
STRANGE_FIELDS: dict[str, list[Any]] = {
    **dict.fromkeys(["name", "org", "queue", "workload", "idempotency_key"], NAMES + STRANGERS),
    "priority": WHOLES,
    "max_attempts": WHOLES,
    "critical": [True, 0, 1, None, "yes"],
    "urgency": ["critical", "task", "info", 100, 50, 10, 11, True, Kind.API, ""],
    "expires_in": [5, 0.5, 0, -1, True, math.nan, "5m"],
    "timeout_s": [1, 0.5, 0, 1e-4, 1e12, True, math.nan, math.inf, "1"],
    "delay": [0, 0.0, 1, -1, True, math.nan],
    "run_at": [MOMENT, MOMENT.replace(tzinfo=None), "soon"],
    "expires_at": [MOMENT, MOMENT.replace(tzinfo=None), 7],
    "headers": [{}, {"a": "b"}, {"a": 1}, {"": "b"}, {"a": "\0"}, [("a", "b")]],
}


@pytest.mark.parametrize("field", STRANGE_FIELDS)
def test_one_strange_field_ends_alike(field: str) -> None:
    for value in STRANGE_FIELDS[field]:
        given: dict[str, Any] = {field: value}
        same_ready(replace(SPEC, **given))
        same_ready(replace(SPEC, payload=math.nan, **given))


@given(drawn_specs)
def test_every_spec_ends_alike(spec: TaskSpec) -> None:
    same_ready(spec)


@pytest.mark.parametrize("field", ["name", "org", "queue", "workload", "idempotency_key"])
def test_a_name_that_was_refused_stays_refused_and_a_good_one_vouches_for_no_other(
    field: str,
) -> None:
    assert isinstance(same_ready(SPEC), tuple)
    for bad in ("\0", "x" * 201, Liar("\0"), Liar("\ud800")):
        given: dict[str, Any] = {field: bad}
        for _ in range(3):
            assert field in same_ready(replace(SPEC, **given))


def test_only_plain_values_come_out() -> None:
    spec = replace(SPEC, org=Kind.API, name=Text("t"), priority=Level.HIGH, max_attempts=Whole(3))
    checked = ready(spec, LIMITS).spec
    assert {type(checked.org), type(checked.name)} == {str}
    assert {type(checked.priority), type(checked.max_attempts)} == {int}
    assert checked.name == "t"


def test_a_spec_of_another_kind_comes_out_as_a_plain_one() -> None:
    assert type(ready(OwnSpec(name="resize", org="acme"), LIMITS).spec) is TaskSpec


@pytest.mark.parametrize(
    ("item", "complaint"),
    [
        ({"name": "a"}, "item 2: org is missing"),
        ({"name": "a", "org": "b", "prio": 1}, "item 2: unknown key 'prio'"),
        ({"name": "a", "org": "b", 7: 1}, "item 2: unknown key 7"),
        ({"name": "a", "org": "b", "payload": "\0"}, "item 2: payload has a NUL"),
        (OrderedDict(name="a", org="\0"), "item 2: org contains a NUL"),
    ],
)
def test_an_item_of_any_mapping_is_checked_where_it_stands(item: Any, complaint: str) -> None:
    with pytest.raises(InvalidInput, match=complaint) as refused:
        all_ready([SPEC, {"name": "a", "org": "b"}, item], LIMITS)
    assert isinstance(refused.value.__cause__, InvalidInput)


def test_items_after_one_that_is_no_task_are_not_asked_for() -> None:
    def items() -> Any:
        yield SPEC
        yield {"name": "a"}
        raise AssertionError

    with pytest.raises(InvalidInput, match="item 1: org is missing"):
        all_ready(items(), LIMITS)
