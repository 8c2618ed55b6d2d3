"""Columns packed at once are byte for byte what the driver makes of them item by item."""

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.adapt import PyFormat, Transformer
from psycopg.types.numeric import Int8

from orchestrator.store.packed import (
    Int8s,
    Texts,
    Uuids,
    packed_int8s,
    packed_texts,
    packed_uuids,
)

INT8_MIN, INT8_MAX = -(2**63), 2**63 - 1
integers = st.integers(INT8_MIN, INT8_MAX)
texts = st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


def dumped(values: list[Any]) -> tuple[int, bytes]:
    """Return the type and the binary form that the driver gives a value."""
    dumper = Transformer().get_dumper(values, PyFormat.BINARY)
    return dumper.oid, bytes(dumper.dump(values) or b"")


@given(st.lists(integers, min_size=1))
def test_integers_are_packed_as_the_driver_dumps_them(values: list[int]) -> None:
    expected = dumped([Int8(value) for value in values])
    assert dumped(Int8s(values)) == expected
    assert packed_int8s(values) == expected[1]


@given(st.lists(texts, min_size=1).filter(any))
def test_texts_are_packed_as_the_driver_dumps_them(values: list[str | None]) -> None:
    expected = dumped(values)
    assert dumped(Texts(values)) == expected
    assert packed_texts(values, "utf-8") == expected[1]


@given(st.lists(st.uuids(), min_size=1))
def test_uuids_are_packed_as_the_driver_dumps_them(values: list[UUID]) -> None:
    expected = dumped(values)
    assert dumped(Uuids(values)) == expected
    assert packed_uuids(values) == expected[1]


def test_empty_columns_are_arrays_without_dimensions() -> None:
    # The driver does not know the type of an empty list; PostgreSQL does here.
    nothing = bytes(8)
    assert dumped(Int8s()) == (1016, nothing + (20).to_bytes(4))
    assert dumped(Texts()) == (1009, nothing + (25).to_bytes(4))
    assert dumped(Uuids()) == (2951, nothing + (2950).to_bytes(4))


def test_a_column_of_nothing_but_null_says_so() -> None:
    _, packed = dumped(Texts([None, None]))
    assert packed[4:8] == (1).to_bytes(4)
    assert packed[-8:] == b"\xff" * 8


def test_truth_values_are_numbers() -> None:
    assert dumped(Int8s([True, False])) == dumped(Int8s([1, 0]))


@pytest.mark.parametrize("value", [INT8_MIN - 1, INT8_MAX + 1, 10**4000])
def test_an_integer_of_more_than_64_bits_is_an_error(value: int) -> None:
    with pytest.raises(OverflowError):
        packed_int8s([0, value])


def test_text_goes_in_the_encoding_of_the_connection() -> None:
    packed = packed_texts(["é"], "latin-1")
    assert packed.endswith((1).to_bytes(4) + b"\xe9")


def test_a_lone_surrogate_is_an_error() -> None:
    with pytest.raises(UnicodeEncodeError):
        packed_texts(["\ud800"], "utf-8")
