"""What the fuzz tests draw, and what of it must be accepted: said again, apart from the product."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from tests.support.hostile import STORED

NAME_CHARS_MAX = 200
PAYLOAD_BYTES_MAX = 1024**2
DEPTH_MAX = 100
# Below the 4,300 digits at which Python refuses to read a number.
INT_BITS_MAX = 14_000

_SURROGATE = re.compile("[\ud800-\udfff]")
# `st.text()` leaves out surrogates: any character is drawn here, and more often the worst.
_WORST = st.sampled_from(
    "\0\ud800\udbff\udc00\udfff\x1b\x7f\u202e\u2028\ufeff\uffff\U0010ffff\"\\'"
)
_CLEAN = st.characters(codec="utf-8", exclude_characters="\0")
TEXTS: st.SearchStrategy[str] = st.one_of(
    st.text(_CLEAN),
    st.text(_CLEAN),
    st.sampled_from(list(STORED.values())),
    st.text(st.one_of(st.characters(), _WORST)),
)
NAMES: st.SearchStrategy[str] = st.one_of(
    TEXTS,
    st.text(_CLEAN, min_size=1, max_size=NAME_CHARS_MAX),
    st.builds(str.__mul__, _CLEAN, st.integers(NAME_CHARS_MAX - 1, NAME_CHARS_MAX + 1)),
)

_WIDE = st.sampled_from([2**63, 2**64, 10**400, 2**INT_BITS_MAX - 1])
_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.builds(int.__mul__, _WIDE, st.sampled_from([-1, 1])),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(_CLEAN),
    st.sampled_from(list(STORED.values())),
)
# No integer of more digits can be written, as whoever reports a failure must.
_STRANGE = st.one_of(
    st.floats(),
    st.sampled_from([math.nan, math.inf, -math.inf, 2**INT_BITS_MAX, -(10**4_299)]),
    TEXTS,
    st.binary(),
    st.sampled_from([Decimal(1), 1j, frozenset({1}), datetime(2030, 1, 1, tzinfo=UTC)]),
)


def _nested(leaves: st.SearchStrategy[Any], keys: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def around(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        several = st.lists(inner, max_size=5)
        return st.one_of(several, several.map(tuple), st.dictionaries(keys, inner, max_size=5))

    return st.recursive(leaves, around, max_leaves=20)


def _deep(value: Any, levels: int, mapping: bool) -> Any:
    for _ in range(levels):
        value = {"a": value} if mapping else [value]
    return value


JSON: st.SearchStrategy[Any] = _nested(_SCALARS, st.text(_CLEAN))
_DEEP = st.builds(
    _deep,
    st.one_of(_SCALARS, st.just([]), JSON),
    st.one_of(st.integers(90, 110), st.integers(1, 3_000)),
    st.booleans(),
)
# About as large as a payload may be, in one key, one text, or many numbers.
LARGE: st.SearchStrategy[Any] = st.builds(
    lambda size, made: made(size),
    st.one_of(
        st.integers(PAYLOAD_BYTES_MAX - 20, PAYLOAD_BYTES_MAX + 20), st.integers(10_000, 60_000)
    ),
    st.sampled_from(
        [
            lambda size: "x" * size,
            lambda size: {"k" * size: 0},
            lambda size: ["\u00e9" * (size // 2)],
            lambda size: [10**20] * (size // 22),
            lambda size: {str(number): None for number in range(size // 40)},
        ]
    ),
)
PAYLOADS: st.SearchStrategy[Any] = st.one_of(
    JSON,
    JSON,
    _DEEP,
    _nested(st.one_of(_SCALARS, _STRANGE), st.one_of(TEXTS, st.integers(), st.none())),
)


def is_text(text: str) -> bool:
    """Tell whether PostgreSQL can store a text."""
    return "\0" not in text and _SURROGATE.search(text) is None


def is_name(text: str) -> bool:
    """Tell whether a text may name something."""
    return 1 <= len(text) <= NAME_CHARS_MAX and is_text(text)


def is_payload(value: Any) -> bool:
    """Tell whether a value is JSON that can be stored, read again, and is not too large."""
    level = [value]
    for _ in range(DEPTH_MAX):
        if not all(map(_is_plain, level)):
            return False
        level = [each for value in level for each in _inside(value)]
        if len(level) > PAYLOAD_BYTES_MAX:
            return False
    if level:
        return False
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return len(text.encode()) <= PAYLOAD_BYTES_MAX


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else []


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_text(key) for key in value)
    if isinstance(value, str):
        return is_text(value)
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, int):
        return value.bit_length() <= INT_BITS_MAX
    return value is None or isinstance(value, list | tuple)


def same(one: Any, other: Any) -> bool:
    """Tell whether two values are one to JSON, which has no tuples, and one kind of numbers."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    # Written out, 1e300 is a whole number, which Python reads as another one than the float.
    if isinstance(one, float) and isinstance(other, int):
        return one == float(other)
    return bool(one == other)
